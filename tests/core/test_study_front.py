from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain, combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcopt.core.answering import fitted
from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.cascade import NEVER, Cascade, OperatingPoint, Stage
from rcopt.core.cost import Amount
from rcopt.core.evaluating import evaluate
from rcopt.core.fronts import non_dominated
from rcopt.core.predictions import Predictions, Split
from rcopt.core.study_front import StudyFront, extend_front, optimistic_test_front, study_front
from rcopt.core.trained_stage import TrainedStage

RULES = [
    AnswerRule(kind, temperature, average)
    for kind in ("max", "entropy")
    for temperature in (False, True)
    for average in (False, True)
] + [AnswerRule(weighted=True)]


def trained(
    resolutions: Sequence[int] = (32, 96, 224),
    depths: int = 2,
    n: int = 6,
    seed: int = 0,
    splits: Sequence[Split] = ("validation", "test"),
) -> list[TrainedStage]:
    """Stages of three classes with rough probabilities, so that confidences tie."""
    rng = np.random.default_rng(seed)
    stages = []
    labels = {split: rng.integers(0, 3, n) for split in splits}
    for resolution, depth in product(resolutions, range(depths)):
        skill = 0.5 + 1.5 * resolution / max(resolutions) + 0.3 * depth
        predictions: dict[Split, Predictions] = {}
        for split in splits:
            weights = rng.integers(1, 4, (n, 3)).astype(np.float64)
            weights[np.arange(n), labels[split]] *= rng.choice([1.0, 3.0], n) * skill
            p = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
            images = tuple(f"{split}/{i}" for i in range(n))
            predictions[split] = Predictions(split, p, labels[split], images)
        stage = Stage(resolution, f"net{depth}", float(resolution**2 * (depth + 1)))
        stages.append(TrainedStage(stage, predictions, stage.name, 1, 1))
    return stages


def numbers(points: Sequence[OperatingPoint]) -> list[tuple[float, float]]:
    return [(p.validation.accuracy, p.validation.mean_flops) for p in points]


def outcomes(front: StudyFront) -> list[tuple[Cascade, float, float]]:
    return [(p.cascade, p.validation.accuracy, p.validation.mean_flops) for p in front.points]


def brute_force(
    stages: Sequence[TrainedStage],
    rule: AnswerRule,
    required: Collection[int] = (),
    max_stages: int = 4,
) -> list[tuple[float, float]]:
    """Evaluate every cascade of every subset of the stages at every threshold vector."""
    predictions = {one.stage: one.predictions["validation"] for one in stages}
    found = set()
    subsets = chain.from_iterable(
        combinations(sorted(predictions, key=lambda s: s.resolution), size)
        for size in range(1, max_stages + 1)
    )
    for subset in subsets:
        used = [stage.resolution for stage in subset]
        if len(set(used)) < len(used) or not set(required) <= set(used):
            continue
        any_thresholds = Cascade(subset, (0.0,) * (len(subset) - 1))
        answers = stage_answers([predictions[s] for s in any_thresholds.stages], rule)
        levels = [[0.0, *np.unique(row), NEVER] for row in answers.confidence[:-1]]
        for thresholds in product(*levels):
            one = evaluate(
                answers.confidence, answers.correct, [s.flops for s in subset], thresholds
            )
            found.add((one.accuracy, one.mean_flops))
    pairs = sorted(found, key=lambda pair: pair[1])
    keep = non_dominated([a for a, _ in pairs], [f for _, f in pairs])
    return [pair for pair, kept in zip(pairs, keep, strict=True) if kept]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_study_front_equals_brute_force_under_every_rule(rule: AnswerRule) -> None:
    stages = trained(seed=1)
    assert numbers(study_front(stages, rule=rule).points) == brute_force(stages, rule)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_study_front_equals_brute_force(seed: int) -> None:
    stages = trained(seed=seed)
    front = study_front(stages)
    assert numbers(front.points) == brute_force(stages, AnswerRule())
    assert (front.exact, front.complete, front.cascades) == (True, True, 26)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_with_times_the_front_is_exact_by_time_and_flops_stay_what_they_are(seed: int) -> None:
    plain = trained(seed=seed)
    # Whole milliseconds, in no order of FLOPs, and ties among them.
    times = np.random.default_rng(seed).integers(1, 5, len(plain)).tolist()
    timed = [
        replace(one, stage=replace(one.stage, minimized=Amount("latency", float(time))))
        for one, time in zip(plain, times, strict=True)
    ]
    as_flops = [
        replace(one, stage=replace(one.stage, flops=float(time)))
        for one, time in zip(plain, times, strict=True)
    ]
    front = study_front(timed)
    assert [(p.validation.accuracy, p.validation.cost) for p in front] == (
        brute_force(as_flops, AnswerRule())
    )
    assert outcomes(extend_front(study_front(timed[:-1]), timed[:-1], timed[-1])) == (
        outcomes(front)
    )
    for point in front:
        predictions = {one.stage: one.predictions["validation"] for one in plain}
        answers = stage_answers([predictions[s] for s in point.cascade.stages], AnswerRule())
        flops = [stage.flops for stage in point.cascade.stages]
        again = evaluate(answers.confidence, answers.correct, flops, point.cascade.thresholds)
        assert point.validation.mean_flops == again.mean_flops


