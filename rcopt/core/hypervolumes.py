"""How much of what a front could reach it does reach: hypervolume as a share, in log cost."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rcopt.core.fronts import hypervolume


class Frame(NamedTuple):
    """The corner that hypervolumes are measured from, and where cost begins.

    Attributes:
        accuracy: Of the cheapest stage: a front that holds it lies above at any cost.
        cost: Of the most accurate stage: who pays more has nothing to gain from cascading.
        cheapest: Cost of the cheapest stage, which no cascade falls below.
    """

    accuracy: float
    cost: float
    cheapest: float


def frame_of(accuracy: Sequence[float], cost: Sequence[float]) -> Frame:
    """Return the frame that single stages span; of equally accurate ones the cheapest counts.

    Args:
        accuracy: (S,) of each stage, on the split that fronts are measured on.
        cost: (S,) positive.

    Raises:
        ValueError: If there is no stage or a cost is not positive.

    Example:
        >>> frame_of([0.5, 0.9, 0.8], [1.0, 10.0, 20.0])
        Frame(accuracy=0.5, cost=10.0, cheapest=1.0)
    """
    if not len(accuracy) or len(accuracy) != len(cost) or min(cost) <= 0:
        raise ValueError("stages must be at least one, each with an accuracy and a positive cost")
    low = min(zip(cost, (-a for a in accuracy), strict=True))
    best = min(zip((-a for a in accuracy), cost, strict=True))
    return Frame(-low[1], best[1], low[0])


def hypervolume_share(accuracy: ArrayLike, cost: ArrayLike, frame: Frame) -> float:
    """Return the share of a frame's area that points dominate.

    The area reaches from the frame's accuracy to 1 and, in log cost, from the cheapest stage to
    the most accurate one: the mean, over budgets evenly spread in log cost, of how far the best
    accuracy within the budget has come from the cheapest stage's to 1. On a linear scale of cost
    nine tenths of the area would be the accuracy of the costliest point alone. Where the
    cheapest stage is the most accurate one there is one budget only.

    Args:
        accuracy: (P,) finite.
        cost: (P,) finite; less than the cheapest stage's counts as that.
        frame: See `Frame`.

    Returns:
        In [0, 1]; it never falls when a point is added.

    Raises:
        ValueError: On wrong shapes or values that are not finite.

    Example:
        >>> round(hypervolume_share([0.6, 0.9], [1.0, 10.0], Frame(0.6, 100.0, 1.0)), 3)
        0.375
    """
    acc = np.asarray(accuracy, dtype=np.float64)
    spent = np.maximum(np.asarray(cost, dtype=np.float64), frame.cheapest)
    room = 1 - frame.accuracy
    if room <= 0:
        return 1.0 if (acc >= 1).any() else 0.0
    if frame.cost <= frame.cheapest:
        within = acc[spent <= frame.cost]
        return max(0.0, float(within.max(initial=frame.accuracy)) - frame.accuracy) / room
    area = hypervolume(acc, np.log(spent), (frame.accuracy, math.log(frame.cost)))
    return area / (room * math.log(frame.cost / frame.cheapest))
