"""Fronts: the exact accuracy-FLOPs front over all thresholds, dominance, hypervolume, spread."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rcopt.core.evaluating import check_answers
from rcopt.core.threshold_sweep import Known, Ranking, rank_images, sweep
from rcopt.core.threshold_walk import EXACT

#: Steps of the sweep up to which `threshold_front` is exact.
EXACT_STEPS = 20_000_000_000

#: The sweep numbers stages in one signed byte.
MAX_STAGES = 127


@dataclass(frozen=True, eq=False)
class CostFront:
    """The front of accuracy and a cost of one cascade's stages over its thresholds.

    Attributes:
        thresholds: (P, K-1); read-only, as the arrays below.
        accuracy: (P,), strictly rising.
        cost: (P,) mean cost per image, strictly rising.
        accuracy_gap: See `ThresholdFront`.
        steps: Work done.
    """

    thresholds: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    cost: NDArray[np.float64]
    accuracy_gap: float
    steps: int

    def __len__(self) -> int:
        """Return the number of rows P."""
        return len(self.accuracy)


@dataclass(frozen=True, eq=False)
class ThresholdFront:
    """The accuracy-FLOPs front of one cascade's stages over its thresholds.

    Attributes:
        thresholds: (P, K-1); read-only, as the arrays below.
        accuracy: (P,), strictly rising.
        mean_flops: (P,) FLOPs per image, strictly rising.
        exact: Whether no threshold vector at all beats a row.
        accuracy_gap: For every threshold vector some row has at most its mean FLOPs and at
            least its accuracy minus this share; 0.0 when exact.
    """

    thresholds: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    mean_flops: NDArray[np.float64]
    exact: bool
    accuracy_gap: float

    def __len__(self) -> int:
        """Return the number of rows P."""
        return len(self.accuracy)


def threshold_front(
    confidence: ArrayLike,
    correct: ArrayLike,
    flops: ArrayLike,
    *,
    max_steps: int = EXACT_STEPS,
) -> ThresholdFront:
    """Return the front over every threshold vector of given stages.

    A threshold matters only where it changes which images are passed on, and it is worth
    raising only past a *useful* image: one that this stage gets wrong and a later stage gets
    right (passing on any other image costs no less and gains nothing). Let u_k be the number
    of distinct confidences of stage k that useful images have. The sweep visits the
    combinations of these candidates, updating counts as a candidate moves, and keeps the
    cheapest cascade for each number of right answers. It passes over combinations that no right
    answers of the useful images ahead could bring up to what was found (see
    `rcopt.core.threshold_sweep`): memory O(N K), and at most prod(u_0 .. u_{K-2}) +
    N (1 + u_0 + u_0 u_1 + .. + u_0 .. u_{K-4}) steps, usually far fewer.

    The result is exact while the steps number at most ``max_steps``. With its default that
    holds, whatever the data, for one and two stages, for three stages up to 140,000 images and
    for four up to 2,700; and for stages that err on the same images far beyond. Where it does
    not hold, ``accuracy_gap`` is what was given up: coarser sweeps come first, and the finest one
    within the steps counts.

    Args:
        confidence: (K-1, N) or (K, N) in [0, 1]; a K-th row is not looked at.
        correct: (K, N) bool, whether each stage's answer is right.
        flops: (K,) non-negative, FLOPs of one image.
        max_steps: Steps above which a sweep is given up for a coarser one.

    Returns:
        The front, cheapest first; `rcopt.evaluate` of a row gives exactly its numbers. A
        threshold is 0.0 (the stage answers everything that reaches it), an observed
        confidence, or `rcopt.NEVER`. When exact, of the vectors made of these with as
        many right answers for as many FLOPs, the row holds the smallest, compared stage by
        stage.

    Raises:
        ValueError: On inputs that `rcopt.evaluate` refuses, more than `MAX_STAGES` stages, or
            ``max_steps`` below 1.

    Example:
        >>> f = threshold_front([[0.9, 0.4]], [[True, False], [True, True]], [1.0, 10.0])
        >>> f.thresholds.tolist(), f.accuracy.tolist(), f.mean_flops.tolist()
        ([[0.0], [0.9]], [0.5, 1.0], [1.0, 6.0])
    """
    found = cost_front(confidence, correct, flops, max_steps=max_steps)
    gap = found.accuracy_gap
    return ThresholdFront(found.thresholds, found.accuracy, found.cost, gap == 0.0, gap)


def cost_front(
    confidence: ArrayLike,
    correct: ArrayLike,
    costs: ArrayLike,
    *,
    max_steps: int = EXACT_STEPS,
) -> CostFront:
    """Return what `threshold_front` does, by any cost of the stages.

    Args:
        confidence: As there.
        correct: As there.
        costs: (K,) non-negative, of one image.
        max_steps: As there.

    Raises:
        ValueError: As there.
    """
    confidence, correct, costs = check_answers(confidence, correct, costs)
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    if len(costs) > MAX_STAGES:
        raise ValueError(f"correct must have at most {MAX_STAGES} stages, got {len(costs)}")
    rankings = [rank_images(row) for row in confidence[: len(costs) - 1]]
    return ranked_front(rankings, correct, costs, Known.nothing(correct.shape[1]), max_steps)


def ranked_front(
    rankings: Sequence[Ranking],
    correct: NDArray[np.bool_],
    costs: NDArray[np.float64],
    known: Known,
    max_steps: int,
    margin: int = EXACT,
) -> CostFront:
    """Return what `cost_front` does of images that are ranked, as far as it is new.

    Args:
        rankings: Of the first K-1 stages' confidences.
        correct: (K, N).
        costs: (K,) non-negative, of one image.
        known: Of other stages on the same images; what is found here is added to it. Rows that
            have fewer right answers than something known for no less cost are left out.
        max_steps: As in `threshold_front`.
        margin: Right answers that may be missed, for a faster sweep.
    """
    n = correct.shape[1]
    before = known.cost.copy()
    found = sweep(rankings, correct, costs, known, max_steps, margin)
    mean = found.cost / n
    rows = _cheapest(mean)
    rows = rows[found.cost[rows] < np.append(before[1:], np.inf)[rows]]
    thresholds = np.empty((len(rows), len(costs) - 1))
    for k, (own, candidate) in enumerate(
        zip(found.thresholds, found.candidates[rows].T, strict=True)
    ):
        thresholds[:, k] = own[candidate]
    accuracy, mean = rows / n, mean[rows]
    for array in (thresholds, accuracy, mean):
        array.flags.writeable = False
    return CostFront(thresholds, accuracy, mean, found.gap / n, found.steps)


def non_dominated(accuracy: ArrayLike, mean_flops: ArrayLike) -> NDArray[np.bool_]:
    """Return which points no other point dominates (accuracy up, mean FLOPs down).

    Args:
        accuracy: (P,) finite.
        mean_flops: (P,) finite; any other cost does as well.

    Returns:
        (P,) bool; of equal points the first is kept.

    Raises:
        ValueError: On wrong shapes or values that are not finite.

    Example:
        >>> non_dominated([0.7, 0.9, 0.8, 0.9], [1.0, 5.0, 6.0, 5.0]).tolist()
        [True, True, False, False]
    """
    acc, spent = _check_points(accuracy, mean_flops)
    keep = np.zeros(len(acc), dtype=np.bool_)
    order = np.lexsort((np.arange(len(acc)), -acc, spent))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], acc[order]]))[:-1]
    keep[order] = acc[order] > best
    return keep


def hypervolume(
    accuracy: ArrayLike, mean_flops: ArrayLike, reference: tuple[float, float]
) -> float:
    """Return the area that points dominate, up to a reference point.

    Args:
        accuracy: (P,) finite; more is better.
        mean_flops: (P,) finite; less is better.
        reference: ``(accuracy0, flops0)``, the worst corner. A point that is not better in
            both contributes nothing.

    Returns:
        Area in accuracy x FLOPs; 0.0 for no points.

    Raises:
        ValueError: On wrong shapes or values that are not finite.

    Example:
        >>> hypervolume([0.5, 1.0], [1.0, 6.0], reference=(0.0, 10.0))
        6.5
    """
    acc, cost = _check_points(accuracy, mean_flops)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != (2,) or not np.isfinite(corner).all():
        raise ValueError(f"reference must be two finite numbers, got {reference}")
    inside = (acc > corner[0]) & (cost < corner[1])
    acc, cost = acc[inside], cost[inside]
    keep = non_dominated(acc, cost)
    order = np.argsort(cost[keep])
    acc, cost = acc[keep][order], cost[keep][order]
    widths = np.append(cost[1:], corner[1]) - cost
    return math.fsum(widths * (acc - corner[0]))


def spread(accuracy: ArrayLike, mean_flops: ArrayLike, n: int) -> NDArray[np.int64]:
    """Return n well-spread members of a front: both ends, the rest evenly along the curve.

    The curve runs through (log mean FLOPs, accuracy), each scaled to [0, 1]; a point of no
    FLOPs counts as the cheapest one that has any.

    Args:
        accuracy: (P,) strictly rising.
        mean_flops: (P,) strictly rising, not negative; any other cost does as well.
        n: At least 2; with P <= n every member is returned.

    Returns:
        min(n, P) rising indices.

    Raises:
        ValueError: If the points are not a front sorted so, or ``n`` is below 2.

    Example:
        >>> spread([0.5, 0.6, 0.61, 0.7], [1.0, 10.0, 11.0, 100.0], 3).tolist()
        [0, 1, 3]
    """
    acc, spent = _check_points(accuracy, mean_flops)
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}")
    if (np.diff(acc) <= 0).any() or (np.diff(spent) <= 0).any() or (spent < 0).any():
        raise ValueError("accuracy and mean_flops must be a front: both strictly rising")
    count = len(acc)
    if count <= n:
        return np.arange(count)
    logs = np.log(np.maximum(spent, spent[spent > 0][0]))
    x = (logs - logs[0]) / max(logs[-1] - logs[0], np.finfo(float).tiny)
    y = (acc - acc[0]) / (acc[-1] - acc[0])
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    targets = np.linspace(0.0, length[-1], n)
    nearest = np.abs(length[:, None] - targets).argmin(axis=0)
    # Neighbouring targets may share a nearest member: push up, then back, to keep n distinct.
    steps = np.arange(n)
    pushed = np.maximum.accumulate(nearest - steps) + steps
    return np.minimum(pushed, count - n + steps)


def _check_points(
    accuracy: ArrayLike, mean_flops: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    acc = np.asarray(accuracy, dtype=np.float64)
    spent = np.asarray(mean_flops, dtype=np.float64)
    if acc.ndim != 1:
        raise ValueError(f"accuracy must have shape (P,), got {acc.shape}")
    if spent.shape != acc.shape:
        raise ValueError(
            f"mean_flops must have shape {acc.shape} like accuracy, got {spent.shape}"
        )
    for name, values in (("accuracy", acc), ("mean_flops", spent)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)][0]}")
    return acc, spent


def _cheapest(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the numbers of right answers that no larger number has for the same or less."""
    larger = np.minimum.accumulate(np.append(cost[1:], np.inf)[::-1])[::-1]
    return np.flatnonzero(cost < larger)
