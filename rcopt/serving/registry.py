"""A chosen cascade as one MLflow model: logged, registered, loaded again. No pickle anywhere."""

import logging
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rcopt.core.cascade import Stage
from rcopt.core.wording import rule_text
from rcopt.errors import InputError, WorkError
from rcopt.serving.bundle import (
    DESCRIPTION,
    CascadePackage,
    LoadedCascade,
    open_cascade,
    save_cascade,
)
from rcopt.serving.mlflow_model import example_picture, save_mlflow_model
from rcopt.serving.pictures import answer_rows
from rcopt.tracking import ModelVersion, Tracker
from rcopt.tracking.labels import cascade_note, run_name, short_number

ALIAS = "champion"
_INSIDE = Path("artifacts") / "cascade"


@dataclass(frozen=True)
class RegisteredCascade:
    """A version in the registry.

    Attributes:
        name: Of the registered model.
        version: Its number.
        alias: Points at this version now.
        model_id: MLflow's logged model.
    """

    name: str
    version: int
    alias: str
    model_id: str

    @property
    def uri(self) -> str:
        """What ``mlflow models serve -m`` takes."""
        return f"models:/{self.name}@{self.alias}"


def register(
    tracker: Tracker,
    package: CascadePackage,
    weights: Mapping[Stage, Path],
    name: str,
    *,
    experiment_id: str,
    alias: str = ALIAS,
    note: str = "",
    tags: Mapping[str, str] | None = None,
) -> RegisteredCascade:
    """Pack a cascade as an MLflow model and register it as a new version.

    Before anything is logged the packed files are loaded and asked, so what is registered can
    be served. The cascade's run is linked but stays as it is: reopening a finished run would
    rewrite its end.

    Args:
        tracker: The open store.
        package: The chosen cascade; its point has a run (`Tracker.log_cascade` makes one).
        weights: File of each stage, such as `Tracker.weights_path` gives.
        name: Of the registered model; made if it does not exist.
        experiment_id: The study's experiment.
        alias: Moved to the new version.
        note: Markdown, first in the version's description.
        tags: More of the version.

    Raises:
        ValueError: If the cascade has no run.
        InputError: On a name or alias that MLflow does not take, or damaged weights.
        WorkError: If the store refuses.
    """
    check_names(name, alias)
    for logger in ("mlflow.pyfunc", "mlflow.store.model_registry"):
        # They would report each of their own steps on stderr.
        logging.getLogger(logger).setLevel(logging.WARNING)
    if package.point.run_id is None:
        # Without one MLflow looks for the run in its default store, not in this one.
        raise ValueError("package.point must have a run_id, got None")
    with tempfile.TemporaryDirectory(prefix="rcopt-") as made:
        folder = Path(made) / "cascade"
        save_cascade(folder, package, weights)
        example = example_picture(package.base_side)
        answer = answer_rows(open_cascade(folder), [example])[0]
        if answer.error is not None:
            raise WorkError(f"the packed cascade does not answer: {answer.error}")
        run_id = package.point.run_id

        def build(model_id: str) -> Path:
            model = folder.parent / "model"
            save_mlflow_model(
                model,
                folder,
                example,
                model_id=model_id,
                run_id=run_id,
                timm=any(s.backbone.startswith("timm/") for s in package.point.cascade.stages),
            )
            return model

        number, model_id = tracker.models.add(
            _version(package, name, alias, note, tags or {}),
            experiment_id=experiment_id,
            run_id=run_id,
            tags={"rcopt.cascade": run_name(package.point)},
            params={s.name: f"{s.flops:.0f}" for s in package.point.cascade.stages},
            build=build,
        )
    return RegisteredCascade(name, number, alias, model_id)


def load_cascade(
    source: str | Path, tracker: Tracker | None = None, *, device: str = "cpu"
) -> LoadedCascade:
    """Load a packaged cascade.

    Args:
        source: A registered model's ``NAME`` (its champion), ``NAME@ALIAS``, ``NAME/VERSION``
            or any of them after ``models:/``; or the folder of a cascade or an MLflow model.
        tracker: The store the registered model is in; not needed for a folder.
        device: Where the networks are put.

    Raises:
        InputError: If there is no such model, or it is damaged.
        WorkError: If the store does not answer.
    """
    folder = Path(source)
    if not str(source).startswith("models:/"):
        for place in (folder, folder / _INSIDE):
            if (place / DESCRIPTION).is_file():
                return open_cascade(place, device)
    if tracker is None:
        found = f"holds no {DESCRIPTION}" if folder.is_dir() else "no such folder"
        raise InputError(f"{source}: {found}; name the folder of a packaged cascade")
    return _open_registered(tracker, str(source), device)


def check_names(name: str, alias: str) -> None:
    """Refuse a model's name or alias that MLflow or its addresses do not take.

    Raises:
        InputError: Saying what is allowed.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}", name):
        raise InputError(
            f"model name {name!r}: expected up to 100 letters, digits, '.', '_', '-' and spaces"
        )
    number = re.fullmatch(r"[vV]\d+", alias)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", alias) or alias.lower() == "latest" or number:
        raise InputError(
            f"alias {alias!r}: expected letters, digits, '_' and '-', not 'latest' or 'v' and a "
            "number, which MLflow keeps for itself"
        )


def _version(
    package: CascadePackage, name: str, alias: str, note: str, tags: Mapping[str, str]
) -> ModelVersion:
    point = package.point
    return ModelVersion(
        name=name,
        note=_MODEL_NOTE.format(name=name),
        alias=alias,
        card=f"{note}\n\n{_version_note(package)}".strip(),
        tags={
            "rcopt.cascade": str(point.cascade),
            "rcopt.validation_accuracy": f"{point.validation.accuracy:.4f}",
            "rcopt.validation_mflops": f"{short_number(point.validation.mean_flops / 1e6):g}",
            "rcopt.data_digest": package.data_digest,
            "rcopt.split_digest": package.split_digest,
            **tags,
        },
    )


def _open_registered(tracker: Tracker, source: str, device: str) -> LoadedCascade:
    location = tracker.models.locate(source, ALIAS)
    folder = tracker.models.fetch(location)
    try:
        return open_cascade(folder.path / _INSIDE, device)
    except InputError as error:
        if not folder.is_copy:
            raise
        tracker.store.warn(f"{error}; it is downloaded again")
        tracker.models.forget(folder)
        return open_cascade(tracker.models.fetch(location).path / _INSIDE, device)


def _version_note(package: CascadePackage) -> str:
    return (
        f"{cascade_note(package.point)}\n\n"
        f"{rule_text(package.rule)} Classes: {', '.join(package.classes[:20])}"
        f"{' ...' if len(package.classes) > 20 else ''}. "
        f"Data {package.data_digest[:12]}, splits {package.split_digest[:12]}."
    )


_MODEL_NOTE = """\
A resolution cascade made by rcopt: cheap networks answer the easy images at low resolution, \
costly ones only the rest. Serve it where rcopt is installed:

    mlflow models serve -m "models:/{name}@champion" --env-manager local

and POST pictures in base64 to `/invocations` as JSON:

    {{"dataframe_records": [{{"image": "<base64 of a JPEG or PNG file>"}}]}}

The answer has one object per row: `class`, `probability`, `stage`, `stage_name`, `flops`, and \
`error` for a row that is no picture. If no row can be answered, the status is 400.
"""
