from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.cascade import Cascade, OperatingPoint
from rcopt.core.fronts import threshold_front
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.predictions import Predictions, Split
from rcopt.core.statistics.certify import Certificate, Promise, certify
from rcopt.core.study_front import lost_front
from rcopt.core.trained_stage import TrainedStage
from tests.support.simulated import STAGES, resampled, simulated_stages

TOP = STAGES[2]


def stages_with(
    splits: dict[Split, tuple[list[float], list[bool], list[bool]]],
) -> list[TrainedStage]:
    """Two stages of two classes: the first's confidence and whether it is right, the second's."""

    def predictions(split: Split, right: list[bool], sure: list[float]) -> Predictions:
        p = np.array([(s, 1 - s) if r else (1 - s, s) for s, r in zip(sure, right, strict=True)])
        names = tuple(f"{split}/{i}" for i in range(len(p)))
        return Predictions(split, p.astype(np.float32), np.zeros(len(p), dtype=np.int64), names)

    first, second = {}, {}
    for split, (sure, small, big) in splits.items():
        first[split] = predictions(split, small, sure)
        second[split] = predictions(split, big, [0.75] * len(sure))
    return [
        TrainedStage(STAGES[0], first, "a", 1, 1),
        TrainedStage(TOP, second, "b", 1, 1),
    ]


def points_of(stages: list[TrainedStage], cascades: list[Cascade]) -> list[OperatingPoint]:
    return [
        OperatingPoint(cascade, outcome.evaluation)
        for cascade, outcome in zip(
            cascades, cascade_outcomes(cascades, stages, "validation"), strict=True
        )
    ]


def front_of(stages: list[TrainedStage]) -> list[OperatingPoint]:
    answers = stage_answers([t.predictions["validation"] for t in stages], AnswerRule())
    front = threshold_front(answers.confidence, answers.correct, [s.flops for s in STAGES])
    cascades = [Cascade(STAGES, tuple(row)) for row in front.thresholds.tolist()]
    return points_of(stages, [*cascades, Cascade((TOP,), ())])


# Five images; the small stage is right on the three it is surest of, the top stage on all.
SPLIT = ([0.95, 0.9, 0.8, 0.7, 0.6], [True, True, True, False, False], [True] * 5)
PAIR = (STAGES[0], TOP)
ALL_THREE = [Cascade(PAIR, (0.75,)), Cascade(PAIR, (0.65,)), Cascade((TOP,), ())]


def test_losses_and_p_values_by_hand() -> None:
    stages = stages_with({"validation": SPLIT, "calibration": SPLIT})
    result = certify(points_of(stages, ALL_THREE), stages, TOP, drop=0.4, confidence=0.9)
    # The cascade at 0.75 loses none and costs less than the top stage alone, so of those two
    # only it is tested; the one at 0.65 loses one image in five.
    assert [t.point.cascade for t in result.tested] == ALL_THREE[:2]
    assert [t.lost for t in result.tested] == [0, 1]
    assert result.tested[0].p_value == pytest.approx(0.6**5)
    assert result.tested[1].p_value == pytest.approx(0.6**5 + 5 * 0.4 * 0.6**4)
    assert (result.n_images, result.n_certified) == (5, 1)
    assert result.point is not None
    assert result.point.cascade == ALL_THREE[0]
    assert str(result) == (
        "certified: fewer than 40 % of images are lost that resnet50@224 gets right, with 90 % "
        "confidence (0 of 5 calibration images lost, 0 gained, p = 0.078). It holds for one "
        "limit, set before looking; trying several spends it."
    )


def test_nothing_after_the_first_failure_is_certified() -> None:
    def half_sure(n_wrong: int, split: Split) -> Predictions:
        p = np.tile(np.array([0.75, 0.25], dtype=np.float32), (100, 1))
        p[:n_wrong] = [0.25, 0.75]
        names = tuple(f"{split}/{i}" for i in range(100))
        return Predictions(split, p, np.zeros(100, dtype=np.int64), names)

    # On validation the cheaper a stage, the more it loses; on calibration the middle one does.
    stages = [
        TrainedStage(
            stage,
            {
                "validation": half_sure(on_validation, "validation"),
                "calibration": half_sure(on_calibration, "calibration"),
            },
            stage.name,
            1,
            1,
        )
        for stage, on_validation, on_calibration in zip(STAGES, (2, 1, 0), (0, 30, 0), strict=True)
    ]
    points = points_of(stages, [Cascade((stage,), ()) for stage in STAGES])
    result = certify(points, stages, TOP, 0.1)
    # The reference itself is no candidate, as it saves nothing; the next one fails.
    assert [t.lost for t in result.tested] == [30, 0]
    assert [t.p_value <= 0.1 for t in result.tested] == [False, True]
    assert result.n_certified == 0
    assert result.point is None


