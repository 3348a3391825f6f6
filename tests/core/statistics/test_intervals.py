import numpy as np
import pytest
from scipy.stats import binom

from rcopt.core.statistics.intervals import accuracy_interval, difference_interval


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (10, 10), (1750, 1963)])
def test_exact_interval_is_where_the_binomial_tails_are_a_fortieth(right: int, n: int) -> None:
    interval = accuracy_interval(np.arange(n) < right)
    assert interval.estimate == right / n
    if right > 0:
        assert binom.sf(right - 1, n, interval.low) == pytest.approx(0.025)
    else:
        assert interval.low == 0
    if right < n:
        assert binom.cdf(right, n, interval.high) == pytest.approx(0.025)
    else:
        assert interval.high == 1


def test_a_higher_level_is_a_wider_interval() -> None:
    answers = np.arange(100) < 80
    narrow, wide = accuracy_interval(answers, 0.8), accuracy_interval(answers, 0.99)
    assert wide.low < narrow.low < 0.8 < narrow.high < wide.high


def test_difference_by_hand() -> None:
    first = np.array([True] * 12 + [False] * 6)
    second = np.array([True] * 6 + [False] * 6 + [False] * 4 + [True] * 2)
    interval = difference_interval(first, second)
    # 6 images only the first answers rightly, 2 only the second: 7/20 - 3/20 = 0.2.
    half = 1.959964 * np.sqrt((0.35 + 0.15 - 0.2**2) / 20)
    assert interval.estimate == 4 / 18
    assert interval.low == pytest.approx(0.2 - half, abs=1e-6)
    assert interval.high == pytest.approx(0.2 + half, abs=1e-6)


def test_difference_swapped_is_the_negative() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 50)) < 0.7
    there, back = difference_interval(a, b), difference_interval(b, a)
    assert (back.estimate, back.low, back.high) == pytest.approx(
        (-there.estimate, -there.high, -there.low)
    )


def test_pairing_makes_the_interval_narrower_where_answers_agree() -> None:
    first = np.arange(1000) < 900
    second = first.copy()
    second[:5] = False
    paired = difference_interval(first, second)
    apart = accuracy_interval(first)
    assert paired.high - paired.low < (apart.high - apart.low) / 3


def test_difference_covers_the_truth_about_as_often_as_promised() -> None:
    rng = np.random.default_rng(1)
    kind = rng.choice(4, p=[0.85, 0.07, 0.04, 0.04], size=(800, 200))
    held = 0
    for row in kind:
        interval = difference_interval(row <= 1, (row == 0) | (row == 2))
        held += interval.low <= 0.03 <= interval.high
    assert 0.93 <= held / 800 <= 0.98


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ([1, 0], [True, False], "first must be boolean"),
        ([True], [[True]], "second must be boolean"),
        ([], [True], "first must be boolean"),
        ([True], [True, False], "second must have length 1 like first, got 2"),
    ],
)
def test_difference_refuses(first: list[bool], second: list[bool], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        difference_interval(first, second)


@pytest.mark.parametrize("level", [0.0, 1.0, float("nan")])
def test_level_is_checked(level: float) -> None:
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        accuracy_interval([True], level)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        difference_interval([True], [True], level)
