"""What given cascades do on a split, image by image, from the stages' stored predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rcopt.core.answering import Answering
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint
from rcopt.core.evaluating import evaluate_stages, exits
from rcopt.core.predictions import Split
from rcopt.core.trained_stage import TrainedStage


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one cascade did on one split.

    Attributes:
        evaluation: Its numbers.
        correct: (N,) bool, whether it answers each image rightly.
        stages: (N,) int64, index of the stage that answers.
    """

    evaluation: Evaluation
    correct: NDArray[np.bool_]
    stages: NDArray[np.int64]


def cascade_outcomes(
    cascades: Sequence[Cascade],
    stages: Sequence[TrainedStage],
    split: Split,
    rule: AnswerRule | None = None,
) -> tuple[Outcome, ...]:
    """Run cascades on the stored predictions of a split.

    Args:
        cascades: With their thresholds.
        stages: Trained stages, among them all that the cascades name; each only once.
        split: Which split to read.
        rule: How probabilities become answers, the default rule if None. What it fits is
            fitted on validation, and there cross-fitted.

    Returns:
        One outcome for each cascade, in their order.

    Raises:
        ValueError: If a stage is missing, there twice, or without predictions on the split.
    """
    if not cascades:
        return ()
    used = {stage for cascade in cascades for stage in cascade.stages}
    answers_of = Answering(stages, split, rule or AnswerRule(), used)
    results = []
    for cascade in cascades:
        answers = answers_of(cascade.stages)
        answering = exits(answers.confidence, cascade.thresholds)
        results.append(
            Outcome(
                evaluate_stages(
                    answers.confidence, answers.correct, cascade.stages, cascade.thresholds
                ),
                answers.correct[answering, np.arange(len(answering))],
                answering,
            )
        )
    return tuple(results)


def with_test(
    points: Sequence[OperatingPoint],
    stages: Sequence[TrainedStage],
    rule: AnswerRule | None = None,
) -> tuple[OperatingPoint, ...]:
    """Return operating points with their test numbers.

    Args:
        points: Chosen on validation.
        stages: As in `cascade_outcomes`, with predictions on test.
        rule: Likewise.

    Raises:
        ValueError: Likewise.
    """
    found = cascade_outcomes([point.cascade for point in points], stages, "test", rule)
    return tuple(
        replace(point, test=outcome.evaluation)
        for point, outcome in zip(points, found, strict=True)
    )
