from dataclasses import replace

import numpy as np
import pytest

from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import NEVER, Cascade, OperatingPoint, Stage
from rcopt.core.outcomes import Outcome, cascade_outcomes
from rcopt.core.statistics import bootstrap as module
from rcopt.core.statistics.bootstrap import bootstrap
from rcopt.core.statistics.savings import savings
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage
from tests.support.simulated import STAGES, resampled, simulated_stages

TOP = STAGES[2]
PAIR = (STAGES[0], TOP)
LOSSES = (0.0, 0.01, 0.2)


def every_point(stages: list[TrainedStage]) -> list[Cascade]:
    """All thresholds of the pair, one by one, and the top stage alone."""
    confidence = stages[0].predictions["validation"].probabilities.max(axis=1)
    thresholds = [0.0, *np.unique(confidence).astype(float).tolist(), NEVER]
    return [*(Cascade(PAIR, (t,)) for t in thresholds), Cascade((TOP,), ())]


def cheapest_best(found: list[Outcome], budget: float) -> int:
    within = [i for i, o in enumerate(found) if o.evaluation.mean_flops <= budget]
    return min(
        within, key=lambda i: (-found[i].evaluation.accuracy, found[i].evaluation.mean_flops)
    )


def cheapest_reaching(found: list[Outcome], accuracy: float) -> int:
    enough = [i for i, o in enumerate(found) if o.evaluation.accuracy >= accuracy - 1e-12]
    return min(
        enough, key=lambda i: (found[i].evaluation.mean_flops, -found[i].evaluation.accuracy)
    )


def test_whole_thing_equals_a_loop_over_all_thresholds() -> None:
    n, m, n_resamples = 40, 30, 6
    stages = simulated_stages({"validation": n, "test": m}, decimals=1)
    budgets = np.array([7.4e7, 1e9, 3e9, 6e9])
    result = bootstrap(
        [PAIR],
        stages,
        TOP,
        np.random.default_rng(3),
        n_resamples=n_resamples,
        losses=LOSSES,
        budgets=budgets,
        level=0.5,
    )
    rng = np.random.default_rng(3)
    cascades = every_point(stages)
    accuracy, times, change, optimism, right_out, n_out = [], [], [], [], np.zeros(4), 0
    for draw in range(-1, n_resamples):
        images = np.arange(n) if draw < 0 else rng.integers(0, n, size=n)
        test_images = np.arange(m) if draw < 0 else rng.integers(0, m, size=m)
        left_out = np.setdiff1d(np.arange(n), images)
        drawn = [
            replace(
                t,
                predictions={
                    "validation": resampled(t.predictions["validation"], images),
                    "test": resampled(t.predictions["test"], test_images),
                },
            )
            for t in stages
        ]
        on_validation = cascade_outcomes(cascades, drawn, "validation")
        on_test = cascade_outcomes(cascades, drawn, "test")
        on_all = cascade_outcomes(cascades, stages, "validation")
        by_budget = [cheapest_best(list(on_validation), b) for b in budgets]
        target = on_validation[-1].evaluation.accuracy
        by_loss = [cheapest_reaching(list(on_validation), target - loss) for loss in LOSSES]
        row = [on_test[i].evaluation.accuracy for i in by_budget]
        saved = [TOP.flops / on_test[i].evaluation.mean_flops for i in by_loss]
        against = [
            on_test[i].evaluation.accuracy - on_test[-1].evaluation.accuracy for i in by_loss
        ]
        if draw < 0:
            np.testing.assert_allclose(result.band.accuracy, row)
            np.testing.assert_allclose(
                result.band.mean_flops, [on_test[i].evaluation.mean_flops for i in by_budget]
            )
            np.testing.assert_allclose([s.times.estimate for s in result.savings], saved)
            np.testing.assert_allclose([s.change.estimate for s in result.savings], against)
            np.testing.assert_allclose(
                result.optimism.apparent, [on_validation[i].evaluation.accuracy for i in by_budget]
            )
            continue
        accuracy.append(row)
        times.append(saved)
        change.append(against)
        optimism.append(
            [
                on_validation[i].evaluation.accuracy - on_all[i].evaluation.accuracy
                for i in by_budget
            ]
        )
        right_out += [on_all[i].correct[left_out].sum() for i in by_budget]
        n_out += len(left_out)
    low, high = np.quantile(accuracy, [0.25, 0.75], axis=0)
    np.testing.assert_allclose(result.band.low, low)
    np.testing.assert_allclose(result.band.high, high)
    for k, values in enumerate(np.transpose(times)):
        ends = (result.savings[k].times.low, result.savings[k].times.high)
        np.testing.assert_allclose(ends, np.quantile(values, [0.25, 0.75]))
    for k, values in enumerate(np.transpose(change)):
        ends = (result.savings[k].change.low, result.savings[k].change.high)
        np.testing.assert_allclose(ends, np.quantile(values, [0.25, 0.75]), atol=1e-12)
    np.testing.assert_allclose(result.optimism.optimism, np.mean(optimism, axis=0), atol=1e-12)
    np.testing.assert_allclose(result.optimism.out_of_resample, right_out / n_out)
    assert (result.n_resamples, result.level) == (n_resamples, 0.5)


