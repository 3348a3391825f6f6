"""A choice with a guarantee: the cheapest point that surely loses little against a stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade, OperatingPoint, Stage
from rcopt.core.evaluations import outcomes
from rcopt.core.fronts import non_dominated
from rcopt.core.predictions import Split
from rcopt.core.trained_stage import TrainedStage

#: Numbers of calibration images beyond this are not looked for.
MOST_IMAGES = 10**9


@dataclass(frozen=True)
class PointTest:
    """One point's test.

    Attributes:
        point: The operating point.
        losses: Calibration images that it answers wrongly and the reference rightly.
        p_value: Chance of so few losses or fewer if it lost more than the drop allows.
    """

    point: OperatingPoint
    losses: int
    p_value: float


@dataclass(frozen=True)
class Certificate:
    """What can be promised about a front.

    Attributes:
        point: The cheapest certified point; None where none is.
        reference: The stage it is compared with.
        drop: Share of images that it may lose against the reference.
        confidence: 1 - chance that a point is certified which loses more.
        n_images: Calibration images.
        tested: The sequence, safest first, each with its p-value; those after the first
            failure are not certified, whatever their p-values.
        n_certified: How many of the sequence are certified.
        images_without_loss: Calibration images that certify a point which loses none of them.
        images_at_this_rate: Calibration images that certify the first point of the sequence
            if it loses as large a share of them as of these; None if that share is too large
            for any number.
    """

    point: OperatingPoint | None
    reference: Stage
    drop: float
    confidence: float
    n_images: int
    tested: tuple[PointTest, ...]
    n_certified: int
    images_without_loss: int
    images_at_this_rate: int | None

    def __str__(self) -> str:
        """Return the promise, or why there is none and what would help, as a sentence."""
        promise = (
            f"at most {100 * self.drop:g} % of images lost against {self.reference.name} "
            f"with {100 * self.confidence:g} % confidence"
        )
        if self.point is not None:
            chosen = self.tested[self.n_certified - 1]
            return (
                f"certified: {promise} ({chosen.losses} of {self.n_images} calibration images "
                f"lost, p = {chosen.p_value:.2g})"
            )
        safest = self.tested[0]
        at_rate = (
            "no number would at the share lost now"
            if self.images_at_this_rate is None
            else f"about {self.images_at_this_rate} at the share lost now"
        )
        return (
            f"nothing can be certified: {promise} (the safest point lost {safest.losses} of "
            f"{self.n_images} calibration images, p = {safest.p_value:.2g}; "
            f"{self.images_without_loss} images without a loss would suffice, {at_rate})"
        )


def certify(
    points: Sequence[OperatingPoint],
    stages: Sequence[TrainedStage],
    reference: Stage,
    drop: float,
    confidence: float = 0.9,
    rule: AnswerRule | None = None,
) -> Certificate:
    """Return the cheapest point that surely loses few images against a reference stage.

    An image is lost if the cascade answers it wrongly and the reference rightly; the share of
    lost images bounds the drop in accuracy. On validation the points are thinned to the front
    of cost and share lost, so that the safest is the costliest. Along it, from costly to
    cheap, "it loses more than ``drop``" is tested on the calibration images with the exact
    binomial p-value P(Bin(n, drop) <= losses), until the first that is above 1 - confidence:
    fixed-sequence testing (Learn then Test, arXiv:2110.01052) along a Pareto front (Pareto
    Testing, arXiv:2210.07913). For images drawn as the calibration images were, the chance
    that any certified point loses more than ``drop`` is at most 1 - confidence, provided
    neither points nor stages saw the calibration images.

    Args:
        points: Operating points chosen on validation.
        stages: Trained stages with predictions on validation and calibration, among them all
            of the points' and the reference.
        reference: Usually the most accurate stage.
        drop: Share of images that may be lost, between 0 and 1 (0.01 is one point).
        confidence: Between 0 and 1.
        rule: How probabilities become answers, the default rule if None.

    Raises:
        ValueError: If there are no points, a share is not between 0 and 1, or a stage lacks
            predictions on validation or calibration.
    """
    if not points:
        raise ValueError("points must hold at least one operating point, got none")
    for name, value in (("drop", drop), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {value}")
    n, losses = _losses(points, stages, reference, "validation", rule)
    cost = np.array([point.validation.cost for point in points])
    front = np.flatnonzero(non_dominated(1 - losses / n, cost))
    sequence = [points[i] for i in front[np.argsort(-cost[front])]]
    n, losses = _losses(sequence, stages, reference, "calibration", rule)
    p_values = np.asarray(bdtr(losses, n, drop))
    passed = p_values <= 1 - confidence
    n_certified = len(passed) if passed.all() else int(passed.argmin())
    return Certificate(
        point=sequence[n_certified - 1] if n_certified else None,
        reference=reference,
        drop=drop,
        confidence=confidence,
        n_images=n,
        tested=tuple(
            PointTest(point, int(lost), float(p))
            for point, lost, p in zip(sequence, losses, p_values, strict=True)
        ),
        n_certified=n_certified,
        images_without_loss=math.ceil(math.log(1 - confidence) / math.log1p(-drop)),
        images_at_this_rate=_images_needed(int(losses[0]) / n, drop, 1 - confidence),
    )


def _losses(
    points: Sequence[OperatingPoint],
    stages: Sequence[TrainedStage],
    reference: Stage,
    split: Split,
    rule: AnswerRule | None,
) -> tuple[int, NDArray[np.int64]]:
    """Return the number of images and for each point those lost against the reference."""
    cascades = [Cascade((reference,), ()), *(point.cascade for point in points)]
    results = outcomes(cascades, stages, split, rule)
    correct = np.array([result.correct for result in results])
    return correct.shape[1], (correct[0] & ~correct[1:]).sum(axis=1)


def _images_needed(rate: float, drop: float, error: float) -> int | None:
    def suffices(n: int) -> bool:
        # 1e-9: rate x n of a whole number of images may come out a little above it.
        return float(bdtr(math.ceil(rate * n - 1e-9), n, drop)) <= error

    if rate >= drop:
        return None
    low, high = 0, 1
    while not suffices(high):
        low, high = high, 2 * high
        if high > MOST_IMAGES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high
