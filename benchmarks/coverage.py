"""How often the intervals that rcopt prints hold the truth: ``python -m benchmarks.coverage``.

The world is the 3,925 held-out images of six recorded stages: what a cascade does on all of them
is the truth. From it as many validation and as many test images are drawn, with replacement and
apart from each other; on the validation images the exact front is made and cascades are chosen
from it as `rcopt select` and the report choose them; then every interval that is printed beside
them is compared with the truth. Cascades: the cheapest that give up 0, 0.5 and 1 point on
validation, the knee and the most accurate one. Intervals are of 95 %.

Prints a table and writes results/coverage.json. Six minutes of one core.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.log_average import POOLS
from benchmarks.pools import POOL, recorded
from rcopt.core.cascade import Cascade, OperatingPoint
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.predictions import Predictions, Split
from rcopt.core.statistics.cascade_gain import MeanGain, cascade_gain
from rcopt.core.statistics.comparison import compare
from rcopt.core.statistics.expectation import expected_accuracy
from rcopt.core.statistics.intervals import Interval, accuracy_interval
from rcopt.core.statistics.selection import by_max_drop, knee
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage

RESULTS = Path(__file__).parent / "results"
#: Images on validation, and as many on test, with the number of draws.
SIZES = {100: 1_000, 400: 400, 1_572: 200}
LOSSES = (0.0, 0.005, 0.01)


@dataclass(frozen=True)
class Coverage:
    """How often intervals of one kind hold the truth.

    Attributes:
        share: Of all such intervals.
        error: Standard error of the share, from draw to draw.
    """

    share: float
    error: float


def world_of(stages: Sequence[TrainedStage]) -> list[TrainedStage]:
    """Return stages with all their held-out images as one, filed under test."""
    found = []
    for trained in stages:
        own = list(trained.predictions.values())
        p = np.concatenate([split.probabilities for split in own])
        labels = np.concatenate([split.labels for split in own])
        found.append(replace(trained, predictions={"test": _predictions("test", p, labels)}))
    return found


def drawn(
    world: Sequence[TrainedStage], sizes: dict[Split, int], rng: np.random.Generator
) -> list[TrainedStage]:
    """Return stages with images drawn from a world with replacement, the same for all."""
    n = len(world[0].predictions["test"])
    at = {split: rng.integers(0, n, size) for split, size in sizes.items()}
    return [
        replace(
            trained,
            predictions={
                split: _predictions(
                    split,
                    trained.predictions["test"].probabilities[images],
                    trained.predictions["test"].labels[images],
                )
                for split, images in at.items()
            },
        )
        for trained in world
    ]


def coverage(
    world: Sequence[TrainedStage], n: int, draws: int, seed: int = 0
) -> dict[str, Coverage]:
    """Return the coverage of each printed interval.

    Args:
        world: From `world_of`.
        n: Images on validation, and on test.
        draws: At least 2.
        seed: Of the draws.
    """
    held: dict[str, list[float]] = {}
    for draw in range(draws):
        stages = drawn(world, {"validation": n, "test": n}, np.random.default_rng([seed, n, draw]))
        of_this: dict[str, list[bool]] = {}
        for what, interval, truth in printed(stages, world):
            of_this.setdefault(what, []).append(interval.low <= truth <= interval.high)
        for what, each in of_this.items():
            held.setdefault(what, []).append(float(np.mean(each)))
    return {
        what: Coverage(float(np.mean(each)), float(np.std(each, ddof=1) / np.sqrt(len(each))))
        for what, each in held.items()
    }


def printed(
    stages: Sequence[TrainedStage], world: Sequence[TrainedStage]
) -> Iterator[tuple[str, Interval, float]]:
    """Yield what is printed of a study: what it is, its interval, and the truth."""
    for trained, truly in zip(stages, world, strict=True):
        told = accuracy_interval(trained.predictions["test"].correct)
        yield "accuracy of a stage on test", told, truly.predictions["test"].accuracy
    points = study_front(stages).points
    top = max(stages, key=lambda t: (t.predictions["validation"].accuracy, -t.stage.flops))
    target = top.predictions["validation"].accuracy
    chosen = [by_max_drop(points, loss, target) for loss in LOSSES]
    combinations = list(dict.fromkeys(point.cascade.stages for point in points))
    chosen += [knee(points), points[-1]]
    budgets = [point.validation.cost for point in chosen]
    expected = expected_accuracy(combinations, stages, budgets)
    for point, told in zip(chosen, expected, strict=True):
        cascade = point.cascade
        own, alone = cascade_outcomes([cascade, Cascade((top.stage,), ())], world, "test")
        accuracy, flops = own.evaluation.accuracy, own.evaluation.mean_flops
        yield "accuracy to expect of a choice, cross-validated", told, accuracy
        on_test = compare(cascade, top.stage, stages, "test")
        yield "accuracy of a cascade on test", on_test.accuracy, accuracy
        change = accuracy - alone.evaluation.accuracy
        yield "accuracy of a cascade minus a stage's on test", on_test.change, change
        yield "saving of a cascade on test", on_test.saving, top.stage.flops / flops
    known = {trained.stage: trained.predictions["validation"] for trained in stages}
    of_world = [
        replace(own, predictions={**own.predictions, "validation": known[own.stage]})
        for own in world
    ]
    gain, truth = _gain(points, stages, 500), _gain(points, of_world, 2)
    if gain is not None and truth is not None:
        yield "cascade gain", gain.mean, truth.mean.estimate
        half = "cascade gain, upper half of accuracies"
        yield half, gain.upper_half, truth.upper_half.estimate


def _gain(
    points: Sequence[OperatingPoint], stages: Sequence[TrainedStage], n_resamples: int
) -> MeanGain | None:
    found = cascade_gain(points, stages, n_resamples=n_resamples)
    return None if found is None else found.over_all


def _predictions(split: Split, p: NDArray[np.float32], labels: NDArray[np.int64]) -> Predictions:
    return Predictions(split, p, labels, tuple(map(str, range(len(labels)))))


def pool() -> list[TrainedStage]:
    """Return the world of the recorded pool of six."""
    return world_of([t for t in recorded(POOL) if t.stage.name in POOLS["pool of six"]])


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, help="for each size, instead of the default")
    arguments = parser.parse_args()
    world = pool()
    results = {}
    for n, draws in SIZES.items():
        found = coverage(world, n, arguments.draws or draws)
        results[f"{n} images"] = {"draws": arguments.draws or draws} | {
            what: {"coverage": round(one.share, 4), "standard_error": round(one.error, 4)}
            for what, one in found.items()
        }
        print(f"{n} validation and {n} test images, {arguments.draws or draws} draws")
        for what, one in found.items():
            print(f"  {what:50} {100 * one.share:5.1f} % ({100 * one.error:.1f})", flush=True)
    if arguments.draws is None:
        text = json.dumps(results, indent=1) + "\n"
        (RESULTS / "coverage.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