def test_estimates_agree_with_the_study_front_and_its_savings() -> None:
    stages = simulated_stages({"validation": 200, "test": 150})
    rule = AnswerRule("margin", temperature=True, average=True)
    points = list(study_front(stages, rule=rule))
    tests = cascade_outcomes([p.cascade for p in points], stages, "test", rule)
    points = [replace(p, test=t.evaluation) for p, t in zip(points, tests, strict=True)]
    alone = Cascade((TOP,), ())
    [on_validation] = cascade_outcomes([alone], stages, "validation", rule)
    [on_test] = cascade_outcomes([alone], stages, "test", rule)
    reference = OperatingPoint(alone, on_validation.evaluation, on_test.evaluation)
    combinations = sorted({p.cascade.stages for p in points}, key=lambda c: [s.name for s in c])
    result = bootstrap(
        combinations, stages, TOP, np.random.default_rng(0), rule=rule, n_resamples=2
    )
    for own, saving in zip(result.savings, savings(points, reference), strict=True):
        assert own.loss == saving.loss
        assert own.times.estimate == pytest.approx(saving.test)
        assert own.change.estimate == pytest.approx(saving.test_change, abs=1e-12)
    front = [(p.validation.mean_flops, p.validation.accuracy) for p in points]
    for budget, accuracy in zip(result.optimism.budgets, result.optimism.apparent, strict=True):
        assert accuracy == max(a for f, a in front if f <= budget)


def test_same_seed_same_result_and_inputs_unchanged() -> None:
    stages = simulated_stages({"validation": 60, "test": 50})
    before = [t.predictions["validation"].probabilities.copy() for t in stages]
    first, second, other = (
        bootstrap([STAGES], stages, TOP, np.random.default_rng(seed), n_resamples=5)
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first.band.low, second.band.low)
    assert first.savings == second.savings
    assert not np.array_equal(first.band.low, other.band.low)
    for t, copy in zip(stages, before, strict=True):
        assert np.array_equal(t.predictions["validation"].probabilities, copy)


def test_choosing_on_few_images_is_optimistic_and_the_correction_comes_nearer() -> None:
    gaps, optimism = [], []
    for seed in range(20):
        stages = simulated_stages({"validation": 60, "test": 4000}, seed=seed)
        result = bootstrap(
            [STAGES], stages, TOP, np.random.default_rng(seed), n_resamples=25, losses=(0.0,)
        )
        honest, own = result.band.accuracy, result.optimism
        gaps.append(
            [(value - honest).mean() for value in (own.apparent, own.corrected, own.point632)]
        )
        optimism.append(own.optimism.mean())
    apparent, corrected, point632 = np.mean(gaps, axis=0)
    assert np.mean(optimism) > 0.005
    assert apparent > 0.005
    assert abs(corrected) < apparent
    assert abs(point632) < apparent


def test_saving_covers_the_truth_of_an_obvious_case() -> None:
    # The small stage is right wherever the top one is: half of all images leave, always.
    stages = simulated_stages({"validation": 300, "test": 300})
    twin = [replace(t, predictions=stages[2].predictions) for t in (stages[0], stages[2])]
    result = bootstrap([PAIR], twin, TOP, np.random.default_rng(0), n_resamples=20)
    for saving in result.savings:
        assert saving.times.low == saving.times.high == pytest.approx(TOP.flops / STAGES[0].flops)
        assert (saving.change.low, saving.change.high) == (0, 0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_resamples": 1}, "n_resamples must be at least 2, got 1"),
        ({"level": 1.0}, "level must lie between 0 and 1, got 1.0"),
        ({"losses": (0.1, -0.1)}, r"losses must lie in \[0, 1\]"),
        ({"budgets": [7.3e7]}, "budgets must .* below the cheapest point's 7.4e[+]07"),
        ({"budgets": []}, r"budgets must have shape \(B,\)"),
        ({"budgets": [np.nan]}, "budgets must"),
    ],
)
def test_arguments_are_checked(change: dict[str, object], match: str) -> None:
    stages = simulated_stages({"validation": 20, "test": 20})
    with pytest.raises(ValueError, match=match):
        bootstrap([STAGES], stages, TOP, np.random.default_rng(0), **change)  # type: ignore[arg-type]


def test_stages_are_checked() -> None:
    stages = simulated_stages({"validation": 20})
    with pytest.raises(ValueError, match=r"lack predictions of .* on split 'test'"):
        bootstrap([STAGES], stages, TOP, np.random.default_rng(0))
    free = Stage(8, "free", 0.0)
    stages = simulated_stages({"validation": 20, "test": 20})
    stages.append(replace(stages[0], stage=free))
    with pytest.raises(ValueError, match="stages must have positive FLOPs, free@8 has 0"):
        bootstrap([(free, TOP)], stages, TOP, np.random.default_rng(0))


def test_every_combination_counts() -> None:
    stages = simulated_stages({"validation": 100, "test": 100})
    combinations = [(stage,) for stage in STAGES[:2]]
    few = bootstrap(combinations, stages, TOP, np.random.default_rng(0), n_resamples=2)
    more = bootstrap([*combinations, STAGES], stages, TOP, np.random.default_rng(0), n_resamples=2)
    apparent = [few.optimism.apparent, more.optimism.apparent]
    assert (apparent[1] >= apparent[0]).all()
    assert apparent[1].sum() > apparent[0].sum()


def test_what_would_take_too_long_is_swept_coarsely_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = simulated_stages({"validation": 900, "test": 300})
    chosen = [tuple(STAGES[:3])]
    monkeypatch.setattr(module, "EXACT_STEPS", 0)
    monkeypatch.setattr(module, "COARSE_STEPS", 0)
    monkeypatch.setattr(module, "LEAST_RESAMPLES", 7)
    found = bootstrap(chosen, stages, TOP, np.random.default_rng(0), n_resamples=20)
    assert (found.n_resamples, found.accuracy_gap) == (7, 2 / 900)
    monkeypatch.undo()
    exact = bootstrap(chosen, stages, TOP, np.random.default_rng(0), n_resamples=7)
    assert exact.accuracy_gap == 0.0
    np.testing.assert_allclose(found.band.low, exact.band.low, atol=0.02)
