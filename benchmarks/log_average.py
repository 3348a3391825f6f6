"""What the weighted log-average is worth over re-splits: ``python -m benchmarks.log_average``.

The held-out images of a pool of recorded stages are divided anew into validation and test, and
for each division the exact front is made on validation by each answer rule. A rule is worth the
test accuracy of the most accurate choice within each of 30 budgets, from the cheapest stage's
FLOPs to the most accurate stage's in equal ratios, averaged. Told are the difference to the
default rule, in how many divisions it is positive, and the FLOPs at which the choice reaches
the most accurate single stage's accuracy on validation, against those of the default rule.

Beside it stands learned deferral: a stage's confidence is the probability that it is right, as a
logistic regression or boosted trees say from its sorted log-probabilities and its class, fitted on
validation and cross-fitted there; the answers stay. And what oracle exits reach on the same
cascades, at the same budgets: each image is answered by the first stage that is right.

Prints a table and writes results/log_average.json. 15 minutes of one core.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.pools import POOL, recorded
from rcopt.core.answering import Answering
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import OperatingPoint
from rcopt.core.outcomes import with_test
from rcopt.core.predictions import Predictions, Split
from rcopt.core.statistics.baselines import oracle_front
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
LEARNED = {
    "learned, logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(C=0.1)),
    "learned, boosted": lambda: HistGradientBoostingClassifier(max_iter=40, max_depth=3),
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


def learned(stages: Sequence[TrainedStage], make: Callable[[], Any]) -> list[TrainedStage]:
    """Return stages that give their answer the probability of being right that is learned."""
    found = []
    for trained in stages:
        own, new = trained.predictions["validation"], trained.predictions["test"]
        fold = np.random.default_rng(0).permutation(np.arange(len(own)) % 5)
        sure = np.empty(len(own))
        for part in range(5):
            model = make().fit(features(own)[fold != part], own.correct[fold != part])
            sure[fold == part] = model.predict_proba(features(own)[fold == part])[:, 1]
        on_test = make().fit(features(own), own.correct).predict_proba(features(new))[:, 1]
        predictions: dict[Split, Predictions] = {
            "validation": restated(own, sure),
            "test": restated(new, on_test),
        }
        found.append(replace(trained, predictions=predictions))
    return found


def features(own: Predictions) -> NDArray[np.float64]:
    """Return (N, 4 + C) log-probabilities of the four best classes and which one is best."""
    logs = np.log(np.maximum(own.probabilities, 1e-12, dtype=np.float64))
    best = np.sort(logs, axis=1)[:, :-5:-1]
    classes = np.eye(logs.shape[1])[own.probabilities.argmax(axis=1)]
    return np.hstack([best, classes])


def restated(own: Predictions, confidence: NDArray[np.float64]) -> Predictions:
    """Return predictions of the same classes whose largest probability is the confidence."""
    n, classes = own.probabilities.shape
    top = np.clip(confidence, 1 / classes + 1e-3, 1.0)
    p = np.repeat(((1 - top) / (classes - 1))[:, None], classes, axis=1)
    p[np.arange(n), own.probabilities.argmax(axis=1)] = top
    return replace(own, probabilities=p.astype(np.float32))


def oracle(stages: Sequence[TrainedStage]) -> float:
    """Return the mean test accuracy of the default's choices if their exits were the oracle's.

    At the same stages and no more FLOPs: of the images that a stage is wrong about and a later
    one is right, those that cost least go on.
    """
    points = study_front(stages).points
    answers_of = Answering(stages, "test", AnswerRule())
    tested_points = with_test(points, stages)
    reached = []
    for budget in budgets_of(stages):
        point = [p for p in tested_points if p.validation.mean_flops <= budget][-1]
        chain = point.cascade.stages
        front = oracle_front(answers_of(chain).correct, [stage.flops for stage in chain])
        within = front.mean_flops <= tested(point).mean_flops
        reached.append(float(front.accuracy[within].max(initial=0.0)))
    return float(np.mean(reached))


def budgets_of(stages: Sequence[TrainedStage]) -> NDArray[np.float64]:
    """Return the budgets, from the cheapest stage's FLOPs to the most accurate one's."""
    top = max(stages, key=lambda t: t.predictions["validation"].accuracy)
    return np.geomspace(min(t.stage.flops for t in stages), top.stage.flops, BUDGETS)


def worth(stages: Sequence[TrainedStage], rule: AnswerRule) -> Worth:
    """Return what a rule is worth where validation chooses and test tells."""
    points = with_test(study_front(stages, rule=rule).points, stages, rule)
    top = max(stages, key=lambda t: t.predictions["validation"].accuracy)
    budgets = budgets_of(stages)
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
    found: dict[str, list[Worth]] = {name: [] for name in (*RULES, *LEARNED)}
    bounds = []
    for seed in range(divisions):
        anew = divided(stages, seed, n_validation)
        for name, rule in RULES.items():
            found[name].append(worth(anew, rule))
        for name, make in LEARNED.items():
            found[name].append(worth(learned(anew, make), AnswerRule()))
        bounds.append(oracle(anew))
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
    default = [own.accuracy for own in base]
    table["oracle exits"] = {
        "accuracy": round(float(np.mean(bounds)), 5),
        "gain_points": round(100 * float(np.mean(np.array(bounds) - default)), 3),
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
                print(f"  {rule:18}", ", ".join(f"{key} {value}" for key, value in row.items()))
    if not arguments.quick:
        text = json.dumps(results, indent=1) + "\n"
        (RESULTS / "log_average.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
