"""Whether a cascade still sees images like those it was calibrated on, without labels.

A conformal test martingale (Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random
World", chapter 7; Vovk 2021, arXiv:2102.10439) on the first stage's confidences. Each new
confidence is ranked among those of calibration and all seen before it. If they are exchangeable,
the ranks, ties broken at random, are independent and uniform, whatever the distribution; a gambler
who bets against that gains without bound only if it is false. By Ville's inequality the chance
that the gambler's capital ever reaches 1 / a is at most a, so it may be looked at at any time.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln

#: Confidences are counted in so many bins of equal width in log-odds: memory is bounded, and
#: since the bins depend on no data, counts are as exchangeable as the confidences.
BINS = 512
_WIDEST = 21.0
#: Densities on [0, 1] that are bet on: Beta(a, b), for falling, rising and spreading ranks.
BETS = np.array(
    [(1, 1.5), (1, 2), (1, 3), (1, 6), (1.5, 1), (2, 1), (3, 1), (6, 1), (0.6, 0.6), (2, 2)]
)
_LOG_BETA = betaln(BETS[:, 0], BETS[:, 1])


def count_confidences(confidence: ArrayLike) -> dict[int, int]:
    """Return how many confidences fall into each bin that has any.

    Args:
        confidence: (N,) in [0, 1].

    Raises:
        ValueError: On values outside.
    """
    bins, counts = np.unique(_bins(confidence), return_counts=True)
    return dict(zip(bins.tolist(), counts.tolist(), strict=True))


class DriftMonitor:
    """Watches a stream of confidences; may be looked at after every one.

    Args:
        reference: Counts of the confidences on calibration images, from `count_confidences`.
        false_alarms: Chance of an alarm, ever, while images stay as they were; above 0.
        seed: Of the breaking of ties.

    Attributes:
        seen: Confidences seen.
        evidence: The gambler's capital now; started at 1.
        alarm: After how many confidences the capital first reached 1 / false_alarms; None
            before.

    Raises:
        ValueError: If the reference is empty, or ``false_alarms`` is out of range.

    Example:
        >>> monitor = DriftMonitor(count_confidences([0.9, 0.95, 0.99] * 50))
        >>> monitor.see([0.9, 0.99, 0.95] * 20)
        >>> monitor.alarm is None
        True
        >>> monitor.see([0.4, 0.5, 0.6] * 20)
        >>> monitor.alarm
        69
    """

    def __init__(
        self, reference: Mapping[int, int], *, false_alarms: float = 0.01, seed: int = 0
    ) -> None:
        if not 0 < false_alarms < 1:
            raise ValueError(f"false_alarms must lie between 0 and 1, got {false_alarms}")
        self._counts = np.zeros(BINS)
        for place, count in reference.items():
            self._counts[place] = count
        self._total = float(self._counts.sum())
        if self._total < 1:
            raise ValueError("reference must count at least one confidence, got none")
        self._limit = 1 / false_alarms
        self._rng = np.random.default_rng(seed)
        #: Of each density, what bets begun at any time so far have grown to.
        self._grown = np.zeros(len(BETS))
        self.seen = 0
        self.evidence = 1.0
        self.alarm: int | None = None

    def see(self, confidence: ArrayLike) -> None:
        """Take in confidences, (N,) in [0, 1], in the order in which they came.

        Raises:
            ValueError: On values outside.
        """
        for place in _bins(confidence).tolist():
            self._see(place)

    def _see(self, place: int) -> None:
        self._counts[place] += 1
        self._total += 1
        above = float(self._counts[place + 1 :].sum())
        rank = (above + self._rng.random() * self._counts[place]) / self._total
        rank = min(max(rank, 1e-9), 1 - 1e-9)
        exponents = (BETS - 1) @ np.log([rank, 1 - rank])
        # Capital is laid aside for bets that begin later, so that a late change is found too.
        begun = _aside(self.seen) - _aside(self.seen + 1)
        self.seen += 1
        self._grown = (self._grown + begun) * np.exp(exponents - _LOG_BETA)
        self.evidence = float(self._grown.mean()) + _aside(self.seen)
        if self.alarm is None and self.evidence >= self._limit:
            self.alarm = self.seen


def _aside(begun: int) -> float:
    """Return the share of the capital that is not bet after so many images."""
    return float(1 / (1 + np.log2(begun + 1)))


def _bins(confidence: ArrayLike) -> NDArray[np.int64]:
    c = np.asarray(confidence, dtype=np.float64).reshape(-1)
    if not ((c >= 0) & (c <= 1 + 1e-9)).all():
        raise ValueError("confidence must lie in [0, 1]")
    odds = np.log((c + 1e-9) / (np.maximum(1 - c, 0) + 1e-9))
    place = np.floor((odds + _WIDEST) / (2 * _WIDEST) * BINS)
    return np.clip(place, 0, BINS - 1).astype(np.int64)
