"""What a study came to, as one file: the front with its test numbers, and what it rests on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Stage
from rcopt.core.cost import Amount
from rcopt.core.fronts import spread
from rcopt.errors import DAMAGE, InputError
from rcopt.files import sealed, unsealed, write_whole

#: How many points of a front are shown, made trials and given runs of their own.
SHOWN = 20

FORMAT = "rcopt-results-2"


@dataclass(frozen=True)
class StageSummary:
    """One stage of a study, as tables show it.

    Attributes:
        stage: Resolution, backbone, FLOPs.
        key: Content key, by which its predictions are found.
        macs: MACs of one image.
        parameters: Number of parameters.
        validation: Accuracy on validation.
        test: Accuracy on test.
        seconds: Training time.
        run_id: MLflow run.
    """

    stage: Stage
    key: str
    macs: int
    parameters: int
    validation: float
    test: float
    seconds: float
    run_id: str | None


@dataclass(frozen=True)
class Results:
    """What a study came to so far.

    Attributes:
        study: Its name.
        points: The whole front on validation, cheapest first, each with its test numbers.
        stages: The trained stages.
        reference: (accuracy, cost) of the hypervolumes.
        hypervolume: Of the front.
        sampled_hypervolume: Of what the sampler's own trials found.
        sampled: Number of sampled trials.
        exact: Whether the front is exact over all cascades and thresholds of the stages.
        split_sizes: Images by split.
        classes: Class names.
        experiment_id: MLflow's id of the study's experiment.
        timing: How the stages' times were measured; empty unless time is the cost.
    """

    study: str
    points: tuple[OperatingPoint, ...]
    stages: tuple[StageSummary, ...]
    reference: tuple[float, float]
    hypervolume: float
    sampled_hypervolume: float
    sampled: int
    exact: bool
    split_sizes: dict[str, int]
    classes: tuple[str, ...]
    experiment_id: str
    timing: str = ""


def well_spread(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Return about 20 well-spread points of a front, the ends among them."""
    chosen = spread(
        np.array([p.validation.accuracy for p in points]),
        np.array([p.validation.cost for p in points]),
        SHOWN,
    )
    return [points[i] for i in chosen.tolist()]


def save_results(path: Path, results: Results) -> None:
    """Write results as JSON with their digest; the file appears whole or stays as it was."""
    tree = {
        "format": FORMAT,
        "study": results.study,
        "reference": list(results.reference),
        "hypervolume": results.hypervolume,
        "sampled_hypervolume": results.sampled_hypervolume,
        "sampled": results.sampled,
        "exact": results.exact,
        "split_sizes": results.split_sizes,
        "classes": list(results.classes),
        "experiment_id": results.experiment_id,
        "timing": results.timing,
        "stages": [_stage_tree(stage) for stage in results.stages],
        "front": [_point_tree(point) for point in results.points],
    }
    write_whole(path, json.dumps(sealed(tree), indent=1).encode())


def load_results(path: Path) -> Results:
    """Read what `save_results` wrote.

    Raises:
        InputError: If the file is missing (the study has no result yet) or damaged.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["format"] != FORMAT:
            raise ValueError(f"format {tree['format']!r}, expected {FORMAT!r}")
        tree = unsealed(tree)
        return Results(
            study=str(tree["study"]),
            points=tuple(_point(entry) for entry in tree["front"]),
            stages=tuple(_summary(entry) for entry in tree["stages"]),
            reference=(float(tree["reference"][0]), float(tree["reference"][1])),
            hypervolume=float(tree["hypervolume"]),
            sampled_hypervolume=float(tree["sampled_hypervolume"]),
            sampled=int(tree["sampled"]),
            exact=bool(tree["exact"]),
            split_sizes={str(k): int(v) for k, v in tree["split_sizes"].items()},
            classes=tuple(str(name) for name in tree["classes"]),
            experiment_id=str(tree["experiment_id"]),
            timing=str(tree.get("timing", "")),
        )
    except FileNotFoundError:
        raise InputError(
            f"{path.parent.name}: no front yet; 'rcopt run' makes one as soon as a first "
            "cascade is evaluated"
        ) from None
    except (OSError, *DAMAGE) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path}: damaged results ({reason}); 'rcopt run' writes them again"
        ) from None


def _stage_tree(summary: StageSummary) -> dict[str, Any]:
    return {
        **summary.stage.to_dict(),
        "key": summary.key,
        "macs": summary.macs,
        "parameters": summary.parameters,
        "validation": summary.validation,
        "test": summary.test,
        "seconds": summary.seconds,
        "run_id": summary.run_id,
    }


def _summary(tree: dict[str, Any]) -> StageSummary:
    return StageSummary(
        stage=Stage.from_dict(tree),
        key=str(tree["key"]),
        macs=int(tree["macs"]),
        parameters=int(tree["parameters"]),
        validation=float(tree["validation"]),
        test=float(tree["test"]),
        seconds=float(tree["seconds"]),
        run_id=tree["run_id"],
    )


def _point_tree(point: OperatingPoint) -> dict[str, Any]:
    tree = point.to_dict()
    for split, evaluation in (("validation", point.validation), ("test", point.test)):
        if evaluation is not None:
            tree[split] |= {
                "reach_rates": list(evaluation.reach_rates),
                "deferral_rates": [r if r == r else None for r in evaluation.deferral_rates],
                "n_images": evaluation.n_images,
            }
    return tree


def _point(tree: dict[str, Any]) -> OperatingPoint:
    stages: Sequence[dict[str, Any]] = tree["stages"]
    validation = _evaluation(tree["validation"])
    if validation is None:
        raise ValueError("a point of the front has no validation numbers")
    return OperatingPoint(
        cascade=Cascade(
            tuple(Stage.from_dict(stage) for stage in stages),
            tuple(float(stage["threshold"]) for stage in stages[:-1]),
        ),
        validation=validation,
        test=_evaluation(tree["test"]),
        source="sampled" if tree["source"] == "sampled" else "exact",
        trial=tree["trial"],
        run_id=tree["run_id"],
    )


def _evaluation(tree: dict[str, Any] | None) -> Evaluation | None:
    if tree is None:
        return None
    return Evaluation(
        accuracy=float(tree["accuracy"]),
        mean_flops=float(tree["mean_flops"]),
        exit_rates=tuple(float(rate) for rate in tree["exit_rates"]),
        reach_rates=tuple(float(rate) for rate in tree["reach_rates"]),
        deferral_rates=tuple(
            float("nan") if rate is None else float(rate) for rate in tree["deferral_rates"]
        ),
        n_images=int(tree["n_images"]),
        minimized=Amount.from_json(tree, "mean_"),
    )