@pytest.mark.parametrize(
    ("optional", "required", "cascades"),
    [(True, (), 26), (False, (32, 96, 224), 8), ({32}, (96, 224), 12), ((), (32, 96, 224), 8)],
)
def test_only_optional_resolutions_are_left_out(
    optional: bool | Collection[int], required: Collection[int], cascades: int
) -> None:
    stages = trained(seed=2)
    front = study_front(stages, optional=optional)
    assert numbers(front.points) == brute_force(stages, AnswerRule(), required)
    assert front.cascades == cascades
    for point in front:
        assert set(required) <= {stage.resolution for stage in point.cascade.stages}


def test_points_rise_strictly_and_stages_rise_in_resolution() -> None:
    front = study_front(trained(n=60, seed=3))
    pairs = np.array(numbers(front.points))
    assert len(front) == len(pairs) > 10
    assert (np.diff(pairs, axis=0) > 0).all()
    for point in front:
        used = [stage.resolution for stage in point.cascade.stages]
        assert used == sorted(set(used))
        assert (point.source, point.test) == ("exact", None)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_points_evaluate_to_their_own_numbers_bit_for_bit(rule: AnswerRule) -> None:
    stages = trained(n=60, seed=4)
    predictions = {one.stage: one.predictions["validation"] for one in stages}
    for point in study_front(stages, rule=rule):
        answers = stage_answers([predictions[s] for s in point.cascade.stages], rule)
        flops = [stage.flops for stage in point.cascade.stages]
        again = evaluate(answers.confidence, answers.correct, flops, point.cascade.thresholds)
        assert again.to_dict() == point.validation.to_dict()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([True, False, (32,), (96, 224)]))
def test_a_front_extended_stage_by_stage_equals_the_front_from_scratch(
    seed: int, optional: bool | tuple[int, ...]
) -> None:
    stages = trained(n=12, seed=seed)
    order = np.random.default_rng(seed).permutation(len(stages))
    shuffled = [stages[i] for i in order]
    front = study_front([], optional=optional)
    for k, new in enumerate(shuffled):
        front = extend_front(front, shuffled[:k], new)
        whole = study_front(shuffled[: k + 1], optional=optional)
        assert outcomes(front) == outcomes(whole)
        assert (front.cascades, front.complete) == (whole.cascades, whole.complete)


def test_extending_keeps_the_points_it_knows() -> None:
    stages = trained(seed=5)
    front = study_front(stages[:-1])
    marked = replace(front, points=tuple(replace(p, run_id="known") for p in front))
    kept = [p for p in extend_front(marked, stages[:-1], stages[-1]) if p.run_id == "known"]
    assert kept
    assert all(stages[-1].stage not in p.cascade.stages for p in kept)


def test_of_equal_points_the_one_with_fewer_stages_stays() -> None:
    # A free first stage changes no cost, and being always wrong it adds no right answer.
    images = ("a", "b")
    labels = np.array([0, 0])

    def stage(resolution: int, flops: float, p: float) -> TrainedStage:
        own = Predictions(
            "validation", np.array([[p, 1 - p]] * 2, dtype=np.float32), labels, images
        )
        name = Stage(resolution, "net", flops)
        return TrainedStage(name, {"validation": own}, name.name, 1, 1)

    both = study_front([stage(32, 0.0, 0.4), stage(64, 5.0, 0.9)])
    assert [[s.resolution for s in p.cascade.stages] for p in both] == [[32], [64]]


def test_a_required_resolution_without_a_stage_leaves_the_front_empty() -> None:
    stages = trained((32, 96))
    assert not study_front(stages, optional=False, resolutions=(32, 96, 224)).points
    assert study_front(stages, optional=(224,), resolutions=(32, 96, 224)).points


