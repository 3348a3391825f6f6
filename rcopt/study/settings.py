"""The study file: its schema, its overrides, and what makes two versions comparable."""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from rcopt.core.cost import CostName
from rcopt.core.predictions import Confidence
from rcopt.errors import InputError
from rcopt.redaction import has_login, has_password, redacted


def _without_controls(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("expected text without control characters")
    return text


Share = Annotated[float, Field(ge=0, le=1)]
Resolution = Annotated[int, Field(ge=8, le=1024)]
#: A path, an address or one of a few words.
Place = Annotated[str, AfterValidator(_without_controls)]
Epochs = Annotated[int, Field(ge=1, le=10_000)]
BatchSize = Annotated[int, Field(ge=2, le=65_536)]
LearningRate = Annotated[float, Field(gt=0, le=100)]
Momentum = Annotated[float, Field(gt=0, lt=1)]
WeightDecay = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
ShareAboveZero = Annotated[float, Field(gt=0, le=1)]
Schedule = Literal["cosine", "onecycle"]
Precision = Literal["auto", "float32", "bfloat16"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataSettings(_Section):
    """Where the images come from and how the held-out ones are divided."""

    source: Literal["digits", "imagenette", "folder", "predictions"] = "digits"
    root: Place | None = None
    """Relative to the project. folder: ROOT/{train,val}/CLASS/IMAGE; imagenette: where it is
    downloaded to; predictions: a folder of stage files."""
    validation: Share = 0.5
    calibration: Share = 0.0
    test: Share = 0.5
    base_side: Resolution | None = None
    """Side in pixels of the base image every stage input is made from; the largest resolution
    where it is left out."""

    @field_validator("root")
    @classmethod
    def _check_root(cls, root: str | None) -> str | None:
        try:
            Path(root or "").expanduser()
        except RuntimeError:
            raise ValueError(f"there is no home folder {Path(root or '').parts[0]}") from None
        return root

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.source in ("folder", "predictions") and self.root is None:
            raise ValueError(f'root is needed with source = "{self.source}"')
        if self.validation == 0 or self.test == 0:
            raise ValueError("validation and test must be above 0")
        if self.validation + self.calibration + self.test > 1 + 1e-9:
            raise ValueError(
                "validation + calibration + test must not exceed 1: the splits would overlap"
            )
        return self


class StageSettings(_Section):
    """What may be trained."""

    resolutions: tuple[Resolution, ...] = Field(default=())
    backbones: tuple[str, ...] | dict[str, tuple[str, ...]] = Field(default=())
    """Ordered by depth; or a table with a list per resolution."""
    optional: bool = True
    """Whether the search may leave a resolution out."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        rising = list(self.resolutions) == sorted(set(self.resolutions))
        if not rising:
            raise ValueError(f"resolutions must rise, got {list(self.resolutions)}")
        if isinstance(self.backbones, dict):
            wanted = {str(r) for r in self.resolutions}
            if set(self.backbones) != wanted:
                raise ValueError(
                    f"backbones must have one list per resolution ({', '.join(sorted(wanted))}), "
                    f"got {', '.join(sorted(self.backbones))}"
                )
        for names in self.table().values():
            if len(set(names)) != len(names):
                raise ValueError(f"backbones are named twice in {list(names)}")
        return self

    def table(self) -> dict[int, tuple[str, ...]]:
        """Return the backbones that may be used at each resolution."""
        if isinstance(self.backbones, dict):
            return {r: self.backbones[str(r)] for r in self.resolutions}
        return dict.fromkeys(self.resolutions, self.backbones)


class RecipeChanges(_Section):
    """What some stages are trained by instead; see `TrainingSettings.override`."""

    epochs: Epochs | None = None
    batch_size: BatchSize | None = None
    lr: LearningRate | None = None
    momentum: Momentum | None = None
    weight_decay: WeightDecay | None = None
    label_smoothing: ShareBelowOne | None = None
    schedule: Schedule | None = None
    warmup: ShareBelowOne | None = None
    crop_area: ShareAboveZero | None = None
    flip: bool | None = None
    progressive: ShareAboveZero | None = None
    precision: Precision | None = None


class TrainingSettings(_Section):
    """How stages are trained (`rcopt.models.training.Recipe`), and where."""

    epochs: Epochs = 16
    batch_size: BatchSize = 64
    lr: LearningRate = 0.2
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 5e-4
    label_smoothing: ShareBelowOne = 0.1
    schedule: Schedule = "cosine"
    warmup: ShareBelowOne = 0.15
    crop_area: ShareAboveZero = 0.35
    flip: bool = True
    progressive: ShareAboveZero = 1.0
    precision: Precision = "auto"
    weights: Place = "none"
    """``none``, ``pretrained`` (torchvision's ImageNet weights) or a file."""
    device: str = "auto"
    attempts: int = Field(default=2, ge=1, le=100)
    """How often a stage's training may fail before the search goes on without it."""
    override: dict[str, RecipeChanges] = Field(default={})
    """Changes for the stages whose name, ``BACKBONE@RESOLUTION``, a pattern matches: ``*`` is
    any text, as in ``"mobilenet_v2*"`` and ``"*@32"``. Of two that match, the later one in the
    file wins where they differ."""

    def recipe(self, stage: str) -> dict[str, Any]:
        """Return what belongs in a `rcopt.models.training.Recipe`.

        Args:
            stage: Name of the stage, such as ``resnet18@32``.
        """
        recipe = self.model_dump(exclude={"weights", "device", "attempts", "override"})
        for pattern, changes in self.override.items():
            if fnmatchcase(stage, pattern):
                recipe |= changes.model_dump(exclude_none=True)
        return recipe


class AnswerSettings(_Section):
    """How a stage's probabilities become an answer and a confidence."""

    confidence: Confidence = "max"
    temperature: bool = False
    average: bool = False


class SearchSettings(_Section):
    """The Optuna study."""

    trials: int = Field(default=200, ge=1, le=1_000_000)
    """The study's total, over all workers and restarts."""
    sampler: Literal["auto", "tpe", "nsga2", "gp", "random"] = "auto"
    storage: Place = "journal"
    cost: CostName = "flops"
    """What is minimized beside accuracy: mean FLOPs, or mean time as ``[latency]`` says."""
    exact: bool = True
    """Sweep every threshold of the stages trained so far, exactly."""
    exact_trials: int = Field(default=20, ge=0, le=1_000)
    """How many points of the exact front enter the study after each newly trained stage."""
    lease: float = Field(default=90.0, ge=1, le=3600)
    """Seconds after which what a vanished worker held is free again, with PostgreSQL. An outage
    of up to 0.7 of it costs no training."""
    patience: float = Field(default=3600.0, ge=0)
    """Longest outage of PostgreSQL or the MLflow server that is waited for, in seconds."""

    @field_validator("storage")
    @classmethod
    def _check_storage(cls, storage: str) -> str:
        if has_password(storage):
            raise ValueError(
                "must not hold a password, because the study file is stored with the runs; leave "
                "it out, and set PGPASSWORD or put it into the file that PGPASSFILE names "
                "(default ~/.pgpass)"
            )
        return storage


class LatencySettings(_Section):
    """How each stage's time is measured where the cost is ``latency``."""

    device: str = "cpu"
    batch_size: int = Field(default=1, ge=1, le=4096)
    """Images per call; with 1 a cascade's mean time is the time that an image waits."""


class TrackingSettings(_Section):
    """MLflow."""

    uri: Place = "sqlite:///mlruns/mlflow.db"
    cascade_runs: int = Field(default=1000, ge=0)
    """Evaluations beyond this are steps of the study run, not runs of their own."""

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, uri: str) -> str:
        if has_login(uri):
            raise ValueError(
                "must not hold a login, because the study file is stored with the runs; leave it "
                "out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN"
            )
        return uri


class StudySettings(_Section):
    """A whole study file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    data: DataSettings = DataSettings()
    stages: StageSettings = StageSettings()
    training: TrainingSettings = TrainingSettings()
    answers: AnswerSettings = AnswerSettings()
    search: SearchSettings = SearchSettings()
    latency: LatencySettings = LatencySettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _check(self) -> Self:
        # Stored predictions say themselves which backbones there are.
        if self.data.source != "predictions":
            table = self.stages.table()
            if not table:
                raise ValueError("stages.resolutions and stages.backbones are needed")
            if not all(table.values()):
                raise ValueError("stages.backbones must not be empty")
        top = max(self.stages.resolutions, default=0)
        if self.data.base_side is not None and self.data.base_side < top:
            raise ValueError(
                f"data.base_side must be at least the largest resolution ({top}), "
                f"got {self.data.base_side}"
            )
        return self


@dataclass(frozen=True)
class Study:
    """A study file, read and checked, and the project it belongs to.

    Attributes:
        settings: The validated settings, overrides included.
        project: The folder that holds ``studies/``; paths in the file are relative to it.
        file: Where the settings were read from.
    """

    settings: StudySettings
    project: Path
    file: Path

    @property
    def name(self) -> str:
        """The study's name: Optuna study and MLflow experiment are called so too."""
        return self.settings.name

    @property
    def folder(self) -> Path:
        """Where the study keeps its own state (trials, front, checkpoints)."""
        return self.project / "mlruns" / "studies" / self.name

    @property
    def claims(self) -> Path:
        """Where this machine's claims on stages lie, one folder for all studies."""
        return self.project / "mlruns" / "claims"

    @property
    def root(self) -> Path | None:
        """The data folder, absolute."""
        root = self.settings.data.root
        return None if root is None else self.project / Path(root).expanduser()

    @property
    def storage(self) -> str:
        """Where trials are kept; the path of an SQLite file belongs to the project."""
        storage = self.settings.search.storage
        scheme, slashes, path = storage.partition(":///")
        if not scheme.startswith("sqlite") or not path or path.startswith(":memory:"):
            return storage
        return f"{scheme}{slashes}{self.project / path}"

    def to_toml(self) -> str:
        """Return the resolved study file, every default spelled out."""
        return _to_toml(self.settings.model_dump(mode="json"))


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file, or find a started study by its name.

    Args:
        path: A ``.toml`` file, or the name of a study that was started in this project.
        overrides: ``section.key=value`` settings that win over the file; values are TOML, and
            text that is not TOML is taken as a string.

    Raises:
        InputError: One line with file, key, what was expected and how to mend it.
    """
    file, project = _locate(str(path))
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    try:
        raw: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits and lists of hundreds of levels are no TOMLDecodeError.
        raise InputError(f"{file}: not valid TOML: {error}") from None
    where = _shown(file)
    for override in overrides:
        _apply(raw, override)
    raw.setdefault("name", file.stem)
    try:
        settings = StudySettings.model_validate(_frozen(raw))
    except ValidationError as error:
        raise InputError(f"{where}: {_first_error(error, raw)}") from None
    return Study(settings=settings, project=project, file=file)


def load_project() -> tuple[Path, str]:
    """Return this folder's project and its MLflow store, for commands that name no study."""
    return _project_of(Path.cwd()), TrackingSettings().uri


def identity(settings: StudySettings) -> dict[str, Any]:
    """Return the settings that trials must share to be comparable, flat.

    Left out: how many trials, which sampler, where things are stored, the training's device;
    and how time is measured, unless it is what is minimized.
    """
    flat = flatten(settings.model_dump(mode="json"))
    cost = settings.search.cost
    free = ["search.", "tracking.", "training.device", "training.attempts", "name", "data.root"]
    if cost == "flops":
        free.append("latency.")
    kept = {key: value for key, value in flat.items() if not key.startswith(tuple(free))}
    return {"search.cost": cost, **kept}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _locate(name: str) -> tuple[Path, Path]:
    try:
        given = Path(name).expanduser()
    except RuntimeError:
        raise InputError(f"{name}: there is no such home folder") from None
    if given.suffix == ".toml" or given.is_file():
        file = given.absolute()
        if not file.is_file():
            near = sorted(str(p) for p in given.parent.glob("*.toml"))
            hint = f"; there is {', '.join(near[:5])}" if near else ""
            raise InputError(f"{name}: no such study file{hint}")
        return file, _project_of(file.parent)
    project = _project_of(Path.cwd())
    started = project / "mlruns" / "studies" / name / "study.toml"
    written = project / "studies" / f"{name}.toml"
    for file in (started, written):
        if file.is_file():
            return file, project
    known = {p.parent.name for p in project.glob("mlruns/studies/*/study.toml")}
    known |= {p.stem for p in project.glob("studies/*.toml")}
    hint = f"; known: {', '.join(sorted(known))}" if known else ""
    raise InputError(f"{name}: no study of that name in {_shown(project)} and no such file{hint}")


def _project_of(folder: Path) -> Path:
    folder = folder.absolute()
    for candidate in (folder, *folder.parents):
        if candidate.name == "studies":
            # A started study's copy lies in mlruns/studies/NAME, two levels deeper.
            above = candidate.parent
            return above.parent if above.name == "mlruns" else above
        if (candidate / "studies").is_dir():
            return candidate
    return folder


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in parts):
        raise InputError(f"--set {override}: expected section.key=value, such as data.root=images")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    table = raw
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {override}: {part} is a value, not a section")
    table[parts[-1]] = value


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(_frozen(inner) for inner in value) if isinstance(value, list) else value


def _first_error(error: ValidationError, raw: Mapping[str, Any]) -> str:
    errors = error.errors(include_url=False)
    # An unknown key often causes the other errors, so it is named first.
    chosen = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    location = [str(part) for part in chosen["loc"]]
    key = ".".join(part for part in location if not part.startswith(("tuple[", "dict[")))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if chosen["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.0)
        return f"{key}: unknown key; the nearest known one is '{near[0]}'{more}"
    message = chosen["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if chosen["type"] == "value_error":
        return f"{key}: {message}{more}" if key else f"{message}{more}"
    # Pydantic says these in words of Python, or as a regular expression.
    expected = {
        "model_type": f"expected a section ([{key}])",
        "tuple_type": "expected a list",
        "string_pattern_mismatch": "expected letters, digits, '.', '_' and '-', at most 100",
    }.get(chosen["type"], message)
    return f"{key}: {expected}, got {_short(chosen['input'])}{more}"


def _short(value: object) -> str:
    text = redacted(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(location: Sequence[str]) -> list[str]:
    model: Any = StudySettings
    for part in location:
        if get_origin(model) is dict:
            model = get_args(model)[1]
            continue
        model = model.model_fields[part].annotation
        if get_origin(model) in (Union, UnionType):
            model = next(arg for arg in get_args(model) if issubclass(arg, BaseModel))
    return list(model.model_fields)


def _to_toml(tree: Mapping[str, Any], prefix: str = "") -> str:
    lines = [
        f"{_toml_key(key)} = {_toml_value(value)}"
        for key, value in tree.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    text = "\n".join(lines) + "\n" if lines else ""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            path = f"{prefix}{_toml_key(key)}"
            text += f"\n[{path}]\n" + _to_toml(value, f"{path}.")
    return text


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_value(key)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for surrogate pairs and the unescaped DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return repr(value)
