"""The original report's experiment on the nearest stages of a pool, next to its own numbers."""

from collections.abc import Sequence
from typing import Any, get_args

from rcopt.original_report import ORIGINAL, Method
from rcopt.pool import TrainedStage
from rcopt.report_data import ORIGINAL_STAGES
from rcopt.reproduction import Analysis, CostModel, reproduce


def nearest(stages: Sequence[TrainedStage]) -> tuple[TrainedStage, ...]:
    """Return the report's three stages, or those that come nearest to their part.

    These are the ResNets most accurate on validation at the lowest, the middle and the highest
    resolution; nothing if there are fewer than three.
    """
    named = {trained.stage.name: trained for trained in stages}
    if all(name in named for name in ORIGINAL_STAGES):
        return tuple(named[name] for name in ORIGINAL_STAGES)
    best: dict[int, TrainedStage] = {}
    for trained in stages:
        side = trained.stage.resolution
        if trained.stage.backbone.startswith("resnet") and (
            side not in best or _accuracy(trained) > _accuracy(best[side])
        ):
            best[side] = trained
    sides = sorted(best)
    if len(sides) < 3:
        return ()
    return tuple(best[side] for side in (sides[0], sides[(len(sides) - 1) // 2], sides[-1]))


def reproduction(stages: Sequence[TrainedStage]) -> dict[str, Any]:
    """Return the analysis under both cost models, and the report's own figures, as JSON.

    Empty if there are no three stages to do it with.
    """
    chosen = nearest(stages)
    if not chosen:
        return {}
    return {
        "stages": [trained.stage.name for trained in chosen],
        "report": {
            "claims": [
                {"reference": claim.reference, "times": list(claim.times)}
                for claim in ORIGINAL.claims
            ],
            "best_accuracy": {k: list(v) for k, v in ORIGINAL.best_accuracy.items()},
        },
        **{model: _plain(reproduce(chosen, model, pool=stages)) for model in get_args(CostModel)},
    }


def print_reproduction(found: dict[str, Any]) -> None:
    """Print what `reproduction` returned."""
    print(f"\nthe original report's analysis with {' > '.join(found['stages'])}")
    for model in get_args(CostModel):
        print(f"cost: {model}")
        for row in found[model]["table"]:
            print(
                f"  {row['stage']:14} cost {row['cost']:.4g} ({100 * row['share']:.1f} % of the "
                f"top's), validation {100 * row['accuracy']:.2f}, test {100 * row['test']:.2f}"
            )
        for method, (accuracy, test) in found[model]["best_accuracy"].items():
            print(f"  best by {method}: {100 * accuracy:.2f}, on test {100 * test:.2f}")
        for claim in found[model]["claims"]:
            print(
                f"  against {claim['reference']}, {100 * claim['drop']:g} points less, "
                f"{claim['method']}: {claim['times']:.2f}x; on test {claim['test_times']:.2f}x, "
                f"accuracy {100 * claim['test_change']:+.2f}"
            )


def _plain(analysis: Analysis) -> dict[str, Any]:
    top = max(analysis.costs)
    best: dict[Method, tuple[float, float]] = {
        method: (float(curve.accuracy.max()), float(curve.test_accuracy.max()))
        for method, curve in analysis.curves.items()
    }
    return {
        "table": [
            {
                "stage": f"{row.backbone}@{row.resolution}",
                "cost": row.cost,
                "share": row.cost / top,
                "accuracy": row.accuracy,
                "test": row.test_accuracy,
            }
            for row in analysis.table
        ],
        "best_accuracy": best,
        "claims": [
            {
                "reference": claim.reference,
                "drop": claim.drop,
                "method": claim.method,
                "times": claim.times,
                "test_times": claim.test_times,
                "test_change": claim.test_change,
            }
            for claim in analysis.claims
        ],
    }


def _accuracy(trained: TrainedStage) -> float:
    return trained.predictions["validation"].accuracy
