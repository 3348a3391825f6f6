"""A choice with a guarantee: the cheapest cascade that keeps a promise against a stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade, OperatingPoint, Stage
from rcopt.core.fronts import non_dominated
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.predictions import Split
from rcopt.core.statistics.paired_test import BETA, drop_p_value, smallest_drop
from rcopt.core.trained_stage import TrainedStage

#: What a certificate may promise; see `Certificate`.
Promise = Literal["accuracy", "lost"]

#: Numbers of calibration images beyond this are not looked for; tests of pairs take longer.
MOST_IMAGES = 10**9
MOST_PAIRED_IMAGES = 100_000


@dataclass(frozen=True)
class PointTest:
    """One point's test.

    Attributes:
        point: The operating point.
        lost: Calibration images that it answers wrongly and the reference rightly.
        gained: Calibration images that it answers rightly and the reference wrongly.
        p_value: Chance of counts so favourable or more so if the promise were broken.
    """

    point: OperatingPoint
    lost: int
    gained: int
    p_value: float


@dataclass(frozen=True)
class Certificate:
    """What can be promised of a cascade against a reference stage.

    Attributes:
        promise: ``"accuracy"``: accuracy falls by less than ``drop``, images lost less images
            gained; ``"lost"``: fewer than ``drop`` of the images are lost, whatever is gained.
        point: The cheapest certified point; None where none is, and the reference itself is
            the safe choice.
        reference: The stage it is compared with.
        drop: Share of images.
        confidence: 1 - chance that a point is certified which breaks the promise.
        n_images: Calibration images.
        tested: The sequence, safest first, each with its p-value; those after the first
            failure are not certified, whatever their p-values.
        n_certified: How many of the sequence are certified.
        smallest_drop: The smallest ``drop`` for which the safest point would be certified;
            1.0 where there is nothing to test.
        images_without_loss: Calibration images that certify a point which loses none of them.
        images_at_this_rate: Calibration images that certify the safest point if it loses and
            gains as large shares of them as of these; None if no number does.
    """

    promise: Promise
    point: OperatingPoint | None
    reference: Stage
    drop: float
    confidence: float
    n_images: int
    tested: tuple[PointTest, ...]
    n_certified: int
    smallest_drop: float
    images_without_loss: int
    images_at_this_rate: int | None

    def __str__(self) -> str:
        """Return the promise, or why there is none and what would help, as sentences."""
        limit = f"{100 * self.drop:g} %"
        promise = (
            f"accuracy falls by less than {limit} against {self.reference.name}"
            if self.promise == "accuracy"
            else f"fewer than {limit} of images are lost that {self.reference.name} gets right"
        )
        promise += f", with {100 * self.confidence:g} % confidence"
        once = "It holds for one limit, set before looking; trying several spends it."
        if self.point is not None:
            return f"certified: {promise} ({self._counts(self.n_certified - 1)}). {once}"
        if not self.tested:
            return (
                f"nothing to certify: no cascade costs less than {self.reference.name}, which "
                "is the safe choice"
            )
        more = (
            "No number of images would certify it at these shares"
            if self.images_at_this_rate is None
            else f"About {max(1, self.images_at_this_rate - self.n_images)} more calibration "
            "images would certify it at these shares"
        )
        return (
            f"not certified: {promise} (safest cascade: {self._counts(0)}). {more}. "
            f"The smallest limit that these images certify is {100 * self.smallest_drop:.2f} %. "
            f"The safe choice is {self.reference.name} itself"
        )

    def _counts(self, at: int) -> str:
        test = self.tested[at]
        return (
            f"{test.lost} of {self.n_images} calibration images lost, {test.gained} gained, "
            f"p = {test.p_value:.2g}"
        )


def certify(
    points: Sequence[OperatingPoint],
    stages: Sequence[TrainedStage],
    reference: Stage,
    drop: float,
    confidence: float = 0.9,
    rule: AnswerRule | None = None,
    promise: Promise = "lost",
) -> Certificate:
    """Return the cheapest point that keeps a promise against a reference stage.

    An image is *lost* if the cascade answers it wrongly and the reference rightly, *gained*
    the other way round. On validation the points cheaper than the reference are thinned to the
    front of cost and share lost, so that the safest is the costliest; `rcopt.core.study_front`'s
    ``lost_front`` finds the best ones. Along it, from costly to cheap, "the promise is broken"
    is tested on the calibration images until the first p-value above 1 - confidence:
    fixed-sequence testing (Learn then Test, arXiv:2110.01052) along a Pareto front (Pareto
    Testing, arXiv:2210.07913). For images drawn as the calibration images were, the chance that
    any certified point breaks the promise is at most 1 - confidence, provided neither points
    nor stages saw the calibration images.

    The p-values are exact: for ``"lost"`` the binomial P(Bin(n, drop) <= lost), for
    ``"accuracy"`` `rcopt.core.statistics.paired_test.drop_p_value`.

    Args:
        points: Operating points chosen on validation.
        stages: Trained stages with predictions on validation and calibration, among them all
            of the points' and the reference.
        reference: Usually the most accurate stage.
        drop: Share of images, between 0 and 1 (0.01 is one point).
        confidence: Between 0 and 1; for ``"accuracy"`` below 0.999.
        rule: How probabilities become answers, the default rule if None.
        promise: See `Certificate`.

    Raises:
        ValueError: If there are no points, a share is out of range, or a stage lacks
            predictions on validation or calibration.
    """
    if not points:
        raise ValueError("points must hold at least one operating point, got none")
    for name, value in (("drop", drop), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {value}")
    if promise == "accuracy" and confidence >= 1 - BETA:
        raise ValueError(f"confidence must be below {1 - BETA} here, got {confidence}")
    n, lost, _ = _counts(points, stages, reference, "validation", rule)
    cost = np.array([point.validation.cost for point in points])
    cheaper = np.flatnonzero(cost < reference.cost)
    front = cheaper[non_dominated(1 - lost[cheaper] / n, cost[cheaper])]
    sequence = [points[i] for i in front[np.argsort(-cost[front])]]
    n, lost, gained = _counts(sequence, stages, reference, "calibration", rule)
    error = 1 - confidence
    tested: list[PointTest] = []
    n_certified = 0
    for point, down, up in zip(sequence, lost.tolist(), gained.tolist(), strict=True):
        p = _p_value(promise, down, up, n, drop)
        if n_certified == len(tested) and p <= error:
            n_certified += 1
        tested.append(PointTest(point, down, up, p))
        if promise == "accuracy" and n_certified < len(tested):
            break  # What follows is not certified, and each test takes a while.
    return Certificate(
        promise=promise,
        point=sequence[n_certified - 1] if n_certified else None,
        reference=reference,
        drop=drop,
        confidence=confidence,
        n_images=n,
        tested=tuple(tested),
        n_certified=n_certified,
        smallest_drop=_smallest_drop(promise, tested[0], n, confidence) if tested else 1.0,
        images_without_loss=_images_needed(promise, 0.0, 0.0, drop, error) or MOST_IMAGES,
        images_at_this_rate=_images_needed(
            promise, tested[0].lost / n, tested[0].gained / n, drop, error
        )
        if tested
        else None,
    )


def _p_value(promise: Promise, lost: int, gained: int, n: int, drop: float) -> float:
    if promise == "lost":
        return float(bdtr(lost, n, drop))
    return drop_p_value(lost, gained, n, drop)


def _smallest_drop(promise: Promise, safest: PointTest, n: int, confidence: float) -> float:
    if promise == "accuracy":
        return smallest_drop(safest.lost, safest.gained, n, confidence)
    if safest.lost == n:
        return 1.0
    return float(betaincinv(safest.lost + 1, n - safest.lost, confidence))


def _counts(
    points: Sequence[OperatingPoint],
    stages: Sequence[TrainedStage],
    reference: Stage,
    split: Split,
    rule: AnswerRule | None,
) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of images and for each point those lost and those gained."""
    cascades = [Cascade((reference,), ()), *(point.cascade for point in points)]
    results = cascade_outcomes(cascades, stages, split, rule)
    correct = np.array([result.correct for result in results])
    lost = (correct[0] & ~correct[1:]).sum(axis=1)
    return correct.shape[1], lost, (correct[1:] & ~correct[0]).sum(axis=1)


def _images_needed(
    promise: Promise, lost: float, gained: float, drop: float, error: float
) -> int | None:
    """Return the fewest images that certify at given shares of them."""

    def suffices(n: int) -> bool:
        # 1e-9: rate x n of a whole number of images may come out a little above it.
        down, up = math.ceil(lost * n - 1e-9), math.floor(gained * n + 1e-9)
        return _p_value(promise, down, up, n, drop) <= error

    most = MOST_IMAGES if promise == "lost" else MOST_PAIRED_IMAGES
    if lost - (gained if promise == "accuracy" else 0.0) >= drop:
        return None
    low, high = 0, 1
    while not suffices(high):
        low, high = high, 2 * high
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high
