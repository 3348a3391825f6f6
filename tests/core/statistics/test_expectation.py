from dataclasses import replace

import numpy as np
import pytest

from rcopt.core.answering import Answering
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade, Stage
from rcopt.core.fronts import threshold_front
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.statistics.expectation import (
    ExpectedDrops,
    drop_to_ask,
    expected_accuracy,
    expected_drops,
)
from rcopt.core.statistics.intervals import accuracy_interval
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage
from tests.support.simulated import resampled, simulated_stages


def test_what_to_ask_for_by_hand() -> None:
    drops = ExpectedDrops(
        asked=np.array([-0.01, 0.0, 0.01, 0.02]),
        apparent=np.array([-0.01, 0.0, 0.01, 0.02]),
        expected=np.array([0.0, 0.008, 0.016, 0.02]),
    )
    assert drops.optimism(0.0) == pytest.approx(0.008)
    assert drops.ask_for(0.02) == 0.02
    assert drops.ask_for(0.015) == 0.0
    assert drops.ask_for(-0.5) == -0.01


def test_folds_and_predictions_are_checked() -> None:
    stages = simulated_stages({"validation": 20})
    with pytest.raises(ValueError, match=r"folds must lie in 2\.\.20"):
        expected_drops([], stages, [0.0], folds=21)
    with pytest.raises(ValueError, match="lack predictions"):
        expected_drops([], simulated_stages({"test": 20}), [0.0])


@pytest.mark.slow
def test_what_is_asked_is_what_is_got_on_average() -> None:
    world = simulated_stages({"test": 50_000}, seed=9)
    asked, grid = 0.01, np.linspace(-0.03, 0.01, 41)
    naive: list[float] = []
    corrected: list[float] = []
    for seed in range(60):
        stages = simulated_stages({"validation": 300}, seed=seed)
        points = study_front(stages).points
        accuracy = np.array([point.validation.accuracy for point in points])
        singles = [Cascade((trained.stage,), ()) for trained in stages]
        alone = [o.evaluation.accuracy for o in cascade_outcomes(singles, stages, "validation")]
        top = singles[int(np.argmax(alone))]
        combinations = list({point.cascade.stages for point in points})
        ask = expected_drops(combinations, stages, grid).ask_for(asked)
        for limit, falls in ((asked, naive), (ask, corrected)):
            at = min(int(np.searchsorted(accuracy, max(alone) - limit - 1e-12)), len(points) - 1)
            chosen, reference = cascade_outcomes([points[at].cascade, top], world, "test")
            falls.append(reference.evaluation.accuracy - chosen.evaluation.accuracy)
    error = np.std(corrected) / np.sqrt(60)
    assert np.mean(naive) > asked + 3 * error, "choosing on the images that judge is optimistic"
    assert abs(np.mean(corrected) - asked) < 0.003 + 3 * error


def test_optimism_changes_slowly_with_what_is_asked() -> None:
    stages = simulated_stages({"validation": 200}, seed=3)
    asked = np.arange(0, 0.05, 0.001)
    found = expected_drops([[trained.stage for trained in stages]], stages, asked)
    gap = found.expected - found.apparent
    assert np.abs(np.diff(gap)).max() < 0.005


def test_what_to_expect_of_a_single_stage_is_its_own_accuracy() -> None:
    """There is nothing to choose, so nothing is optimistic."""
    stages = simulated_stages({"validation": 200}, seed=3)[:1]
    own = stages[0]
    budgets = [own.stage.flops, own.stage.flops / 2]
    told, below = expected_accuracy([(own.stage,)], stages, budgets)
    assert told == accuracy_interval(own.predictions["validation"].correct)
    assert below == told, "the cheapest is taken where nothing is so cheap"


@pytest.mark.parametrize("seed", range(6))
def test_what_to_expect_equals_choosing_fold_by_fold(seed: int) -> None:
    """Few images, confidences with ties: the front of the other folds, point by point."""
    stages = simulated_stages({"validation": 13}, seed=seed, decimals=1)
    chains = [[trained.stage for trained in chosen] for chosen in (stages, stages[:1], stages[1:])]
    budget = 1.5e9
    (told,) = expected_accuracy(chains, stages, [budget], folds=4, seed=seed)
    fold = np.random.default_rng(seed).permutation(np.arange(13) % 4)
    right = 0
    for part in range(4):
        seen = np.flatnonzero(fold != part)
        on_seen = [
            replace(t, predictions={"validation": resampled(t.predictions["validation"], seen)})
            for t in stages
        ]
        best = max(
            (
                p
                for chain in chains
                for p in _front_of(chain, on_seen)
                if p[1] <= budget * (1 + 1e-9)
            ),
            key=lambda p: (p[0], -p[1]),
        )
        (outcome,) = cascade_outcomes([best[2]], stages, "validation")
        right += int(outcome.correct[fold == part].sum())
    assert told.estimate == right / 13


def _front_of(
    chain: list[Stage], stages: list[TrainedStage]
) -> list[tuple[float, float, Cascade]]:
    answers = Answering(stages, "validation", AnswerRule())(chain)
    front = threshold_front(answers.confidence, answers.correct, [s.flops for s in chain])
    return [
        (accuracy, flops, Cascade(tuple(chain), tuple(thresholds)))
        for accuracy, flops, thresholds in zip(
            front.accuracy.tolist(),
            front.mean_flops.tolist(),
            front.thresholds.tolist(),
            strict=True,
        )
    ]


@pytest.mark.parametrize("n", [1, 2, 3, 11])
@pytest.mark.parametrize("drop", [0.0, 0.01, 1.0])
def test_what_to_ask_for_is_never_more_than_what_may_be_given_up(n: int, drop: float) -> None:
    stages = simulated_stages({"validation": n}, seed=n)
    chain = [trained.stage for trained in stages]
    assert drop_to_ask([chain], stages, drop) <= drop
    with pytest.raises(ValueError, match="drop must lie in"):
        drop_to_ask([chain], stages, -0.1)


@pytest.mark.slow
def test_what_to_expect_covers_a_choice_where_its_own_images_do_not() -> None:
    """150 draws of 150 images: a coverage of 95 % has a standard error of 1.8 points."""
    world = simulated_stages({"test": 50_000}, seed=9)
    held, naive = [], []
    for seed in range(150):
        stages = simulated_stages({"validation": 150}, seed=1_000 + seed)
        point = study_front(stages).points[-1]
        combinations = [other.cascade.stages for other in study_front(stages).points]
        (told,) = expected_accuracy(combinations, stages, [point.validation.mean_flops])
        (outcome,) = cascade_outcomes([point.cascade], world, "test")
        truth = outcome.evaluation.accuracy
        held.append(told.low <= truth <= told.high)
        (seen,) = cascade_outcomes([point.cascade], stages, "validation")
        naive.append(accuracy_interval(seen.correct).low <= truth)
    assert np.mean(held) > 0.95 - 3 * 0.018
    assert np.mean(naive) < np.mean(held)
