"""The candidates of each stage that can matter, and the sweep over all their combinations.

This is the work behind `rcopt.threshold_front`, which says why it is exact.
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
class CandidateThresholds:
    """Where the sweep puts one stage's threshold: candidate 0 passes on nothing.

    Attributes:
        values: (V,) distinct confidences of the stage, rising.
        group: (N,) which of them an image has.
        order: (N,) the images by rising confidence.
        weight: (V,) number of useful images that have it: this stage is wrong about them and a
            later one is right.
        visited: (u,) rising; candidate j = 1..u passes on ``values[: visited[j-1] + 1]``.
    """

    values: NDArray[np.float64]
    group: NDArray[np.int64]
    order: NDArray[np.int64]
    weight: NDArray[np.int64]
    visited: NDArray[np.int64]

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """(u+1,) the threshold of each candidate; candidate 0 passes on nothing."""
        above = np.append(self.values, NEVER)
        return np.concatenate([[0.0], above[self.visited + 1]])

    @property
    def buckets(self) -> NDArray[np.int64]:
        """(N,) the number of candidates that do not pass an image on, besides candidate 0."""
        below = np.zeros(len(self.values) + 1, dtype=np.int64)
        below[self.visited + 1] = 1
        return np.cumsum(below)[self.group]

    @property
    def skipped(self) -> int:
        """The most useful images strictly between neighbouring candidates."""
        up_to = np.cumsum(self.weight)[self.visited]
        between = up_to - self.weight[self.visited] - np.concatenate([[0], up_to[:-1]])
        return int(between.max(initial=0))


def choose_candidates(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], max_steps: int
) -> list[CandidateThresholds]:
    """Return all candidates that can matter, or evenly spread ones for a shorter sweep.

    Args:
        confidence: (K-1, N).
        correct: (K, N).
        max_steps: Bound on `sweep_steps`; never fewer than one candidate per stage is kept.

    Returns:
        K-1 stages' candidates; each has `CandidateThresholds.skipped` 0 iff nothing was left out.
    """
    candidates = []
    for row, useful in zip(confidence, _useful(correct), strict=True):
        order = np.argsort(row)
        rising = row[order]
        fresh = np.concatenate([[True], rising[1:] > rising[:-1]])
        group = np.empty(len(row), dtype=np.int64)
        group[order] = np.cumsum(fresh) - 1
        values = rising[fresh]
        weight = np.bincount(group[useful], minlength=len(values))
        candidates.append(
            CandidateThresholds(values, group, order, weight, np.flatnonzero(weight))
        )
    sizes, n = [len(stage.visited) for stage in candidates], correct.shape[1]
    if sweep_steps(sizes, n) <= max_steps:
        return candidates
    low, high = 1, max(sizes)
    while low < high:
        middle = (low + high + 1) // 2
        if sweep_steps([min(size, middle) for size in sizes], n) <= max_steps:
            low = middle
        else:
            high = middle - 1
    return [_thin(stage, low) if len(stage.visited) > low else stage for stage in candidates]


def sweep_steps(sizes: Sequence[int], n_images: int) -> int:
    """Return the most steps a sweep over so many candidates per stage can take."""
    inner = [math.prod(sizes[:k]) for k in range(max(len(sizes) - 1, 1))]
    return math.prod(sizes) + n_images * sum(inner)


def sweep(
    candidates: Sequence[CandidateThresholds],
    correct: NDArray[np.bool_],
    costs: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the cheapest combination of candidates for each number of right answers.

    Args:
        candidates: Of the first K-1 stages.
        correct: (K, N).
        costs: (K,) of one image.

    Returns:
        (N+1,) the least cost, summed over the images, for each number of right answers
        (infinite where no combination is worth it), and (N+1, K-1) the candidates with that
        cost; of equal ones the smallest, compared stage by stage.
    """
    deferring, n = len(candidates), correct.shape[1]
    sizes = np.array([len(stage.visited) for stage in candidates], dtype=np.int64)
    right = int(correct[0].sum())
    least, chosen = np.full(n + 1, np.inf), np.zeros((n + 1, deferring), dtype=np.int64)
    least[right] = n * float(costs[0])
    if deferring == 0 or sizes[0] == 0:
        return least, chosen
    bucket = np.empty((deferring, n), dtype=np.int64)
    order = np.empty((deferring, n), dtype=np.int64)
    start = np.zeros((deferring, int(sizes.max()) + 2), dtype=np.int64)
    for k, stage in enumerate(candidates):
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
    # More parts than threads, since a later candidate of the first stage is more work than an
    # early.
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


def _thin(candidates: CandidateThresholds, n_candidates: int) -> CandidateThresholds:
    up_to = np.cumsum(candidates.weight)[candidates.visited]
    targets = up_to[-1] * np.arange(1, n_candidates + 1) / n_candidates
    return replace(
        candidates, visited=candidates.visited[np.unique(np.searchsorted(up_to, targets))]
    )


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
    """Visit candidates ``first`` to ``last`` of stage 0 with all those of the later stages.

    An image reaches stage k iff its ``depth`` is k or more. Per stage, ``passed`` counts the
    images that its candidate passes on, and ``rights`` and ``totals`` are the right answers and
    cost when the next stage answers all of these. A loop with its own stack: numba's cache does
    not survive a function that calls itself.
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
    stage = 0
    if final == 0:
        for image in range(n):
            tally[bucket[0, image], 0] += 1
            tally[bucket[0, image], 1] += gain[0, image]
        _scan(tally, sizes[0], rights[0], totals[0], costs[1], at, least, chosen)
        return
    while stage >= 0:
        if at[stage] == (last if stage == 0 else sizes[stage]):
            for place in range(start[stage, at[stage]]):
                if depth[order[stage, place]] > stage:
                    depth[order[stage, place]] = stage
            at[stage] = 0
            stage -= 1
            continue
        if at[stage] == 0:
            passed[stage] = 0
            rights[stage + 1] = rights[stage]
            if stage + 1 == final:
                tally[:] = 0
        fresh = False
        for place in range(start[stage, at[stage]], start[stage, at[stage] + 1]):
            image = order[stage, place]
            if depth[image] == stage:
                depth[image] = stage + 1
                passed[stage] += 1
                rights[stage + 1] += gain[stage, image]
                fresh |= useful[stage, image]
                if stage + 1 == final:
                    tally[bucket[final, image], 0] += 1
                    tally[bucket[final, image], 1] += gain[final, image]
        at[stage] += 1
        if not fresh or (stage == 0 and at[0] <= first):
            continue
        cost = totals[stage] + passed[stage] * costs[stage + 1]
        totals[stage + 1] = cost
        if cost < least[rights[stage + 1]]:
            least[rights[stage + 1]] = cost
            chosen[rights[stage + 1]] = at
        if stage + 1 == final:
            _scan(tally, sizes[final], rights[final], cost, costs[final + 1], at, least, chosen)
        else:
            stage += 1


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
    """Move up the candidate of the last stage that has one.

    ``right`` and ``total`` are the right answers and cost when it passes on nothing, ``cost``
    that of the stage after it, ``at`` the candidates; ``tally`` holds, per candidate, the images
    that it newly passes on and by how much that changes the right answers. Only a new record of
    these can matter.
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
