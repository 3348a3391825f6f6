"""Several fronts as one: the accuracy that a share of them attains at each cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Attainment:
    """The corners of an attainment surface, cheapest first.

    Attributes:
        level: Share of the fronts that attain it; 0.5 is the median front.
        accuracy: (P,), strictly rising.
        mean_flops: (P,), strictly rising.
    """

    level: float
    accuracy: NDArray[np.float64]
    mean_flops: NDArray[np.float64]


def attainment(
    fronts: Sequence[tuple[ArrayLike, ArrayLike]], levels: Sequence[float] = (0.25, 0.5, 0.75)
) -> tuple[Attainment, ...]:
    """Return the empirical attainment surfaces of several fronts.

    At each mean FLOPs the surface of level L is the highest accuracy that at least
    ceil(L x S) of the S fronts reach at no higher cost (Fonseca et al. 2011; Watanabe 2023,
    arXiv:2305.08852). Level 0.25 is the lucky quarter's, 0.75 what three of four reach.

    Args:
        fronts: S pairs of accuracy (P,) and mean FLOPs (P,), one of each study (each seed);
            dominated points do no harm.
        levels: Each in (0, 1].

    Returns:
        One surface for each level, in the order given.

    Raises:
        ValueError: On wrong shapes, an empty front, non-finite values or a wrong level.

    Example:
        >>> [median] = attainment([([0.5, 0.9], [1, 5]), ([0.6], [2]), ([0.7], [3])], [0.5])
        >>> median.accuracy.tolist(), median.mean_flops.tolist()
        ([0.5, 0.6, 0.7], [2.0, 3.0, 5.0])
    """
    if not fronts:
        raise ValueError("fronts must hold at least one front, got none")
    for level in levels:
        if not 0 < level <= 1:
            raise ValueError(f"levels must lie in (0, 1], got {level}")
    checked = [_front(*front) for front in fronts]
    budgets = np.unique(np.concatenate([flops for _, flops in checked]))
    reached = np.sort([_best(*front, budgets) for front in checked], axis=0)[::-1]
    return tuple(_corners(level, reached, budgets) for level in levels)


def _front(
    accuracy: ArrayLike, mean_flops: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a = np.asarray(accuracy, dtype=np.float64)
    f = np.asarray(mean_flops, dtype=np.float64)
    if a.ndim != 1 or a.shape != f.shape or not len(a):
        raise ValueError(
            "fronts must be pairs of accuracy and mean FLOPs of one length >= 1, "
            f"got shapes {a.shape} and {f.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(f).all()):
        raise ValueError("fronts must be finite")
    return a, f


def _best(
    accuracy: NDArray[np.float64], mean_flops: NDArray[np.float64], budgets: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the best accuracy within each budget, -inf where nothing is so cheap."""
    order = np.argsort(mean_flops, kind="stable")
    best = np.concatenate([[-np.inf], np.maximum.accumulate(accuracy[order])])
    return np.asarray(best[np.searchsorted(mean_flops[order], budgets, side="right")])


def _corners(
    level: float, reached: NDArray[np.float64], budgets: NDArray[np.float64]
) -> Attainment:
    # 1e-9: 0.07 x 100 is 7.000000000000001, which must not become 8 fronts.
    fronts = int(np.ceil(level * len(reached) - 1e-9))
    surface = reached[fronts - 1]
    rises = np.flatnonzero(surface > np.concatenate([[-np.inf], surface[:-1]]))
    return Attainment(level, surface[rises], budgets[rises])
