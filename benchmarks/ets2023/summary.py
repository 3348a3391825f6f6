"""The original report's experiment on the nearest stages of a pool, next to its own numbers."""

from collections.abc import Sequence
from typing import Any, get_args

from benchmarks.ets2023.printed import ORIGINAL, Method
from benchmarks.ets2023.reproduction import Analysis, CostModel, nearest_stages, reproduce
from rcopt.core.trained_stage import TrainedStage


def reproduction(
    stages: Sequence[TrainedStage], chosen: Sequence[TrainedStage] | None = None
) -> dict[str, Any]:
    """Return the analysis under both cost models, and the report's own figures, as JSON.

    Empty if there are no three stages to do it with.
    """
    chosen = chosen or nearest_stages(stages)
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
