from dataclasses import replace

import numpy as np
import pytest

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.cascade import OperatingPoint
from rcopt.core.evaluating import evaluate
from rcopt.core.fronts import non_dominated
from rcopt.core.statistics.baselines import random_exits
from rcopt.core.statistics.comparison import compare
from rcopt.core.statistics.selection import by_max_flops, by_trial
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.report.analysis.report_data import ReportData, report_data
from tests.support.report_example import FACTS, FRAME, example_data, example_stages


@pytest.fixture(scope="module")
def data() -> ReportData:
    return example_data()


@pytest.fixture(scope="module")
def stages() -> list[TrainedStage]:
    return example_stages()


def _on_test(point: OperatingPoint, stages: list[TrainedStage]) -> tuple[float, float]:
    by_stage = {s.stage: s.predictions["test"] for s in stages}
    answers = stage_answers([by_stage[s] for s in point.cascade.stages], AnswerRule())
    slow = evaluate(
        answers.confidence,
        answers.correct,
        [s.flops for s in point.cascade.stages],
        point.cascade.thresholds,
    )
    return slow.accuracy, slow.mean_flops


def test_every_point_gets_the_test_numbers_of_its_validation_thresholds(
    data: ReportData, stages: list[TrainedStage]
) -> None:
    for line in data.front[::7]:
        assert line.point.test is not None
        test = line.point.test
        assert (test.accuracy, test.mean_flops) == _on_test(line.point, stages)
        assert line.times == data.top.trained.stage.flops / test.mean_flops


def test_the_top_stage_is_the_most_accurate_on_validation(data: ReportData) -> None:
    best = max(s.trained.predictions["validation"].accuracy for s in data.stages)
    assert data.top.point.validation.accuracy == best
    assert data.top in data.stages


def test_each_command_chooses_its_own_point(data: ReportData) -> None:
    points = [line.point for line in data.front]
    for line in data.front:
        *_, flag, value = line.command.split()
        if flag == "--trial":
            assert by_trial(points, int(value)) == line.point
        else:
            assert flag == "--max-flops"
            assert by_max_flops(points, float(value)) == line.point


def test_savings_are_chosen_on_validation_and_told_on_test(data: ReportData) -> None:
    accuracy = data.top.point.validation.accuracy
    for row in data.savings:
        allowed = [
            line.point.validation.mean_flops
            for line in data.front
            if line.point.validation.accuracy >= accuracy - row.saving.loss - 1e-12
        ]
        assert row.saving.point.validation.mean_flops == min(allowed)
        assert row.line is not None
        assert data.front[row.line].point.cascade == row.saving.point.cascade
        assert row.saving.test == pytest.approx(row.interval.saving.estimate)
        stages = [line.trained for line in data.stages]
        own = compare(row.saving.point.cascade, data.top.trained.stage, stages, "test")
        assert row.interval == own, "of this cascade, not of repeated choices"
        assert row.saving.test_change == pytest.approx(row.interval.change.estimate)


def test_optimistic_points_are_undominated_on_test(data: ReportData) -> None:
    tests = [line.point.test for line in data.front if line.point.test]
    kept = non_dominated([t.accuracy for t in tests], [t.mean_flops for t in tests])
    optimistic = np.array([line.optimistic for line in data.front])
    assert (optimistic >= kept).all()
    volume = data.generalization.optimistic_hypervolume
    assert volume >= data.generalization.pessimistic_hypervolume
    assert volume > 0


def test_random_exits_are_those_of_the_test_answers(
    data: ReportData, stages: list[TrainedStage]
) -> None:
    by_stage = {s.stage: s.predictions["test"] for s in stages}
    line = data.front[len(data.front) // 2]
    assert line.point.test is not None
    correct = [by_stage[s].correct for s in line.point.cascade.stages]
    assert line.random_accuracy == random_exits(line.point.test, correct).accuracy


def test_rows_are_spread_and_hold_both_ends(data: ReportData) -> None:
    assert len(data.rows) == 20
    assert (data.rows[0], data.rows[-1]) == (0, len(data.front) - 1)
    assert list(data.rows) == sorted(set(data.rows))


def test_the_featured_cascade_is_as_accurate_as_the_top_stage(data: ReportData) -> None:
    featured = data.featured
    assert featured is not None
    assert featured.point == data.savings[0].saving.point
    assert featured.map.cascade == featured.point.cascade
    assert sum(part.count for part in featured.images) == data.split_sizes["test"]
    assert featured.oracle.accuracy[-1] >= max(s.test.estimate for s in data.stages)


def test_the_history_ends_at_the_trials_share_of_the_front(data: ReportData) -> None:
    history = data.history
    assert history is not None
    assert history.maximum == data.generalization.validation_hypervolume
    assert 0 < history.share <= 1
    assert history.stages_trained.tolist()[0] == 1
    assert history.stages_trained.tolist()[-1] == 3
    assert history.seconds[-1] == 60 + 120 + 180
    assert history.everything[-1] > history.sampled[-1]


def test_temperatures_are_fitted_on_validation_for_the_test_numbers() -> None:
    stages = example_stages(2)
    rule = AnswerRule(temperature=True, average=True)
    front = study_front(stages, rule=rule).points
    found = report_data(FACTS, stages, front, FRAME, rule=rule, n_resamples=2)
    assert found.rule == rule
    assert len(found.front) == len(front)
    assert found.history is None


def test_one_stage_alone_is_a_report_without_a_featured_cascade() -> None:
    stages = example_stages(1)
    found = report_data(FACTS, stages, study_front(stages).points, FRAME, n_resamples=2)
    assert found.featured is None
    assert found.savings[0].saving.validation == 1.0


def test_a_front_without_the_top_stage_is_told_against_it_all_the_same() -> None:
    stages = example_stages()
    cheapest = study_front(stages).points[:1]
    found = report_data(FACTS, stages, cheapest, FRAME, n_resamples=2)
    assert found.savings[0].line is None
    assert found.savings[0].saving.test == 1.0


def test_the_same_seed_gives_the_same_intervals(data: ReportData) -> None:
    again = example_data()
    assert [s.interval for s in again.savings] == [s.interval for s in data.savings]


def test_nothing_to_report_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty, got 0 stages, 0 points"):
        report_data(FACTS, [], [], FRAME)


def test_a_stage_without_test_predictions_is_refused() -> None:
    stages = example_stages()
    stages[1] = replace(stages[1], predictions={"validation": stages[1].predictions["validation"]})
    with pytest.raises(ValueError, match="lack predictions of resnet34@96 on split 'test'"):
        report_data(FACTS, stages, study_front(stages).points, FRAME, n_resamples=2)
