"""Confidence intervals for an accuracy and for the difference of two on the same images."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri


@dataclass(frozen=True)
class Interval:
    """An estimate with the interval around it.

    Attributes:
        estimate: The value on the images at hand.
        low: Lower end.
        high: Upper end.
        level: Share of such intervals that hold the true value.
    """

    estimate: float
    low: float
    high: float
    level: float


def accuracy_interval(correct: ArrayLike, level: float = 0.95) -> Interval:
    """Return the exact binomial interval of an accuracy (Clopper and Pearson 1934).

    It covers the true accuracy in at least ``level`` of all cases, whatever the accuracy.

    Args:
        correct: (N,) bool, whether each image is answered rightly, N >= 1.
        level: In (0, 1).

    Raises:
        ValueError: On a wrong shape or level.

    Example:
        >>> i = accuracy_interval([True] * 9 + [False])
        >>> i.estimate, round(i.low, 3), round(i.high, 3)
        (0.9, 0.555, 0.997)
    """
    right = _answers("correct", correct)
    _check_level(level)
    n, k = len(right), int(right.sum())
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return Interval(k / n, low, high, level)


def difference_interval(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """Return an interval of the accuracy of ``first`` minus that of ``second``, same images.

    Only images that exactly one of the two answers rightly tell them apart, so the interval is
    far narrower than two separate ones. Adjusted Wald interval for paired proportions (Bonett
    and Price 2012, J. Educ. Behav. Stat. 37): one image added to each kind of disagreement.

    Args:
        first: (N,) bool, whether each image is answered rightly.
        second: (N,) bool, the same images.
        level: In (0, 1).

    Raises:
        ValueError: On wrong or different shapes or a wrong level.
    """
    a, b = _answers("first", first), _answers("second", second)
    if len(a) != len(b):
        raise ValueError(f"second must have length {len(a)} like first, got {len(b)}")
    _check_level(level)
    n = len(a)
    gained, lost = int((a & ~b).sum()), int((b & ~a).sum())
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = float(ndtri(0.5 + level / 2)) * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    centre = p - q
    return Interval((gained - lost) / n, max(-1.0, centre - half), min(1.0, centre + half), level)


def _answers(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.ndim != 1 or not len(array) or array.dtype != np.bool_:
        raise ValueError(
            f"{name} must be boolean of shape (N,) with N >= 1, got {array.dtype} {array.shape}"
        )
    return array


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
