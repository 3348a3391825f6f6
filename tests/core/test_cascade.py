from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rcopt.core.cascade import NEVER, Cascade, Evaluation, OperatingPoint, Stage
from rcopt.core.cost import COSTS, Amount, Cost
from rcopt.core.evaluating import evaluate, evaluate_stages, exits, mean_cost, threshold_for_rate

Data = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]

# Three images:       a     b     c
CONFIDENCE = [
    [0.9, 0.6, 0.2],  # stage 0
    [0.5, 0.7, 0.4],  # stage 1
]
CORRECT = [
    [True, False, False],
    [False, True, False],
    [True, True, True],
]
FLOPS = [1.0, 10.0, 100.0]


@pytest.mark.parametrize(
    ("thresholds", "right", "reached"),
    [
        ([0.0, 0.0], 1, [3, 0, 0]),  # stage 0 answers all; only a is right
        ([0.9, 0.7], 3, [3, 2, 1]),  # ties answer: a at 0, b at 1, c at 2
        ([0.6, 0.4], 1, [3, 1, 0]),  # a and b at 0, c at 1: only a right
        ([NEVER, 0.5], 2, [3, 3, 1]),  # a and b at 1 (only b right), c at 2
        ([0.95, NEVER], 3, [3, 3, 3]),  # the last stage answers all
    ],
)
def test_three_images_by_hand(thresholds: list[float], right: int, reached: list[int]) -> None:
    one = evaluate(CONFIDENCE, CORRECT, FLOPS, thresholds)
    assert one.n_images == 3
    assert one.accuracy == right / 3
    assert one.mean_flops == (reached[0] * 1 + reached[1] * 10 + reached[2] * 100) / 3
    assert one.reach_rates == tuple(count / 3 for count in reached)


def test_rates_by_hand() -> None:
    one = evaluate(CONFIDENCE, CORRECT, FLOPS, [0.9, 0.7])
    assert one.exit_rates == (1 / 3, 1 / 3, 1 / 3)
    assert one.reach_rates == (1.0, 2 / 3, 1 / 3)
    assert one.deferral_rates == (2 / 3, 1 / 2)
    nothing = evaluate(CONFIDENCE, CORRECT, FLOPS, [0.0, 0.5])
    assert nothing.deferral_rates[0] == 0.0
    assert np.isnan(nothing.deferral_rates[1])


def test_exits_by_hand() -> None:
    assert exits(CONFIDENCE, [0.9, 0.7]).tolist() == [0, 1, 2]
    assert exits(CONFIDENCE, [0.2, 0.0]).tolist() == [0, 0, 0]


def test_the_last_stages_confidence_is_not_looked_at() -> None:
    more = [*CONFIDENCE, [0.0, 0.0, 0.0]]
    thresholds = [0.9, 0.7]
    assert evaluate(more, CORRECT, FLOPS, thresholds) == evaluate(
        CONFIDENCE, CORRECT, FLOPS, thresholds
    )


def test_one_stage_answers_everything() -> None:
    one = evaluate([], [[True, False]], [7.0], [])
    assert (one.accuracy, one.mean_flops, one.exit_rates, one.deferral_rates) == (
        0.5,
        7.0,
        (1.0,),
        (),
    )


@st.composite
def data(draw: st.DrawFn) -> Data:
    """Answers with many ties, and thresholds that often equal a confidence."""
    k, n = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    level = st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0])
    confidence = draw(st.lists(level, min_size=k * n, max_size=k * n))
    correct = draw(st.lists(st.booleans(), min_size=k * n, max_size=k * n))
    flops = draw(st.lists(st.floats(0, 1e10), min_size=k, max_size=k))
    value = st.one_of(level, st.just(NEVER), st.floats(0, 1))
    thresholds = draw(st.lists(value, min_size=k - 1, max_size=k - 1))
    return (
        np.array(confidence).reshape(k, n),
        np.array(correct).reshape(k, n),
        np.array(flops),
        np.array(thresholds),
    )


def image_by_image(
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_],
    flops: NDArray[np.float64],
    thresholds: NDArray[np.float64],
) -> tuple[float, float, list[float], list[float]]:
    k, n = correct.shape
    right, answered, reached = 0, [0] * k, [0] * k
    for image in range(n):
        for stage in range(k):
            reached[stage] += 1
            if stage == k - 1 or confidence[stage, image] >= thresholds[stage]:
                answered[stage] += 1
                right += bool(correct[stage, image])
                break
    cost = sum(r * f for r, f in zip(reached, flops.tolist(), strict=True)) / n
    return right / n, cost, [a / n for a in answered], [r / n for r in reached]


@settings(deadline=None)
@given(data())
def test_evaluate_equals_a_loop_over_images(one: Data) -> None:
    found = evaluate(*one)
    accuracy, cost, exit_rates, reach_rates = image_by_image(*one)
    assert (found.accuracy, found.mean_flops) == (accuracy, cost)
    assert (list(found.exit_rates), list(found.reach_rates)) == (exit_rates, reach_rates)


