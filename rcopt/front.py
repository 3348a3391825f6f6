"""Fronts: the exact accuracy-FLOPs front over all thresholds, dominance, hypervolume, spread."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from rcopt.cascade import NEVER, check_answers

#: Steps of the sweep up to which `threshold_front` is exact.
EXACT_STEPS = 20_000_000_000

#: Steps from which the sweep is shared among threads (starting them costs about 1 ms).
THREAD_STEPS = 20_000_000


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
    of distinct confidences of stage k that useful images have. The sweep visits all
    combinations of these cuts, updating counts as a cut moves, and keeps the cheapest cascade
    for each number of right answers: memory O(N K), and at most
    prod(u_0 .. u_{K-2}) + N (1 + u_0 + u_0 u_1 + .. + u_0 .. u_{K-4}) steps.

    The result is exact while those steps number at most ``max_steps``. With its default that
    holds, whatever the data, for one and two stages, for three stages up to 140,000 images and
    for four up to 2,700. Beyond that only every so many-th useful cut is visited, and
    ``accuracy_gap`` is the largest number of useful images between neighbouring visited cuts,
    summed over the stages and divided by N: lowering each threshold to the next visited cut
    makes no image run longer, and can turn a right answer wrong only for an image in between.

    Args:
        confidence: (K-1, N) or (K, N) in [0, 1]; a K-th row is not looked at.
        correct: (K, N) bool, whether each stage's answer is right.
        flops: (K,) non-negative, FLOPs of one image.
        max_steps: Steps of the sweep above which it is coarsened.

    Returns:
        The front, cheapest first; `rcopt.evaluate` of a row gives exactly its numbers. A
        threshold is 0.0 (the stage answers everything that reaches it), an observed
        confidence, or `NEVER`. When exact, of the vectors made of these with as many right
        answers for as many FLOPs, the row holds the smallest, compared stage by stage.

    Raises:
        ValueError: On inputs that `rcopt.evaluate` refuses, or ``max_steps`` below 1.

    Example:
        >>> f = threshold_front([[0.9, 0.4]], [[True, False], [True, True]], [1.0, 10.0])
        >>> f.thresholds.tolist(), f.accuracy.tolist(), f.mean_flops.tolist()
        ([[0.0], [0.9]], [0.5, 1.0], [1.0, 6.0])
    """
    confidence, correct, flops = check_answers(confidence, correct, flops)
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    n = correct.shape[1]
    useful = _useful(correct)
    cuts = _coarsen([_cuts(c, u) for c, u in zip(confidence, useful, strict=True)], n, max_steps)
    total, cut = _sweep(cuts, correct, useful, flops)
    mean = total / n
    rows = _cheapest(mean)
    thresholds = np.empty((len(rows), len(flops) - 1))
    for k, level in enumerate(cuts):
        thresholds[:, k] = level.thresholds[cut[rows, k]]
    accuracy, mean = rows / n, mean[rows]
    for array in (thresholds, accuracy, mean):
        array.flags.writeable = False
    skipped = sum(level.skipped for level in cuts)
    return ThresholdFront(thresholds, accuracy, mean, skipped == 0, skipped / n)


