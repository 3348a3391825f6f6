"""What the weighted log-average is worth over re-splits: ``python -m benchmarks.log_average``.

The held-out images of a pool of recorded stages are divided anew into validation and test, and
for each division the exact front is made on validation by each answer rule. A rule is worth the
test accuracy of the most accurate choice within each of 30 budgets, from the cheapest stage's
FLOPs to the most accurate stage's in equal ratios, averaged. Told are the difference to the
default rule, in how many divisions it is positive, and the FLOPs at which the choice reaches
the most accurate single stage's accuracy on validation, against those of the default rule.

Prints a table and writes results/log_average.json. Some minutes on 2 cores.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pools import POOL, recorded
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import OperatingPoint
from rcopt.core.outcomes import with_test
from rcopt.core.predictions import Predictions, Split
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage

RESULTS = Path(__file__).parent / "results"
BUDGETS = 30
RULES = {
    "default": AnswerRule(),
    "temperature": AnswerRule(temperature=True),
    "plain average": AnswerRule(average=True),
    "weighted": AnswerRule(weighted=True),
    "weighted, margin": AnswerRule("margin", weighted=True),
}
POOLS = {
    "four MobileNetV2": (
        "mobilenet_v2@32",
        "mobilenet_v2@64",
        "mobilenet_v2@96",
        "mobilenet_v2@160",
    ),
    "the report's three": ("resnet18@32", "resnet34@96", "resnet50@224"),
    "pool of six": (
        "mobilenet_v2@32",
        "mobilenet_v2@64",
        "mobilenet_v2@96",
        "mobilenet_v2@160",
        "resnet18@96",
        "resnet18@224",
    ),
}


@dataclass(frozen=True)
class Worth:
    """What one rule is worth on one division.

    Attributes:
        accuracy: Mean test accuracy over the budgets.
        flops: Mean FLOPs on test of the cheapest choice that is as accurate on validation as
            the most accurate single stage there.
    """

    accuracy: float
    flops: float


def divided(
    stages: Sequence[TrainedStage], seed: int, n_validation: int | None
) -> list[TrainedStage]:
    """Return the stages with their held-out images divided anew into validation and test."""
    splits = list(stages[0].predictions.values())
    n = sum(len(split) for split in splits)
    order = np.random.default_rng(seed).permutation(n)
    middle = n // 2 if n_validation is None else n_validation
    parts: dict[Split, Any] = {"validation": order[:middle], "test": order[middle:]}
    found = []
    for trained in stages:
        own = list(trained.predictions.values())
        p = np.concatenate([each.probabilities for each in own])
        labels = np.concatenate([each.labels for each in own])
        names = np.array([name for each in own for name in each.images], dtype=object)
        predictions = {
            split: Predictions(split, p[at], labels[at], tuple(names[at]))
            for split, at in parts.items()
        }
        found.append(replace(trained, predictions=predictions))
    return found


def worth(stages: Sequence[TrainedStage], rule: AnswerRule) -> Worth:
    """Return what a rule is worth where validation chooses and test tells."""
    points = with_test(study_front(stages, rule=rule).points, stages, rule)
    top = max(stages, key=lambda t: t.predictions["validation"].accuracy)
    budgets = np.geomspace(min(t.stage.flops for t in stages), top.stage.flops, BUDGETS)
    accurate = top.predictions["validation"].accuracy
    best = [[p for p in points if p.validation.mean_flops <= budget][-1] for budget in budgets]
    enough = [p for p in points if p.validation.accuracy >= accurate]
    return Worth(
        float(np.mean([tested(point).accuracy for point in best])), tested(enough[0]).mean_flops
    )


def tested(point: OperatingPoint) -> Any:
    """Return a point's test numbers."""
    if point.test is None:
        raise ValueError("point has no test numbers")
    return point.test


def compare(
    stages: Sequence[TrainedStage], divisions: int, n_validation: int | None = None
) -> dict[str, dict[str, float]]:
    """Return each rule's gain over the default one."""
    found: dict[str, list[Worth]] = {name: [] for name in RULES}
    for seed in range(divisions):
        anew = divided(stages, seed, n_validation)
        for name, rule in RULES.items():
            found[name].append(worth(anew, rule))
    base = found["default"]
    table = {}
    for name, values in found.items():
        gains = [own.accuracy - other.accuracy for own, other in zip(values, base, strict=True)]
        saved = [own.flops / other.flops for own, other in zip(values, base, strict=True)]
        table[name] = {
            "accuracy": round(float(np.mean([own.accuracy for own in values])), 5),
            "gain_points": round(100 * float(np.mean(gains)), 3),
            "gain_deviation": round(100 * float(np.std(gains, ddof=1)), 3),
            "better_share": round(float(np.mean([gain > 0 for gain in gains])), 3),
            "flops_ratio": round(float(np.exp(np.mean(np.log(saved)))), 4),
        }
    return table


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--divisions", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="the smallest pool alone")
    arguments = parser.parse_args()
    stages = {trained.stage.name: trained for trained in recorded(POOL)}
    results: dict[str, Any] = {"divisions": arguments.divisions, "pools": {}}
    wanted = dict(list(POOLS.items())[:1]) if arguments.quick else POOLS
    for pool, names in wanted.items():
        for n_validation in (None, 300):
            chosen = [stages[name] for name in names]
            table = compare(chosen, arguments.divisions, n_validation)
            results["pools"][f"{pool}, {n_validation or 'half'}"] = table
            print(f"{pool}, validation images: {n_validation or 'half of 3,925'}")
            for rule, row in table.items():
                print(
                    f"  {rule:18} {100 * row['accuracy']:.2f} %  {row['gain_points']:+.2f} "
                    f"(sd {row['gain_deviation']:.2f})  better in {row['better_share']:.0%}, "
                    f"FLOPs x {row['flops_ratio']:.3f}"
                )
    if not arguments.quick:
        text = json.dumps(results, indent=1) + "\n"
        (RESULTS / "log_average.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
