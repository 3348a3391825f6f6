from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcopt.core.cascade import NEVER
from rcopt.core.statistics.intervals import Interval
from rcopt.core.wording import amount, answers_at, points, times, times_interval
from rcopt.report.chart import Plot, Series, limits, linear_ticks, log_ticks, tick_texts


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_linear_ticks_lie_inside_and_evenly(low: float, span: float, count: int) -> None:
    ticks = linear_ticks(low, low + span, count)
    assert all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in ticks)
    assert len(ticks) <= count + 1
    steps = [b - a for a, b in pairwise(ticks)]
    assert steps == pytest.approx(steps[:1] * len(steps), abs=1e-4 * span)


@given(st.floats(1.0, 1e12), st.floats(1.01, 1e6), st.integers(2, 12))
def test_log_ticks_lie_inside_and_rise(low: float, ratio: float, count: int) -> None:
    ticks = log_ticks(low, low * ratio, count)
    assert ticks == sorted(set(ticks))
    assert all(low * (1 - 1e-9) <= t <= low * ratio * (1 + 1e-9) for t in ticks)


@given(st.floats(0.5, 0.999), st.floats(1e-5, 1e-2), st.integers(2, 9))
def test_no_tick_text_comes_twice(low: float, span: float, count: int) -> None:
    ticks = linear_ticks(low, low + span, count)
    texts = tick_texts(ticks, lambda share: f"{100 * share:.0f} %")
    assert len(set(texts)) == len(texts) == len(ticks)
    assert "" not in texts


def test_texts_that_cannot_be_told_apart_stand_once() -> None:
    assert tick_texts([1.0, 1.0], "{:g}".format) == ["1", ""]


def _plot(xs: list[float], ys: list[float], log_x: bool) -> Plot:
    return Plot("p", "t", "t", "x", "y", (Series("s", xs, ys, 1),), log_x, str, str)


@pytest.mark.parametrize("log_x", [True, False])
def test_limits_hold_every_point_and_have_a_width_for_one(log_x: bool) -> None:
    (x_low, x_high), (y_low, y_high) = limits(_plot([1.0, 100.0], [0.2, 0.7], log_x))
    assert x_low < 1 < 100 < x_high
    assert y_low < 0.2 < 0.7 < y_high
    (x_low, x_high), (y_low, y_high) = limits(_plot([50.0], [0.5], log_x))
    assert x_low < 50 < x_high
    assert y_low < 0.5 < y_high


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 "), (999.6, "1.00 k"), (1e9, "1.00 G"), (123456, "123 k"), (0.0123, "0.0123 ")],
)
def test_amounts_have_three_digits(value: float, shown: str) -> None:
    assert amount(value) == shown


def test_differences_are_signed_and_zero_is_neither() -> None:
    assert [points(d) for d in (0.01, -0.01, 0.0, -1e-7)] == ["+1.00", "−1.00", "±0.00", "±0.00"]


def test_ratios_have_three_digits() -> None:
    assert times(9.996) == "10.0×"
    assert times_interval(Interval(2.0, 1.5, 3.25, 0.95)) == "1.50 to 3.25"


def test_thresholds_at_the_ends_are_said_in_words() -> None:
    assert [answers_at(t) for t in (0.0, 0.5, NEVER)] == ["always", ">= 0.5000", "never"]
