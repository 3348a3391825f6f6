from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Stage
from rcopt.core.cost import Amount
from rcopt.core.statistics.selection import (
    by_max_cost,
    by_max_drop,
    by_max_flops,
    by_min_accuracy,
    by_trial,
    knee,
)

POINTS = st.lists(st.tuples(st.integers(0, 10), st.integers(1, 6)), min_size=1, max_size=12)


def point(accuracy: float, flops: float, trial: int | None = None) -> OperatingPoint:
    validation = Evaluation(accuracy, flops, (1.0,), (1.0,), (), 100)
    return OperatingPoint(Cascade((Stage(32, "net", 1.0),), ()), validation, trial=trial)


FRONT = [point(0.5, 1.0, 7), point(0.8, 10.0, 3), point(0.85, 100.0), point(0.9, 1000.0, 12)]


def test_budget_takes_the_most_accurate_within() -> None:
    assert by_max_flops(FRONT, 99.9) is FRONT[1]
    assert by_max_flops(FRONT, 100.0) is FRONT[2]
    assert by_max_flops(FRONT, float("inf")) is FRONT[3]


def timed(accuracy: float, flops: float, milliseconds: float) -> OperatingPoint:
    one = point(accuracy, flops)
    return replace(
        one, validation=replace(one.validation, minimized=Amount("latency", milliseconds))
    )


def test_with_times_the_cheapest_is_the_fastest() -> None:
    front = [timed(0.5, 9.0, 1.0), timed(0.8, 1.0, 2.0), timed(0.9, 5.0, 50.0)]
    assert by_max_cost(front, Amount("latency", 1.9)) is front[0]
    assert by_max_cost(front, Amount("latency", 2.0)) is front[1]
    assert by_min_accuracy(front, 0.1) is front[0]
    assert by_max_flops(front, 4.0) is front[1]
    assert knee(front) is front[1]
    with pytest.raises(
        ValueError, match=r"max_milliseconds 0\.5 is below .* 0.00 MFLOPs and 1.00 ms"
    ):
        by_max_cost(front, Amount("latency", 0.5))
    with pytest.raises(ValueError, match="max_milliseconds must be positive"):
        by_max_cost(front, Amount("latency", 0.0))
    with pytest.raises(ValueError, match="needs points by this cost"):
        by_max_cost([*front, FRONT[0]], Amount("latency", 1.0))


def test_accuracy_takes_the_cheapest_that_reaches_it() -> None:
    assert by_min_accuracy(FRONT, 0.0) is FRONT[0]
    assert by_min_accuracy(FRONT, 0.8) is FRONT[1]
    assert by_min_accuracy(FRONT, 0.81) is FRONT[2]


def test_drop_counts_from_the_reference() -> None:
    assert by_max_drop(FRONT, 0.0, 0.9) is FRONT[3]
    assert by_max_drop(FRONT, 0.05, 0.9) is FRONT[2]
    assert by_max_drop(FRONT, 0.1, 0.9) is FRONT[1]


@given(st.integers(1, 2000), st.data())
@settings(deadline=None)
def test_drop_of_exactly_so_many_images_is_allowed(n: int, data: st.DataObject) -> None:
    reference = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, reference))
    points = [point((reference - lost) / n, 1.0), point(reference / n, 2.0)]
    assert by_max_drop(points, lost / n, reference / n) is points[0]
    if lost > 0:
        assert by_max_drop(points, (lost - 1) / n, reference / n) is points[1]


def test_knee_is_farthest_above_the_chord_in_log_flops() -> None:
    # In log10 FLOPs the front runs 0, 1, 2, 3; heights above the chord: 0, 0.417, 0.208, 0.
    assert knee(FRONT) is FRONT[1]
    assert knee(FRONT[::-1]) is FRONT[1]


def test_knee_does_not_depend_on_dominated_points() -> None:
    assert knee([*FRONT, point(0.1, 5000.0), point(0.79, 10.0)]) is FRONT[1]


