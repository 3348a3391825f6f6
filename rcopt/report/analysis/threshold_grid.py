"""A three-stage cascade at every pair of thresholds of a grid, and the report's choice of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rcopt.core.evaluating import check_answers

# Shares are counts divided by N; this is far below one image and far above rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Grid:
    """A cascade of three stages at every pair of thresholds of a grid (figures 2.2, 2.3).

    Attributes:
        first: (G,) thresholds of stage 0.
        second: (H,) thresholds of stage 1.
        accuracy: (G, H).
        cost: (G, H) mean cost of an image.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    cost: NDArray[np.float64]

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the pairs (G x H, 2), their accuracy (G x H,) and their cost (G x H,)."""
        first, second = np.meshgrid(self.first, self.second, indexing="ij")
        pairs = np.stack([first.ravel(), second.ravel()], axis=1)
        return pairs, self.accuracy.ravel(), self.cost.ravel()


def threshold_grid(
    confidence: ArrayLike,
    correct: ArrayLike,
    costs: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
) -> Grid:
    """Evaluate a cascade of three stages at every pair of thresholds of a grid.

    Counts are accumulated over the grid instead of evaluating each pair: N + G x H steps.

    Args:
        confidence: (2, N) or (3, N) in [0, 1].
        correct: (3, N) bool.
        costs: (3,) cost of one image.
        first: (G,) rising thresholds of stage 0.
        second: (H,) rising thresholds of stage 1.

    Returns:
        The grid; each pair's numbers are bit for bit those of `rcopt.evaluate`.

    Raises:
        ValueError: On inputs that `rcopt.evaluate` refuses, other than three stages, or
            thresholds that do not rise.
    """
    sure, right, cost = check_answers(confidence, correct, costs)
    if len(cost) != 3:
        raise ValueError(f"correct must have three rows, got {len(cost)}")
    axes = tuple(np.asarray(axis, dtype=np.float64) for axis in (first, second))
    for name, axis in zip(("first", "second"), axes, strict=True):
        if axis.ndim != 1 or not len(axis) or not (np.diff(axis) >= 0).all():
            raise ValueError(f"{name} must be rising thresholds of shape (G,), got {axis}")
    n = right.shape[1]
    # The first grid line on which an image is passed on: the first threshold above it.
    passed = [np.searchsorted(axis, c, side="right") for axis, c in zip(axes, sure, strict=True)]
    gains = np.diff(right.astype(np.int64), axis=0)
    shape = (len(axes[0]), len(axes[1]))
    to_second = _accumulate(passed[:1], np.ones(n, dtype=np.int64), shape[:1])[:, None]
    to_third = _accumulate(passed, np.ones(n, dtype=np.int64), shape)
    rights = right[0].sum() + _accumulate(passed[:1], gains[0], shape[:1])[:, None]
    rights = rights + _accumulate(passed, gains[1], shape)
    # In the order in which `evaluating.mean_cost` sums, so that equal counts agree in bits.
    total = n * cost[0] + to_second * cost[1] + to_third * cost[2]
    return Grid(axes[0], axes[1], rights / n, total / n)


def cheapest_pairs(grid: Grid, tolerance: float) -> NDArray[np.float64]:
    """Return the report's cheapest thresholds for each accuracy it can aim at.

    The accuracies aimed at lie ``tolerance`` apart, downwards from the grid's largest to its
    smallest; for each, the cheapest pair within ``tolerance`` is kept (of equally cheap ones
    the most accurate, then the smallest thresholds).

    Args:
        grid: On validation.
        tolerance: As a share, positive.

    Returns:
        (T, 2) thresholds by rising aim; a pair that serves several aims appears once.

    Raises:
        ValueError: If the tolerance is not positive.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    pairs, accuracy, cost = grid.points()
    order = np.lexsort((-accuracy, cost))
    span = accuracy.max() - accuracy.min()
    # None that lies a whole step below the smallest accuracy, whatever rounding says.
    count = int(np.ceil((span + tolerance - _ROUNDING) / tolerance))
    aims = (accuracy.max() - tolerance * np.arange(count))[::-1]
    near = np.abs(accuracy[order] - aims[:, None]) <= tolerance + _ROUNDING
    served = near.any(axis=1)
    kept = order[near[served].argmax(axis=1)]
    first_seen = np.sort(np.unique(kept, return_index=True)[1])
    return np.asarray(pairs[kept[first_seen]])


def _accumulate(
    places: Sequence[NDArray[np.int64]], weights: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return, for each grid point, the weights of the images passed on at or below it."""
    counts = np.zeros(tuple(size + 1 for size in shape), dtype=np.int64)
    np.add.at(counts, tuple(places), weights)
    for axis in range(len(shape)):
        counts = counts.cumsum(axis=axis)
    return np.asarray(counts[tuple(slice(size) for size in shape)])
