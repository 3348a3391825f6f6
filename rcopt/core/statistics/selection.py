"""Choosing one operating point from a front, by its validation numbers alone."""

from collections.abc import Sequence

import numpy as np

from rcopt.core.cascade import OperatingPoint
from rcopt.core.cost import COSTS, Amount
from rcopt.core.fronts import non_dominated

#: Shares are counts divided by N; sums of them are off by less than this, counts by more.
_ROUNDING = 1e-12


def by_max_flops(points: Sequence[OperatingPoint], max_flops: float) -> OperatingPoint:
    """Return the most accurate point whose mean FLOPs do not exceed a budget.

    Args:
        points: Any operating points; of equally accurate ones the cheapest is taken.
        max_flops: FLOPs per image, positive.

    Raises:
        ValueError: If the budget is not positive or below the cheapest point, which is named.
    """
    return by_max_cost(points, Amount("flops", max_flops))


def by_max_cost(points: Sequence[OperatingPoint], budget: Amount) -> OperatingPoint:
    """Return the most accurate point whose mean cost does not exceed a budget.

    Args:
        points: Operating points that have this cost; of equally accurate ones the cheapest is
            taken.
        budget: Per image, positive.

    Raises:
        ValueError: If the points do not have the cost, or the budget is not positive or below
            the cheapest point, which is named.
    """
    _check(points)
    cost = COSTS[budget.cost]
    spent = [dict(point.validation.costs).get(cost) for point in points]
    known = [value for value in spent if value is not None]
    if len(known) < len(spent):
        raise ValueError(f"{cost.limit} needs points by this cost (search.cost = {cost.name!r})")
    return _within(points, known, budget.value, cost.limit)


def by_min_accuracy(points: Sequence[OperatingPoint], min_accuracy: float) -> OperatingPoint:
    """Return the cheapest point that is at least so accurate.

    Args:
        points: Any operating points; of equally cheap ones the most accurate is taken.
        min_accuracy: Share in [0, 1].

    Raises:
        ValueError: If the accuracy is outside [0, 1] or above every point's, whose best is
            named.
    """
    _check(points)
    if not 0 <= min_accuracy <= 1:
        raise ValueError(f"min_accuracy must lie in [0, 1], got {min_accuracy}")
    return _reaching(points, min_accuracy, f"min_accuracy {min_accuracy:.4f}")


def by_max_drop(
    points: Sequence[OperatingPoint], drop: float, reference_accuracy: float
) -> OperatingPoint:
    """Return the cheapest point that loses at most ``drop`` against a reference.

    This compares shares on the images that the points were found on, so chance plays a part:
    `rcopt.core.statistics.certify` gives a choice with a guarantee.

    Args:
        points: Any operating points; of equally cheap ones the most accurate is taken.
        drop: Accuracy given up, as a share (0.01 is one point), in [0, 1].
        reference_accuracy: Validation accuracy of the reference, usually the best single stage.

    Raises:
        ValueError: If an argument is outside [0, 1] or no point qualifies, whose best is named.
    """
    _check(points)
    if not 0 <= drop <= 1:
        raise ValueError(f"drop must lie in [0, 1], got {drop}")
    if not 0 <= reference_accuracy <= 1:
        raise ValueError(f"reference_accuracy must lie in [0, 1], got {reference_accuracy}")
    what = f"drop {drop:.4f} from the reference accuracy {reference_accuracy:.4f}"
    return _reaching(points, reference_accuracy - drop, what)


def knee(points: Sequence[OperatingPoint]) -> OperatingPoint:
    """Return the front's bend: beyond it more FLOPs buy less than before.

    The front's log cost and accuracy are both scaled to 0..1; the knee is the point highest
    above the chord from the cheapest to the most accurate one (Kneedle, Satopaa et al. 2011,
    section IV, without its smoothing). Dominated points are left out; of points equally
    high the cheapest is taken; a front of one or two points gives its cheapest.

    Raises:
        ValueError: If there are no points or one costs nothing.
    """
    _check(points)
    accuracy = np.array([point.validation.accuracy for point in points])
    costs = np.array([point.validation.cost for point in points])
    if costs.min() <= 0:
        raise ValueError("points must have positive mean FLOPs to find the knee, got 0")
    front = np.flatnonzero(non_dominated(accuracy, costs))
    front = front[np.argsort(costs[front])]
    if len(front) < 3:
        return points[int(front[0])]
    cost, gain = np.log(costs[front]), accuracy[front]
    height = (gain - gain[0]) / (gain[-1] - gain[0]) - (cost - cost[0]) / (cost[-1] - cost[0])
    return points[int(front[np.argmax(height)])]


def by_trial(points: Sequence[OperatingPoint], trial: int) -> OperatingPoint:
    """Return the point that a trial found.

    Raises:
        ValueError: If no point has this trial number; the nearest number is named.
    """
    _check(points)
    numbered = {point.trial: point for point in points if point.trial is not None}
    if trial not in numbered:
        nearest = min(numbered, key=lambda number: (abs(number - trial), number), default=None)
        hint = "no point has a trial" if nearest is None else f"the nearest is {nearest}"
        raise ValueError(f"trial {trial} is not among the points; {hint}")
    return numbered[trial]


def _check(points: Sequence[OperatingPoint]) -> None:
    if not points:
        raise ValueError("points must hold at least one operating point, got none")


def _within(
    points: Sequence[OperatingPoint], spent: Sequence[float], budget: float, name: str
) -> OperatingPoint:
    if not budget > 0:
        raise ValueError(f"{name} must be positive, got {budget}")
    within = [point for point, each in zip(points, spent, strict=True) if each <= budget]
    if not within:
        least = min(range(len(points)), key=lambda i: (spent[i], -points[i].validation.accuracy))
        nearest = points[least]
        raise ValueError(
            f"{name} {budget:.4g} is below every point; the nearest needs {_numbers(nearest)}"
        )
    return min(within, key=_most_accurate)


def _reaching(points: Sequence[OperatingPoint], accuracy: float, what: str) -> OperatingPoint:
    enough = [point for point in points if point.validation.accuracy >= accuracy - _ROUNDING]
    if not enough:
        nearest = min(points, key=_most_accurate)
        raise ValueError(f"{what} is out of reach; the nearest point has {_numbers(nearest)}")
    return min(enough, key=_cheapest)


def _cheapest(point: OperatingPoint) -> tuple[float, float]:
    return point.validation.cost, -point.validation.accuracy


def _most_accurate(point: OperatingPoint) -> tuple[float, float]:
    return -point.validation.accuracy, point.validation.cost


def _numbers(point: OperatingPoint) -> str:
    found = point.validation
    costs = " and ".join(cost.text(value) for cost, value in reversed(found.costs))
    return f"accuracy {found.accuracy:.4f} at {costs} ({point.cascade})"
