import numpy as np
import pytest

from rcopt.core.answers import Answers
from rcopt.core.cascade import NEVER, Cascade, Stage
from rcopt.core.evaluating import evaluate
from rcopt.report.analysis.threshold_maps import threshold_map

STAGES = (Stage(32, "a", 1.0), Stage(96, "b", 5.0), Stage(224, "c", 20.0))


def _answers(k: int, n: int = 60) -> Answers:
    rng = np.random.default_rng(k)
    confidence = rng.integers(0, 11, (k, n)) / 10
    correct = rng.random((k, n)) < 0.7
    return Answers("validation", confidence, correct, np.zeros((k, n), dtype=np.int64))


def test_three_stages_make_a_square_of_evaluated_cascades() -> None:
    answers = _answers(3)
    found = threshold_map(Cascade(STAGES, (0.5, 0.3)), answers, size=5)
    assert found.accuracy.shape == found.mean_flops.shape == (5, 5)
    for i, first in enumerate(found.thresholds[0]):
        for j, second in enumerate(found.thresholds[1]):
            slow = evaluate(answers.confidence, answers.correct, [1.0, 5.0, 20.0], [first, second])
            assert found.accuracy[i, j] == slow.accuracy
            assert found.mean_flops[i, j] == slow.mean_flops


def test_two_stages_make_a_line_from_stage_0_to_both() -> None:
    answers = _answers(2)
    found = threshold_map(Cascade(STAGES[:2], (0.5,)), answers, size=7)
    assert found.thresholds[0, 0] == 0.0
    assert found.thresholds[0, -1] == NEVER
    assert found.accuracy[0] == answers.correct[0].mean()
    assert found.accuracy[-1] == answers.correct[1].mean()
    assert (found.mean_flops[0], found.mean_flops[-1]) == (1.0, 6.0)


def test_thresholds_leave_the_stated_share_below_them() -> None:
    confidence = np.array([np.arange(100) / 100, np.zeros(100)])
    answers = Answers("validation", confidence, confidence >= 0, np.zeros((2, 100), np.int64))
    found = threshold_map(Cascade(STAGES[:2], (0.25,)), answers, [(0.5,), (0.0,)], size=5)
    below = [(confidence[0] < t).mean() for t in found.thresholds[0]]
    assert below == pytest.approx(found.shares)
    assert found.own == (0.25,)
    assert found.path.tolist() == [[0.5], [0.0]]


def test_the_point_itself_lies_on_the_map() -> None:
    answers = _answers(3)
    found = threshold_map(Cascade(STAGES, (0.6, 0.2)), answers)
    assert found.own[0] == (answers.confidence[0] < 0.6).mean()
    assert found.own[1] == (answers.confidence[1] < 0.2).mean()
    assert found.path.shape == (0, 2)


def test_one_stage_has_no_map() -> None:
    with pytest.raises(ValueError, match="two or three stages, got 1"):
        threshold_map(Cascade(STAGES[:1], ()), _answers(1))


def test_a_map_needs_two_thresholds() -> None:
    with pytest.raises(ValueError, match="size must be at least 2, got 1"):
        threshold_map(Cascade(STAGES[:2], (0.5,)), _answers(2), size=1)
