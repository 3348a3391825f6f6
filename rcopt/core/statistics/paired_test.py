"""An exact test of how much accuracy is lost between two classifiers on the same images."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, bdtrc, betaincinv

#: Error that the confidence set of the nuisance rate may make (Berger and Boos 1994).
BETA = 0.001
#: Values of the nuisance rate that are looked at.
_GRID = 200


def drop_p_value(lost: int, gained: int, n_images: int, drop: float) -> float:
    """Return the p-value of "accuracy falls by at least ``drop``" from paired answers.

    Of N images, ``lost`` are answered rightly by the reference alone and ``gained`` by the
    other alone; with rates p and q of the two, accuracy falls by p - q. The test is exact and
    unconditional: outcomes (lost, gained) are ordered by the score statistic of a paired
    difference (Tango 1998, Stat. Med. 17:891), and the p-value is the chance of an outcome as
    favourable or more so, at p = q + ``drop``, at the nuisance rate q that makes it largest.
    That q is looked for in its exact confidence set of level 1 - `BETA`, whose error is added
    (Berger and Boos 1994, JASA 89:1012). For a given q a larger p makes favourable outcomes
    less likely, so the p-value holds for every fall of at least ``drop``.

    Args:
        lost: Not negative.
        gained: Not negative, ``lost + gained <= n_images``.
        n_images: N >= 1.
        drop: In (0, 1).

    Returns:
        A number in (0, 1].

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> round(drop_p_value(4, 6, 500, 0.02), 4)
        0.0024
    """
    if n_images < 1 or min(lost, gained) < 0 or lost + gained > n_images:
        raise ValueError(
            f"lost and gained must not be negative and together at most n_images, got "
            f"{lost}, {gained}, {n_images}"
        )
    if not 0 < drop < 1:
        raise ValueError(f"drop must lie between 0 and 1, got {drop}")
    score = float(_score(np.array([lost]), np.array([gained]), n_images, drop)[0])
    tail = BETA / 2
    low = 0.0 if gained == 0 else float(betaincinv(gained, n_images - gained + 1, tail))
    high = float(betaincinv(gained + 1, n_images - gained, 1 - tail)) if gained < n_images else 1
    high = min(high, (1 - drop) / 2)
    if low > high:  # So many gained images contradict any fall by ``drop``.
        return BETA
    # More gained images than this hardly happen; their chance counts as favourable.
    mean = n_images * high
    end = min(n_images, math.ceil(mean + 8 * math.sqrt(mean) + 20))
    beyond = float(bdtrc(end, n_images, high)) if end < n_images else 0.0
    gains = np.arange(end + 1)
    most = _most_lost(gains, n_images, drop, score)
    # Where the chance can peak sharply, near 0, the grid is finer.
    rates = low + (high - low) * np.linspace(0, 1, _GRID) ** 2
    chance = float(_chance(rates, gains, most, n_images, drop).max())
    return min(1.0, chance + beyond + BETA)


def _score(
    lost: NDArray[np.int64], gained: NDArray[np.int64], n: int, drop: float
) -> NDArray[np.float64]:
    """Return Tango's statistic; the lower, the less accuracy is lost."""
    b = lost + gained - drop * (2 * n - lost + gained)
    c = gained * drop * (1 - drop)
    rate = (np.sqrt(b**2 + 8 * n * c) + b) / (4 * n)
    spread = np.sqrt(n * (2 * np.maximum(rate, 0) + drop * (1 - drop)))
    return np.asarray((lost - gained - n * drop) / spread)


def _most_lost(gained: NDArray[np.int64], n: int, drop: float, score: float) -> NDArray[np.int64]:
    """Return for each count of gained images the most lost ones that are as favourable."""
    low = np.full(len(gained), -1)
    high = n - gained + 1
    bound = score + 1e-9 * max(1.0, abs(score))
    while (open_ := high - low > 1).any():
        middle = (low + high) // 2
        fits = _score(middle, gained, n, drop) <= bound
        low = np.where(open_ & fits, middle, low)
        high = np.where(open_ & ~fits, middle, high)
    return low


def _chance(
    rates: NDArray[np.float64],
    gained: NDArray[np.int64],
    most: NDArray[np.int64],
    n: int,
    drop: float,
) -> NDArray[np.float64]:
    """Return the chance of a favourable outcome at each rate of gained images."""
    q = rates[:, None]
    within = np.minimum((q + drop) / np.maximum(1 - q, 1e-300), 1.0)
    cumulated = bdtr(gained, n, q)
    mass = np.diff(cumulated, prepend=0.0, axis=1)
    favourable = np.where(most < 0, 0.0, bdtr(np.maximum(most, 0), n - gained, within))
    return np.asarray((mass * favourable).sum(axis=1))


def smallest_drop(
    lost: int, gained: int, n_images: int, confidence: float, tolerance: float = 1e-4
) -> float:
    """Return the smallest fall of accuracy that the counts rule out at a confidence.

    Args:
        lost: As `drop_p_value`.
        gained: As `drop_p_value`.
        n_images: As `drop_p_value`.
        confidence: In (0, 1), below 1 - `BETA`.
        tolerance: Of the result, which is rounded up.

    Returns:
        A share; 1.0 where nothing is ruled out.
    """
    low, high = 0.0, 1.0
    while high - low > tolerance:
        middle = (low + high) / 2
        if drop_p_value(lost, gained, n_images, middle) <= 1 - confidence:
            high = middle
        else:
            low = middle
    return high


def counts(reference: ArrayLike, other: ArrayLike) -> tuple[int, int]:
    """Return how many images are lost and gained against a reference.

    Args:
        reference: (N,) bool, whether the reference answers each image rightly.
        other: (N,) bool, the same images.
    """
    was, now = np.asarray(reference, dtype=np.bool_), np.asarray(other, dtype=np.bool_)
    return int((was & ~now).sum()), int((now & ~was).sum())
