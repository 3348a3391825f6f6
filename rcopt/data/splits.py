"""Deal the held-out images out to validation, calibration and test."""

import numpy as np
from numpy.typing import NDArray

from rcopt.core.predictions import Split
from rcopt.data.dataset import Pictures
from rcopt.data.settings import DataSettings
from rcopt.errors import InputError


def deal_out(
    pictures: Pictures, settings: DataSettings, seed: int
) -> dict[Split, NDArray[np.int64]]:
    """Deal the held-out images out by class; equal seeds deal equally.

    Where a source has a part for test, that is the test split, and its part for validation is
    dealt out to validation and calibration in the ratio of their shares.
    """
    shares: dict[Split, float] = {
        "validation": settings.validation,
        "calibration": settings.calibration,
        "test": settings.test,
    }
    rng = np.random.default_rng(seed)
    own_test = bool((pictures.part == "test").any())
    dealt_part = "validation" if own_test else "held_out"
    wanted = dict(shares)
    if own_test:
        total = shares["validation"] + shares["calibration"]
        wanted = {name: share / total for name, share in shares.items() if name != "test"}
    parts: dict[Split, list[NDArray[np.int64]]] = {name: [] for name in shares}
    for label, class_name in enumerate(pictures.classes):
        if not ((pictures.part == "train") & (pictures.labels == label)).any():
            raise InputError(f"[data] class {class_name!r} has no image to train on; add some")
        held_out = np.flatnonzero((pictures.part == dealt_part) & (pictures.labels == label))
        dealt = rng.permutation(held_out)
        # Ends are rounded, not sizes: shares that sum to 1 then use every picture.
        ends = np.cumsum(list(wanted.values())) * len(dealt)
        start = 0
        for (name, share), end in zip(wanted.items(), np.rint(ends).astype(int), strict=True):
            if share > 0 and end <= start:
                raise InputError(
                    f"[data] {name} = {shares[name]:g} leaves class {class_name!r} without an "
                    f"image (it has {len(dealt)} held out); raise the share or add images"
                )
            parts[name].append(dealt[start:end])
            start = end
    splits: dict[Split, NDArray[np.int64]] = {"train": np.flatnonzero(pictures.part == "train")}
    splits |= {name: np.sort(np.concatenate(chosen)) for name, chosen in parts.items() if chosen}
    if own_test:
        splits["test"] = np.flatnonzero(pictures.part == "test")
    for indices in splits.values():
        indices.setflags(write=False)
    return splits
