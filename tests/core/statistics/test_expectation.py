import numpy as np
import pytest

from rcopt.core.cascade import Cascade
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.statistics.expectation import ExpectedDrops, expected_drops
from rcopt.core.study_front import study_front
from tests.support.simulated import simulated_stages


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
