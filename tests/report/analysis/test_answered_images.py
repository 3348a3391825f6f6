import numpy as np
import pytest

from rcopt.core.answers import Answers
from rcopt.core.cascade import Cascade, Stage
from rcopt.core.predictions import Predictions
from rcopt.report.analysis.answered_images import answered_images

CASCADE = Cascade((Stage(32, "a", 1.0), Stage(96, "b", 5.0)), (0.6,))
# Image:                    i0   i1   i2   i3   i4
CONFIDENCE = np.array([[0.9, 0.6, 0.7, 0.5, 0.1], [0.2, 0.2, 0.2, 0.3, 0.8]])
PREDICTED = np.array([[0, 1, 1, 0, 0], [0, 0, 0, 1, 0]])
LABELS = np.array([0, 1, 0, 1, 1])


def _inputs() -> tuple[Answers, Predictions]:
    p = np.full((5, 2), 0.5, dtype=np.float32)
    predictions = Predictions("test", p, LABELS, ("i0", "i1", "i2", "i3", "i4"))
    return Answers("test", CONFIDENCE, PREDICTED == LABELS, PREDICTED), predictions


def test_each_stage_shows_its_surest_and_least_sure_answers() -> None:
    first, second = answered_images(CASCADE, *_inputs(), n=1)
    assert (first.count, first.accuracy) == (3, 2 / 3)
    assert [x.image for x in first.first] == ["i0"]
    assert [x.image for x in first.last] == ["i1"]  # at the threshold itself: only just
    assert (second.count, second.accuracy) == (2, 0.5)
    assert [x.image for x in (*second.first, *second.last)] == ["i4", "i3"]


def test_an_image_is_shown_once_where_a_stage_answers_few() -> None:
    first, _ = answered_images(CASCADE, *_inputs(), n=2)
    assert [x.image for x in first.first] == ["i0", "i2"]
    assert [x.image for x in first.last] == ["i1"]


def test_answer_label_and_confidence_are_those_of_the_stage() -> None:
    first, second = answered_images(CASCADE, *_inputs())
    wrong = first.first[1]
    assert (wrong.image, wrong.label, wrong.answer, wrong.confidence) == ("i2", 0, 1, 0.7)
    assert not wrong.right
    assert second.first[1].right


def test_a_stage_that_answers_nothing_shows_nothing() -> None:
    _, second = answered_images(Cascade(CASCADE.stages, (0.0,)), *_inputs())
    assert (second.count, second.first, second.last) == (0, (), ())
    assert np.isnan(second.accuracy)


def test_wrong_inputs_are_refused() -> None:
    answers, predictions = _inputs()
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        answered_images(CASCADE, answers, predictions, n=0)
    one = Cascade(CASCADE.stages[:1], ())
    with pytest.raises(ValueError, match="answers must be of 1 stages on 5 images"):
        answered_images(one, answers, predictions)
