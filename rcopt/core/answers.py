"""What each stage answers and how sure it is: confidence, temperature, averaging.

The class probabilities of trained stages can be read in several ways, none of which needs a
network to be trained or run again. An `AnswerRule` names one way; `stage_answers` applies it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcopt.core.cascade import Cascade, Stage
from rcopt.core.confidences import Confidence, confidence, confidence_function
from rcopt.core.predictions import Predictions, Split, check_aligned

#: Temperatures outside this range are not looked for. A stage that is always right would have 0
#: (every confidence 1, their order lost), one no better than chance infinity.
TEMPERATURES = (0.25, 10.0)


@dataclass(frozen=True)
class AnswerRule:
    """How a stage's class probabilities become its answer and confidence.

    Attributes:
        confidence: A name among `rcopt.core.confidences.CONFIDENCES`.
        temperature: Scale each stage's probabilities by a temperature fitted on validation
            (Guo et al. 2017, arXiv:1706.04599).
        average: Answer with the mean probabilities of the stages run so far instead of the
            stage's own (Wang et al. 2022, Wisdom of Committees, arXiv:2012.01988).
    """

    confidence: Confidence = "max"
    temperature: bool = False
    average: bool = False

    def __post_init__(self) -> None:
        """Refuse an unknown confidence."""
        confidence_function(self.confidence)


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
) -> Answers:
    """Apply an answer rule to the stages of one cascade.

    Args:
        predictions: K stages on one split, in the order in which the cascade runs them (the
            order and the choice of stages matter where ``rule.average`` is set).
        rule: How probabilities become answers.
        temperatures: K values from `fit_temperature` on validation, used only where
            ``rule.temperature`` is set. On validation leave them out: each image is then
            scaled by a temperature fitted without it (`cross_fitted`).

    Raises:
        ValueError: If there is no stage, the stages are not of the same images, temperatures
            are missing on another split than validation, or their number is not K.
    """
    if not predictions:
        raise ValueError("predictions must hold at least one stage, got none")
    check_aligned(predictions)
    probabilities = _scaled(predictions, rule, temperatures)
    labels = predictions[0].labels
    sure = np.empty((len(predictions), len(labels)))
    predicted = np.empty(sure.shape, dtype=np.int64)
    total = np.zeros(predictions[0].probabilities.shape)
    for level, own in enumerate(probabilities):
        if rule.average:
            total += own
            own = total / (level + 1)
        sure[level] = confidence(own, rule.confidence)
        predicted[level] = own.argmax(axis=1)
    return Answers(predictions[0].split, sure, predicted == labels, predicted)


def cascade_answers(
    cascade: Cascade,
    predictions: Mapping[Stage, Predictions],
    rule: AnswerRule,
    temperatures: Mapping[Stage, float] | None = None,
) -> Answers:
    """Return the answers of a cascade's stages, which its thresholds can be applied to.

    Args:
        cascade: Whose stages, in their order.
        predictions: Of each of its stages on one split; other stages are not looked at.
        rule: How probabilities become answers.
        temperatures: As in `stage_answers`, by stage.

    Raises:
        ValueError: If a stage has no predictions or temperature, or as `stage_answers`.
    """
    for stage in cascade.stages:
        if stage not in predictions:
            raise ValueError(f"predictions hold none of stage {stage.name}")
        if temperatures is not None and stage not in temperatures:
            raise ValueError(f"temperatures hold none of stage {stage.name}")
    return stage_answers(
        [predictions[stage] for stage in cascade.stages],
        rule,
        None if temperatures is None else [temperatures[stage] for stage in cascade.stages],
    )


def fit_temperature(predictions: Predictions) -> float:
    """Return the temperature that makes the labels most likely.

    Minimizes the mean of -log softmax(log p / T)[label] over T (Guo et al. 2017,
    arXiv:1706.04599, section 4.2; log-probabilities differ from logits by a constant per image,
    which softmax does not see). The loss is convex in 1 / T: Newton steps on 1 / T, halving the
    bracket where a step would leave it. Deterministic.

    Args:
        predictions: Of the validation or the calibration split.

    Returns:
        T within `TEMPERATURES`; above 1 the stage was too sure of itself.

    Raises:
        ValueError: On another split, or without images.
    """
    if predictions.split not in ("validation", "calibration"):
        raise ValueError(
            "predictions must be of split 'validation' or 'calibration' to fit a temperature, "
            f"got {predictions.split!r}"
        )
    if not len(predictions):
        raise ValueError("predictions must hold at least one image to fit a temperature, got 0")
    return _fit(_log(predictions.probabilities), predictions.labels)


def scale(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Return softmax(log p / T).

    Args:
        probabilities: (N, C), each row sums to 1.
        temperature: T > 0; 1 changes nothing, more makes all classes more alike.

    Returns:
        (N, C) float64. The order of the classes stays the same.

    Raises:
        ValueError: If the temperature is not positive and finite.

    Example:
        >>> scale(np.array([[0.8, 0.2]]), 2.0).round(3)
        array([[0.667, 0.333]])
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return _softmax(_log(probabilities) / temperature)


def cross_fitted(predictions: Predictions, folds: int = 5, seed: int = 0) -> NDArray[np.float64]:
    """Scale each image's probabilities by a temperature fitted on the other folds' images.

    So nothing is judged on what it was fitted on. Which fold an image falls into depends on
    the seed and its name's place among the names, not on the order of the images; images of
    one name share a fold.

    Args:
        predictions: Of the validation or the calibration split.
        folds: Number of parts, 2 or more, not more than there are different names.
        seed: Another seed, another division.

    Returns:
        (N, C) float64.

    Raises:
        ValueError: On another split, or if ``folds`` does not suit.
    """
    fold = _folds(predictions.images, folds, seed)
    result = np.empty(predictions.probabilities.shape)
    for part in range(folds):
        held = fold == part
        rest = Predictions(
            predictions.split,
            predictions.probabilities[~held],
            predictions.labels[~held],
            tuple(np.asarray(predictions.images, dtype=object)[~held]),
        )
        result[held] = scale(predictions.probabilities[held], fit_temperature(rest))
    return result


def _scaled(
    predictions: Sequence[Predictions], rule: AnswerRule, temperatures: Sequence[float] | None
) -> list[NDArray[np.floating]]:
    if not rule.temperature:
        return [stage.probabilities for stage in predictions]
    if temperatures is None:
        if predictions[0].split != "validation":
            raise ValueError(
                f"temperatures are needed on split {predictions[0].split!r}: fit them on "
                "validation, got None"
            )
        return [cross_fitted(stage) for stage in predictions]
    if len(temperatures) != len(predictions):
        raise ValueError(
            f"temperatures must have length {len(predictions)} like predictions, "
            f"got {len(temperatures)}"
        )
    return [
        scale(stage.probabilities, temperature)
        for stage, temperature in zip(predictions, temperatures, strict=True)
    ]


def _folds(images: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    names = set(images)
    if not 2 <= folds <= len(names):
        raise ValueError(
            f"folds must lie in 2..{len(names)} (the number of different images), got {folds}"
        )
    shuffled = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    fold = {name: place % folds for place, name in enumerate(shuffled)}
    return np.array([fold[name] for name in images], dtype=np.int64)


def _log(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    tiny = float(np.finfo(np.float32).tiny)
    return np.asarray(np.log(np.maximum(probabilities, tiny, dtype=np.float64)))


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _fit(logs: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    # The most probable class as origin keeps the sums small where a row's logs reach -87.
    logs = logs - logs.max(axis=1, keepdims=True)
    target = logs[np.arange(len(labels)), labels].mean()
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    sharpness = 1.0
    while high - low > 1e-12 * high:
        p = _softmax(sharpness * logs)
        mean = np.einsum("nc,nc->n", p, logs)
        slope = float(mean.mean() - target)
        if slope > 0:
            high = sharpness
        else:
            low = sharpness
        curve = float((np.einsum("nc,nc,nc->n", p, logs, logs) - mean**2).mean())
        step = sharpness - slope / curve if curve > 0 else np.inf
        if abs(step - sharpness) <= 1e-12 * sharpness:
            break
        sharpness = step if low < step < high else (low + high) / 2
    return 1 / sharpness
