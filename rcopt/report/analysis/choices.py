"""Every configuration that can be chosen on the page, with what to expect of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcopt.core.answering import Answering, split_predictions
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade, OperatingPoint, Stage
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.statistics.comparison import Comparison, compare_all
from rcopt.core.statistics.paired_test import counts, smallest_drop
from rcopt.core.trained_stage import TrainedStage
from rcopt.report.analysis.answered_images import StageAnswers, answered_images

#: Confidence of what is ruled out on the calibration images.
CONFIDENCE = 0.9

#: Example images at either end of each stage of a configuration.
_EXAMPLES = 2


@dataclass(frozen=True, eq=False)
class Choosable:
    """One configuration of the front.

    Attributes:
        line: Its index in the front.
        comparison: What it does on test beside the reference.
        answers: What each of its stages answers on test, with example images.
        ruled_out: Smallest fall of accuracy against the reference that the calibration images
            rule out with `CONFIDENCE`, for this configuration alone; None without such images.
    """

    line: int
    comparison: Comparison
    answers: tuple[StageAnswers, ...]
    ruled_out: float | None


def choosables(
    points: Sequence[OperatingPoint],
    lines: Sequence[int],
    pictured: Sequence[int],
    reference: Stage,
    stages: Sequence[TrainedStage],
    rule: AnswerRule,
) -> tuple[Choosable, ...]:
    """Return what to expect of configurations of a front.

    Args:
        points: The front.
        lines: Indices of those that can be chosen.
        pictured: Indices of a few of the points. Only images that are among their surest and
            least sure answers are examples, of all configurations: each image shown makes the
            page larger.
        reference: Usually the most accurate stage.
        stages: Trained stages with test predictions.
        rule: How probabilities become answers.
    """
    cascades = [points[line].cascade for line in lines]
    shown = [points[line].cascade for line in pictured]
    used = {stage for cascade in [*cascades, *shown] for stage in cascade.stages}
    answering = Answering(stages, "test", rule, used)
    answers = {wanted: answering(wanted) for wanted in {c.stages for c in [*cascades, *shown]}}
    images = split_predictions(stages, "test", used)[
        reference if reference in used else min(used, key=lambda stage: stage.flops)
    ]
    names = {
        image.image
        for cascade in shown
        for part in answered_images(cascade, answers[cascade.stages], images, _EXAMPLES)
        for image in (*part.first, *part.last)
    }
    among = np.array([name in names for name in images.images])
    compared = compare_all(cascades, reference, stages, "test", rule)
    ruled_out = _ruled_out(cascades, reference, stages, rule)
    return tuple(
        Choosable(
            line,
            comparison,
            answered_images(cascade, answers[cascade.stages], images, _EXAMPLES, among),
            drop,
        )
        for line, cascade, comparison, drop in zip(
            lines, cascades, compared, ruled_out, strict=True
        )
    )


def _ruled_out(
    cascades: Sequence[Cascade],
    reference: Stage,
    stages: Sequence[TrainedStage],
    rule: AnswerRule,
) -> list[float | None]:
    if not all(len(trained.predictions.get("calibration", ())) for trained in stages):
        return [None] * len(cascades)
    alone, *found = cascade_outcomes(
        [Cascade((reference,), ()), *cascades], stages, "calibration", rule
    )
    pairs = [counts(alone.correct, own.correct) for own in found]
    n = len(alone.correct)
    # Few counts are distinct, and each takes a while.
    drops = {pair: smallest_drop(*pair, n, CONFIDENCE, 1e-3) for pair in set(pairs)}
    return [drops[pair] for pair in pairs]
