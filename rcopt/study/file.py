"""The study file: found, read, overridden, checked."""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError

from rcopt.core.answers import AnswerRule
from rcopt.errors import InputError
from rcopt.redaction import redacted
from rcopt.study.settings import NAME_IN_WORDS, StudySettings, TrackingSettings

if TYPE_CHECKING:
    from rcopt.tracking import Tracker

#: Studies that come with rcopt, found by their names in every project.
EXAMPLES = Path(__file__).with_name("examples")


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
    def results_file(self) -> Path:
        """What the study came to; see `rcopt.study.results_file`."""
        return self.folder / "results.json"

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
        return tomli_w.dumps(self.settings.model_dump(mode="json", exclude_none=True))

    @property
    def answer_rule(self) -> AnswerRule:
        """How probabilities become answers in this study."""
        return AnswerRule(**self.settings.answers.model_dump())

    @property
    def base_side(self) -> int:
        """Side in pixels of the base images, from which each stage's input is made."""
        return self.settings.data.base_side or max(self.settings.stages.resolutions)

    def open_tracker(self, *, warn: Callable[[str], None] | None = None) -> "Tracker":
        """Open the MLflow store that the study names.

        Args:
            warn: Told what the user should know of the store; by default its logger.

        Raises:
            InputError: If it cannot be used.
        """
        from rcopt import tracking

        uri, project = self.settings.tracking.uri, self.project
        if warn is None:
            return tracking.open_tracker(uri, project)
        return tracking.open_tracker(uri, project, warn=warn)


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file, or find a started study by its name.

    Args:
        path: A ``.toml`` file, the name of a study that was started in this project, or of one
            that comes with rcopt, such as ``digits``.
        overrides: ``section.key=value`` settings that win over the file; values are TOML, and
            text that is not TOML is taken as a string.

    Raises:
        InputError: One line with file, key, what was expected and how to mend it.
    """
    file, project = _locate(str(path))
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    try:
        raw: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits and lists of hundreds of levels are no TOMLDecodeError.
        raise InputError(f"{file}: not valid TOML: {error}") from error
    where = _shown(file)
    for override in overrides:
        _apply(raw, override)
    raw.setdefault("name", file.stem)
    try:
        settings = StudySettings.model_validate(_frozen(raw))
    except ValidationError as error:
        raise InputError(f"{where}: {_first_error(error, raw)}") from error
    return Study(settings=settings, project=project, file=file)


def load_project() -> tuple[Path, str]:
    """Return this folder's project and its MLflow store, for commands that name no study."""
    return _project_of(Path.cwd()), TrackingSettings().uri


def _locate(name: str) -> tuple[Path, Path]:
    try:
        given = Path(name).expanduser()
    except RuntimeError as error:
        raise InputError(f"{name}: there is no such home folder") from error
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
    if name in _examples():
        return EXAMPLES / f"{name}.toml", project
    known = {p.parent.name for p in project.glob("mlruns/studies/*/study.toml")}
    known |= {p.stem for p in project.glob("studies/*.toml")} | _examples()
    hint = f"; known: {', '.join(sorted(known))}" if known else ""
    raise InputError(f"{name}: no study of that name in {_shown(project)} and no such file{hint}")


def _examples() -> set[str]:
    return {file.stem for file in EXAMPLES.glob("*.toml")}


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
        "string_pattern_mismatch": f"expected {NAME_IN_WORDS}",
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
