"""The study file: its schema, its overrides, and what makes two versions comparable."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    create_model,
    field_validator,
    model_validator,
)

from rcopt.core.confidences import Confidence
from rcopt.core.cost import COSTS, CostName
from rcopt.data.settings import DataSettings, Location, Resolution
from rcopt.models.named_recipes import RECIPES, RecipeName, start
from rcopt.models.recipe import Recipe, recipe_types
from rcopt.redaction import has_login, has_password

#: What a study may be called.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
NAME_IN_WORDS = "letters, digits, '.', '_' and '-', at most 100"


class _Section(BaseModel):
    # A value may hold a password, and a traceback would show it.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


class StageSettings(_Section):
    """What may be trained."""

    resolutions: tuple[Resolution, ...] = Field(default=())
    """Sides of the stages' inputs in pixels, rising."""
    backbones: tuple[str, ...] | dict[str, tuple[str, ...]] = Field(default=())
    """Networks by name, ordered by depth; or a table with a list per resolution."""
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


_START = Field(
    default=None,
    description="What to start from, in an override instead of this table's settings. "
    + "; ".join(f"``{name}``: {recipe.what_for}" for name, recipe in RECIPES.items()),
)

if TYPE_CHECKING:

    class RecipeChanges(_Section):
        """For type checkers, what others look at of the class below."""

        recipe: RecipeName | None = None
else:
    # Any part of a recipe, or another one to start from; what is not given stays as it is.
    RecipeChanges = create_model(
        "RecipeChanges",
        __base__=_Section,
        recipe=(RecipeName | None, _START),
        **{name: (kind | None, None) for name, kind in recipe_types().items()},
    )


class StageChanges(RecipeChanges):
    """What is different for some stages."""

    weights: Location | None = None
    """As in ``[training]``."""


class TrainingSettings(RecipeChanges):
    """How stages are trained, where `rcopt.models.recipe.Recipe` is to differ; and on what."""

    weights: Location = "none"
    """What training starts from: ``none``; ``pretrained``: public weights of torchvision or
    timm; ``larger``: the trained stage of the same backbone at the next larger resolution; or a
    file or folder of weights."""
    device: str = "auto"
    """Where to train: ``cpu``, ``cuda``, ``cuda:1``; auto takes a GPU where there is one."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """Of torch while a stage is trained on a CPU, whatever the machine has: sums come out in
    another order with another number. By default as many as torch takes."""
    keep_memory: bool = False
    """Keep freed memory in the process while training (glibc alone): each step asks for the
    same large tensors again. Concerns the whole process, so it must be asked for."""
    attempts: int = Field(default=2, ge=1, le=100)
    """How often a stage's training may fail before the search goes on without it."""
    override: dict[str, StageChanges] = Field(default={})
    """Changes for the stages whose name, ``BACKBONE@RESOLUTION``, a pattern matches: ``*`` is
    any text, as in ``"mobilenet_v2*"`` and ``"*@32"``. Of two that match, the later one in the
    file wins where they differ."""

    def recipe_of(self, stage: str | None = None) -> Recipe:
        """Return how a stage is trained.

        Args:
            stage: Its name, such as ``resnet18@32``; None for what no override changes.
        """
        weights = self.weights if stage is None else self.weights_of(stage)
        given = {**start(self.recipe, weights), **_given(self)}
        for pattern, changes in self.override.items():
            if stage is not None and fnmatchcase(stage, pattern):
                if changes.recipe is not None:
                    given = dict(RECIPES[changes.recipe].settings)
                given |= _given(changes)
        return Recipe(**given)

    def weights_of(self, stage: str) -> str:
        """Return what a stage, such as ``resnet18@32``, starts from: as ``weights``."""
        weights = self.weights
        for pattern, changes in self.override.items():
            if changes.weights is not None and fnmatchcase(stage, pattern):
                weights = changes.weights
        return weights


def _given(changes: _Section) -> dict[str, Any]:
    return changes.model_dump(include=set(recipe_types()), exclude_none=True)


class AnswerSettings(_Section):
    """How a stage's probabilities become an answer and a confidence."""

    confidence: Confidence = "max"
    """Of an answer: the largest probability, its margin over the second, or one minus the
    entropy's share of its maximum."""
    temperature: bool = False
    """Divide each stage's logits by a temperature fitted on validation."""
    average: bool = False
    """Answer with the mean of the probabilities of the stages run so far."""
    weighted: bool = False
    """Answer with the weighted log-average of the stages run so far, fitted on validation."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.weighted and (self.temperature or self.average):
            raise ValueError("weighted goes without temperature and average, which it includes")
        return self


class SearchSettings(_Section):
    """The Optuna study."""

    trials: int = Field(default=200, ge=1, le=1_000_000)
    """The study's total, over all workers and restarts."""
    sampler: Literal["auto", "tpe", "nsga2", "gp", "random"] = "auto"
    """Which of Optuna's samplers proposes trials; auto is TPE."""
    storage: Location = "journal"
    """Where trials are kept: a file of this project, or an Optuna storage's URL."""
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
    """Where each stage is timed."""
    batch_size: int = Field(default=1, ge=1, le=4096)
    """Images per call; with 1 a cascade's mean time is the time that an image waits."""


class TrackingSettings(_Section):
    """MLflow."""

    uri: Location = "sqlite:///mlruns/mlflow.db"
    """The MLflow store: a database of this project, or a server's address."""
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

    name: Annotated[str, Field(pattern=NAME)]
    """Of the study, its Optuna study and its MLflow experiment; by default the file's."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Of splits, initial weights, training and search."""
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


def identity(settings: StudySettings) -> dict[str, Any]:
    """Return the settings that trials must share to be comparable, flat.

    Left out: how many trials, which sampler, where things are stored, the training's device,
    threads and memory; and how time is measured, unless it is what is minimized.
    """
    tree = settings.model_dump(mode="json")
    tree["training"] = {
        **settings.training.recipe_of().identity(),
        "weights": settings.training.weights,
        "override": settings.training.model_dump(exclude_none=True)["override"],
    }
    flat = flatten(tree)
    cost = settings.search.cost
    free = ["search.", "tracking.", "name", "data.root"]
    if COSTS[cost].meter is None:
        free.append("latency.")
    kept = {key: value for key, value in flat.items() if not key.startswith(tuple(free))}
    # Settings that came later count where they differ from what was always done.
    for key in ("held_out", "skip_bad", "scaled_jpeg"):
        if kept[f"data.{key}"] == DataSettings.model_fields[key].default:
            del kept[f"data.{key}"]
    if not settings.answers.weighted:
        del kept["answers.weighted"]
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
