"""What given cascades do on a split, image by image, from the stages' stored predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcopt.core.answers import AnswerRule, Answers, cascade_answers, fit_temperature
from rcopt.core.cascade import Cascade, Evaluation, Stage
from rcopt.core.evaluating import evaluate_stages, exits
from rcopt.core.predictions import Predictions, Split
from rcopt.core.trained_stage import TrainedStage


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one cascade did on one split.

    Attributes:
        evaluation: Its numbers.
        correct: (N,) bool, whether it answers each image rightly.
    """

    evaluation: Evaluation
    correct: NDArray[np.bool_]


def outcomes(
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
        rule: How probabilities become answers, the default rule if None. Temperatures are
            fitted on validation, and there cross-fitted.

    Returns:
        One outcome for each cascade, in their order.

    Raises:
        ValueError: If a stage is missing, there twice, or without predictions on the split.
    """
    rule = rule or AnswerRule()
    used = {stage for cascade in cascades for stage in cascade.stages}
    predictions = split_predictions(stages, split, used)
    temperatures = None
    if rule.temperature and split != "validation":
        fitted_on = split_predictions(stages, "validation", used)
        temperatures = {stage: fit_temperature(fitted_on[stage]) for stage in used}
    known: dict[tuple[Stage, ...], Answers] = {}
    results = []
    for cascade in cascades:
        if cascade.stages not in known:
            known[cascade.stages] = cascade_answers(cascade, predictions, rule, temperatures)
        results.append(_outcome(cascade, known[cascade.stages]))
    return tuple(results)


def split_predictions(
    stages: Sequence[TrainedStage], split: Split, wanted: set[Stage]
) -> dict[Stage, Predictions]:
    """Return the predictions of the wanted stages on a split.

    Raises:
        ValueError: If a wanted stage is missing, there twice, or without predictions on the
            split, or if what is filed under the split is of another one.
    """
    found: dict[Stage, Predictions] = {}
    for trained in stages:
        stage = trained.stage
        if stage not in wanted:
            continue
        if stage in found:
            raise ValueError(f"stages hold {stage.name} twice")
        if split not in trained.predictions:
            raise ValueError(f"stages lack predictions of {stage.name} on split {split!r}")
        found[stage] = trained.predictions[split]
        if found[stage].split != split:
            raise ValueError(
                f"stages hold predictions of {stage.name} as {split!r} that are of split "
                f"{found[stage].split!r}"
            )
    for stage in wanted:
        if stage not in found:
            raise ValueError(f"stages lack {stage.name}")
    return found


def _outcome(cascade: Cascade, answers: Answers) -> Outcome:
    level = exits(answers.confidence, cascade.thresholds)
    return Outcome(
        evaluate_stages(answers.confidence, answers.correct, cascade.stages, cascade.thresholds),
        answers.correct[level, np.arange(len(level))],
    )
