"""The cuts of each stage that can matter, and the sweep over all their combinations.

This is the work behind `rcopt.fronts.threshold_front`, which says why it is exact.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rcopt.core.cascade import NEVER

#: Steps from which the sweep is shared among threads (starting them costs about 1 ms).
THREAD_STEPS = 20_000_000

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True, eq=False)
class Cuts:
    """Where the sweep puts one stage's threshold: cut 0 passes on nothing.

    Attributes:
        values: (V,) distinct confidences of the stage, rising.
        group: (N,) which of them an image has.
        order: (N,) the images by rising confidence.
        weight: (V,) number of useful images that have it: this stage is wrong about them and a
            later one is right.
        visited: (u,) rising; cut j = 1..u passes on ``values[: visited[j-1] + 1]``.
    """

    values: NDArray[np.float64]
    group: NDArray[np.int64]
    order: NDArray[np.int64]
    weight: NDArray[np.int64]
    visited: NDArray[np.int64]

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """(u+1,) the threshold of each cut; cut 0 passes on nothing."""
        above = np.append(self.values, NEVER)
        return np.concatenate([[0.0], above[self.visited + 1]])

    @property
    def buckets(self) -> NDArray[np.int64]:
        """(N,) the number of cuts that do not pass an image on, besides cut 0."""
        below = np.zeros(len(self.values) + 1, dtype=np.int64)
        below[self.visited + 1] = 1
        return np.cumsum(below)[self.group]

    @property
    def skipped(self) -> int:
        """The most useful images strictly between neighbouring cuts."""
        up_to = np.cumsum(self.weight)[self.visited]
        between = up_to - self.weight[self.visited] - np.concatenate([[0], up_to[:-1]])
        return int(between.max(initial=0))


def choose_cuts(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], max_steps: int
) -> list[Cuts]:
    """Return all cuts that can matter, or evenly spread ones where the sweep would be too long.

    Args:
        confidence: (K-1, N).
        correct: (K, N).
        max_steps: Bound on `sweep_steps`; never fewer than one cut per stage is kept.

    Returns:
        K-1 stages' cuts; each has `Cuts.skipped` 0 iff nothing was left out.
    """
    cuts = []
    for row, useful in zip(confidence, _useful(correct), strict=True):
        order = np.argsort(row)
        rising = row[order]
        fresh = np.concatenate([[True], rising[1:] > rising[:-1]])
        group = np.empty(len(row), dtype=np.int64)
        group[order] = np.cumsum(fresh) - 1
        values = rising[fresh]
        weight = np.bincount(group[useful], minlength=len(values))
        cuts.append(Cuts(values, group, order, weight, np.flatnonzero(weight)))
    sizes, n = [len(stage.visited) for stage in cuts], correct.shape[1]
    if sweep_steps(sizes, n) <= max_steps:
        return cuts
    low, high = 1, max(sizes)
    while low < high:
        middle = (low + high + 1) // 2
        if sweep_steps([min(size, middle) for size in sizes], n) <= max_steps:
            low = middle
        else:
            high = middle - 1
    return [_thin(stage, low) if len(stage.visited) > low else stage for stage in cuts]


def sweep_steps(sizes: Sequence[int], n_images: int) -> int:
    """Return the most steps a sweep over so many cuts per stage can take."""
    inner = [math.prod(sizes[:k]) for k in range(max(len(sizes) - 1, 1))]
    return math.prod(sizes) + n_images * sum(inner)


def sweep(
    cuts: Sequence[Cuts], correct: NDArray[np.bool_], costs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the cheapest combination of cuts for each number of right answers.

    Args:
        cuts: Of the first K-1 stages.
        correct: (K, N).
        costs: (K,) of one image.

    Returns:
        (N+1,) the least cost, summed over the images, for each number of right answers
        (infinite where no combination is worth it), and (N+1, K-1) the cuts with that cost; of
        equal ones the smallest, compared stage by stage.
    """
    deferring, n = len(cuts), correct.shape[1]
    sizes = np.array([len(stage.visited) for stage in cuts], dtype=np.int64)
    right = int(correct[0].sum())
    least, chosen = np.full(n + 1, np.inf), np.zeros((n + 1, deferring), dtype=np.int64)
    least[right] = n * float(costs[0])
    if deferring == 0 or sizes[0] == 0:
        return least, chosen
    bucket = np.empty((deferring, n), dtype=np.int64)
    order = np.empty((deferring, n), dtype=np.int64)
    start = np.zeros((deferring, int(sizes.max()) + 2), dtype=np.int64)
    for k, stage in enumerate(cuts):
        order[k] = stage.order
        bucket[k] = stage.buckets
        start[k, 1 : sizes[k] + 2] = np.cumsum(np.bincount(bucket[k], minlength=sizes[k] + 1))
    # Of one layout and writeable, since numba compiles anew for each other kind of array.
    useful = np.ascontiguousarray(_useful(correct))
    right_at = np.ascontiguousarray(correct).astype(np.int8)
    gain = right_at[1:] - right_at[:-1]
    own_costs = costs.copy()

    def part(first: int, last: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        found, at = least.copy(), chosen.copy()
        _walk(first, last, right, own_costs, gain, useful, bucket, order, start, sizes, found, at)
        return found, at

    size = int(sizes[0])
    if deferring == 1 or sweep_steps(sizes.tolist(), n) < THREAD_STEPS:
        return part(0, size)
    # More parts than threads, since a later cut of the first stage is more work than an early.
    workers = os.cpu_count() or 1
    edges = np.linspace(0, size, min(size, 4 * workers) + 1).astype(int).tolist()
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(part, edges[:-1], edges[1:]))
    # Of equal costs the earliest part wins, so the number of threads changes nothing.
    best = np.argmin([found for found, _ in parts], axis=0)
    for number, (found, at) in enumerate(parts):
        least[best == number] = found[best == number]
        chosen[best == number] = at[best == number]
    return least, chosen


