"""Hypervolume as a share, in log cost."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcopt.core.hypervolumes import Frame, frame_of, hypervolume_share

POINTS = st.lists(
    st.tuples(st.floats(0.0, 1.0), st.floats(0.1, 200.0)), min_size=1, max_size=8
).map(lambda rows: ([a for a, _ in rows], [c for _, c in rows]))
FRAME = Frame(0.3, 100.0, 1.0)


@settings(deadline=None)
@given(points=POINTS)
def test_it_is_the_mean_progress_over_budgets_even_in_log_cost(
    points: tuple[list[float], list[float]],
) -> None:
    accuracy, cost = np.array(points[0]), np.array(points[1])
    budgets = np.exp((np.arange(20_000) + 0.5) / 20_000 * math.log(100.0))
    best = [accuracy[cost <= budget].max(initial=0.3) for budget in budgets]
    progress = (np.array(best) - 0.3) / 0.7
    assert hypervolume_share(accuracy, cost, FRAME) == pytest.approx(progress.mean(), abs=1e-3)


@settings(deadline=None)
@given(points=POINTS, more=st.tuples(st.floats(0.0, 1.0), st.floats(0.1, 200.0)))
def test_it_lies_between_0_and_1_and_never_falls(
    points: tuple[list[float], list[float]], more: tuple[float, float]
) -> None:
    accuracy, cost = points
    before = hypervolume_share(accuracy, cost, FRAME)
    after = hypervolume_share([*accuracy, more[0]], [*cost, more[1]], FRAME)
    assert 0 <= before <= after + 1e-12
    assert after <= 1 + 1e-12


def test_the_cheapest_stage_alone_has_nothing_and_a_perfect_cheap_one_everything() -> None:
    assert hypervolume_share([0.3], [1.0], FRAME) == 0.0
    assert hypervolume_share([1.0], [1.0], FRAME) == 1.0
    assert hypervolume_share([1.0], [100.0], FRAME) == 0.0


def test_the_frame_is_what_single_stages_span() -> None:
    # The costliest stage is not the most accurate one, and two are equally accurate.
    assert frame_of([0.8, 0.5, 0.9, 0.9], [20.0, 1.0, 10.0, 5.0]) == Frame(0.5, 5.0, 1.0)
    assert frame_of([0.5, 0.6], [1.0, 1.0]).accuracy == 0.6
    for wrong in ([], [0.0]):
        with pytest.raises(ValueError, match="positive cost"):
            frame_of([0.5] * len(wrong), wrong)


def test_where_the_cheapest_stage_is_the_best_there_is_one_budget() -> None:
    frame = frame_of([0.6, 0.5], [1.0, 2.0])
    assert hypervolume_share([0.6], [1.0], frame) == 0.0
    assert hypervolume_share([0.8, 1.0], [0.5, 1.5], frame) == pytest.approx(0.5)
    assert hypervolume_share([1.0], [1.0], Frame(1.0, 2.0, 1.0)) == 1.0
