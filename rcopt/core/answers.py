"""What each stage answers and how sure it is, by an answer rule.

The class probabilities of trained stages can be read in several ways, none of which needs a
network to be trained or run again. An `AnswerRule` names one way; `stage_answers` applies it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcopt.core.confidences import Confidence, confidence, confidence_function
from rcopt.core.log_average import Weights, cross_fitted_average, log_average
from rcopt.core.predictions import Predictions, Split, check_aligned
from rcopt.core.temperature import cross_fitted, scale


@dataclass(frozen=True)
class AnswerRule:
    """How a stage's class probabilities become its answer and confidence.

    Attributes:
        confidence: A name among `rcopt.core.confidences.CONFIDENCES`.
        temperature: Scale each stage's probabilities by a temperature fitted on validation
            (Guo et al. 2017, arXiv:1706.04599).
        average: Answer with the mean probabilities of the stages run so far instead of the
            stage's own (Wang et al. 2022, Wisdom of Committees, arXiv:2012.01988).
        weighted: Answer with the weighted log-average of the probabilities of the stages run
            so far, see `rcopt.core.log_average`. It includes a temperature, so neither of the
            two above goes with it.
    """

    confidence: Confidence = "max"
    temperature: bool = False
    average: bool = False
    weighted: bool = False

    def __post_init__(self) -> None:
        """Refuse an unknown confidence, and ways that exclude each other.

        Raises:
            ValueError: On either.
        """
        confidence_function(self.confidence)
        if self.weighted and (self.temperature or self.average):
            raise ValueError("weighted goes without temperature and average, which it includes")

    @property
    def fitted(self) -> bool:
        """Whether something is fitted on validation."""
        return self.temperature or self.weighted


@dataclass(frozen=True, eq=False)
class Answers:
    """What K stages of one cascade answer on N images.

    Attributes:
        split: Which split the images belong to.
        confidence: (K, N) float64 in [0, 1].
        correct: (K, N) bool, whether the answer is right.
        predicted: (K, N) int64, the class answered.
    """

    split: Split
    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    predicted: NDArray[np.int64]


def stage_answers(
    predictions: Sequence[Predictions],
    rule: AnswerRule,
    temperatures: Sequence[float] | None = None,
    weights: Weights | None = None,
) -> Answers:
    """Apply an answer rule to the stages of one cascade.

    On validation leave out what is fitted: each image is then scaled by a temperature, or
    averaged by weights, fitted without it (cross-fitting).

    Args:
        predictions: K stages on one split, in the order in which the cascade runs them (the
            order and the choice of stages matter where ``rule`` averages).
        rule: How probabilities become answers.
        temperatures: K values from `rcopt.core.temperature.fit_temperature` on validation,
            used only where ``rule.temperature`` is set.
        weights: K rows from `rcopt.core.log_average.fit_weights` on validation, used only
            where ``rule.weighted`` is set.

    Raises:
        ValueError: If there is no stage, the stages are not of the same images, temperatures
            or weights are missing on another split than validation, or their number is not K.
    """
    if not predictions:
        raise ValueError("predictions must hold at least one stage, got none")
    check_aligned(predictions)
    labels = predictions[0].labels
    confidences = np.empty((len(predictions), len(labels)))
    predicted = np.empty(confidences.shape, dtype=np.int64)
    for stage, own in enumerate(_probabilities(predictions, rule, temperatures, weights)):
        confidences[stage] = confidence(own, rule.confidence)
        predicted[stage] = own.argmax(axis=1)
    return Answers(predictions[0].split, confidences, predicted == labels, predicted)


def _probabilities(
    predictions: Sequence[Predictions],
    rule: AnswerRule,
    temperatures: Sequence[float] | None,
    weights: Weights | None,
) -> Iterator[NDArray[np.floating]]:
    """Yield (N, C), what each stage answers with."""
    given = [stage.probabilities for stage in predictions]
    if rule.weighted:
        for stage in range(len(given)):
            if weights is None:
                _check_cross_fitted(predictions[0], "weights")
                yield cross_fitted_average(predictions[: stage + 1])
            else:
                _check_length("weights", weights, given)
                yield log_average(given[: stage + 1], weights[stage])
        return
    total = np.zeros(given[0].shape)
    for stage, own in enumerate(_scaled(predictions, rule, temperatures)):
        if rule.average:
            total += own
            yield total / (stage + 1)
        else:
            yield own


def _scaled(
    predictions: Sequence[Predictions], rule: AnswerRule, temperatures: Sequence[float] | None
) -> list[NDArray[np.floating]]:
    if not rule.temperature:
        return [stage.probabilities for stage in predictions]
    if temperatures is None:
        _check_cross_fitted(predictions[0], "temperatures")
        return [cross_fitted(stage) for stage in predictions]
    _check_length("temperatures", temperatures, predictions)
    return [
        scale(stage.probabilities, temperature)
        for stage, temperature in zip(predictions, temperatures, strict=True)
    ]


def _check_cross_fitted(predictions: Predictions, what: str) -> None:
    if predictions.split != "validation":
        raise ValueError(
            f"{what} are needed on split {predictions.split!r}: fit them on validation, got None"
        )


def _check_length(what: str, given: Sequence[object], stages: Sequence[object]) -> None:
    if len(given) != len(stages):
        raise ValueError(
            f"{what} must have length {len(stages)} like predictions, got {len(given)}"
        )