def test_the_sequence_runs_from_costly_to_cheap_and_stops_at_the_first_failure() -> None:
    stages = simulated_stages({"validation": 400, "calibration": 400})
    result = certify(front_of(stages), stages, TOP, 0.03)
    p_values = np.array([t.p_value for t in result.tested])
    assert 0 < result.n_certified < len(p_values)
    assert (p_values[: result.n_certified] <= 0.1).all()
    assert p_values[result.n_certified] > 0.1
    cost = [t.point.validation.mean_flops for t in result.tested]
    assert (np.diff(cost) < 0).all()
    assert result.point is result.tested[result.n_certified - 1].point


def test_p_values_equal_scipys_binomial() -> None:
    stages = simulated_stages({"validation": 200, "calibration": 300}, decimals=1)
    result = certify(front_of(stages), stages, TOP, 0.02)
    for tested in result.tested:
        assert tested.p_value == pytest.approx(binom.cdf(tested.lost, 300, 0.02))


def test_order_of_points_and_dominated_points_do_not_matter() -> None:
    stages = simulated_stages({"validation": 300, "calibration": 300})
    points = front_of(stages)
    wasteful = points_of(stages, [Cascade(STAGES, (1.0, 1.0))])
    first = certify(points, stages, TOP, 0.03)
    second = certify([*points[::-1], *wasteful], stages, TOP, 0.03)
    assert [(t.lost, t.p_value) for t in first.tested] == [
        (t.lost, t.p_value) for t in second.tested
    ]


def test_all_certified_gives_the_cheapest() -> None:
    stages = stages_with({"validation": SPLIT, "calibration": SPLIT})
    points = points_of(stages, ALL_THREE)
    result = certify(points, stages, TOP, drop=0.9, confidence=0.9)
    assert result.n_certified == len(result.tested) == 2
    assert result.point is not None
    assert result.point.cascade == ALL_THREE[1]


def test_where_nothing_is_certified_it_says_how_many_images_would_do() -> None:
    stages = stages_with({"validation": SPLIT, "calibration": SPLIT})
    points = points_of(stages, [Cascade(PAIR, (0.75,))])
    result = certify(points, stages, TOP, 0.01)
    assert result.point is None
    assert result.images_without_loss == 230
    assert 0.99**230 <= 0.1 < 0.99**229
    assert result.images_at_this_rate == 230
    assert str(result) == (
        "not certified: fewer than 1 % of images are lost that resnet50@224 gets right, with 90 % "
        "confidence (safest cascade: 0 of 5 calibration images lost, 0 gained, p = 0.95). About "
        "225 more calibration images would certify it at these shares. The smallest limit that "
        "these images certify is 36.90 %. The safe choice is resnet50@224 itself"
    )


