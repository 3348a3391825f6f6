from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.cascade import NEVER, Cascade
from rcopt.core.evaluating import evaluate
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.statistics.baselines import (
    oracle_exits,
    oracle_front,
    random_exits,
    single_stages,
    two_stage_front,
)
from tests.support.simulated import STAGES, simulated_stages

FLOPS = [1.0, 3.0, 10.0]
ANSWERS = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=3, max_size=3)
)


def test_single_stages_are_their_own_accuracy_and_cost() -> None:
    stages = simulated_stages({"validation": 100})
    points = single_stages(stages[::-1])
    assert [p.cascade.stages for p in points] == [(s,) for s in STAGES]
    for trained, p in zip(stages, points, strict=True):
        assert p.validation.accuracy == trained.predictions["validation"].accuracy
        assert p.validation.mean_flops == trained.stage.flops


@pytest.mark.parametrize("rule", [AnswerRule(), AnswerRule("margin", True, True)])
def test_two_stage_front_equals_brute_force(rule: AnswerRule) -> None:
    stages = simulated_stages({"validation": 30}, decimals=1)
    found = {(s.predictions["validation"].accuracy, s.stage.flops) for s in stages}
    for first, second in permutations(stages, 2):
        if first.stage.flops < second.stage.flops:
            answers = stage_answers(
                [first.predictions["validation"], second.predictions["validation"]], rule
            )
            for threshold in [0.0, *answers.confidence[0], NEVER]:
                e = evaluate(
                    answers.confidence,
                    answers.correct,
                    [first.stage.flops, second.stage.flops],
                    [threshold],
                )
                found.add((e.accuracy, e.mean_flops))
    front = sorted(
        (f, a)
        for a, f in found
        if not any((b >= a and g <= f and (b, g) != (a, f)) for b, g in found)
    )
    points = two_stage_front(stages, rule)
    assert [(p.validation.mean_flops, p.validation.accuracy) for p in points] == front
    results = cascade_outcomes([p.cascade for p in points], stages, "validation", rule)
    assert [r.evaluation for r in results] == [p.validation for p in points]


def test_a_stage_alone_is_a_member_where_no_other_one_helps() -> None:
    stages = simulated_stages({"validation": 50})
    assert two_stage_front(stages[2:]) == single_stages(stages[2:])


def test_two_stage_front_needs_stages() -> None:
    with pytest.raises(ValueError, match="stages must hold at least one"):
        two_stage_front([])


def test_random_exits_by_hand() -> None:
    correct = np.array([[True, False, False, False], [True, True, True, False]])
    confidence = np.array([[0.9, 0.8, 0.1, 0.1], [1.0, 1.0, 1.0, 1.0]])
    cascade = evaluate(confidence, correct, [1.0, 10.0], [0.5])
    at_random = random_exits(cascade, correct)
    assert at_random.accuracy == 0.5 * 0.25 + 0.5 * 0.75
    assert at_random.mean_flops == cascade.mean_flops
    assert at_random.exit_rates == cascade.exit_rates


@given(ANSWERS, st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_random_exits_are_the_mean_over_all_orders_of_images(
    answers: list[list[bool]], seed: int
) -> None:
    correct = np.array(answers)
    n = correct.shape[1]
    confidence = np.random.default_rng(seed).integers(0, 3, (3, n)) / 2
    cascade = evaluate(confidence, correct, FLOPS, [0.5, 1.0])
    mean = np.mean(
        [
            evaluate(confidence[:, list(order)], correct, FLOPS, [0.5, 1.0]).accuracy
            for order in permutations(range(n))
        ]
    )
    assert random_exits(cascade, correct).accuracy == pytest.approx(mean)


def test_random_exits_check_the_shape() -> None:
    cascade = evaluate([[0.9, 0.1]], [[True, True], [True, True]], [1.0, 2.0], [0.5])
    with pytest.raises(ValueError, match=r"correct must have shape \(2, 2\) .* got \(1, 2\)"):
        random_exits(cascade, [[True, True]])


@given(ANSWERS)
@settings(max_examples=60, deadline=None)
def test_oracle_front_equals_every_way_of_leaving(answers: list[list[bool]]) -> None:
    correct = np.array(answers)
    correct.setflags(write=False)
    n = correct.shape[1]
    cost = np.cumsum(FLOPS)
    ways = [np.array(way) for way in product(range(3), repeat=n)]
    found = {(int(correct[way, np.arange(n)].sum()), float(cost[way].sum())) for way in ways}
    best = sorted(
        (right, total)
        for right, total in found
        if not any(r >= right and t <= total and (r, t) != (right, total) for r, t in found)
    )
    front = oracle_front(correct, FLOPS)
    np.testing.assert_allclose(front.accuracy * n, [right for right, _ in best])
    np.testing.assert_allclose(front.mean_flops * n, [total for _, total in best])
    last = oracle_exits(correct, FLOPS)
    assert (last.accuracy, last.mean_flops) == (front.accuracy[-1], front.mean_flops[-1])


def test_no_thresholds_beat_the_oracle() -> None:
    stages = simulated_stages({"validation": 300})
    answers = stage_answers([s.predictions["validation"] for s in stages], AnswerRule())
    flops = [s.flops for s in STAGES]
    front = oracle_front(answers.correct, flops)
    rng = np.random.default_rng(0)
    for low, high in rng.uniform(0.4, 1, (100, 2)):
        [outcome] = cascade_outcomes([Cascade(STAGES, (low, high))], stages, "validation")
        within = front.accuracy[front.mean_flops <= outcome.evaluation.mean_flops * (1 + 1e-12)]
        assert outcome.evaluation.accuracy <= within.max()


def test_oracle_leaves_hopeless_images_at_the_first_stage() -> None:
    result = oracle_exits([[False, True], [False, False], [False, True]], FLOPS)
    assert result.exit_rates == (1.0, 0.0, 0.0)
    assert result.mean_flops == 1.0


def test_oracle_of_one_stage_is_the_stage() -> None:
    front = oracle_front([[True, False]], [5.0])
    assert (front.accuracy.tolist(), front.mean_flops.tolist()) == ([0.5], [5.0])


def test_oracle_refuses_what_evaluate_refuses() -> None:
    with pytest.raises(ValueError, match="correct must have shape"):
        oracle_exits([True, False], FLOPS)
    with pytest.raises(ValueError, match=r"flops must have shape \(1,\)"):
        oracle_front([[True, False]], FLOPS)
