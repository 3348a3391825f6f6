import numpy as np
import pytest

from rcopt.core.answers import AnswerRule
from rcopt.core.statistics.comparison import compare
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.report.analysis.choices import choosables
from tests.support.report_example import example_stages
from tests.support.simulated import simulated_stages

RULE = AnswerRule()


@pytest.fixture(scope="module")
def stages() -> list[TrainedStage]:
    return example_stages()


def test_each_choice_has_the_intervals_of_its_own_cascade(stages: list[TrainedStage]) -> None:
    points = study_front(stages).points
    reference = stages[-1].stage
    found = choosables(points, [0, 5, 9], [0, 9], reference, stages, RULE)
    assert [choice.line for choice in found] == [0, 5, 9]
    for choice in found:
        alone = compare(points[choice.line].cascade, reference, stages, "test", RULE)
        assert choice.comparison == alone
        assert sum(part.count for part in choice.answers) == alone.n_images
        assert choice.ruled_out is None


def test_examples_are_among_those_of_the_pictured_points(stages: list[TrainedStage]) -> None:
    points = study_front(stages).points
    everything = range(len(points))
    found = choosables(points, everything, [0, len(points) - 1], stages[-1].stage, stages, RULE)
    shown = {
        image.image
        for choice in found
        for part in choice.answers
        for image in (*part.first, *part.last)
    }
    assert 0 < len(shown) <= 2 * 2 * 2 * len(stages)


def test_calibration_images_rule_out_more_where_less_is_lost() -> None:
    stages = simulated_stages({"validation": 200, "test": 100, "calibration": 150}, 0)
    points = study_front(stages).points
    top = max(stages, key=lambda s: s.predictions["validation"].accuracy)
    found = choosables(points, [0, len(points) - 1], [0], top.stage, stages, RULE)
    cheap, dear = (choice.ruled_out for choice in found)
    assert cheap is not None
    assert dear is not None
    assert 0 < dear < cheap <= 1
    assert np.isfinite([cheap, dear]).all()
