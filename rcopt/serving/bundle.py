"""A cascade as a folder: a description in JSON and each stage's weights as safetensors.

Nothing in it is executed when it is read. The description carries its own SHA-256 and that of
each weights file.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from rcopt.core.answering import Fitted
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Stage
from rcopt.core.statistics.drift import BINS
from rcopt.data.levels import Levels
from rcopt.errors import InputError
from rcopt.files import file_digest, sealed, unsealed
from rcopt.models.backbones import preprocessing_of
from rcopt.models.recipe import Precision
from rcopt.models.weights import load_weights, stored_preprocessing
from rcopt.serving.executor import CascadeExecutor

FORMAT = "rcopt-cascade-4"
#: In these all stages have `rcopt.data.preprocessing.IMAGENET`, said once for all.
_BEFORE = ("rcopt-cascade-2", "rcopt-cascade-3")
DESCRIPTION = "cascade.json"
#: Sides beyond this would need gigabytes for a few pictures; study files allow less.
MAX_SIDE = 4096


@dataclass(frozen=True)
class CascadePackage:
    """Everything about a chosen cascade but its weights.

    Attributes:
        point: Stages, thresholds and the numbers it was chosen by.
        rule: How probabilities become answers.
        fitted: What the rule fitted on validation.
        classes: Names of the classes.
        base_side: Side in pixels of the base images the stages' inputs are made from.
        levels: Range of samples of more than 8 bits in the data set; None where it has none.
        data_digest: Of the data set the stages were trained on.
        split_digest: Of the division into splits.
        precision: In which the stored predictions were made.
        seen_before: Counts of the first stage's confidences on images that nothing was trained
            on, from `rcopt.core.statistics.drift.count_confidences`; empty where there are none.
        started_from: Of stages that started from weights, what is known of those; only told.
    """

    point: OperatingPoint
    rule: AnswerRule
    fitted: Fitted
    classes: tuple[str, ...]
    base_side: int
    data_digest: str
    split_digest: str
    precision: Precision = "auto"
    levels: Levels | None = None
    seen_before: Mapping[int, int] = field(default_factory=dict)
    started_from: Mapping[Stage, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LoadedCascade:
    """A packaged cascade, ready to answer.

    Attributes:
        executor: Answers batches of base images.
        classes: Names of the classes.
        base_side: Side in pixels to decode pictures to.
        levels: Range of samples of more than 8 bits; see `rcopt.data.images.decode`.
        description: The whole of ``cascade.json``.
        folder: Where it lies.
        seen_before: See `CascadePackage`; empty for cascades packaged before there was a monitor.
    """

    executor: CascadeExecutor
    classes: tuple[str, ...]
    base_side: int
    levels: Levels | None
    description: Mapping[str, Any]
    folder: Path
    seen_before: Mapping[int, int] = field(default_factory=dict)

    @property
    def cascade(self) -> Cascade:
        """Stages, their FLOPs and thresholds."""
        return self.executor.cascade


def save_cascade(folder: Path, package: CascadePackage, weights: Mapping[Stage, Path]) -> None:
    """Write a cascade's folder.

    Args:
        folder: Made here; must not exist.
        package: What is described.
        weights: File of each stage, from `rcopt.models.weights.save_weights`; copied.

    Raises:
        ValueError: If a stage has no weights.
        InputError: If a file is missing or cannot be copied.
    """
    stages = package.point.cascade.stages
    for stage in stages:
        if stage not in weights:
            raise ValueError(f"weights hold none of stage {stage.name}")
    folder.mkdir(parents=True)
    described = []
    for index, stage in enumerate(stages):
        name = f"stage-{index}.safetensors"
        try:
            shutil.copyfile(weights[stage], folder / name)
        except OSError as error:
            raise InputError(f"{weights[stage]}: cannot be copied ({error.strerror})") from error
        preprocessing = stored_preprocessing(folder / name).to_json()
        described.append(
            _stage_entry(package, index)
            | {"preprocessing": preprocessing}
            | _file_entry(folder / name)
        )
    description = sealed(_description(package, described))
    text = json.dumps(description, indent=2, allow_nan=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def open_cascade(folder: Path, device: str = "cpu") -> LoadedCascade:
    """Read a cascade's folder, each file verified.

    Args:
        folder: What `save_cascade` wrote.
        device: Where the networks are put.

    Raises:
        InputError: If something is missing, was changed or is not rcopt's.
    """
    description = _read_description(folder / DESCRIPTION)
    # Only what taking the description apart raises is damage of it.
    try:
        described = _described(description)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise _damaged(folder, error) from error
    return _build(folder, described, description, device)


def _damaged(folder: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(
        f"{folder / DESCRIPTION}: damaged ({type(error).__name__}: {reason}); register the "
        "cascade again"
    )


def _description(package: CascadePackage, stages: list[dict[str, Any]]) -> dict[str, Any]:
    point = package.point
    return {
        "format": FORMAT,
        "rcopt_version": version("rcopt"),
        "stages": stages,
        "answers": {
            key: value
            for key, value in asdict(package.rule).items()
            if key != "weighted" or package.rule.weighted
        },
        "classes": list(package.classes),
        "preprocessing": {
            "base_side": package.base_side,
            "base": "largest centred square, antialiased bilinear resize to base_side",
            "resize": "antialiased, from the base image to each stage's resolution by its "
            "interpolation, rounded to grey levels; then its mean and std, in grey levels",
            **({} if package.levels is None else {"levels": list(package.levels)}),
        },
        "precision": package.precision,
        "data": {"digest": package.data_digest, "splits": package.split_digest},
        "validation": _numbers(point.validation),
        "test": None if point.test is None else _numbers(point.test),
        "source": point.source,
        "trial": point.trial,
        "run_id": point.run_id,
        **({"seen_before": _as_json(package.seen_before)} if package.seen_before else {}),
    }


def _as_json(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(place): count for place, count in counts.items()}


def _numbers(evaluation: Evaluation) -> dict[str, Any]:
    return {**evaluation.to_dict(), "n_images": evaluation.n_images}


def _stage_entry(package: CascadePackage, index: int) -> dict[str, Any]:
    cascade = package.point.cascade
    stage = cascade.stages[index]
    temperatures, weights = package.fitted.temperatures, package.fitted.weights
    known = package.started_from.get(stage)
    return {
        "resolution": stage.resolution,
        "backbone": stage.backbone,
        "flops": stage.flops,
        "threshold": (*cascade.thresholds, None)[index],
        "temperature": None if temperatures is None else temperatures[index],
        **({} if weights is None else {"answer_weights": list(weights[index])}),
        **({"started_from": dict(known)} if known else {}),
    }


def _file_entry(path: Path) -> dict[str, str]:
    return {"weights": path.name, "sha256": file_digest(path)}


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; name a folder or model made by rcopt") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    found = description.get("format") if isinstance(description, dict) else None
    if not isinstance(description, dict) or found not in (FORMAT, *_BEFORE):
        raise InputError(f"{path}: format is {found!r}, expected {FORMAT!r}; another rcopt's?")
    try:
        return unsealed(description)
    except ValueError as error:
        raise InputError(
            f"{path}: changed since it was packaged ({error}); register the cascade again"
        ) from error


@dataclass(frozen=True)
class _Described:
    """What a description says, taken apart; `weights` and `prepared` have one entry a stage."""

    cascade: Cascade
    rule: AnswerRule
    classes: tuple[str, ...]
    base_side: int
    precision: Precision
    temperatures: list[float] | None
    answer_weights: list[list[float]] | None
    levels: Levels | None
    seen_before: dict[int, int]
    weights: tuple[tuple[str, str], ...]
    prepared: tuple[dict[str, Any], ...]


def _described(description: Mapping[str, Any]) -> _Described:
    """Take a description apart; it raises what its content makes Python raise."""
    preprocessing = description["preprocessing"]
    entries = description["stages"]
    answers = description["answers"]
    if description["precision"] not in get_args(Precision):
        raise ValueError(f"precision is {description['precision']!r}")
    rule = AnswerRule(
        answers["confidence"],
        bool(answers["temperature"]),
        bool(answers["average"]),
        bool(answers.get("weighted", False)),
    )
    base_side = int(preprocessing["base_side"])
    if not 0 < base_side <= MAX_SIDE:
        raise ValueError(f"base_side is {base_side}")
    stages = tuple(
        Stage(int(e["resolution"]), str(e["backbone"]), float(e["flops"])) for e in entries
    )
    levels = preprocessing.get("levels")
    return _Described(
        cascade=Cascade(stages, tuple(float(entry["threshold"]) for entry in entries[:-1])),
        rule=rule,
        classes=tuple(str(name) for name in description["classes"]),
        base_side=base_side,
        precision=description["precision"],
        temperatures=[float(e["temperature"]) for e in entries] if rule.temperature else None,
        answer_weights=[[float(w) for w in e["answer_weights"]] for e in entries]
        if rule.weighted
        else None,
        levels=None if levels is None else (float(levels[0]), float(levels[1])),
        seen_before=_counts(description.get("seen_before", {})),
        weights=tuple((str(e["weights"]), str(e["sha256"])) for e in entries),
        # Said once for all in the former format.
        prepared=tuple(dict(e.get("preprocessing", preprocessing)) for e in entries),
    )


def _build(
    folder: Path, said: _Described, description: Mapping[str, Any], device: str
) -> LoadedCascade:
    cascade, classes = said.cascade, said.classes
    models = []
    for stage, (name, digest), stated in zip(
        cascade.stages, said.weights, said.prepared, strict=True
    ):
        path = _verified(folder, name, digest)
        trained = load_weights(path)
        if (trained.backbone, trained.resolution) != (stage.backbone, stage.resolution):
            found = f"{path.name} is of {trained.backbone}@{trained.resolution}, not {stage.name}"
            raise _damaged(folder, ValueError(found))
        if trained.n_classes != len(classes):
            found = f"{path.name} has {trained.n_classes} classes, not {len(classes)}"
            raise _damaged(folder, ValueError(found))
        of_file = preprocessing_of(trained.model).to_json()
        if any(stated[key] != of_file[key] for key in of_file if key in stated):
            raise InputError(
                f"{folder / DESCRIPTION}: {stage.name}'s images are prepared in another way than "
                f"its weights expect; register the cascade again"
            )
        models.append(trained.model)
    try:
        executor = CascadeExecutor(
            cascade,
            models,
            said.rule,
            said.temperatures,
            said.answer_weights,
            precision=said.precision,
            device=device,
        )
    except ValueError as error:
        raise _damaged(folder, error) from error
    return LoadedCascade(
        executor, classes, said.base_side, said.levels, description, folder, said.seen_before
    )


def _counts(stored: Mapping[str, Any]) -> dict[int, int]:
    counts = {int(place): int(count) for place, count in stored.items()}
    if any(not 0 <= place < BINS or count < 1 for place, count in counts.items()):
        raise ValueError("seen_before holds a bin or a count that cannot be")
    return counts


def _verified(folder: Path, name: str, digest: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"{folder / DESCRIPTION}: {name!r} is not the name of a file beside it")
    path = folder / name
    if path.resolve().parent != folder.resolve():
        raise InputError(f"{path}: leads out of its folder; register the cascade again")
    if not path.is_file():
        raise InputError(f"{path}: missing; register the cascade again")
    if file_digest(path) != digest:
        raise InputError(
            f"{path}: changed since it was packaged (its sha256 is another); register the "
            "cascade again"
        )
    return path
