from dataclasses import replace

import numpy as np
import pytest

from benchmarks.next_stage import outlook
from rcopt.core.cascade import Stage, StageId
from rcopt.core.trained_stage import TrainedStage
from tests.support.simulated import simulated_stages


def timed(stages: list[TrainedStage]) -> list[TrainedStage]:
    return [replace(t, seconds=t.stage.flops * 1e-6) for t in stages]


@pytest.fixture(scope="module")
def stages() -> list[TrainedStage]:
    return timed(simulated_stages({"validation": 200}))


def works(stages: list[TrainedStage], *more: Stage) -> dict[StageId, float]:
    return {stage.id: stage.flops for stage in (*(t.stage for t in stages), *more)}


def test_the_first_stage_is_what_trains_fastest(stages: list[TrainedStage]) -> None:
    found = outlook([], [t.stage for t in stages], works(stages))
    cheapest = min(stages, key=lambda t: t.stage.flops).stage
    assert found.forecasts[0].stage == cheapest.id
    assert all(np.isnan(one.gain) for one in found.forecasts)
    assert np.isnan(found.left)
    assert "expected" not in str(found.forecasts[0])


def test_gains_are_never_negative_and_the_best_per_second_comes_first(
    stages: list[TrainedStage],
) -> None:
    found = outlook(stages[:1], [t.stage for t in stages[1:]], works(stages))
    rates = [one.gain / one.seconds for one in found.forecasts]
    assert rates == sorted(rates, reverse=True)
    assert all(one.gain >= 0 for one in found.forecasts)
    assert found.left >= max(one.gain for one in found.forecasts) > 0
    assert str(found.forecasts[0]).startswith(f"{found.forecasts[0].stage.name}: +0.")


def test_an_outlook_repeats_digit_for_digit_whatever_the_order(
    stages: list[TrainedStage],
) -> None:
    left = [t.stage for t in stages[2:]]
    first = outlook(stages[:2], left, works(stages), seed=3)
    assert first == outlook(stages[1::-1], left[::-1], works(stages), seed=3)
    assert first != outlook(stages[:2], left, works(stages), seed=4)


def test_seconds_follow_what_was_measured(stages: list[TrainedStage]) -> None:
    slow = [replace(t, seconds=1000 * t.seconds) for t in stages]
    left = [stages[2].stage]
    fast_one, slow_one = (
        outlook(pool[:2], left, works(stages)).forecasts[0] for pool in (stages, slow)
    )
    assert slow_one.seconds > 100 * fast_one.seconds
    assert slow_one.gain == fast_one.gain


def test_of_two_equal_stages_the_one_that_trains_faster_comes_first(
    stages: list[TrainedStage],
) -> None:
    same = [Stage(512, f"net-{name}", stages[-1].stage.flops * 4) for name in ("a", "b")]
    work = works(stages, *same) | {same[0].id: 1e12, same[1].id: 1e10}
    assert outlook(stages, same, work, draws=64).forecasts[0].stage == same[1].id


def test_with_nothing_left_nothing_is_expected(stages: list[TrainedStage]) -> None:
    assert outlook(stages, [], works(stages)) == outlook([], [], {})
    assert outlook(stages, [], works(stages)).left == 0.0
