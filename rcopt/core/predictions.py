"""One stage's predictions on one split, and the confidence that follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "validation", "calibration", "test"]

SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Class probabilities of one stage for the images of one split.

    Attributes:
        split: Which split the images belong to; choosing refuses ``"test"``.
        probabilities: (N, C) float32, each row sums to 1.
        labels: (N,) int64, the true class of each image.
        images: N names, the same order; two stages can be combined only if these agree.

    Raises:
        ValueError: On wrong shapes, lengths, non-finite values or values outside [0, 1].
    """

    split: Split
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    images: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse arrays that cannot be predictions."""
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        p = self.probabilities
        if p.ndim != 2 or p.shape[1] < 2:
            raise ValueError(f"probabilities must have shape (N, C) with C >= 2, got {p.shape}")
        if self.labels.shape != (len(p),) or len(self.images) != len(p):
            raise ValueError(
                f"labels and images must have length {len(p)} like probabilities, "
                f"got {self.labels.shape} and {len(self.images)}"
            )
        if not np.isfinite(p).all() or p.min(initial=0) < 0 or p.max(initial=0) > 1 + 1e-5:
            raise ValueError("probabilities must be finite and lie in [0, 1]")
        if len(p) and not np.allclose(p.sum(axis=1, dtype=np.float64), 1, atol=1e-3):
            raise ValueError("probabilities must sum to 1 in each row")
        if len(p) and (self.labels.min() < 0 or self.labels.max() >= p.shape[1]):
            raise ValueError(f"labels must lie in 0..{p.shape[1] - 1}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,) whether the most probable class is the true one."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.labels)

    @property
    def accuracy(self) -> float:
        """Share of the images whose most probable class is the true one."""
        return float(self.correct.mean())


def check_aligned(predictions: Sequence[Predictions]) -> None:
    """Refuse predictions that are not of the same images in the same order.

    Raises:
        ValueError: If splits, images, labels or class counts differ.
    """
    for first, other in pairwise(predictions):
        if other.split != first.split:
            raise ValueError(f"predictions are of splits {first.split!r} and {other.split!r}")
        if other.images != first.images or not np.array_equal(other.labels, first.labels):
            raise ValueError(
                f"predictions on {first.split} are not of the same images in the same order"
            )
        if other.probabilities.shape != first.probabilities.shape:
            raise ValueError(
                f"predictions on {first.split} have {first.probabilities.shape[1]} and "
                f"{other.probabilities.shape[1]} classes"
            )
