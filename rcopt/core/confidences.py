"""How sure a stage is of its answer. Each entry of `CONFIDENCES` is one function of confidence."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Confidence = Literal["max", "margin", "entropy"]


@dataclass(frozen=True)
class ConfidenceFunction:
    """One function of confidence, twice over: search and execution must say the same.

    Attributes:
        text: What it is, as a noun phrase.
        numpy: (N, C) float64 probabilities to (N,) confidences, for stored predictions.
        torch: The same of a tensor on its device; of the tensor's own methods, since the core
            does not load torch.
    """

    text: str
    numpy: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    torch: Callable[[Any], Any]


def _max(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(p.max(axis=1))


def _max_of_tensor(p: Any) -> Any:
    return p.amax(dim=1)


def _margin(p: NDArray[np.float64]) -> NDArray[np.float64]:
    top = np.partition(p, -2, axis=1)
    return np.asarray(top[:, -1] - top[:, -2])


def _margin_of_tensor(p: Any) -> Any:
    top = p.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    logs = np.log(np.where(p > 0, p, 1.0))
    return np.asarray(1.0 + (p * logs).sum(axis=1) / np.log(p.shape[1]))


def _entropy_of_tensor(p: Any) -> Any:
    return 1.0 + p.xlogy(p).sum(dim=1) / math.log(p.shape[1])


#: Every function of confidence, by the name that study files and stored cascades give it.
CONFIDENCES: Mapping[Confidence, ConfidenceFunction] = {
    # Hendrycks and Gimpel 2017, arXiv:1610.02136
    "max": ConfidenceFunction("the largest class probability", _max, _max_of_tensor),
    # Scheffer et al. 2001
    "margin": ConfidenceFunction(
        "the margin between the two largest class probabilities", _margin, _margin_of_tensor
    ),
    # 1 - H(p) / log C, H the Shannon entropy; BranchyNet, arXiv:1709.01686, uses H itself.
    "entropy": ConfidenceFunction(
        "1 − normalized entropy of the class probabilities", _entropy, _entropy_of_tensor
    ),
}


def confidence_function(kind: str) -> ConfidenceFunction:
    """Return the entry of a name.

    Raises:
        ValueError: If there is none.
    """
    for name, function in CONFIDENCES.items():
        if name == kind:
            return function
    raise ValueError(f"confidence must be one of {', '.join(CONFIDENCES)}, got {kind!r}")


def confidence(
    probabilities: NDArray[np.floating], kind: Confidence = "max"
) -> NDArray[np.float64]:
    """Return the scalar confidence of each answer, in [0, 1], higher is surer.

    Args:
        probabilities: (N, C) class probabilities, C >= 2.
        kind: A name among `CONFIDENCES`: ``"max"``, ``"margin"`` or ``"entropy"``.

    Returns:
        (N,) float64.

    Raises:
        ValueError: If ``kind`` is unknown.

    Example:
        >>> confidence(np.array([[0.7, 0.2, 0.1]]), "margin").round(3)
        array([0.5])
    """
    p = np.asarray(probabilities, dtype=np.float64)
    return np.clip(confidence_function(kind).numpy(p), 0.0, 1.0)


def tensor_confidence(probabilities: Any, kind: Confidence) -> Any:
    """Return what `confidence` does of a (N, C) tensor, on its device.

    Raises:
        ValueError: If ``kind`` is unknown.
    """
    return confidence_function(kind).torch(probabilities).clamp(0.0, 1.0)