def non_dominated(accuracy: ArrayLike, mean_flops: ArrayLike) -> NDArray[np.bool_]:
    """Return which points no other point dominates (accuracy up, mean FLOPs down).

    Args:
        accuracy: (P,) finite.
        mean_flops: (P,) finite.

    Returns:
        (P,) bool; of equal points the first is kept.

    Raises:
        ValueError: On wrong shapes or values that are not finite.

    Example:
        >>> non_dominated([0.7, 0.9, 0.8, 0.9], [1.0, 5.0, 6.0, 5.0]).tolist()
        [True, True, False, False]
    """
    acc, cost = _check_points(accuracy, mean_flops)
    keep = np.zeros(len(acc), dtype=np.bool_)
    order = np.lexsort((np.arange(len(acc)), -acc, cost))
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
        mean_flops: (P,) strictly rising, not negative.
        n: At least 2; with P <= n every member is returned.

    Returns:
        min(n, P) rising indices.

    Raises:
        ValueError: If the points are not a front sorted so, or ``n`` is below 2.

    Example:
        >>> spread([0.5, 0.6, 0.61, 0.7], [1.0, 10.0, 11.0, 100.0], 3).tolist()
        [0, 1, 3]
    """
    acc, cost = _check_points(accuracy, mean_flops)
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}")
    if (np.diff(acc) <= 0).any() or (np.diff(cost) <= 0).any() or (cost < 0).any():
        raise ValueError("accuracy and mean_flops must be a front: both strictly rising")
    count = len(acc)
    if count <= n:
        return np.arange(count)
    logs = np.log(np.maximum(cost, cost[cost > 0][0]))
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
    cost = np.asarray(mean_flops, dtype=np.float64)
    if acc.ndim != 1:
        raise ValueError(f"accuracy must have shape (P,), got {acc.shape}")
    if cost.shape != acc.shape:
        raise ValueError(f"mean_flops must have shape {acc.shape} like accuracy, got {cost.shape}")
    for name, values in (("accuracy", acc), ("mean_flops", cost)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)][0]}")
    return acc, cost


@dataclass(frozen=True, eq=False)
class _Cuts:
    """Where one stage's threshold may lie: after which of its distinct confidences."""

    values: NDArray[np.float64]  # (V,) distinct confidences, rising
    group: NDArray[np.int64]  # (N,) which of them an image has
    weight: NDArray[np.int64]  # (V,) useful images that have it
    visited: NDArray[np.int64]  # (u,) rising: cut j >= 1 passes on values[: visited[j-1] + 1]

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """(u+1,) the threshold of each cut; cut 0 passes on nothing."""
        above = np.append(self.values, NEVER)
        return np.concatenate([[0.0], above[self.visited + 1]])

    @property
    def skipped(self) -> int:
        """The most useful images strictly between neighbouring cuts."""
        up_to = np.cumsum(self.weight)[self.visited]
        between = up_to - self.weight[self.visited] - np.concatenate([[0], up_to[:-1]])
        return int(between.max(initial=0))


