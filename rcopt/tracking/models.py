"""Registered models of an open MLflow store."""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rcopt.errors import InputError
from rcopt.tracking.connection import Connection
from rcopt.tracking.faults import reported


@dataclass(frozen=True)
class ModelFolder:
    """Where the files of a model's version are on this machine.

    Attributes:
        path: The folder.
        is_copy: Whether it was downloaded, and can be again.
    """

    path: Path
    is_copy: bool


@dataclass(frozen=True)
class ModelVersion:
    """What a version of a registered model is to tell.

    Attributes:
        name: Of the registered model; made if it does not exist.
        note: Markdown of the model, where it is made.
        alias: Moved to the new version.
        card: Markdown of the version.
        tags: Of the version.
    """

    name: str
    note: str
    alias: str
    card: str
    tags: Mapping[str, str]


class ModelStore:
    """The registry of an open store.

    Args:
        store: The store.
    """

    def __init__(self, store: Connection) -> None:
        self._store = store

    def add(
        self,
        version: ModelVersion,
        *,
        experiment_id: str,
        run_id: str,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        build: Callable[[str], Path],
    ) -> tuple[int, str]:
        """Log a model and register it as a new version.

        The run is linked but stays as it is: reopening a finished run would rewrite its end.

        Args:
            version: What the version tells.
            experiment_id: The study's.
            run_id: The cascade's run.
            tags: Of the logged model.
            params: Of the logged model.
            build: Makes the model's folder, given the logged model's id.

        Returns:
            The version's number and the logged model's id.

        Raises:
            WorkError: If the store refuses.
        """
        client, name = self._store.client, version.name
        with reported(f"registering model {name}"):
            model = client.create_logged_model(
                experiment_id,
                name=name.replace(" ", "-"),
                source_run_id=run_id,
                model_type="cascade",
                tags=dict(tags),
                params=dict(params),
            )
            model_id = str(model.model_id)
            try:
                client.log_model_artifacts(model_id, str(build(model_id)))
            except BaseException:
                client.finalize_logged_model(model_id, "FAILED")
                raise
            model = client.finalize_logged_model(model_id, "READY")
            self._make_name(name, version.note)
            made = client.create_model_version(
                name,
                source=str(model.artifact_location),
                run_id=run_id,
                model_id=model_id,
                description=version.card,
                tags=dict(version.tags),
            )
            client.set_registered_model_alias(name, version.alias, made.version)
            client.set_tag(run_id, "rcopt.model", f"{name}/{made.version}")
        return int(made.version), model_id

    def experiment_of(self, run_id: str) -> str:
        """Return the experiment of the run that a model came from.

        Raises:
            WorkError: If the store refuses, or has no such run.
        """
        with reported(f"looking for run {run_id}"):
            return str(self._store.client.get_run(run_id).info.experiment_id)

    def locate(self, source: str, alias: str) -> str:
        """Return where the files of a registered model's version are.

        Args:
            source: ``NAME``, ``NAME@ALIAS`` or ``NAME/VERSION``, or any after ``models:/``.
            alias: Taken where ``source`` names neither.

        Raises:
            InputError: If there is no such model, version or alias; what there is is named.
            WorkError: If the store does not answer.
        """
        from mlflow.exceptions import MlflowException

        client = self._store.client
        named, _, wanted = source.removeprefix("models:/").partition("@")
        name, _, number = named.partition("/")
        with reported(f"loading model {source}"):
            try:
                if not number:
                    found = client.get_model_version_by_alias(name, wanted or alias)
                    number = str(found.version)
                return str(client.get_model_version_download_uri(name, number))
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                raise InputError(
                    f"{source}: no such folder, model, version or alias; {self._hint(name)}"
                ) from error

    def fetch(self, location: str) -> ModelFolder:
        """Return the folder of a model's files, downloaded once where the store is remote.

        Args:
            location: From `locate`.

        Raises:
            WorkError: If the store does not answer.
        """
        parts = urlsplit(location)
        if parts.scheme == "file":
            return ModelFolder(Path(url2pathname(parts.path)), is_copy=False)
        if location.startswith("/"):
            return ModelFolder(Path(location), is_copy=False)
        from mlflow.artifacts import download_artifacts

        uri = self._store.uri
        downloads = self._store.project / "mlruns" / "downloads" / "models"
        # A logged model never changes, and its location holds its id.
        folder = downloads / hashlib.sha256(f"{uri} {location}".encode()).hexdigest()[:32]
        if not folder.is_dir():
            downloads.mkdir(parents=True, exist_ok=True)
            with (
                reported(f"loading model {location}"),
                tempfile.TemporaryDirectory(dir=downloads) as made,
            ):
                got = download_artifacts(artifact_uri=location, dst_path=made, tracking_uri=uri)
                with contextlib.suppress(OSError):  # another process was faster
                    Path(str(got)).rename(folder)
        return ModelFolder(folder, is_copy=True)

    def forget(self, folder: ModelFolder) -> None:
        """Remove a downloaded copy, so that `fetch` gets it again."""
        if folder.is_copy:
            shutil.rmtree(folder.path, ignore_errors=True)

    def _make_name(self, name: str, note: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._store.client.create_registered_model(name, description=note)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _hint(self, name: str) -> str:
        client = self._store.client
        models = {str(model.name): model for model in client.search_registered_models()}
        if not models:
            return "no model is registered yet"
        known = f"known models: {', '.join(sorted(models)[:10])}"
        if name not in models:
            return known
        versions = client.search_model_versions(f"name = '{name}'")
        numbers = sorted(int(version.version) for version in versions)
        if not numbers:
            return f"{known}; {name} has no version, rcopt select STUDY --register {name} adds one"
        shown = [f"{name}/{number}" for number in numbers[-10:]]
        shown += [f"{name}@{alias}" for alias in sorted(models[name].aliases)]
        return f"{known}; there is {', '.join(shown)}"
