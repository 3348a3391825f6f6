"""What a study came to, as one file: the front with its test numbers, and what it rests on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Stage
from rcopt.core.cost import Amount
from rcopt.core.fronts import non_dominated, spread
from rcopt.core.hypervolumes import Frame, frame_of, hypervolume_share
from rcopt.core.outcomes import with_test
from rcopt.core.statistics.cascade_gain import MeanGain, cascade_gain
from rcopt.core.study_front import StudyFront
from rcopt.core.trained_stage import TrainedStage
from rcopt.errors import DAMAGE, InputError, WorkError
from rcopt.files import sealed, unsealed, write_whole
from rcopt.study.data_summary import DataSummary
from rcopt.study.file import Study

#: How many points of a front are shown, made trials and given runs of their own.
SHOWN = 20

FORMAT = "rcopt-results-3"
#: Its hypervolumes were no shares.
OLD_FORMAT = "rcopt-results-2"


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
        frame: What the hypervolumes are shares of.
        hypervolume: Of the front.
        sampled_hypervolume: Of what the sampler's own trials found; None in results of before
            hypervolumes were shares.
        sampled: Number of sampled trials.
        exact: Whether the front is exact over all cascades and thresholds of the stages.
        split_sizes: Images by split.
        classes: Class names.
        experiment_id: MLflow's id of the study's experiment.
        timing: How the stages' times were measured; empty unless time is the cost.
        gain: What cascading brings; None where single stages cannot be mixed.
        notes: What a person should know of the data.
    """

    study: str
    points: tuple[OperatingPoint, ...]
    stages: tuple[StageSummary, ...]
    frame: Frame
    hypervolume: float
    sampled_hypervolume: float | None
    sampled: int
    exact: bool
    split_sizes: dict[str, int]
    classes: tuple[str, ...]
    experiment_id: str
    timing: str = ""
    gain: MeanGain | None = None
    notes: tuple[str, ...] = ()


def well_spread(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Return about 20 well-spread points of a front, the ends among them."""
    chosen = spread(
        np.array([p.validation.accuracy for p in points]),
        np.array([p.validation.cost for p in points]),
        SHOWN,
    )
    return [points[i] for i in chosen.tolist()]


def build_results(
    study: Study,
    data: DataSummary,
    stages: Sequence[TrainedStage],
    front: StudyFront,
    trials: Sequence[OperatingPoint],
    *,
    rule: AnswerRule,
    experiment_id: str,
    timing: str,
) -> Results:
    """Return what a study came to so far, its front with test numbers.

    Args:
        study: The study file.
        data: What the numbers are measured on.
        stages: The trained stages that are known here.
        front: The exact front over them.
        trials: All of the study's; those of stages that are not known here are left out, for
            whoever trained them writes them.
        rule: How probabilities become answers.
        experiment_id: MLflow's id of the study's experiment.
        timing: How the stages' times were measured.

    Raises:
        WorkError: If nothing was evaluated.
    """
    known = {trained.stage for trained in stages}
    trials = [point for point in trials if known.issuperset(point.cascade.stages)]
    if not trials:
        raise WorkError("no cascade could be evaluated")
    # Of equal points the one with fewer stages wins, then the trial: a stage that answers
    # nothing on validation would only be carried along.
    everything = sorted([*trials, *front.points], key=lambda p: len(p.cascade.stages))
    accuracy, cost = numbers(everything)
    kept = np.flatnonzero(non_dominated(accuracy, cost))
    points = with_test([everything[i] for i in kept[np.argsort(cost[kept])]], stages, rule)
    sampled = [p for p in trials if p.source == "sampled"]
    gain = cascade_gain(points, stages, rule)
    frame = frame_of(
        [trained.predictions["validation"].accuracy for trained in stages],
        [trained.stage.cost for trained in stages],
    )
    return Results(
        study=study.name,
        points=points,
        stages=tuple(
            _summarized(trained)
            for trained in sorted(stages, key=lambda t: (t.stage.resolution, t.stage.flops))
        ),
        frame=frame,
        hypervolume=hypervolume_share(*numbers(points), frame),
        sampled_hypervolume=hypervolume_share(*numbers(sampled), frame),
        sampled=len(sampled),
        exact=study.settings.search.exact and front.exact and front.complete,
        split_sizes=dict(data.split_sizes),
        classes=data.classes,
        experiment_id=experiment_id,
        timing=timing,
        gain=None if gain is None else gain.over_all,
        notes=data.notes,
    )


def numbers(points: Sequence[OperatingPoint]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return accuracies and costs on validation."""
    return (
        np.array([p.validation.accuracy for p in points], dtype=np.float64),
        np.array([p.validation.cost for p in points], dtype=np.float64),
    )


def _summarized(trained: TrainedStage) -> StageSummary:
    return StageSummary(
        stage=trained.stage,
        key=trained.key,
        macs=trained.macs,
        parameters=trained.parameters,
        validation=trained.predictions["validation"].accuracy,
        test=trained.predictions["test"].accuracy,
        seconds=trained.seconds,
        run_id=trained.run_id,
    )


def save_results(path: Path, results: Results) -> None:
    """Write results as JSON with their digest; the file appears whole or stays as it was."""
    tree = {
        "format": FORMAT,
        "study": results.study,
        "frame": results.frame._asdict(),
        "hypervolume": results.hypervolume,
        "sampled_hypervolume": results.sampled_hypervolume,
        "sampled": results.sampled,
        "exact": results.exact,
        "split_sizes": results.split_sizes,
        "classes": list(results.classes),
        "experiment_id": results.experiment_id,
        "timing": results.timing,
        "cascade_gain": None if results.gain is None else results.gain.to_dict(),
        **({"notes": list(results.notes)} if results.notes else {}),
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
        if tree["format"] not in (FORMAT, OLD_FORMAT):
            raise ValueError(f"format {tree['format']!r}, expected {FORMAT!r}")
        tree = unsealed(tree)
        points = tuple(_point(entry) for entry in tree["front"])
        stages = tuple(_summary(entry) for entry in tree["stages"])
        if tree["format"] == FORMAT:
            frame = Frame(**{name: float(value) for name, value in tree["frame"].items()})
            volume, sampled = float(tree["hypervolume"]), tree["sampled_hypervolume"]
        else:
            frame = frame_of([s.validation for s in stages], [s.stage.cost for s in stages])
            volume, sampled = hypervolume_share(*numbers(points), frame), None
        return Results(
            study=str(tree["study"]),
            points=points,
            stages=stages,
            frame=frame,
            hypervolume=volume,
            sampled_hypervolume=None if sampled is None else float(sampled),
            sampled=int(tree["sampled"]),
            exact=bool(tree["exact"]),
            split_sizes={str(k): int(v) for k, v in tree["split_sizes"].items()},
            classes=tuple(str(name) for name in tree["classes"]),
            experiment_id=str(tree["experiment_id"]),
            timing=str(tree.get("timing", "")),
            gain=MeanGain.from_dict(gain) if (gain := tree.get("cascade_gain")) else None,
            notes=tuple(str(note) for note in tree.get("notes", ())),
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
