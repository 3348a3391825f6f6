"""What each ingredient of a cascade brings: ``python -m benchmarks.ingredients [FOLDER]``.

FOLDER holds stored stages, studies/imagenette-predictions by default. Of the front over every
threshold, depth and resolution one ingredient at a time is taken away or exchanged. Whatever is
compared was chosen on validation: the cheapest point as accurate as the top single stage, the
same at one point less, and the most accurate one at half of the top stage's FLOPs; the test images
say what these choices are worth. Intervals come from resamples of the test images, the same for
all; those of the headline choose afresh on resampled validation images, too.

Also told: how many stages a search trains to come near the whole pool's front, what an oracle that
knows which stage is right would gain, and the original report's analysis on the nearest stages.

Prints tables and writes results/ingredients.json. Half a minute.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from benchmarks.answers import Fronts, interval, on_test, resampled, signed, top_stage, volume
from benchmarks.ets2023.summary import print_reproduction, reproduction
from benchmarks.pools import POOL, Pool, recorded
from benchmarks.samplers import GOAL, ORDERS, SEEDS
from benchmarks.searches import search
from benchmarks.variants import Variant, variants
from rcopt.core.answering import split_predictions
from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.cascade import OperatingPoint
from rcopt.core.evaluating import evaluate
from rcopt.core.hypervolumes import hypervolume_share
from rcopt.core.statistics.baselines import oracle_front, random_exits
from rcopt.core.statistics.bootstrap import bootstrap
from rcopt.core.statistics.intervals import Interval
from rcopt.core.statistics.selection import by_max_drop, by_max_flops
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.study.samplers import SamplerName

RESULTS = Path(__file__).parent / "results"
#: Accuracy given up against the top stage.
LOSSES = (0.0, 0.01)
#: Of the top stage's FLOPs.
BUDGET = 0.5
RESAMPLES = 1_000
SAMPLERS: tuple[SamplerName, ...] = ("tpe", "random", "nsga2")
TRIALS = 200


@dataclass(frozen=True)
class Choice:
    """What one choice on validation is worth on test.

    Attributes:
        cascade: The choice.
        validation: Its accuracy there.
        accuracy: On test.
        times: The top stage's FLOPs over its mean FLOPs on test.
        change: Its test accuracy minus the top stage's.
    """

    cascade: str
    validation: float
    accuracy: float
    times: Interval
    change: Interval


@dataclass(frozen=True)
class Worth:
    """What one variant reaches.

    Attributes:
        name: The variant's.
        points: Of its front.
        validation: Hypervolume there, as a share of the area beyond the reference corner.
        test: That of the same points on test.
        difference: Test hypervolume minus that of the first variant, everything.
        losses: The choice at each of `LOSSES`.
        budget: The choice within `BUDGET`; None if nothing is so cheap.
    """

    name: str
    points: int
    validation: float
    test: float
    difference: Interval
    losses: tuple[Choice, ...]
    budget: Choice | None


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else POOL
    stages = recorded(folder)
    if not stages:
        sys.exit(f"no stored stages in {folder}")
    RESULTS.mkdir(exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng(0)
    top = top_stage(stages)
    costliest = max(stages, key=lambda one: one.stage.flops)
    found: dict[str, Any] = {
        "pool": folder.name,
        "images": {split: len(one) for split, one in top.predictions.items()},
        "stages": [
            {
                "stage": one.stage.name,
                "flops": one.stage.flops,
                "seconds": one.seconds,
                **{split: p.accuracy for split, p in one.predictions.items()},
            }
            for one in stages
        ],
        "top": top.stage.name,
        "resamples": RESAMPLES,
        "headline": headline(stages, top, rng, resamples=RESAMPLES),
        "costliest": costliest.stage.name,
        "against_costliest": headline(stages, costliest, rng, resamples=RESAMPLES),
        "oracle": oracle(stages),
        "stages_to_goal": stages_to_goal(Pool(stages), seeds=SEEDS),
        "original": reproduction(stages),
    }
    worth = measure(list(variants(stages)), stages, rng, resamples=RESAMPLES)
    lines = ",\n".join(json.dumps(asdict(one)) for one in worth)
    (RESULTS / "ingredients.json").write_text(
        f'{json.dumps(found)[:-1]},\n"variants": [\n{lines}\n]}}\n'
    )
    print_headline(found)
    print_table(worth)
    if found["original"]:
        print_reproduction(found["original"])


def headline(
    stages: Sequence[TrainedStage],
    against: TrainedStage,
    rng: np.random.Generator,
    *,
    resamples: int,
) -> list[dict[str, Any]]:
    """Return what is saved against a stage at each of `LOSSES`, with the choice's cascade.

    In each resample the choice is made afresh.
    """
    front = study_front(stages)
    distinct = list(dict.fromkeys(point.cascade.stages for point in front))
    drawn = bootstrap(distinct, stages, against.stage, rng, n_resamples=resamples, losses=LOSSES)
    alone = study_front([against]).points[0]
    return [
        {
            "cascade": str(
                by_max_drop([alone, *front.points], saving.loss, alone.validation.accuracy).cascade
            ),
            **asdict(saving),
        }
        for saving in drawn.savings
    ]


def measure(
    chosen: Sequence[Variant],
    stages: Sequence[TrainedStage],
    rng: np.random.Generator,
    *,
    resamples: int,
) -> tuple[Worth, ...]:
    """Measure variants against the first of them.

    Args:
        chosen: With fronts of these stages.
        stages: With predictions on validation and test.
        rng: Where the resamples of the test images come from.
        resamples: How many.
    """
    frame = Pool(stages).frame
    top = top_stage(stages)
    alone = study_front([top]).points[0]
    top_right = top.predictions["test"].correct
    draws = resampled(len(top_right), rng, resamples)
    found: list[Worth] = []
    first: NDArray[np.float64] | None = None
    for variant in chosen:
        # The top stage is there whatever else is: what saves nothing costs nothing either.
        fronts = on_test((*variant.points, alone), stages, variant.rule)
        right = _random(fronts, stages) if variant.random else fronts.right
        accuracy, cost = right @ draws.T, fronts.flops @ draws.T
        volumes = [hypervolume_share(*one, frame) for one in zip(accuracy.T, cost.T, strict=True)]
        drawn = np.array(volumes)
        first = drawn if first is None else first

        def choice(
            point: OperatingPoint,
            fronts: Fronts = fronts,
            accuracy: NDArray[np.float64] = accuracy,
            cost: NDArray[np.float64] = cost,
        ) -> Choice:
            at = fronts.points.index(point)
            return Choice(
                str(point.cascade),
                point.validation.accuracy,
                float(accuracy[at, 0]),
                interval(top.stage.flops / cost[at]),
                interval(accuracy[at] - draws @ top_right),
            )

        cheap = min(point.validation.mean_flops for point in fronts.points)
        budget = BUDGET * top.stage.flops
        found.append(
            Worth(
                name=variant.name,
                points=len(variant.points),
                validation=volume(variant.points, frame),
                test=float(drawn[0]),
                difference=interval(drawn - first),
                losses=tuple(
                    choice(by_max_drop(fronts.points, loss, alone.validation.accuracy))
                    for loss in LOSSES
                ),
                budget=choice(by_max_flops(fronts.points, budget)) if cheap <= budget else None,
            )
        )
    return tuple(found)


def oracle(stages: Sequence[TrainedStage]) -> list[dict[str, Any]]:
    """Return for each of `LOSSES` what knowing the right stage would gain on test.

    ``times_at_accuracy``: how many times fewer FLOPs than the choice the oracle on the same
    stages needs for the same accuracy; ``accuracy_at_flops``: what it reaches for the same FLOPs.
    """
    front, top = study_front(stages), top_stage(stages)
    found = []
    for loss in LOSSES:
        alone = study_front([top]).points[0]
        point = by_max_drop([alone, *front.points], loss, alone.validation.accuracy)
        parts = point.cascade.stages
        predictions = split_predictions(stages, "test", set(parts))
        answers = stage_answers(
            [predictions[part] for part in parts], AnswerRule(), [1.0] * len(parts)
        )
        flops = [part.flops for part in parts]
        own = evaluate(answers.confidence, answers.correct, flops, point.cascade.thresholds)
        best = oracle_front(answers.correct, flops)
        enough = best.mean_flops[best.accuracy >= own.accuracy - 1e-12]
        affordable = best.accuracy[best.mean_flops <= own.mean_flops]
        found.append(
            {
                "loss": loss,
                "cascade": str(point.cascade),
                "accuracy": own.accuracy,
                "mean_flops": own.mean_flops,
                "random_accuracy": random_exits(own, answers.correct).accuracy,
                "times_at_accuracy": own.mean_flops / float(enough[0]),
                "accuracy_at_flops": float(affordable[-1]),
                "accuracy_at_most": float(best.accuracy[-1]),
            }
        )
    return found


def stages_to_goal(pool: Pool, *, seeds: int) -> dict[str, list[int]]:
    """Return how many stages are trained until `GOAL` of the pool's hypervolume is reached.

    For each sampler (deferral rates proposed, the exact front told) by seed, and for each fixed
    order once.
    """
    found = {name: [_first(pool.shares(order(pool)))] for name, order in ORDERS.items()}
    for sampler in SAMPLERS:
        orders = [
            search(pool, sampler, "deferral_rate", seed=seed, trials=TRIALS, told=True).order
            for seed in range(seeds)
        ]
        found[sampler] = [_first(pool.shares(order)) for order in orders]
    return {"all": [len(pool.stages)], **found}


def print_headline(found: dict[str, Any]) -> None:
    print(f"{found['pool']}: {len(found['stages'])} stages, images {found['images']}")
    for one in found["stages"]:
        print(
            f"  {one['stage']:18} {one['flops'] / 1e6:8.1f} MFLOPs  validation "
            f"{100 * one['validation']:.2f}  test {100 * one['test']:.2f}  {one['seconds']:.0f} s"
        )
    print(f"against {found['top']}, chosen on validation, on test:")
    for saving, knowing in zip(found["headline"], found["oracle"], strict=True):
        times, change = Interval(**saving["times"]), Interval(**saving["change"])
        print(
            f"  {100 * saving['loss']:g} points less: {_times(times)} fewer FLOPs, accuracy "
            f"{signed(change)}; {knowing['cascade']}"
        )
        print(
            f"    {100 * knowing['accuracy']:.2f} %; random exits "
            f"{100 * knowing['random_accuracy']:.2f} %; an oracle "
            f"{100 * knowing['accuracy_at_flops']:.2f} % for the same FLOPs, or the same accuracy "
            f"for {knowing['times_at_accuracy']:.2f}x fewer"
        )
    if found["costliest"] != found["top"]:
        print(f"against {found['costliest']}, the costliest:")
        for saving in found["against_costliest"]:
            times, change = Interval(**saving["times"]), Interval(**saving["change"])
            print(
                f"  {100 * saving['loss']:g} points less: {_times(times)} fewer FLOPs, accuracy "
                f"{signed(change)}; {saving['cascade']}"
            )
    print("stages trained to 99 % of the hypervolume, median (each seed):")
    for name, counts in found["stages_to_goal"].items():
        print(f"  {name}: {np.median(counts):g} ({', '.join(map(str, counts))})")


def print_table(found: Sequence[Worth]) -> None:
    losses = [f"{100 * loss:g} points less: fewer FLOPs (change)" for loss in LOSSES]
    rows = [["", "points", "validation", "test", "against everything", *losses, "half the FLOPs"]]
    rows += [
        [
            one.name,
            str(one.points),
            f"{100 * one.validation:.2f}",
            f"{100 * one.test:.2f}",
            signed(one.difference),
            *(f"{_times(c.times)} ({100 * c.change.estimate:+.2f})" for c in one.losses),
            "-" if one.budget is None else signed(one.budget.change),
        ]
        for one in found
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def _random(fronts: Fronts, stages: Sequence[TrainedStage]) -> NDArray[np.float64]:
    """Return (P, N) each image's chance to be right if as many left at each stage by chance."""
    rows = []
    for point, flops in zip(fronts.points, fronts.flops, strict=True):
        parts = point.cascade.stages
        predictions = split_predictions(stages, "test", set(parts))
        spent = np.cumsum([part.flops for part in parts])
        rates = np.array([(flops == cost).mean() for cost in spent])
        rows.append(rates @ np.array([predictions[part].correct for part in parts]))
    return np.array(rows)


def _first(shares: NDArray[np.float64]) -> int:
    return int((shares >= GOAL).argmax()) + 1


def _times(found: Interval) -> str:
    return f"{found.estimate:.2f}x ({found.low:.2f} to {found.high:.2f})"


if __name__ == "__main__":
    main()