def _useful(correct: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(K-1, N) whether a stage is wrong about an image and a later stage is right."""
    later = np.logical_or.accumulate(correct[:0:-1], axis=0)[::-1]
    return np.asarray(~correct[:-1] & later)


def _cuts(confidence: NDArray[np.float64], useful: NDArray[np.bool_]) -> _Cuts:
    values, group = np.unique(confidence, return_inverse=True)
    weight = np.bincount(group[useful], minlength=len(values))
    return _Cuts(values, group, weight, np.flatnonzero(weight))


def _steps(sizes: Sequence[int], n_images: int) -> int:
    inner = [math.prod(sizes[:k]) for k in range(max(len(sizes) - 1, 1))]
    return math.prod(sizes) + n_images * sum(inner)


def _coarsen(cuts: list[_Cuts], n_images: int, max_steps: int) -> list[_Cuts]:
    """Keep evenly spread cuts, equally many per stage, so that the sweep is short enough."""
    sizes = [len(level.visited) for level in cuts]
    if _steps(sizes, n_images) <= max_steps:
        return cuts
    low, high = 1, max(sizes)
    while low < high:
        middle = (low + high + 1) // 2
        if _steps([min(size, middle) for size in sizes], n_images) <= max_steps:
            low = middle
        else:
            high = middle - 1
    return [_thin(level, low) if len(level.visited) > low else level for level in cuts]


def _thin(level: _Cuts, n_cuts: int) -> _Cuts:
    up_to = np.cumsum(level.weight)[level.visited]
    targets = up_to[-1] * np.arange(1, n_cuts + 1) / n_cuts
    return replace(level, visited=level.visited[np.unique(np.searchsorted(up_to, targets))])


def _sweep(
    cuts: list[_Cuts],
    correct: NDArray[np.bool_],
    useful: NDArray[np.bool_],
    flops: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return the least FLOPs (N+1,) for each number of right answers, and its cuts (N+1, K-1)."""
    levels, n = useful.shape
    sizes = np.array([len(level.visited) for level in cuts], dtype=np.int64)
    right, total = int(correct[0].sum()), n * float(flops[0])
    least, cut = np.full(n + 1, np.inf), np.zeros((n + 1, levels), dtype=np.int32)
    least[right] = total
    if levels == 0 or sizes[0] == 0:
        return least, cut
    bucket = np.empty((levels, n), dtype=np.int32)
    order = np.empty((levels, n), dtype=np.int32)
    start = np.zeros((levels, int(sizes.max()) + 1), dtype=np.int64)
    for k, level in enumerate(cuts):
        bucket[k] = np.searchsorted(level.visited, level.group)
        order[k] = np.argsort(bucket[k], kind="stable")
        start[k, : sizes[k] + 1] = np.searchsorted(bucket[k][order[k]], np.arange(sizes[k] + 1))
    gain = np.diff(correct.astype(np.int8), axis=0)

    def part(first: int, last: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        found, at = least.copy(), cut.copy()
        depth = np.zeros(n, dtype=np.int8)
        tally = np.zeros((int(sizes[-1]) + 1, 2), dtype=np.int64)
        if levels == 1:
            np.add.at(tally, bucket[0], np.stack([np.ones(n, np.int64), gain[0]], axis=1))
        chosen = np.zeros(levels, dtype=np.int32)
        _descend(
            0, first, last, right, total, flops, gain, useful,
            bucket, order, start, sizes, depth, tally, chosen, found, at,
        )  # fmt: skip
        return found, at

    size, workers = int(sizes[0]), os.cpu_count() or 1
    if levels == 1 or workers == 1 or _steps(sizes.tolist(), n) < THREAD_STEPS:
        return part(0, size)
    # More parts than threads, since a later cut of the first stage is more work than an early.
    edges = np.linspace(0, size, min(size, 4 * workers) + 1).astype(int).tolist()
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(part, edges[:-1], edges[1:]))
    # Of equal costs the earliest part wins, so the number of threads changes nothing.
    best = np.argmin([found for found, _ in parts], axis=0)
    for number, (found, at) in enumerate(parts):
        least[best == number] = found[best == number]
        cut[best == number] = at[best == number]
    return least, cut


@njit(cache=True, nogil=True)
def _descend(  # type: ignore[no-untyped-def]
    level, first, last, right, total, flops, gain, useful,
    bucket, order, start, sizes, depth, tally, chosen, least, cut,
):  # fmt: skip
    """Move the cut of one stage up over the images that reach it (``depth == level``).

    ``right`` and ``total`` are the right answers and FLOPs when this stage answers them all;
    that case is recorded already. ``tally`` holds, per cut of the last stage that has a
    threshold, how many of the images that reach it have it, and their summed gain.
    """
    final = len(sizes) - 1
    passed = 0
    if level == final:
        record = 0
        risen = 0
        for j in range(sizes[level]):
            passed += tally[j, 0]
            risen += tally[j, 1]
            if risen > record:
                record = risen
                cost = total + passed * flops[level + 1]
                if cost < least[right + risen]:
                    least[right + risen] = cost
                    for k in range(level):
                        cut[right + risen, k] = chosen[k]
                    cut[right + risen, level] = j + 1
        return
    if level + 1 == final:
        tally[:] = 0
    for j in range(last):
        fresh = False
        for at in range(start[level, j], start[level, j + 1]):
            image = order[level, at]
            if depth[image] == level:
                depth[image] = level + 1
                passed += 1
                right += gain[level, image]
                fresh |= useful[level, image]
                if level + 1 == final:
                    tally[bucket[final, image], 0] += 1
                    tally[bucket[final, image], 1] += gain[final, image]
        if fresh and j >= first:
            chosen[level] = j + 1
            cost = total + passed * flops[level + 1]
            if cost < least[right]:
                least[right] = cost
                for k in range(level + 1):
                    cut[right, k] = chosen[k]
                for k in range(level + 1, final + 1):
                    cut[right, k] = 0
            _descend(
                level + 1, 0, sizes[level + 1], right, cost, flops, gain, useful,
                bucket, order, start, sizes, depth, tally, chosen, least, cut,
            )  # fmt: skip
    for at in range(start[level, 0], start[level, last]):
        if depth[order[level, at]] > level:
            depth[order[level, at]] = level


def _cheapest(mean_flops: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the numbers of right answers that no larger number has for the same or less."""
    larger = np.minimum.accumulate(np.append(mean_flops[1:], np.inf)[::-1])[::-1]
    return np.flatnonzero(mean_flops < larger)
