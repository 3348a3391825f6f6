import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Stage
from rcopt.core.hypervolumes import Frame, hypervolume_share
from rcopt.core.statistics.generalization import generalization


def numbers(accuracy: float, log_flops: float) -> Evaluation:
    return Evaluation(accuracy, math.exp(log_flops), (1.0,), (1.0,), (), 100)


def frame(log_flops: float) -> Frame:
    return Frame(0.0, math.exp(log_flops), 1.0)


def point(
    validation: tuple[float, float], test: tuple[float, float] | None = None
) -> OperatingPoint:
    return OperatingPoint(
        Cascade((Stage(32, "net", 1.0),), ()),
        numbers(*validation),
        None if test is None else numbers(*test),
    )


def test_fronts_and_gap_by_hand() -> None:
    points = [
        point((0.5, 1.0), (0.5, 1.0)),
        point((0.6, 2.0), (0.4, 2.0)),  # dominated by the first on test
        point((0.7, 3.0), (0.7, 3.0)),
        point((0.8, 4.0), (0.7, 4.0)),  # dominated by the third on test
    ]
    result = generalization(points, frame(5))
    assert result.optimistic.tolist() == [True, False, True, False]
    assert result.pessimistic.tolist() == [False, True, False, True]
    assert result.validation_hypervolume == pytest.approx((0.5 + 0.6 + 0.7 + 0.8) / 5)
    assert result.optimistic_hypervolume == pytest.approx((0.5 * 2 + 0.7 * 2) / 5)
    assert result.pessimistic_hypervolume == pytest.approx((0.4 * 2 + 0.7 * 1) / 5)
    assert result.gap == pytest.approx((2.4 - 1.5) / 5)


def test_a_front_that_stays_one_has_no_gap() -> None:
    points = [point((0.5, 1.0), (0.5, 1.0)), point((0.6, 2.0), (0.7, 2.5))]
    result = generalization(points, frame(5))
    assert result.optimistic.all()
    assert result.pessimistic.all()
    assert result.gap == 0


def test_equal_points_do_not_dominate_each_other() -> None:
    result = generalization([point((0.5, 1.0), (0.5, 1.0))] * 2, frame(5))
    assert result.optimistic.tolist() == result.pessimistic.tolist() == [True, True]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_both_fronts_agree_with_a_pairwise_loop(tests: list[tuple[int, int]]) -> None:
    def dominates(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a != b and a[0] >= b[0] and a[1] <= b[1]

    points = [point((0.5, 1.0), (a / 5, float(f))) for a, f in tests]
    result = generalization(points, frame(6))
    for i, own in enumerate(tests):
        assert result.optimistic[i] == (not any(dominates(other, own) for other in tests))
        assert result.pessimistic[i] == (not any(dominates(own, other) for other in tests))
    everything = hypervolume_share(
        [a / 5 for a, _ in tests], [math.exp(f) for _, f in tests], frame(6)
    )
    assert result.optimistic_hypervolume == pytest.approx(everything)
    assert result.pessimistic_hypervolume <= result.optimistic_hypervolume + 1e-12


def test_points_must_have_test_numbers() -> None:
    with pytest.raises(ValueError, match="points must hold at least one"):
        generalization([], frame(5))
    with pytest.raises(ValueError, match="points must all have test numbers, got 1 without"):
        generalization([point((0.5, 1.0), (0.5, 1.0)), point((0.6, 2.0))], frame(5))


def test_masks_have_one_entry_for_each_point() -> None:
    result = generalization([point((0.5, 1.0), (0.5, 1.0))] * 3, frame(5))
    assert np.shape(result.optimistic) == np.shape(result.pessimistic) == (3,)
