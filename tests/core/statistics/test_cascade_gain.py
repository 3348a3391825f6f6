"""What cascading brings: the hull by a slow twin, and worlds where the gain is known."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcopt.core.cascade import OperatingPoint, Stage
from rcopt.core.outcomes import with_test
from rcopt.core.predictions import Predictions, Split
from rcopt.core.statistics.baselines import single_stages
from rcopt.core.statistics.cascade_gain import MeanGain, cascade_gain, hull
from rcopt.core.statistics.intervals import Interval
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage

SMALL, LARGE = Stage(32, "small", 1.0), Stage(96, "large", 10.0)


def stage(
    named: Stage, skill: float, seed: int, *, knows: bool, n: int = 2_000, floor: float = 0.5
) -> TrainedStage:
    """Return a stage that is right with probability ``skill``.

    Args:
        named: Which.
        skill: Its accuracy.
        seed: Of what it gets right.
        knows: Whether its confidence tells its right answers from the wrong ones.
        n: Images per split.
        floor: Least confidence.
    """
    predictions: dict[Split, Predictions] = {}
    for number, split in enumerate(("validation", "test")):
        rng = np.random.default_rng([seed, number])
        labels = np.random.default_rng([99, number]).integers(0, 2, n)
        right = rng.random(n) < skill
        sure = rng.uniform(floor + 0.01, 0.99, n)
        if knows:
            sure = np.where(right, 0.8 + 0.19 * rng.random(n), 0.51 + 0.2 * rng.random(n))
        answered = np.where(right, labels, 1 - labels)
        p = np.empty((n, 2))
        p[np.arange(n), answered] = sure
        p[np.arange(n), 1 - answered] = 1 - sure
        names = tuple(f"{split}/{i}" for i in range(n))
        kind: Split = "validation" if split == "validation" else "test"
        predictions[kind] = Predictions(kind, p.astype(np.float32), labels, names)
    return TrainedStage(named, predictions, key=named.name, macs=1, parameters=1)


def pair(*, knows: bool, n: int = 2_000) -> list[TrainedStage]:
    return [
        stage(SMALL, 0.7, 1, knows=knows, n=n),
        stage(LARGE, 0.9, 2, knows=knows, n=n),
    ]


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), min_size=1, max_size=7, unique=True)
)
def test_the_hull_is_what_no_mix_of_two_stages_beats(rows: list[tuple[int, int]]) -> None:
    cost = np.array([float(c) for c, _ in rows])
    accuracy = np.array([a / 8 for _, a in rows])
    corners = hull(cost, accuracy)
    assert (np.diff(cost[corners]) > 0).all()
    assert (np.diff(accuracy[corners]) > 0).all()
    assert accuracy[corners[-1]] == accuracy.max()
    assert cost[corners[0]] == cost.min()
    for i in range(len(rows)):
        for j in range(len(rows)):
            for share in (0.0, 0.25, 0.5, 1.0):
                mixed = share * accuracy[i] + (1 - share) * accuracy[j]
                spent = share * cost[i] + (1 - share) * cost[j]
                assert np.interp(spent, cost[corners], accuracy[corners]) >= mixed - 1e-12


def test_single_stages_alone_gain_nothing_but_their_steps() -> None:
    # From the cheapest stage on the next one is paid in full, where a mix pays in part.
    stages = pair(knows=True)
    found = cascade_gain(single_stages(stages), stages, n_resamples=20)
    assert found is not None
    assert found.gain.max() <= 1.0 + 1e-12
    assert found.over_all.hull == ("small@32", "large@96")


def test_a_confidence_that_tells_nothing_loses_and_one_that_knows_gains() -> None:
    blind, knowing = pair(knows=False), pair(knows=True)
    nothing = cascade_gain(study_front(blind).points, blind, n_resamples=200)
    much = cascade_gain(study_front(knowing).points, knowing, n_resamples=200)
    assert nothing is not None
    assert much is not None
    # A blind cascade even loses what its first stage costs on images that the second answers.
    assert 10 / 11 - 0.03 < nothing.over_all.mean.estimate < 0.98
    assert much.over_all.mean.low > 1.5
    assert much.over_all.mean.low < much.over_all.mean.estimate < much.over_all.mean.high


def slow_gain(points: Sequence[OperatingPoint], stages: Sequence[TrainedStage]) -> float:
    """Return the mean gain over two stages by its definition, one accuracy after the other."""
    tested = with_test(points, stages)
    small, large = (t.predictions["validation"].accuracy for t in stages)
    low, high = (t.predictions["test"].accuracy for t in stages)
    logs = []
    for asked in np.linspace(small, large, 100):
        enough = [p for p in tested if p.validation.accuracy >= asked - 1e-12]
        point = min(enough, key=lambda p: p.validation.mean_flops)
        assert point.test is not None
        share = min(max((point.test.accuracy - low) / (high - low), 0.0), 1.0)
        mixed = (1 - share) * SMALL.flops + share * LARGE.flops
        logs.append(np.log(mixed / point.test.mean_flops))
    return float(np.exp(np.mean(logs)))


@pytest.mark.parametrize("knows", [False, True])
def test_it_equals_its_definition(knows: bool) -> None:
    stages = pair(knows=knows, n=300)
    points = study_front(stages).points
    found = cascade_gain(points, stages, n_resamples=2)
    assert found is not None
    assert found.over_all.mean.estimate == pytest.approx(slow_gain(points, stages))
    assert found.over_all.mean.estimate == pytest.approx(np.exp(np.log(found.gain).mean()))


@pytest.mark.slow
def test_the_interval_covers_the_gain_of_the_chosen_cascades() -> None:
    # One choice on validation, told on 200 independent test sets; the truth is what it has on
    # a test set 50 times as large. The error of a coverage of 0.95 over 200 draws is 0.015.
    whole = pair(knows=False, n=20_000)
    noisy = [
        replace(
            one,
            predictions={
                "validation": other.predictions["validation"],
                "test": one.predictions["test"],
            },
        )
        for one, other in zip(whole, pair(knows=False, n=400), strict=True)
    ]
    points = study_front(noisy).points
    truth = cascade_gain(points, noisy, n_resamples=2)
    assert truth is not None
    held = 0
    for draw in range(200):
        at = np.random.default_rng(draw).choice(20_000, 400, replace=False)
        drawn = [
            replace(
                one,
                predictions={
                    "validation": one.predictions["validation"],
                    "test": _some(one.predictions["test"], at),
                },
            )
            for one in noisy
        ]
        found = cascade_gain(points, drawn, n_resamples=200, seed=draw)
        assert found is not None
        held += found.over_all.mean.low <= truth.over_all.mean.estimate <= found.over_all.mean.high
    assert 0.89 <= held / 200 <= 0.99


def _some(own: Predictions, at: np.ndarray) -> Predictions:
    return Predictions(
        own.split, own.probabilities[at], own.labels[at], tuple(own.images[i] for i in at)
    )


def test_where_nothing_can_be_mixed_there_is_no_gain_to_tell() -> None:
    [small, large] = pair(knows=True, n=200)
    assert cascade_gain(study_front([small]).points, [small]) is None
    better = replace(small, stage=replace(LARGE, flops=0.0))
    assert cascade_gain(study_front([better]).points, [better]) is None
    with pytest.raises(ValueError, match="at least one"):
        cascade_gain([], [small, large])


def test_the_mean_gain_reads_back() -> None:
    stages = pair(knows=True, n=200)
    found = cascade_gain(study_front(stages).points, stages, n_resamples=20)
    assert found is not None
    assert MeanGain.from_dict(found.over_all.to_dict()) == found.over_all
    assert "Cascade gain on test: at equal accuracy" in str(found.over_all)


def test_a_loss_is_called_dearer_and_not_a_gain_below_one() -> None:
    lost, saved = Interval(0.8, 0.5, 1.25, 0.95), Interval(1.5, 1.2, 2.0, 0.95)
    told = str(MeanGain(lost, saved, ("a", "b"), 100))
    assert "at equal accuracy 1.25 (0.80 to 2.00) times dearer than" in told
    assert "upper half of accuracies 1.50 (1.20 to 2.00) times cheaper (95%" in told