def test_knee_of_a_short_front_is_its_cheapest() -> None:
    assert knee(FRONT[2:]) is FRONT[2]
    assert knee(FRONT[3:]) is FRONT[3]


def test_trial_is_found_by_number() -> None:
    assert by_trial(FRONT, 3) is FRONT[1]


@given(POINTS, st.integers(0, 10), st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_choices_qualify_and_no_other_point_is_better(
    numbers: list[tuple[int, int]], accuracy: int, flops: int
) -> None:
    points = [point(a / 10, float(f)) for a, f in numbers]
    within = [p.validation for p in points if p.validation.mean_flops <= flops]
    if within:
        chosen = by_max_flops(points, flops).validation
        assert chosen.accuracy == max(v.accuracy for v in within)
        assert chosen.mean_flops == min(
            v.mean_flops for v in within if v.accuracy == chosen.accuracy
        )
    enough = [p.validation for p in points if p.validation.accuracy >= accuracy / 10]
    if enough:
        chosen = by_min_accuracy(points, accuracy / 10).validation
        assert chosen.mean_flops == min(v.mean_flops for v in enough)
        assert chosen.accuracy == max(
            v.accuracy for v in enough if v.mean_flops == chosen.mean_flops
        )


@pytest.mark.parametrize(
    "choose",
    [
        lambda points: by_max_flops(points, 50.0),
        lambda points: by_min_accuracy(points, 0.8),
        lambda points: by_max_drop(points, 0.1, 0.9),
        knee,
    ],
)
def test_test_numbers_are_not_looked_at(
    choose: Callable[[list[OperatingPoint]], OperatingPoint],
) -> None:
    swapped = [
        replace(own, test=other.validation) for own, other in zip(FRONT, FRONT[::-1], strict=True)
    ]
    assert choose(swapped).cascade == choose(FRONT).cascade
    assert choose(swapped).validation == choose(FRONT).validation


@pytest.mark.parametrize(
    ("choose", "match"),
    [
        (lambda: by_max_flops(FRONT, 0.5), "max_flops 0.5 .* accuracy 0.5000 at 0.00 MFLOPs"),
        (lambda: by_max_flops(FRONT, 0.0), "max_flops must be positive, got 0.0"),
        (lambda: by_max_flops(FRONT, float("nan")), "max_flops must be positive, got nan"),
        (lambda: by_min_accuracy(FRONT, 0.95), "min_accuracy 0.9500 .* 0.9000 at 0.00 MFLOPs"),
        (lambda: by_min_accuracy(FRONT, 1.5), r"min_accuracy must lie in \[0, 1\], got 1.5"),
        (
            lambda: by_max_drop(FRONT, 0.01, 0.95),
            "drop 0.0100 from .* 0.9500 is out of reach; .*0.9",
        ),
        (lambda: by_max_drop(FRONT, -0.1, 0.9), r"drop must lie in \[0, 1\], got -0.1"),
        (lambda: by_max_drop(FRONT, 0.1, 90), r"reference_accuracy must lie in \[0, 1\], got 90"),
        (lambda: by_trial(FRONT, 9), "trial 9 is not among the points; the nearest is 7"),
        (lambda: by_trial(FRONT[2:3], 9), "trial 9 .* no point has a trial"),
        (lambda: knee([point(0.5, 0.0)]), "points must have positive mean FLOPs"),
        (lambda: knee([]), "points must hold at least one"),
        (lambda: by_max_flops([], 1.0), "points must hold at least one"),
        (lambda: by_min_accuracy([], 0.5), "points must hold at least one"),
        (lambda: by_max_drop([], 0.1, 0.5), "points must hold at least one"),
        (lambda: by_trial([], 1), "points must hold at least one"),
    ],
)
def test_choice_says_why_it_fails(choose: Callable[[], OperatingPoint], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        choose()
