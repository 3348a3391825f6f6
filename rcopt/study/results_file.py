"""Results as one JSON file, written whole and read back to the last bit."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, TypeAdapter, model_validator

from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Source, Stage
from rcopt.core.cost import Amount
from rcopt.core.hypervolumes import Frame, frame_of, hypervolume_share
from rcopt.core.statistics.cascade_gain import MeanGain
from rcopt.errors import InputError
from rcopt.files import sealed, write_whole
from rcopt.study.results import Results, StageSummary, numbers
from rcopt.study.stored_json import DamagedError, read_json

FORMAT = "rcopt-results-3"


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
        **({"limits": results.limits} if results.limits else {}),
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
        stored = read_json(path, _SCHEMA)
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent.name}: no front yet; 'rcopt run' makes one as soon as a first "
            "cascade is evaluated"
        ) from error
    except DamagedError as error:
        raise InputError(
            f"{path}: damaged results ({error}); 'rcopt run' writes them again"
        ) from error
    return stored.results()


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


class _WithAmount(BaseModel, extra="allow"):
    """What may name the amount of another cost than FLOPs, under that cost's own key."""

    __pydantic_extra__: dict[str, float | None] = Field(init=False)

    def amount(self, prefix: str = "") -> Amount | None:
        # Earlier files say of costs that are not known that they are null.
        known = {key: value for key, value in self.__pydantic_extra__.items() if value is not None}
        return Amount.from_json(known, prefix)


class _Stage(_WithAmount):
    resolution: int
    backbone: str
    flops: float

    def stage(self) -> Stage:
        return Stage(self.resolution, self.backbone, self.flops, self.amount())


class _Summary(_Stage):
    key: str
    macs: int
    parameters: int
    validation: float
    test: float
    seconds: float
    run_id: str | None

    def summary(self) -> StageSummary:
        return StageSummary(
            stage=self.stage(),
            key=self.key,
            macs=self.macs,
            parameters=self.parameters,
            validation=self.validation,
            test=self.test,
            seconds=self.seconds,
            run_id=self.run_id,
        )


class _CascadeStage(_Stage):
    threshold: float | None


class _Evaluation(_WithAmount):
    accuracy: float
    mean_flops: float
    exit_rates: tuple[float, ...]
    reach_rates: tuple[float, ...]
    deferral_rates: tuple[float | None, ...]
    n_images: int

    def evaluation(self) -> Evaluation:
        return Evaluation(
            accuracy=self.accuracy,
            mean_flops=self.mean_flops,
            exit_rates=self.exit_rates,
            reach_rates=self.reach_rates,
            deferral_rates=tuple(float("nan") if r is None else r for r in self.deferral_rates),
            n_images=self.n_images,
            minimized=self.amount("mean_"),
        )


class _Point(BaseModel):
    stages: Annotated[tuple[_CascadeStage, ...], Field(min_length=1)]
    validation: _Evaluation
    test: _Evaluation | None
    source: Source
    trial: int | None
    run_id: str | None

    @model_validator(mode="after")
    def _has_thresholds(self) -> Self:
        if any(stage.threshold is None for stage in self.stages[:-1]):
            raise ValueError("a stage but the last has no threshold")
        return self

    def point(self) -> OperatingPoint:
        thresholds = tuple(s.threshold for s in self.stages[:-1] if s.threshold is not None)
        return OperatingPoint(
            cascade=Cascade(tuple(stage.stage() for stage in self.stages), thresholds),
            validation=self.validation.evaluation(),
            test=None if self.test is None else self.test.evaluation(),
            source=self.source,
            trial=self.trial,
            run_id=self.run_id,
        )


class _Results(BaseModel):
    format: Literal["rcopt-results-3"]
    study: str
    frame: Frame
    hypervolume: float
    sampled_hypervolume: float | None
    sampled: int
    exact: bool
    split_sizes: dict[str, int]
    classes: tuple[str, ...]
    experiment_id: str
    timing: str = ""
    cascade_gain: MeanGain | None = None
    notes: tuple[str, ...] = ()
    limits: str = ""
    stages: Annotated[tuple[_Summary, ...], Field(min_length=1)]
    front: tuple[_Point, ...]

    @model_validator(mode="before")
    @classmethod
    def _upgraded(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and tree.get("format") == "rcopt-results-2":
            # Its hypervolumes were no shares; the frame follows from the stages.
            old = _OldResults.model_validate(tree)
            stages = [stored.summary() for stored in old.stages]
            frame = frame_of([s.validation for s in stages], [s.stage.cost for s in stages])
            points = [stored.point() for stored in old.front]
            volume = hypervolume_share(*numbers(points), frame)
            return {
                **tree,
                "format": FORMAT,
                "frame": frame,
                "hypervolume": volume,
                "sampled_hypervolume": None,
            }
        return tree

    def results(self) -> Results:
        return Results(
            study=self.study,
            points=tuple(stored.point() for stored in self.front),
            stages=tuple(stored.summary() for stored in self.stages),
            frame=self.frame,
            hypervolume=self.hypervolume,
            sampled_hypervolume=self.sampled_hypervolume,
            sampled=self.sampled,
            exact=self.exact,
            split_sizes=self.split_sizes,
            classes=self.classes,
            experiment_id=self.experiment_id,
            timing=self.timing,
            gain=self.cascade_gain,
            notes=self.notes,
            limits=self.limits,
        )


class _OldResults(BaseModel):
    stages: Annotated[tuple[_Summary, ...], Field(min_length=1)]
    front: tuple[_Point, ...]


_SCHEMA = TypeAdapter(_Results)
