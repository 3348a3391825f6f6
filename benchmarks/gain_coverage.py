"""How often a cascade gain's interval holds the true one: ``python -m benchmarks.gain_coverage``.

The held-out images of six recorded stages are divided into 1,572 for validation, where the front
is chosen, and the rest, which is the world: the gain there is the true one. From the rest test
sets of 1,572 images are drawn with replacement, and the interval of each is compared with it.
Six divisions of 50 draws; two minutes of one core.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.log_average import POOLS, divided
from benchmarks.pools import POOL, recorded
from rcopt.core.cascade import OperatingPoint
from rcopt.core.predictions import Predictions
from rcopt.core.statistics.cascade_gain import MeanGain, cascade_gain
from rcopt.core.statistics.intervals import Interval
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage

N = 1_572


def holds(interval: Interval, truth: Interval) -> bool:
    """Return whether an interval holds the true value."""
    return interval.low <= truth.estimate <= interval.high


def coverage(divisions: int, draws: int) -> tuple[float, float]:
    """Return the coverage of the mean gain and of that of the upper half of accuracies."""
    stages = [trained for trained in recorded(POOL) if trained.stage.name in POOLS["pool of six"]]
    held = []
    for division in range(divisions):
        anew = divided(stages, division, N)
        points = study_front(anew).points
        world = anew[0].predictions["test"]

        truth = gain_of(points, anew, 2)
        for draw in range(draws):
            rng = np.random.default_rng([division, draw])
            at = rng.integers(0, len(world), N)
            found = gain_of(points, [drawn(trained, at) for trained in anew], 300)
            held.append((holds(found.mean, truth.mean), holds(found.upper_half, truth.upper_half)))
    mean, upper = np.mean(held, axis=0).tolist()
    return mean, upper


def gain_of(
    points: Sequence[OperatingPoint], stages: Sequence[TrainedStage], n_resamples: int
) -> MeanGain:
    """Return the gain of a front."""
    found = cascade_gain(points, stages, n_resamples=n_resamples)
    if found is None:
        raise ValueError("the stages cannot be mixed")
    return found.over_all


def drawn(trained: TrainedStage, at: NDArray[np.int64]) -> TrainedStage:
    """Return a stage with some of its test images."""
    test = trained.predictions["test"]
    names = tuple(str(i) for i in range(len(at)))
    some = Predictions("test", test.probabilities[at], test.labels[at], names)
    return replace(trained, predictions={**trained.predictions, "test": some})


if __name__ == "__main__":
    mean, upper = coverage(6, 50)
    print(f"of 300 intervals of 95 %, {mean:.1%} hold the mean gain, {upper:.1%} the upper half's")
