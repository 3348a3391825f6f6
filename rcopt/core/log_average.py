"""Weighted log-average: a stage answers with what all stages so far say, each weighed.

Stage k answers softmax(sum over j <= k of w_kj log p_j). The weights are not negative and make
the labels of the validation images most likely: a product of experts (Hinton 2002) whose
exponents are fitted as a temperature is (Guo et al. 2017, arXiv:1706.04599). Alone, a stage's
weight is 1 over its temperature.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rcopt.core.predictions import Predictions, check_aligned
from rcopt.core.temperature import (
    check_fitted_on,
    fit_temperature,
    fold_of,
    log_probabilities,
    softmax,
)

#: Weights beyond this are not looked for, as temperatures below 1 / 4 are not.
MAX_WEIGHT = 4.0

#: Row k holds the k + 1 weights of stage k's answer.
Weights = Sequence[Sequence[float]]


def fit_weights(predictions: Sequence[Predictions]) -> tuple[float, ...]:
    """Return the weights that make the labels most likely where the last stage answers.

    Minimizes the mean of -log softmax(sum_j w_j log p_j)[label] over 0 <= w_j <= `MAX_WEIGHT`,
    which is convex, by projected Newton steps (Bertsekas 1982) from equal weights.
    Deterministic.

    Args:
        predictions: Of the stages that have run by then, on the validation or the calibration
            split.

    Returns:
        One weight for each stage.

    Raises:
        ValueError: On another split, without images, or if the stages are not of the same
            images.
    """
    check_aligned(predictions)
    check_fitted_on(predictions[0].split, "weights")
    if len(predictions) == 1:
        return (1 / fit_temperature(predictions[0]),)
    if not len(predictions[0]):
        raise ValueError("predictions must hold at least one image to fit weights, got 0")
    return _fit(_logs([own.probabilities for own in predictions]), predictions[0].labels)


def log_average(
    probabilities: Sequence[NDArray[np.floating]], weights: Sequence[float]
) -> NDArray[np.float64]:
    """Return softmax(sum_j w_j log p_j).

    Args:
        probabilities: K arrays (N, C), each row sums to 1.
        weights: K values, finite and not negative.

    Returns:
        (N, C) float64.

    Raises:
        ValueError: If the weights are not as said.

    Example:
        >>> p, q = np.array([[0.8, 0.2]]), np.array([[0.5, 0.5]])
        >>> log_average([p, q], [0.5, 1.0]).round(3)
        array([[0.667, 0.333]])
    """
    chosen = np.asarray(weights, dtype=np.float64)
    if chosen.shape != (len(probabilities),) or not (np.isfinite(chosen) & (chosen >= 0)).all():
        raise ValueError(
            f"weights must be {len(probabilities)} finite numbers, none negative, "
            f"got {list(weights)}"
        )
    total = np.zeros(probabilities[0].shape)
    for own, weight in zip(probabilities, chosen.tolist(), strict=True):
        total += weight * log_probabilities(own)
    return softmax(total)


def cross_fitted_average(
    predictions: Sequence[Predictions], folds: int = 5, seed: int = 0
) -> NDArray[np.float64]:
    """Average each image's probabilities by weights fitted on the other folds' images.

    Args:
        predictions: As in `fit_weights`.
        folds: As in `rcopt.core.temperature.cross_fitted`.
        seed: Likewise.

    Returns:
        (N, C) float64.

    Raises:
        ValueError: As `fit_weights`, or if ``folds`` does not suit.
    """
    check_aligned(predictions)
    first = predictions[0]
    fold = fold_of(first.images, folds, seed)
    images = np.asarray(first.images, dtype=object)
    result = np.empty(first.probabilities.shape)
    for part in range(folds):
        held = fold == part
        rest = [
            Predictions(
                own.split, own.probabilities[~held], own.labels[~held], tuple(images[~held])
            )
            for own in predictions
        ]
        result[held] = log_average(
            [own.probabilities[held] for own in predictions], fit_weights(rest)
        )
    return result


def _logs(probabilities: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Return (K, N, C), the log of each over its largest, which keeps the sums small."""
    logs = np.array([log_probabilities(own) for own in probabilities])
    return np.asarray(logs - logs.max(axis=2, keepdims=True))


def _fit(logs: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, ...]:
    n = len(labels)
    flat = logs.reshape(len(logs), -1)
    target = logs[:, np.arange(n), labels].mean(axis=1)
    weights = np.full(len(logs), 1 / len(logs))
    value, p = _loss(logs, target, weights)
    for _ in range(100):
        weighed = p[None] * logs
        mean = weighed.sum(axis=2)
        slope = mean.mean(axis=1) - target
        bound = ((weights <= 0) & (slope > 0)) | ((weights >= MAX_WEIGHT) & (slope < 0))
        free = np.flatnonzero(~bound)
        if not len(free) or np.abs(slope[free]).max() < 1e-10:
            break
        curve = (weighed.reshape(len(logs), -1) @ flat.T - mean @ mean.T) / n
        curve = curve[np.ix_(free, free)]
        # Stages that say the same leave a direction without curvature.
        curve += np.eye(len(free)) * max(1e-9 * np.trace(curve), 1e-12)
        step = np.zeros(len(weights))
        step[free] = -np.linalg.solve(curve, slope[free])
        length, before = 1.0, weights
        while length > 1e-8:
            tried = np.clip(before + length * step, 0.0, MAX_WEIGHT)
            found, at = _loss(logs, target, tried)
            if found <= value + 1e-4 * float(slope @ (tried - before)):
                weights, value, p = tried, found, at
                break
            length /= 2
        if np.abs(weights - before).max() < 1e-10:
            break
    return tuple(weights.tolist())


def _loss(
    logs: NDArray[np.float64], target: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Return the mean negative log-likelihood and the probabilities (N, C)."""
    logits = np.tensordot(weights, logs, 1)
    top = logits.max(axis=1, keepdims=True)
    raised = np.exp(logits - top)
    total = raised.sum(axis=1, keepdims=True)
    value = float((np.log(total) + top).mean() - weights @ target)
    return value, raised / total