def _useful(correct: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(K-1, N) whether a stage is wrong about an image and a later stage is right."""
    later = np.logical_or.accumulate(correct[:0:-1], axis=0)[::-1]
    return np.asarray(~correct[:-1] & later)


def _thin(cuts: Cuts, n_cuts: int) -> Cuts:
    up_to = np.cumsum(cuts.weight)[cuts.visited]
    targets = up_to[-1] * np.arange(1, n_cuts + 1) / n_cuts
    return replace(cuts, visited=cuts.visited[np.unique(np.searchsorted(up_to, targets))])


def _compiled(function: F) -> F:
    """Compile a function, kept from run to run where there is a folder to keep it in."""
    try:
        return cast(F, njit(cache=True, nogil=True)(function))
    except RuntimeError:
        # No folder that can be written, as in some containers: compiled anew in each process.
        return cast(F, njit(nogil=True)(function))


@_compiled
def _walk(
    first: int,
    last: int,
    right: int,
    costs: NDArray[np.float64],
    gain: NDArray[np.int8],
    useful: NDArray[np.bool_],
    bucket: NDArray[np.int64],
    order: NDArray[np.int64],
    start: NDArray[np.int64],
    sizes: NDArray[np.int64],
    least: NDArray[np.float64],
    chosen: NDArray[np.int64],
) -> None:
    """Visit the cuts ``first`` to ``last`` of stage 0 with all cuts of the later stages.

    An image reaches stage k iff its ``depth`` is k or more. Per stage, ``passed`` counts the
    images that its cut passes on, and ``rights`` and ``totals`` are the right answers and cost
    when the next stage answers all of these. A loop with its own stack: numba's cache does not
    survive a function that calls itself.
    """
    final, n = gain.shape[0] - 1, gain.shape[1]
    depth = np.zeros(n, dtype=np.int8)
    tally = np.zeros((sizes[final] + 1, 2), dtype=np.int64)
    at = np.zeros(final + 1, dtype=np.int64)
    passed = np.zeros(final + 1, dtype=np.int64)
    rights = np.zeros(final + 2, dtype=np.int64)
    totals = np.zeros(final + 2, dtype=np.float64)
    rights[0] = right
    totals[0] = n * costs[0]
    level = 0
    if final == 0:
        for image in range(n):
            tally[bucket[0, image], 0] += 1
            tally[bucket[0, image], 1] += gain[0, image]
        _scan(tally, sizes[0], rights[0], totals[0], costs[1], at, least, chosen)
        return
    while level >= 0:
        if at[level] == (last if level == 0 else sizes[level]):
            for place in range(start[level, at[level]]):
                if depth[order[level, place]] > level:
                    depth[order[level, place]] = level
            at[level] = 0
            level -= 1
            continue
        if at[level] == 0:
            passed[level] = 0
            rights[level + 1] = rights[level]
            if level + 1 == final:
                tally[:] = 0
        fresh = False
        for place in range(start[level, at[level]], start[level, at[level] + 1]):
            image = order[level, place]
            if depth[image] == level:
                depth[image] = level + 1
                passed[level] += 1
                rights[level + 1] += gain[level, image]
                fresh |= useful[level, image]
                if level + 1 == final:
                    tally[bucket[final, image], 0] += 1
                    tally[bucket[final, image], 1] += gain[final, image]
        at[level] += 1
        if not fresh or (level == 0 and at[0] <= first):
            continue
        cost = totals[level] + passed[level] * costs[level + 1]
        totals[level + 1] = cost
        if cost < least[rights[level + 1]]:
            least[rights[level + 1]] = cost
            chosen[rights[level + 1]] = at
        if level + 1 == final:
            _scan(tally, sizes[final], rights[final], cost, costs[final + 1], at, least, chosen)
        else:
            level += 1


@_compiled
def _scan(
    tally: NDArray[np.int64],
    size: int,
    right: int,
    total: float,
    cost: float,
    at: NDArray[np.int64],
    least: NDArray[np.float64],
    chosen: NDArray[np.int64],
) -> None:
    """Move up the cut of the last stage that has one.

    ``right`` and ``total`` are the right answers and cost when it passes on nothing, ``cost``
    that of the stage after it, ``at`` the cuts; ``tally`` holds, per cut, the images that it
    newly passes on and by how much that changes the right answers. Only a new record of these
    can matter.
    """
    passed = 0
    risen = 0
    record = 0
    for j in range(size):
        passed += tally[j, 0]
        risen += tally[j, 1]
        if risen > record:
            record = risen
            spent = total + passed * cost
            if spent < least[right + risen]:
                least[right + risen] = spent
                chosen[right + risen] = at
                chosen[right + risen, len(at) - 1] = j + 1
