"""How many times fewer FLOPs a front needs for the accuracy of a reference."""

from collections.abc import Sequence
from dataclasses import dataclass

from rcopt.core.cascade import OperatingPoint
from rcopt.core.statistics.selection import by_max_drop

#: Accuracy given up against the reference: none, and 0.1 to 1 point in steps of 0.1.
LOSSES = tuple(step / 1000 for step in range(11))


@dataclass(frozen=True)
class Saving:
    """What a point chosen on validation saves.

    Attributes:
        loss: Accuracy that was allowed to be given up on validation, as a share.
        point: The chosen point; the reference itself where no other one qualifies.
        validation: The reference's mean FLOPs over the point's, on validation.
        test: The same on test; None without test numbers.
        test_change: The point's test accuracy minus the reference's; None without.
    """

    loss: float
    point: OperatingPoint
    validation: float
    test: float | None
    test_change: float | None


def savings(
    points: Sequence[OperatingPoint],
    reference: OperatingPoint,
    losses: Sequence[float] = LOSSES,
) -> tuple[Saving, ...]:
    """Return for each loss what the cheapest point saves that loses no more on validation.

    Chosen on validation only; on test the point may do better or worse than was allowed,
    which ``test_change`` tells.

    Args:
        points: The front.
        reference: Usually the most accurate single stage.
        losses: Each in [0, 1].

    Raises:
        ValueError: If a loss lies outside [0, 1] or a point costs nothing.
    """
    candidates = [reference, *points]
    return tuple(_saving(candidates, reference, loss) for loss in losses)


def _saving(
    candidates: Sequence[OperatingPoint], reference: OperatingPoint, loss: float
) -> Saving:
    point = by_max_drop(candidates, loss, reference.validation.accuracy)
    if point.validation.mean_flops <= 0:
        raise ValueError("points must have positive mean FLOPs to tell a saving, got 0")
    test = change = None
    if point.test is not None and reference.test is not None:
        test = reference.test.mean_flops / point.test.mean_flops
        change = point.test.accuracy - reference.test.accuracy
    return Saving(
        loss,
        point,
        reference.validation.mean_flops / point.validation.mean_flops,
        test,
        change,
    )
