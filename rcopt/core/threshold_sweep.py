"""The candidates of each stage that can matter, and the sweep over all their combinations.

This is the work behind `rcopt.threshold_front`, which says why it is exact.

Most combinations need not be visited. Raising a threshold never makes a cascade cheaper, and
adds at most one right answer for each useful image that is then passed on. So where a cascade is
known that has m more right answers for no more cost, the next m - 1 useful images change nothing:
the sweep moves past them, and looks again behind them. What is known may come from other stages,
and from coarser sweeps, which move past some images more than that and so miss at most as many
right answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rcopt.core.cascade import NEVER
from rcopt.core.threshold_walk import EXACT, walk


@dataclass(frozen=True, eq=False)
class Ranking:
    """One stage's images in the order of its confidence, which every sweep over it needs.

    Attributes:
        values: (V,) its distinct confidences, rising.
        group: (N,) which of them an image has.
        order: (N,) the images by rising confidence.
    """

    values: NDArray[np.float64]
    group: NDArray[np.int64]
    order: NDArray[np.int64]

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """(V,) the number of images of each confidence or a smaller one."""
        return np.cumsum(np.bincount(self.group, minlength=len(self.values)))


def rank_images(confidence: NDArray[np.float64]) -> Ranking:
    """Return the images (N,) in the order of their confidence."""
    order = np.argsort(confidence)
    rising = confidence[order]
    fresh = np.concatenate([[True], rising[1:] > rising[:-1]])
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.cumsum(fresh) - 1
    return Ranking(rising[fresh], group, order)


@dataclass(frozen=True, eq=False)
class Known:
    """The least cost of all cascades so far, by right answers.

    Attributes:
        cost: (N+1,) summed over the images, for at least so many right answers; infinite where
            nothing is known. Sweeps lower it.
    """

    cost: NDArray[np.float64]

    @classmethod
    def nothing(cls, n_images: int) -> "Known":
        """Return that nothing is known yet."""
        return cls(np.full(n_images + 1, np.inf))

    def add(self, accuracy: NDArray[np.float64], mean_cost: NDArray[np.float64]) -> None:
        """Note points (P,) of other cascades, by their means."""
        n = len(self.cost) - 1
        # A mean is rounded: what it came from may have cost a little more.
        total = mean_cost * n * (1 + 1e-12)
        np.minimum.at(self.cost, np.rint(accuracy * n).astype(np.int64), total)
        self.cost[:] = np.minimum.accumulate(self.cost[::-1])[::-1]


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a sweep over the thresholds of K stages found.

    Attributes:
        cost: (N+1,) the least cost, summed over the images, for each number of right answers;
            infinite where none was looked at.
        candidates: (N+1, K-1) which candidates have that cost; of equal ones the smallest,
            compared stage by stage.
        thresholds: For each stage but the last, the thresholds of its candidates.
        gap: How many more right answers than all that is known a vector of thresholds can have
            for no more cost; 0 where the sweep is exact.
        steps: Work done.
    """

    cost: NDArray[np.float64]
    candidates: NDArray[np.int64]
    thresholds: Sequence[NDArray[np.float64]]
    gap: int
    steps: int


def sweep(
    rankings: Sequence[Ranking],
    correct: NDArray[np.bool_],
    costs: NDArray[np.float64],
    known: Known,
    max_steps: int,
    margin: int = EXACT,
) -> Sweep:
    """Find the cheapest thresholds for each number of right answers.

    Coarse sweeps come first, each missing a quarter of what the one before could miss, and the
    exact one last; the last one that was not given up counts.

    Args:
        rankings: Of the first K-1 stages.
        correct: (K, N).
        costs: (K,) of one image.
        known: Of other stages on the same images; what is found here is added to it.
        max_steps: A sweep that takes more is given up; none
            takes more than prod(u_0 .. u_{K-2}) + N (1 + u_0 + .. + u_0 .. u_{K-4}).
        margin: Right answers that the last sweep may miss; by default it is exact.
    """
    n, deferring = correct.shape[1], len(rankings)
    useful = _useful(correct)
    least, chosen = np.full(n + 1, np.inf), np.zeros((n + 1, deferring), dtype=np.int64)
    visited = [
        np.flatnonzero(np.bincount(ranking.group[own], minlength=len(ranking.values)))
        for ranking, own in zip(rankings, useful, strict=True)
    ]
    sizes = np.array([len(own) for own in visited], dtype=np.int64)
    right = int(correct[0].sum())
    if deferring == 0 or sizes[0] == 0:
        least[right] = n * float(costs[0])
        known.add(np.array([right / n]), np.array([costs[0]]))
        return Sweep(least, chosen, [np.zeros(1)] * deferring, 0, n)
    start = np.zeros((deferring, int(sizes.max()) + 2), dtype=np.int64)
    for row, ranking, own in zip(start, rankings, visited, strict=True):
        row[1 : len(own) + 1] = ranking.ends[own]
        row[len(own) + 1] = n
    # Of one layout and type, since numba compiles anew for each other kind of array.
    weight = np.ones(n, dtype=np.int64)
    right_at = correct.astype(np.int64)
    gain = right_at[1:] - right_at[:-1]
    order = np.stack([ranking.order for ranking in rankings])
    bucket = _buckets(rankings[-1], visited[-1])
    data = (costs.copy(), weight, gain, useful.astype(np.int64), bucket)
    gap, steps = n, 0
    for missed in _margins(n, margin) if deferring > 1 else (EXACT,):
        left = walk(
            missed, max_steps, *data, order, start, sizes, right, known.cost, least, chosen
        )
        steps += max_steps - left
        if left < 0:
            break
        gap = max(missed, 0)
    return Sweep(
        least,
        chosen,
        [_thresholds(ranking, own) for ranking, own in zip(rankings, visited, strict=True)],
        gap,
        steps,
    )


def _margins(n_images: int, least: int) -> list[int]:
    margins = [n_images]
    while margins[-1] // 4 > max(least, 0):
        margins.append(margins[-1] // 4)
    return [*margins, least]


def _thresholds(ranking: Ranking, visited: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the threshold of each candidate (u+1,); candidate 0 passes on nothing."""
    above = np.append(ranking.values, NEVER)
    return np.concatenate([[0.0], above[visited + 1]])


def _buckets(ranking: Ranking, visited: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of candidates that do not pass an image on (N,), besides candidate 0."""
    below = np.zeros(len(ranking.values) + 1, dtype=np.int64)
    below[visited + 1] = 1
    return np.cumsum(below)[ranking.group]


def _useful(correct: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(K-1, N) whether a stage is wrong about an image and a later stage is right."""
    later = np.logical_or.accumulate(correct[:0:-1], axis=0)[::-1]
    return np.asarray(~correct[:-1] & later)