def test_images_needed_at_the_observed_rate_are_enough() -> None:
    stages = simulated_stages({"validation": 400, "calibration": 100})
    points = points_of(stages, [Cascade(STAGES, (0.8, 0.8))])
    result = certify(points, stages, TOP, 0.1, confidence=0.999999)
    rate = result.tested[0].lost / 100
    assert 0 < rate < 0.1
    needed = result.images_at_this_rate
    assert needed is not None
    assert needed > 100
    assert binom.cdf(np.ceil(rate * needed - 1e-9), needed, 0.1) <= 1e-6
    assert binom.cdf(np.ceil(rate * needed * 0.9), needed * 0.9 // 1, 0.1) > 1e-6


def test_a_share_lost_above_the_drop_is_beyond_any_number_of_images() -> None:
    stages = stages_with({"validation": SPLIT, "calibration": SPLIT})
    result = certify(points_of(stages, [Cascade(PAIR, (0.65,))]), stages, TOP, 0.2)
    assert result.images_at_this_rate is None
    assert "No number of images would certify it" in str(result)


def test_only_predictions_of_calibration_are_taken() -> None:
    stages = simulated_stages({"validation": 20, "test": 20})
    points = points_of(stages, [Cascade((TOP,), ())])
    with pytest.raises(ValueError, match="lack predictions of resnet50@224 on split 'calibr"):
        certify(points, stages, TOP, 0.1)
    for split in ("validation", "test"):
        disguised = [
            replace(t, predictions={**t.predictions, "calibration": t.predictions[split]})
            for t in stages
        ]
        with pytest.raises(ValueError, match=f"as 'calibration' that are of split '{split}'"):
            certify(points, disguised, TOP, 0.1)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_shares_are_checked(share: float) -> None:
    stages = stages_with({"validation": SPLIT, "calibration": SPLIT})
    points = points_of(stages, ALL_THREE)
    with pytest.raises(ValueError, match="drop must lie between 0 and 1, got"):
        certify(points, stages, TOP, share)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, got"):
        certify(points, stages, TOP, 0.1, share)
    with pytest.raises(ValueError, match="points must hold at least one"):
        certify([], stages, TOP, 0.1)


@pytest.mark.slow
def test_the_promise_is_kept_over_a_thousand_draws_and_a_naive_choice_breaks_it() -> None:
    drop, confidence, n_images = 0.02, 0.9, 400
    world = simulated_stages({"calibration": 20_000}, seed=1)
    rng = np.random.default_rng(2)
    chosen = broken = naively_broken = 0
    for _ in range(10):
        found_on = simulated_stages({"validation": n_images}, seed=int(rng.integers(2**31)))
        points = list(lost_front(found_on, TOP))
        cascades = [Cascade((TOP,), ()), *(point.cascade for point in points)]
        correct = np.array([o.correct for o in cascade_outcomes(cascades, world, "calibration")])
        lost = correct[0] & ~correct[1:]
        true_share = dict(zip([p.cascade for p in points], lost.mean(axis=1), strict=True))
        for _ in range(100):
            draw = rng.integers(0, 20_000, n_images)
            result = _certified(points, found_on, world, draw, drop, confidence)
            if result.point is not None:
                chosen += 1
                broken += true_share[result.point.cascade] > drop
            observed = lost[:, draw].mean(axis=1)
            naive = [p for p, share in zip(points, observed, strict=True) if share <= drop]
            if naive:
                cheapest = min(naive, key=lambda point: point.validation.mean_flops)
                naively_broken += true_share[cheapest.cascade] > drop
    # One-sided 99 % binomial error of 1,000 draws around the promised share.
    assert broken <= binom.ppf(0.99, 1000, 1 - confidence)
    assert naively_broken > 2 * broken
    assert naively_broken > 300
    assert chosen > 800


def _certified(
    points: list[OperatingPoint],
    found_on: list[TrainedStage],
    world: list[TrainedStage],
    draw: np.ndarray,
    drop: float,
    confidence: float,
    promise: Promise = "lost",
) -> Certificate:
    stages = [
        replace(
            ours,
            predictions={
                **ours.predictions,
                "calibration": resampled(theirs.predictions["calibration"], draw),
            },
        )
        for ours, theirs in zip(found_on, world, strict=True)
    ]
    return certify(points, stages, TOP, drop, confidence, promise=promise)


def test_what_costs_as_much_as_the_reference_is_never_certified() -> None:
    stages = simulated_stages({"validation": 300, "calibration": 300})
    costly = points_of(stages, [Cascade(STAGES, (1.0, 1.0)), Cascade((TOP,), ())])
    result = certify(costly, stages, TOP, 0.5)
    assert result.tested == ()
    assert result.point is None
    assert result.smallest_drop == 1.0
    assert "no cascade costs less than resnet50@224" in str(result)


@pytest.mark.parametrize("promise", ["accuracy", "lost"])
def test_the_smallest_drop_is_where_certification_begins(promise: Promise) -> None:
    stages = simulated_stages({"validation": 400, "calibration": 300})
    points = points_of(stages, [Cascade(STAGES, (0.9, 0.9))])
    at = certify(points, stages, TOP, 0.001, promise=promise).smallest_drop
    assert 0.001 < at < 0.2
    assert certify(points, stages, TOP, at * 1.01, promise=promise).n_certified == 1
    assert certify(points, stages, TOP, at * 0.97, promise=promise).n_certified == 0


@pytest.mark.slow
def test_the_promise_of_accuracy_is_kept_over_many_draws() -> None:
    drop, confidence, n_images, draws = 0.02, 0.9, 300, 100
    world = simulated_stages({"calibration": 20_000}, seed=1)
    rng = np.random.default_rng(3)
    chosen = broken = 0
    for _ in range(10):
        found_on = simulated_stages({"validation": n_images}, seed=int(rng.integers(2**31)))
        points = list(lost_front(found_on, TOP))
        cascades = [Cascade((TOP,), ()), *(point.cascade for point in points)]
        correct = np.array([o.correct for o in cascade_outcomes(cascades, world, "calibration")])
        fall = correct[0].mean() - correct[1:].mean(axis=1)
        true_fall = dict(zip([p.cascade for p in points], fall, strict=True))
        for _ in range(draws // 10):
            draw = rng.integers(0, 20_000, n_images)
            result = _certified(points, found_on, world, draw, drop, confidence, "accuracy")
            if result.point is not None:
                chosen += 1
                broken += true_fall[result.point.cascade] >= drop
    # One-sided 99 % binomial error of the draws around the promised share.
    assert broken <= binom.ppf(0.99, draws, 1 - confidence)
    assert chosen > draws / 2


def worlds_of_two(correct: tuple[list[bool], list[bool]], calibration: int) -> list[TrainedStage]:
    """Two stages that are equally sure of every image, the same images in both splits."""
    small, big = correct
    sure = [0.8] * len(small)
    rows: dict[Split, tuple[list[float], list[bool], list[bool]]] = {
        "validation": (sure, small, big),
        "calibration": (sure[:calibration], small[:calibration], big[:calibration]),
    }
    return stages_with(rows)


@pytest.mark.parametrize("promise", ["lost", "accuracy"])
@pytest.mark.parametrize(
    "correct",
    [
        ([True] * 30, [True] * 30),
        ([False] * 30, [False] * 30),
        ([True] * 30, [False] * 30),
        ([False] * 30, [True] * 30),
    ],
    ids=["all right", "all wrong", "reference always wrong", "reference alone right"],
)
@pytest.mark.parametrize("calibration", [1, 2, 30])
def test_extreme_stages_and_few_images_are_judged_soundly(
    promise: Promise, correct: tuple[list[bool], list[bool]], calibration: int
) -> None:
    stages = worlds_of_two(correct, calibration)
    candidates = lost_front(stages, TOP)
    found = certify(candidates, stages, TOP, 0.1, 0.9, promise=promise)
    loses = correct == ([False] * 30, [True] * 30)
    # 0.9 ** 22 < 0.1: so many images without a loss certify one tenth.
    enough = calibration >= found.images_without_loss
    assert (found.point is not None) == (enough and not loses)
    assert 20 <= found.images_without_loss <= 60
    assert found.reference.name in str(found)
    if found.point is None:
        assert "The safe choice is" in str(found)
        assert found.smallest_drop > 0.1
    if loses:
        assert found.images_at_this_rate is None
    elif not enough:
        assert found.images_at_this_rate is not None
        assert f"About {found.images_at_this_rate - calibration} more calibration" in str(found)


def test_equal_stages_certify_the_cheaper_one() -> None:
    right = [True, False] * 40
    stages = worlds_of_two((right, right), 80)
    found = certify(lost_front(stages, TOP), stages, TOP, 0.1, 0.9, promise="accuracy")
    assert found.point is not None
    assert found.point.cascade.stages == (STAGES[0],)
    assert found.tested[0].lost == found.tested[0].gained == 0


def test_a_single_stage_has_nothing_to_certify() -> None:
    stages = worlds_of_two(([True] * 5, [True] * 5), 5)[1:]
    assert lost_front(stages, TOP) == ()
    (alone,) = points_of(stages, [Cascade((TOP,), ())])
    found = certify([alone], stages, TOP, 0.1)
    assert found.point is None
    assert str(found) == (
        f"nothing to certify: no cascade costs less than {TOP.name}, which is the safe choice"
    )
