import pytest

from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Stage
from rcopt.core.statistics.savings import LOSSES, savings


def numbers(accuracy: float, flops: float) -> Evaluation:
    return Evaluation(accuracy, flops, (1.0,), (1.0,), (), 1000)


def point(
    validation: tuple[float, float], test: tuple[float, float] | None = None
) -> OperatingPoint:
    return OperatingPoint(
        Cascade((Stage(32, "net", 1.0),), ()),
        numbers(*validation),
        None if test is None else numbers(*test),
    )


TOP = point((0.900, 100.0), (0.890, 100.0))
FRONT = [
    point((0.880, 10.0), (0.885, 8.0)),
    point((0.895, 20.0), (0.880, 16.0)),
    point((0.901, 50.0), (0.895, 40.0)),
]


def test_savings_by_hand() -> None:
    at_equal, at_half_a_point, at_two_points = savings(FRONT, TOP, [0.0, 0.005, 0.02])
    assert (at_equal.point, at_equal.validation, at_equal.test) == (FRONT[2], 2.0, 2.5)
    assert at_equal.test_change == pytest.approx(0.005)
    assert (at_half_a_point.point, at_half_a_point.validation) == (FRONT[1], 5.0)
    assert at_half_a_point.test_change == pytest.approx(-0.01)
    assert (at_two_points.point, at_two_points.test) == (FRONT[0], 12.5)


def test_the_reference_stands_in_where_no_point_is_as_accurate() -> None:
    [saving] = savings(FRONT[:2], TOP, [0.0])
    assert (saving.point, saving.validation, saving.test, saving.test_change) == (TOP, 1, 1, 0)


def test_more_loss_never_saves_less() -> None:
    times = [saving.validation for saving in savings(FRONT, TOP)]
    assert len(times) == len(LOSSES) == 11
    assert times == sorted(times)


def test_without_test_numbers_there_are_none() -> None:
    [saving] = savings([point((0.95, 10.0))], TOP, [0.0])
    assert (saving.validation, saving.test, saving.test_change) == (10.0, None, None)


def test_choice_does_not_look_at_test() -> None:
    worse_on_test = point((0.901, 50.0), (0.1, 99.0))
    [saving] = savings([*FRONT[:2], worse_on_test], TOP, [0.0])
    assert saving.point is worse_on_test


def test_loss_and_cost_are_checked() -> None:
    with pytest.raises(ValueError, match=r"drop must lie in \[0, 1\], got -0.1"):
        savings(FRONT, TOP, [-0.1])
    with pytest.raises(ValueError, match="points must have positive mean FLOPs"):
        savings([point((0.95, 0.0))], TOP, [0.0])
