"""What each answer rule is worth on real predictions: ``python -m benchmarks.answers``.

For every confidence, with and without temperatures and averaging, and for weighted
log-averages, the exact front of the recorded stages is made on validation; its points are then
evaluated on test. Hypervolumes are
shares of the area above the cheapest stage's accuracy, in log FLOPs from that stage to the most
accurate one. Differences from the default rule carry a bootstrap interval over the test
images (the same images for both rules; what was chosen on validation stays as it is).

Prints a table and writes results/answers.json. Under a minute.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.pools import Pool, recorded
from rcopt.core.answering import Answering
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import OperatingPoint
from rcopt.core.confidences import Confidence
from rcopt.core.evaluating import exits
from rcopt.core.hypervolumes import Frame, hypervolume_share
from rcopt.core.statistics.intervals import Interval
from rcopt.core.statistics.selection import by_max_flops, by_min_accuracy
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage

RESULTS = Path(__file__).parent / "results"
RULES = tuple(
    AnswerRule(confidence, temperature, average)
    for average, temperature, confidence in product(
        (False, True), (False, True), get_args(Confidence)
    )
) + tuple(AnswerRule(confidence, weighted=True) for confidence in get_args(Confidence))
#: Mean FLOPs that the choice may cost on validation, as shares of the top stage's.
BUDGETS = (1.0, 0.5, 0.25)
STEPS = 40
RESAMPLES = 1_000
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Fronts:
    """One rule's front as picked on validation, image by image on test.

    Attributes:
        points: P operating points, cheapest first.
        right: (P, N) whether each test image is answered rightly.
        flops: (P, N) FLOPs spent on each test image.
    """

    points: tuple[OperatingPoint, ...]
    right: NDArray[np.bool_]
    flops: NDArray[np.float64]


@dataclass(frozen=True)
class Worth:
    """What one rule brings.

    Attributes:
        rule: Which one.
        points: Number of points of its front.
        validation: Hypervolume of the front on validation, as a share of the whole area.
        test: Hypervolume of the same points on test.
        difference: Its test hypervolume minus the default rule's.
        mean_accuracy: Test accuracy of the choice on validation, on average over `STEPS` budgets
            in equal ratios from the cheapest stage's FLOPs to the top stage's. Unlike a
            hypervolume it has no gain from chance among the front's points.
        mean_difference: That minus the default rule's.
        accuracies: For each of `BUDGETS` the test accuracy of the choice on validation.
        differences: For each of them minus the default rule's.
        times: FLOPs of the top stage over the mean FLOPs on test of the cheapest choice that
            is as accurate as it on validation.
        change: Test accuracy of that choice minus the top stage's.
    """

    rule: AnswerRule
    points: int
    validation: float
    test: float
    difference: Interval
    mean_accuracy: float
    mean_difference: Interval
    accuracies: tuple[float, ...]
    differences: tuple[Interval, ...]
    times: float
    change: float


@dataclass(frozen=True, eq=False)
class _Drawn:
    """One rule's test numbers, first on all test images, then on each resample (B in all).

    Attributes:
        volumes: (B,) hypervolume.
        mean: (B,) accuracy over all budgets.
        within: (len(BUDGETS), B) accuracy.
    """

    volumes: NDArray[np.float64]
    mean: NDArray[np.float64]
    within: NDArray[np.float64]


def main() -> None:
    stages = recorded()
    if not stages:
        sys.exit("no recorded stages in studies/imagenette-small-predictions")
    RESULTS.mkdir(exist_ok=True)
    found = worth(stages, np.random.default_rng(0), resamples=RESAMPLES)
    sizes = {split: len(one) for split, one in stages[0].predictions.items()}
    head: dict[str, Any] = {
        "images": sizes,
        "stages": [
            {
                "stage": one.stage.name,
                "flops": one.stage.flops,
                **{split: p.accuracy for split, p in one.predictions.items()},
            }
            for one in stages
        ],
        "top": top_stage(stages).stage.name,
        "budgets": BUDGETS,
        "resamples": RESAMPLES,
    }
    lines = ",\n".join(json.dumps(asdict(one)) for one in found)
    text = f'{json.dumps(head)[:-1]},\n"rules": [\n{lines}\n]}}\n'
    (RESULTS / "answers.json").write_text(text)
    print(f"{len(stages)} stages, images {sizes}, top stage {head['top']}")
    print_table(found)


def worth(
    stages: Sequence[TrainedStage], rng: np.random.Generator, *, resamples: int
) -> tuple[Worth, ...]:
    """Measure every rule of `RULES` against the first, the default.

    Args:
        stages: With predictions on validation and test.
        rng: Where the resamples of the test images come from.
        resamples: How many.
    """
    frame = Pool(stages).frame
    top = top_stage(stages)
    validation_accuracy = top.predictions["validation"].accuracy
    test_accuracy = top.predictions["test"].accuracy
    draws = resampled(len(top.predictions["test"]), rng, resamples)
    cheapest = min(one.stage.flops for one in stages)
    everywhere = np.geomspace(cheapest, top.stage.flops, STEPS)
    default: _Drawn | None = None
    found = []
    for rule in RULES:
        fronts = fronts_of(stages, rule)
        accuracy, cost = fronts.right @ draws.T, fronts.flops @ draws.T
        volumes = [hypervolume_share(*one, frame) for one in zip(accuracy.T, cost.T, strict=True)]
        chosen = [within(fronts.points, share * top.stage.flops) for share in BUDGETS]
        drawn = _Drawn(
            volumes=np.array(volumes),
            mean=accuracy[[within(fronts.points, budget) for budget in everywhere]].mean(axis=0),
            within=accuracy[chosen],
        )
        default = default or drawn
        equal = fronts.points.index(by_min_accuracy(fronts.points, validation_accuracy))
        found.append(
            Worth(
                rule=rule,
                points=len(fronts.points),
                validation=volume(fronts.points, frame),
                test=float(drawn.volumes[0]),
                difference=interval(drawn.volumes - default.volumes),
                mean_accuracy=float(drawn.mean[0]),
                mean_difference=interval(drawn.mean - default.mean),
                accuracies=tuple(drawn.within[:, 0].tolist()),
                differences=tuple(map(interval, drawn.within - default.within)),
                times=float(top.stage.flops / cost[equal, 0]),
                change=float(accuracy[equal, 0]) - test_accuracy,
            )
        )
    return tuple(found)


def fronts_of(stages: Sequence[TrainedStage], rule: AnswerRule) -> Fronts:
    """Return a rule's exact front on validation and what its points do on test."""
    return on_test(study_front(stages, rule=rule).points, stages, rule)


