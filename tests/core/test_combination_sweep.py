"""The sweep that passes over what cannot win, against the plain way: every combination alone."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcopt.core import combination_sweep
from rcopt.core.answering import Answering
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade, Stage
from rcopt.core.combination_sweep import Rights, sweep_combinations
from rcopt.core.combinations import Choices, combinations_of, rank
from rcopt.core.fronts import cost_front, non_dominated
from rcopt.core.predictions import Predictions
from rcopt.core.study_front import extend_front, study_front
from rcopt.core.trained_stage import TrainedStage

RULES = [AnswerRule(), AnswerRule(average=True), AnswerRule(weighted=True)]


def pool(n: int, seed: int, resolutions: int = 4, depths: int = 2) -> list[TrainedStage]:
    """Stages that err on the same hard images, their probabilities rounded so that some tie."""
    rng = np.random.default_rng(seed)
    labels, hard = rng.integers(0, 3, n), rng.normal(size=n)
    stages = []
    for i in range(resolutions):
        for j in range(depths):
            margin = 0.6 + 0.35 * i + 0.2 * j - hard + 0.4 * rng.normal(size=n)
            scores = rng.normal(0, 0.3, (n, 3))
            scores[np.arange(n), labels] += margin
            weights = np.exp(np.round(4 * scores) / 4)
            p = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
            own = Predictions("validation", p, labels, tuple(map(str, range(n))))
            stage = Stage(32 * (i + 1), f"net{j}", float((i + 1) ** 2 * (j + 1)))
            stages.append(TrainedStage(stage, {"validation": own}, stage.name, 1, 1))
    return stages


def all_combinations(stages: Sequence[TrainedStage]) -> list[tuple[Stage, ...]]:
    known = [one.stage for one in stages]
    choices = [
        Choices(tuple(s for s in known if s.resolution == r), required=False)
        for r in sorted({s.resolution for s in known})
    ]
    return list(combinations_of(choices, 4))


def plainly(
    combinations: Sequence[tuple[Stage, ...]], answers_of: Answering
) -> list[tuple[Cascade, float, float]]:
    """Each combination's own front, merged; of equal points the first by rank."""
    rows = []
    for combination in sorted(combinations, key=rank):
        answers = answers_of(combination)
        costs = [stage.cost for stage in combination]
        front = cost_front(answers.confidence, answers.correct, costs)
        for k in range(len(front)):
            cascade = Cascade(combination, tuple(front.thresholds[k].tolist()))
            rows.append((cascade, float(front.accuracy[k]), float(front.cost[k])))
    keep = non_dominated([row[1] for row in rows], [row[2] for row in rows])
    return [row for row, kept in zip(rows, keep, strict=True) if kept]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([20, 60, 150]), st.sampled_from(RULES))
def test_the_merged_front_equals_that_of_every_combination_alone(
    seed: int, n: int, rule: AnswerRule
) -> None:
    stages = pool(n, seed, depths=1 if rule.weighted else 2)
    answers_of = Answering(stages, "validation", rule)
    combinations = all_combinations(stages)
    found = sweep_combinations((), combinations, Rights(answers_of))
    assert list(found.cascades) == [row[0] for row in plainly(combinations, answers_of)]
    assert (found.combinations, found.accuracy_gap) == (len(combinations), 0.0)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_the_combinations_changes_nothing(seed: int) -> None:
    stages = pool(80, seed)
    read = Rights(Answering(stages, "validation", AnswerRule()))
    combinations = all_combinations(stages)
    shuffled = [combinations[i] for i in np.random.default_rng(seed).permutation(80)]
    assert len(combinations) == 80
    assert sweep_combinations((), shuffled, read) == sweep_combinations((), combinations, read)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_what_is_known_already_changes_nothing(seed: int) -> None:
    stages = pool(80, seed)
    shuffled = [stages[i] for i in np.random.default_rng(seed).permutation(len(stages))]
    front = study_front([])
    for k, new in enumerate(shuffled):
        front = extend_front(front, shuffled[:k], new)
    whole = study_front(stages)
    assert [p.cascade for p in front] == [p.cascade for p in whole]
    assert [p.validation for p in front] == [p.validation for p in whole]


@pytest.mark.parametrize("steps", [4, 4_000, 40_000])
def test_a_sweep_cut_short_misses_no_more_than_it_says(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = pool(400, 3)
    exact = study_front(stages)
    monkeypatch.setattr(combination_sweep, "LEAST_STEPS", 1)
    monkeypatch.setattr(combination_sweep, "TOTAL_STEPS", steps)
    coarse = study_front(stages)
    assert (exact.exact, coarse.exact) == (True, False)
    cost = np.array([p.validation.cost for p in coarse])
    accuracy = np.array([p.validation.accuracy for p in coarse])
    for point in exact:
        reached = accuracy[cost <= point.validation.cost].max()
        assert reached >= point.validation.accuracy - coarse.accuracy_gap - 1e-12


def test_a_front_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = pool(400, 3)
    assert study_front(stages).limits == ""
    assert study_front(stages, max_stages=2).limits == "cascades have at most 2 stages"
    monkeypatch.setattr(combination_sweep, "LEAST_STEPS", 1)
    monkeypatch.setattr(combination_sweep, "TOTAL_STEPS", 4_000)
    coarse = study_front(stages, max_stages=3)
    assert coarse.limits == (
        "cascades have at most 3 stages; other thresholds can gain at most "
        f"{100 * coarse.accuracy_gap:.3g} points of accuracy at no more cost"
    )
