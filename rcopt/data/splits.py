"""Deal the held-out images out to validation, calibration and test."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rcopt.core.predictions import Split
from rcopt.data.dataset import Pictures
from rcopt.errors import InputError


def check_shares(shares: Mapping[Split, float]) -> None:
    """Raise ValueError where the shares of the held-out images cannot be dealt out."""
    for name, share in shares.items():
        least = "at least 0" if name == "calibration" else "above 0"
        if not (0 <= share <= 1) or (share == 0 and name != "calibration"):
            raise InputError(f"[data] {name} must be {least} and at most 1, got {share}")
    total = math.fsum(shares.values())
    if total > 1 + 1e-9:
        raise InputError(
            f"[data] validation + calibration + test must be at most 1, got {total:g}; "
            "make one smaller, or the splits would overlap"
        )


def deal_out(
    pictures: Pictures, shares: Mapping[Split, float], seed: int
) -> dict[Split, NDArray[np.int64]]:
    """Deal the held-out images out by class; equal seeds deal equally.

    Where a source has a part for test, that is the test split, and its part for validation is
    dealt out to validation and calibration in the ratio of their shares.
    """
    rng = np.random.default_rng(seed)
    own_test = bool((pictures.part == "test").any())
    dealt_part = "validation" if own_test else "held_out"
    wanted = dict(shares)
    if own_test:
        total = shares["validation"] + shares["calibration"]
        wanted = {name: share / total for name, share in shares.items() if name != "test"}
    parts: dict[Split, list[NDArray[np.int64]]] = {name: [] for name in shares}
    for label, class_name in enumerate(pictures.classes):
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
