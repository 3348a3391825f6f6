"""What is to be trained, as ``pack`` writes it and ``train`` reads it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcopt.data.dataset import Dataset
from rcopt.errors import InputError
from rcopt.files import file_name
from rcopt.models.recipe import Recipe
from rcopt.models.schedules import crop_side, side

PLAN, DATA = "plan.json", "data.json"
#: Most bytes of images in a file.
PART = 60_000_000


@dataclass(frozen=True)
class Planned:
    """One training.

    Attributes:
        backbone: Name.
        resolution: Side of the stage's input.
        seed: Of weights, order and crops.
        recipe: Settings of `Recipe` that differ from its defaults.
        macs: Of one image at the resolution.
        parameters: Their number.
        compiled: Whether torch is to compile the network on a GPU, which takes a minute.
    """

    backbone: str
    resolution: int
    seed: int
    recipe: Mapping[str, Any]
    macs: int
    parameters: int
    compiled: bool = False

    @property
    def name(self) -> str:
        """Such as ``resnet18@32``."""
        return f"{self.backbone}@{self.resolution}"

    @property
    def file(self) -> str:
        """What its answers' file is called, but for the ending."""
        return f"{file_name(self.name)}.seed{self.seed}"

    def epoch_flops(self, epoch: int) -> float:
        """Return the FLOPs of an image in an epoch from 0: forward, and twice that back."""
        recipe = Recipe(**self.recipe)
        pixels = crop_side(recipe, side(recipe, epoch, self.resolution))
        return 6 * self.macs * (pixels / self.resolution) ** 2

    def image_flops(self) -> float:
        """Return the FLOPs that one image costs in the whole training."""
        return sum(self.epoch_flops(epoch) for epoch in range(Recipe(**self.recipe).epochs))


def write_plan(packed: Path, stages: list[Planned]) -> None:
    """Write the plan into a packed folder."""
    (packed / PLAN).write_text(json.dumps([asdict(stage) for stage in stages], indent=1))


def read_plan(packed: Path) -> list[Planned]:
    """Read the plan of a packed folder.

    Raises:
        InputError: If there is none.
    """
    return [Planned(**stage) for stage in _read(packed / PLAN)]


def write_images(packed: Path, dataset: Dataset) -> None:
    """Write a data set: labels, names and splits as JSON, pixels in parts as uint8 arrays."""
    state = {
        "name": dataset.name,
        "classes": dataset.classes,
        "labels": dataset.labels.tolist(),
        "images": dataset.images,
        "splits": {split: indices.tolist() for split, indices in dataset.splits.items()},
        "digest": dataset.digest,
        "split_digest": dataset.split_digest,
    }
    (packed / DATA).write_text(json.dumps(state))
    many = max(1, PART // dataset.base[0].nbytes)
    for part, start in enumerate(range(0, len(dataset.base), many)):
        np.save(packed / f"images-{part:03}.npy", dataset.base[start : start + many])


def read_images(packed: Path, *, pixels: bool = True) -> Dataset:
    """Read what `write_images` wrote.

    Args:
        packed: The folder.
        pixels: Whether the pixels are wanted; without them they are black and of side 1.

    Raises:
        InputError: If a file is missing.
    """
    state = _read(packed / DATA)
    n = len(state["labels"])
    base = np.zeros((n, 1, 1, 3), dtype=np.uint8)
    if pixels:
        parts = [np.load(file) for file in sorted(packed.glob("images-*.npy"))]
        found = sum(map(len, parts))
        if found != n:
            raise InputError(f"{packed}: {found} of {n} images are there; copy all its files")
        base = np.concatenate(parts)
    return Dataset(
        name=state["name"],
        classes=tuple(state["classes"]),
        base=base,
        labels=np.array(state["labels"], dtype=np.int64),
        images=tuple(state["images"]),
        splits={split: np.array(rows, dtype=np.int64) for split, rows in state["splits"].items()},
        digest=state["digest"],
        split_digest=state["split_digest"],
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); name what pack wrote") from error
