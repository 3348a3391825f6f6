"""How sure a stage is of its answer."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Confidence = Literal["max", "margin", "entropy"]


def confidence(
    probabilities: NDArray[np.floating], kind: Confidence = "max"
) -> NDArray[np.float64]:
    """Return the scalar confidence of each answer, in [0, 1], higher is surer.

    Args:
        probabilities: (N, C) class probabilities, C >= 2.
        kind: ``"max"``: largest probability (Hendrycks and Gimpel 2017, arXiv:1610.02136);
            ``"margin"``: largest minus second largest (Scheffer et al. 2001);
            ``"entropy"``: 1 - H(p) / log C, H the Shannon entropy (BranchyNet,
            arXiv:1709.01686, uses H itself).

    Returns:
        (N,) float64.

    Raises:
        ValueError: If ``kind`` is unknown.

    Example:
        >>> confidence(np.array([[0.7, 0.2, 0.1]]), "margin").round(3)
        array([0.5])
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if kind == "max":
        values = p.max(axis=1)
    elif kind == "margin":
        top = np.partition(p, -2, axis=1)
        values = top[:, -1] - top[:, -2]
    elif kind == "entropy":
        logs = np.log(np.where(p > 0, p, 1.0))
        values = 1.0 + (p * logs).sum(axis=1) / np.log(p.shape[1])
    else:
        raise ValueError(f"kind must be one of {', '.join(get_args(Confidence))}, got {kind!r}")
    return np.asarray(np.clip(values, 0.0, 1.0), dtype=np.float64)