@settings(deadline=None)
@given(data())
def test_exit_rates_sum_to_one_and_reach_rates_never_rise(one: Data) -> None:
    found = evaluate(*one)
    assert sum(found.exit_rates) == pytest.approx(1, abs=1e-12)
    assert found.reach_rates[0] == 1
    assert (np.diff(found.reach_rates) <= 0).all()


@settings(deadline=None)
@given(data(), st.integers(0, 3), st.floats(0, 1))
def test_raising_one_threshold_never_lowers_mean_flops(one: Data, place: int, step: float) -> None:
    confidence, correct, flops, thresholds = one
    raised = thresholds.copy()
    if len(raised):
        raised[place % len(raised)] += step
    before = evaluate(confidence, correct, flops, thresholds)
    assert evaluate(confidence, correct, flops, raised).mean_flops >= before.mean_flops


@settings(deadline=None)
@given(data())
def test_zero_thresholds_use_stage_0_alone_and_never_only_the_last(one: Data) -> None:
    confidence, correct, flops, _ = one
    k = len(flops)
    first = evaluate(confidence, correct, flops, [0.0] * (k - 1))
    assert first.exit_rates == (1.0, *[0.0] * (k - 1))
    assert first.accuracy == correct[0].mean()
    assert first.mean_flops == pytest.approx(flops[0], rel=1e-12)
    last = evaluate(confidence, correct, flops, [NEVER] * (k - 1))
    assert last.exit_rates == (*[0.0] * (k - 1), 1.0)
    assert last.accuracy == correct[-1].mean()
    assert last.mean_flops == pytest.approx(flops.sum(), rel=1e-12)


@settings(deadline=None)
@given(data(), st.integers(0, 2**32))
def test_order_and_duplication_of_images_change_nothing(one: Data, seed: int) -> None:
    confidence, correct, flops, thresholds = one
    once = evaluate(*one).to_dict()
    shuffled = np.random.default_rng(seed).permutation(correct.shape[1])
    moved = evaluate(confidence[:, shuffled], correct[:, shuffled], flops, thresholds)
    assert moved.to_dict() == once
    doubled = evaluate(np.tile(confidence, 2), np.tile(correct, 2), flops, thresholds)
    assert doubled.to_dict() == once


def test_inputs_may_be_read_only() -> None:
    arrays: list[Any] = [np.array(x) for x in (CONFIDENCE, CORRECT, FLOPS, [0.9, 0.7])]
    for array in arrays:
        array.flags.writeable = False
    assert evaluate(*arrays).accuracy == 1.0


@pytest.mark.parametrize(
    ("confidence", "correct", "flops", "thresholds", "message"),
    [
        ([[0.5]], [True], [1.0], [], r"correct must have shape \(K, N\)"),
        ([[]], [[], []], [1.0, 2.0], [0.5], r"correct must have shape .* got \(2, 0\)"),
        ([[0.5]], [[2], [1]], [1.0, 2.0], [0.5], "correct must be boolean"),
        ([[0.5]], [[1], [1]], [1.0], [0.5], r"flops must have shape \(2,\).* got \(1,\)"),
        ([[0.5]], [[1], [1]], [1.0, -1.0], [0.5], "flops must be finite and not negative"),
        ([[0.5]], [[1], [1]], [1.0, np.nan], [0.5], "flops must be finite"),
        ([0.5], [[1], [1]], [1.0, 2.0], [0.5], r"confidence must have shape .* got \(1,\)"),
        ([[0.5, 0.5]], [[1], [1]], [1.0, 2.0], [0.5], "confidence must have shape"),
        ([[1.1]], [[1], [1]], [1.0, 2.0], [0.5], r"confidence must lie in \[0, 1\]"),
        ([[-0.1]], [[1], [1]], [1.0, 2.0], [0.5], r"confidence must lie in \[0, 1\]"),
        ([[np.nan]], [[1], [1]], [1.0, 2.0], [0.5], "confidence .* no NaN"),
        ([[0.5]], [[1], [1]], [1.0, 2.0], [], r"thresholds must have shape \(1,\)"),
        ([[0.5]], [[1], [1]], [1.0, 2.0], [0.5, 0.5], r"thresholds .* got \(2,\)"),
        ([[0.5]], [[1], [1]], [1.0, 2.0], [np.nan], "thresholds must hold no NaN"),
    ],
)
def test_evaluate_refuses(
    confidence: Any, correct: Any, flops: Any, thresholds: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(confidence, correct, flops, thresholds)


def test_mean_flops_sums_stage_by_stage() -> None:
    counts, costs = np.array([3, 2, 1]), np.array([0.1, 0.2, 0.3])
    assert mean_cost(counts, costs, 3) == ((3 * 0.1 + 2 * 0.2) + 1 * 0.3) / 3


@pytest.mark.parametrize(
    ("rate", "threshold"),
    [
        (0.0, 0.0),
        (0.2, 0.5),  # a quarter is nearer than nothing
        (0.25, 0.5),
        (0.375, 0.5),  # as near to one quarter as to one half: the smaller
        (0.5, 0.8),
        (0.75, 0.9),
        (0.9, NEVER),
        (1.0, NEVER),
    ],
)
def test_threshold_for_rate_by_hand(rate: float, threshold: float) -> None:
    assert threshold_for_rate([0.8, 0.2, 0.9, 0.5], rate) == threshold


def test_threshold_for_rate_moves_tied_images_together() -> None:
    confidence = [0.3, 0.3, 0.3, 0.8]
    assert threshold_for_rate(confidence, 0.3) == 0.0
    assert threshold_for_rate(confidence, 0.5) == 0.8
    assert threshold_for_rate([], 0.5) == 0.0


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=1, max_size=12), st.floats(0, 1))
def test_threshold_for_rate_gives_the_nearest_share_that_any_threshold_gives(
    confidence: list[float], rate: float
) -> None:
    values = np.array(confidence)

    def share(threshold: float) -> float:
        return float((values < threshold).mean())

    chosen = threshold_for_rate(confidence, rate)
    shares = [share(t) for t in {0.0, NEVER, *confidence}]
    assert abs(share(chosen) - rate) <= min(abs(s - rate) for s in shares) + 1e-12
    assert chosen in {0.0, NEVER, *confidence}


@pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan])
def test_threshold_for_rate_refuses_what_is_no_share(rate: float) -> None:
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\]"):
        threshold_for_rate([0.5], rate)


def test_a_cascade_needs_one_threshold_less_than_stages() -> None:
    stage = Stage(32, "resnet18", 7.4e7)
    with pytest.raises(ValueError, match=r"thresholds must have length 1 \(stages - 1\), got 0"):
        Cascade((stage, stage), ())
    with pytest.raises(ValueError, match="thresholds must have length"):
        Cascade((), ())


def test_an_operating_point_becomes_an_entry_of_the_fronts_json() -> None:
    cascade = Cascade((Stage(32, "resnet18", 1.0), Stage(224, "resnet50", 10.0)), (0.5,))
    own = evaluate([[0.9, 0.4]], [[True, False], [True, True]], [1.0, 10.0], [0.5])
    entry = OperatingPoint(cascade, own).to_dict()
    assert entry["stages"] == [
        {"resolution": 32, "backbone": "resnet18", "flops": 1.0, "threshold": 0.5},
        {"resolution": 224, "backbone": "resnet50", "flops": 10.0, "threshold": None},
    ]
    assert entry["validation"] == {
        "accuracy": 1.0,
        "mean_flops": 6.0,
        "exit_rates": [0.5, 0.5],
    }
    assert entry["test"] is None
    assert str(cascade) == "resnet18@32 0.500 > resnet50@224"
    assert isinstance(own, Evaluation)


@pytest.mark.parametrize("cost", [cost for cost in COSTS.values() if cost.name != "flops"])
def test_another_cost_is_a_second_sum_beside_flops_and_no_part_of_a_stages_identity(
    cost: Cost,
) -> None:
    plain = (Stage(32, "a", 1.0), Stage(64, "b", 10.0))
    timed = (
        replace(plain[0], minimized=Amount(cost.name, 8.0)),
        replace(plain[1], minimized=Amount(cost.name, 2.0)),
    )
    assert timed == plain
    assert hash(timed) == hash(plain)
    assert [stage.cost for stage in (*plain, *timed)] == [1.0, 10.0, 8.0, 2.0]
    confidence, correct = [[0.9, 0.4]], [[True, False], [True, True]]
    without = evaluate_stages(confidence, correct, plain, [0.5])
    assert without == evaluate(confidence, correct, [1.0, 10.0], [0.5])
    assert (without.minimized, without.cost) == (None, without.mean_flops)
    found = evaluate_stages(confidence, correct, timed, [0.5])
    assert (found.mean_flops, found.minimized, found.cost) == (6.0, Amount(cost.name, 9.0), 9.0)
    assert found.costs == ((cost, 9.0), (COSTS["flops"], 6.0))
    with pytest.raises(ValueError, match="same cost minimized"):
        evaluate_stages(confidence, correct, (plain[0], timed[1]), [0.5])
    assert Stage.from_dict(timed[0].to_dict()).minimized == Amount(cost.name, 8.0)
    for stages, keys in ((plain, 0), (timed, 1)):
        validation = evaluate_stages(confidence, correct, stages, [0.5])
        entry = OperatingPoint(Cascade(stages, (0.5,)), validation).to_dict()
        assert str(entry).count(f"'{cost.key}'") == 2 * keys
        assert str(entry).count(f"'{cost.mean_key}'") == keys
