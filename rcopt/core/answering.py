"""The answers of trained stages by a rule: the one place where a rule's numbers are fitted."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from rcopt.core.answers import AnswerRule, Answers, stage_answers
from rcopt.core.cascade import Stage
from rcopt.core.confidences import confidence
from rcopt.core.log_average import cross_fitted_average, fit_weights, log_average
from rcopt.core.predictions import Predictions, Split, check_aligned
from rcopt.core.temperature import cross_fitted, fit_temperature, scale
from rcopt.core.trained_stage import TrainedStage


@dataclass(frozen=True)
class Fitted:
    """What a rule fits on validation for the K stages of one cascade.

    Attributes:
        temperatures: One per stage; None where the rule scales nothing.
        weights: Row k holds the k + 1 weights of stage k's answer; None where the rule weighs
            nothing.
    """

    temperatures: tuple[float, ...] | None = None
    weights: tuple[tuple[float, ...], ...] | None = None


def fitted(validation: Sequence[Predictions], rule: AnswerRule) -> Fitted:
    """Fit what a rule needs to answer new images.

    Args:
        validation: Of the K stages of one cascade, in their order.
        rule: How probabilities become answers.

    Raises:
        ValueError: On a split that is not for fitting, or without images.
    """
    if rule.temperature:
        return Fitted(temperatures=tuple(fit_temperature(own) for own in validation))
    if rule.weighted:
        prefixes = (validation[: stage + 1] for stage in range(len(validation)))
        return Fitted(weights=tuple(fit_weights(prefix) for prefix in prefixes))
    return Fitted()


class Answering:
    """The answers of any stages of a pool on one split.

    What the rule fits is fitted on validation, each stage's temperature and each sequence of
    stages' weights once; on validation itself each image is answered by what was fitted
    without it.

    Args:
        stages: Trained stages, no stage twice.
        split: Which images are answered.
        rule: How probabilities become answers.
        wanted: Stages that will be asked for; None for all.

    Raises:
        ValueError: If a wanted stage is missing, comes twice, lacks predictions on the split,
            or on validation where the rule fits something; or if the stages are not of the
            same images.
    """

    def __init__(
        self,
        stages: Sequence[TrainedStage],
        split: Split,
        rule: AnswerRule,
        wanted: Collection[Stage] | None = None,
    ) -> None:
        used = {trained.stage for trained in stages} if wanted is None else set(wanted)
        self._rule = rule
        self._split = split
        self._own = split_predictions(stages, split, used)
        check_aligned(list(self._own.values()))
        self._fitted_on = self._own
        if rule.fitted and split != "validation":
            self._fitted_on = split_predictions(stages, "validation", used)
        self._scaled: dict[Stage, Predictions] = {}
        self._alone: dict[Stage, Answers] = {}
        self._weighted: dict[tuple[Stage, ...], Answers] = {}

    @property
    def alone(self) -> bool:
        """Whether a stage answers the same whatever ran before it."""
        return not (self._rule.average or self._rule.weighted)

    def __call__(self, stages: Sequence[Stage]) -> Answers:
        """Return what the stages of a cascade answer.

        Args:
            stages: K of the pool, in the order in which they run.
        """
        if self._rule.average:
            plain = replace(self._rule, temperature=False)
            return stage_answers([self._scale(stage) for stage in stages], plain)
        if self._rule.weighted:
            rows = [self._weigh(tuple(stages[: k + 1])) for k in range(len(stages))]
        else:
            rows = [self._answer_alone(stage) for stage in stages]
        return Answers(
            self._split,
            np.concatenate([row.confidence for row in rows]),
            np.concatenate([row.correct for row in rows]),
            np.concatenate([row.predicted for row in rows]),
        )

    def _scale(self, stage: Stage) -> Predictions:
        if not self._rule.temperature:
            return self._own[stage]
        if stage not in self._scaled:
            own = self._own[stage]
            if self._split == "validation":
                probabilities = cross_fitted(own)
            else:
                temperature = fit_temperature(self._fitted_on[stage])
                probabilities = scale(own.probabilities, temperature)
            # Kept in float64: the numbers then equal those of stage_answers bit for bit.
            self._scaled[stage] = replace(
                own, probabilities=cast(NDArray[np.float32], probabilities)
            )
        return self._scaled[stage]

    def _answer_alone(self, stage: Stage) -> Answers:
        if stage not in self._alone:
            plain = replace(self._rule, temperature=False)
            self._alone[stage] = stage_answers([self._scale(stage)], plain)
        return self._alone[stage]

    def _weigh(self, stages: tuple[Stage, ...]) -> Answers:
        """Return what the last of the stages answers, (1, N)."""
        if stages not in self._weighted:
            own = [self._own[stage] for stage in stages]
            if self._split == "validation":
                p = cross_fitted_average(own)
            else:
                weights = fit_weights([self._fitted_on[stage] for stage in stages])
                p = log_average([each.probabilities for each in own], weights)
            predicted = p.argmax(axis=1)
            self._weighted[stages] = Answers(
                self._split,
                confidence(p, self._rule.confidence)[None],
                (predicted == own[0].labels)[None],
                predicted[None],
            )
        return self._weighted[stages]


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
