"""What one given cascade saves and costs against a reference, on images it was not chosen by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade, Stage
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.predictions import Split
from rcopt.core.statistics.intervals import Interval, accuracy_interval, difference_interval
from rcopt.core.trained_stage import TrainedStage

#: Resamples of an interval of a saving.
RESAMPLES = 10_000


@dataclass(frozen=True)
class Comparison:
    """A cascade against a reference on the same images.

    Attributes:
        reference: What it is compared with.
        accuracy: Interval of the cascade's accuracy (exact binomial).
        change: Interval of its accuracy minus the reference's, paired (Bonett and Price 2012).
        saving: Interval of the reference's FLOPs over the cascade's mean FLOPs (bootstrap).
        n_images: Number of images.
    """

    reference: Stage
    accuracy: Interval
    change: Interval
    saving: Interval
    n_images: int


def compare(
    cascade: Cascade,
    reference: Stage,
    stages: Sequence[TrainedStage],
    split: Split,
    rule: AnswerRule | None = None,
    *,
    level: float = 0.95,
) -> Comparison:
    """Return what a cascade does on a split beside what a single stage does.

    The intervals are of this cascade with these thresholds: they say what to expect on new
    images like these. How much another choice would differ is another question; see
    `rcopt.core.statistics.bootstrap`.

    Args:
        cascade: Chosen on other images.
        reference: Usually the most accurate stage.
        stages: Trained stages with predictions on ``split``, and on validation where the rule
            fits temperatures.
        split: Usually ``"test"``.
        rule: How probabilities become answers, the default rule if None.
        level: Between 0 and 1.

    Raises:
        ValueError: If a stage or its predictions are missing, or the cascade costs nothing.
    """
    unchanged = Cascade((reference,), ())
    own, alone = cascade_outcomes([cascade, unchanged], stages, split, rule)
    n = len(own.correct)
    change, saving = Interval(0.0, 0.0, 0.0, level), Interval(1.0, 1.0, 1.0, level)
    if cascade != unchanged:
        change = difference_interval(own.correct, alone.correct, level)
        saving = saving_interval(
            np.rint(np.array(own.evaluation.exit_rates) * n).astype(np.int64),
            np.array([stage.flops for stage in cascade.stages]),
            reference.flops,
            level=level,
        )
    return Comparison(reference, accuracy_interval(own.correct, level), change, saving, n)


def saving_interval(
    exits: NDArray[np.int64],
    costs: NDArray[np.float64],
    reference: float,
    *,
    level: float = 0.95,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return how many times less a cascade costs than a stage, with its bootstrap interval.

    What an image costs depends on the stage that answers it alone, so drawing images with
    replacement is drawing the numbers of exits from a multinomial distribution. The percentiles
    are taken further out as Student's t and the deviation over N - 1 ask for (Hesterberg 2015,
    Am. Stat. 69:371, the expanded percentile interval): plain ones cover too little where there
    are few images.

    Args:
        exits: (K,) images answered by each stage.
        costs: (K,) cost of each stage.
        reference: Cost of the reference for each image, positive.
        level: Between 0 and 1.
        n_resamples: At least 2.
        seed: Of the resamples; the same counts give the same interval.

    Raises:
        ValueError: If the cascade costs nothing.

    Example:
        >>> i = saving_interval(np.array([80, 20]), np.array([1.0, 9.0]), 9.0)
        >>> round(i.estimate, 2), round(i.low, 2), round(i.high, 2)
        (3.21, 2.56, 4.33)
    """
    per_image = np.cumsum(costs)
    n = int(exits.sum())
    mean = float(exits @ per_image) / n
    if mean <= 0:
        raise ValueError("the cascade must have a positive cost to tell a saving, got 0")
    drawn = np.random.default_rng(seed).multinomial(n, exits / n, size=n_resamples)
    tail = (1 - level) / 2
    if n > 1:
        tail = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, tail)))
    low, high = np.quantile(drawn @ per_image / n, [tail, 1 - tail])
    return Interval(reference / mean, reference / float(high), reference / float(low), level)