def resampled(n_images: int, rng: np.random.Generator, resamples: int) -> NDArray[np.float64]:
    """Return (1 + resamples, n_images) weights of images: as they are, then as bootstraps draw."""
    alike = np.full(n_images, 1 / n_images)
    return np.vstack([alike, rng.multinomial(n_images, alike, size=resamples) / n_images])


def on_test(
    points: tuple[OperatingPoint, ...], stages: Sequence[TrainedStage], rule: AnswerRule
) -> Fronts:
    """Return what points that were picked on validation do on each test image."""
    answers_of = Answering(stages, "test", rule)
    right, flops = [], []
    for point in points:
        answers = answers_of(point.cascade.stages)
        level = exits(answers.confidence, point.cascade.thresholds)
        right.append(answers.correct[level, np.arange(len(level))])
        flops.append(np.cumsum([stage.flops for stage in point.cascade.stages])[level])
    return Fronts(points, np.array(right), np.array(flops))


def top_stage(stages: Sequence[TrainedStage]) -> TrainedStage:
    """Return the stage that is most accurate on validation."""
    return max(stages, key=lambda one: one.predictions["validation"].accuracy)


def print_table(found: Sequence[Worth]) -> None:
    budgets = [f"at {share:g} of top's FLOPs" for share in BUDGETS]
    head = ["rule", "points", "validation", "test", "against default", "mean accuracy", *budgets]
    rows = [[*head, "fewer FLOPs at top's accuracy (change)"]]
    rows += [
        [
            name(one.rule),
            str(one.points),
            f"{100 * one.validation:.2f}",
            f"{100 * one.test:.2f}",
            signed(one.difference),
            f"{100 * one.mean_accuracy:.2f} {signed(one.mean_difference)}",
            *(
                f"{100 * value:.2f} {signed(difference)}"
                for value, difference in zip(one.accuracies, one.differences, strict=True)
            ),
            f"{one.times:.2f} x ({100 * one.change:+.2f})",
        ]
        for one in found
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def name(rule: AnswerRule) -> str:
    parts = [rule.confidence, rule.temperature and "temperature", rule.average and "average"]
    parts.append(rule.weighted and "weighted")
    return ", ".join(part for part in parts if part)


def within(points: Sequence[OperatingPoint], budget: float) -> int:
    return points.index(by_max_flops(points, budget))


def volume(points: Sequence[OperatingPoint], frame: Frame) -> float:
    accuracy = np.array([point.validation.accuracy for point in points])
    flops = np.array([point.validation.mean_flops for point in points])
    return hypervolume_share(accuracy, flops, frame)


def interval(values: NDArray[np.float64]) -> Interval:
    """Return the first value with the percentile interval of the others."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values[0]), float(low), float(high), LEVEL)


def signed(interval: Interval) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.estimate:+.2f} ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    main()