def test_more_resolutions_than_stages_allowed_are_swept_in_part_and_it_says_so() -> None:
    stages = trained((32, 48, 64, 96, 224), depths=1, n=5, seed=6)
    front = study_front(stages, max_stages=3)
    assert (front.complete, front.exact, front.cascades) == (False, True, 25)
    assert numbers(front.points) == brute_force(stages, AnswerRule(), max_stages=3)
    assert (study_front(stages).complete, study_front(stages, max_stages=5).complete) == (
        False,
        True,
    )


def test_no_stages_give_no_points() -> None:
    assert len(study_front([])) == 0


def test_inputs_may_be_read_only() -> None:
    stages = trained(n=20)
    for one in stages:
        one.predictions["validation"].probabilities.flags.writeable = False
    assert len(study_front(stages))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_choice_on_validation_beats_the_optimistic_front_on_test(rule: AnswerRule) -> None:
    stages = trained(n=50, seed=7)
    test = {one.stage: one.predictions["test"] for one in stages}
    validation = {one.stage: one.predictions["validation"] for one in stages}
    best = optimistic_test_front(stages, rule=rule)
    for point in study_front(stages, rule=rule):
        fit = fitted([validation[s] for s in point.cascade.stages], rule)
        own = [test[s] for s in point.cascade.stages]
        answers = stage_answers(own, rule, fit.temperatures, fit.weights)
        flops = [stage.flops for stage in point.cascade.stages]
        one = evaluate(answers.confidence, answers.correct, flops, point.cascade.thresholds)
        reached = [
            p.test.accuracy
            for p in best
            if p.test is not None and p.test.mean_flops <= one.mean_flops
        ]
        assert max(reached) >= one.accuracy


def test_the_optimistic_front_carries_numbers_of_both_splits() -> None:
    stages = trained(n=50, seed=8)
    validation = {one.stage: one.predictions["validation"] for one in stages}
    best = optimistic_test_front(stages)
    tests = [p.test for p in best if p.test is not None]
    assert len(tests) == len(best) > 3
    assert (np.diff([t.accuracy for t in tests]) > 0).all()
    assert (np.diff([t.mean_flops for t in tests]) > 0).all()
    for point in best:
        answers = stage_answers([validation[s] for s in point.cascade.stages], AnswerRule())
        flops = [stage.flops for stage in point.cascade.stages]
        one = evaluate(answers.confidence, answers.correct, flops, point.cascade.thresholds)
        assert point.validation.to_dict() == one.to_dict()


def test_choosing_refuses_test_predictions() -> None:
    stages = trained()
    disguised = [
        replace(one, predictions={"validation": one.predictions["test"]}) for one in stages
    ]
    with pytest.raises(ValueError, match="as 'validation' that are of split 'test'"):
        study_front(disguised)
    without = [
        replace(one, predictions={"validation": one.predictions["validation"]}) for one in stages
    ]
    assert study_front(without).points == study_front(stages).points


def test_a_stage_that_comes_twice_is_refused() -> None:
    stages = trained()
    with pytest.raises(ValueError, match="stages must differ, got net0@32 twice"):
        study_front([*stages, stages[0]])
    with pytest.raises(ValueError, match="stages must differ, got net0@32 twice"):
        extend_front(study_front(stages), stages, stages[0])


def test_a_stage_without_predictions_is_refused() -> None:
    only_test: tuple[Split, ...] = ("test",)
    with pytest.raises(ValueError, match="lack predictions of net0@32 on split 'validation'"):
        study_front(trained(splits=only_test))
    with pytest.raises(ValueError, match="lack predictions of net0@32 on split 'validation'"):
        optimistic_test_front(trained(splits=only_test), rule=AnswerRule(temperature=True))


def test_stages_of_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="not of the same images"):
        study_front([*trained((32,), n=6), *trained((96,), n=7)])


def test_a_resolution_that_the_study_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of resolutions \[32, 96\], got 224"):
        study_front(trained(), resolutions=(32, 96))
    with pytest.raises(ValueError, match=r"optional must be among .*\[32, 96, 224\], got 23"):
        study_front(trained(), optional={23}, resolutions=(32, 96, 224))


def test_too_few_stages_allowed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_stages must be at least 3, .* got 2"):
        study_front(trained(), optional=False, max_stages=2)
    with pytest.raises(ValueError, match=r"max_stages must be at least 1, .* got 0"):
        study_front(trained(), max_stages=0)
