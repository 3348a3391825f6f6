"""A chosen cascade as one MLflow model: logged, registered, loaded again. No pickle anywhere."""

import contextlib
import hashlib
import logging
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

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
from rcopt.tracking import Tracker
from rcopt.tracking.connection import reported
from rcopt.tracking.labels import cascade_note, run_name, short_number

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

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
        with reported(f"registering model {name}"):
            model = _log(tracker.client, package, experiment_id, name, folder, example)
            found = _version(tracker.client, package, name, alias, model, note)
    return RegisteredCascade(name, int(found.version), alias, str(model.model_id))


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


def _log(
    client: "MlflowClient",
    package: CascadePackage,
    experiment_id: str,
    name: str,
    folder: Path,
    example: str,
) -> "LoggedModel":
    point = package.point
    model = client.create_logged_model(
        experiment_id,
        name=name.replace(" ", "-"),
        source_run_id=point.run_id,
        model_type="cascade",
        tags={"rcopt.cascade": run_name(point)},
        params={stage.name: f"{stage.flops:.0f}" for stage in point.cascade.stages},
    )
    model_id = str(model.model_id)
    try:
        save_mlflow_model(
            folder.parent / "model",
            folder,
            example,
            model_id=model_id,
            run_id=str(point.run_id),
            timm=any(stage.backbone.startswith("timm/") for stage in point.cascade.stages),
        )
        client.log_model_artifacts(model_id, str(folder.parent / "model"))
    except BaseException:
        client.finalize_logged_model(model_id, "FAILED")
        raise
    return client.finalize_logged_model(model_id, "READY")


def _version(
    client: "MlflowClient",
    package: CascadePackage,
    name: str,
    alias: str,
    model: "LoggedModel",
    note: str,
) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    point = package.point
    try:
        client.create_registered_model(name, description=_MODEL_NOTE.format(name=name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = client.create_model_version(
        name,
        source=str(model.artifact_location),
        run_id=point.run_id,
        model_id=str(model.model_id),
        description=f"{note}\n\n{_version_note(package)}".strip(),
        tags={
            "rcopt.cascade": str(point.cascade),
            "rcopt.accuracy": f"{point.validation.accuracy:.4f}",
            "rcopt.mflops": f"{short_number(point.validation.mean_flops / 1e6):g}",
            "rcopt.data_digest": package.data_digest,
            "rcopt.split_digest": package.split_digest,
        },
    )
    client.set_registered_model_alias(name, alias, found.version)
    client.set_tag(str(point.run_id), "rcopt.model", f"{name}/{found.version}")
    return found


def _open_registered(tracker: Tracker, source: str, device: str) -> LoadedCascade:
    with reported(f"loading model {source}"):
        location = _location(tracker.client, source)
        folder, is_copy = _local(tracker, location)
    try:
        return open_cascade(folder / _INSIDE, device)
    except InputError as error:
        if not is_copy:
            raise
        tracker.warn(f"{error}; it is downloaded again")
        shutil.rmtree(folder, ignore_errors=True)
        with reported(f"loading model {source}"):
            folder, _ = _local(tracker, location)
        return open_cascade(folder / _INSIDE, device)


def _location(client: "MlflowClient", source: str) -> str:
    """Return where the files of a registered model's version are."""
    from mlflow.exceptions import MlflowException

    named, _, alias = source.removeprefix("models:/").partition("@")
    name, _, number = named.partition("/")
    try:
        if not number:
            number = str(client.get_model_version_by_alias(name, alias or ALIAS).version)
        return str(client.get_model_version_download_uri(name, number))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        known = sorted(str(model.name) for model in client.search_registered_models())
        hint = f"known models: {', '.join(known[:10])}" if known else "no model is registered yet"
        raise InputError(f"{source}: no such folder, model, version or alias; {hint}") from error


def _local(tracker: Tracker, location: str) -> tuple[Path, bool]:
    """Return the folder of a model's files, and whether it is a copy that was downloaded."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path)), False
    if location.startswith("/"):
        return Path(location), False
    from mlflow.artifacts import download_artifacts

    downloads = tracker.project / "mlruns" / "downloads" / "models"
    # A logged model never changes, and its location holds its id.
    folder = downloads / hashlib.sha256(f"{tracker.uri} {location}".encode()).hexdigest()[:32]
    if not folder.is_dir():
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads) as made:
            got = download_artifacts(
                artifact_uri=location, dst_path=made, tracking_uri=tracker.uri
            )
            with contextlib.suppress(OSError):  # another process was faster
                Path(str(got)).rename(folder)
    return folder, True


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
