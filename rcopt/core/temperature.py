"""Temperature scaling: one number that makes a stage as sure of its answers as it is right."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rcopt.core.predictions import Predictions, Split

#: Temperatures outside this range are not looked for. A stage that is always right would have 0
#: (every confidence 1, their order lost), one no better than chance infinity.
TEMPERATURES = (0.25, 10.0)


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
    check_fitted_on(predictions.split, "a temperature")
    if not len(predictions):
        raise ValueError("predictions must hold at least one image to fit a temperature, got 0")
    return _fit(log_probabilities(predictions.probabilities), predictions.labels)


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
    return softmax(log_probabilities(probabilities) / temperature)


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
    fold = fold_of(predictions.images, folds, seed)
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


def check_fitted_on(split: Split, what: str) -> None:
    """Refuse to fit on a split that is not for fitting.

    Raises:
        ValueError: On training or test images.
    """
    if split not in ("validation", "calibration"):
        raise ValueError(
            "predictions must be of split 'validation' or 'calibration' to fit "
            f"{what}, got {split!r}"
        )


def fold_of(images: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold, 0..folds-1, of each image: images of one name share it.

    Raises:
        ValueError: If there are fewer different names than folds, or less than 2 folds.
    """
    names = set(images)
    if not 2 <= folds <= len(names):
        raise ValueError(
            f"folds must lie in 2..{len(names)} (the number of different images), got {folds}"
        )
    shuffled = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    fold = {name: place % folds for place, name in enumerate(shuffled)}
    return np.array([fold[name] for name in images], dtype=np.int64)


def log_probabilities(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log p; 0 counts as the smallest normal float32."""
    tiny = float(np.finfo(np.float32).tiny)
    return np.asarray(np.log(np.maximum(probabilities, tiny, dtype=np.float64)))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities (N, C) of logits (N, C)."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _fit(logs: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    # The most probable class as origin keeps the sums small where a row's logs reach -87.
    logs = logs - logs.max(axis=1, keepdims=True)
    target = logs[np.arange(len(labels)), labels].mean()
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    sharpness = 1.0
    while high - low > 1e-12 * high:
        p = softmax(sharpness * logs)
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
