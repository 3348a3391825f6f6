"""One MLflow store: opened safely, spoken to in one place, quiet."""

import hashlib
import logging
import os
import re
import shutil
import sqlite3
import tempfile
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from rcopt.errors import InputError, WorkError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Warn = Callable[[str], None]

_SQLITE = "sqlite:///"
_PAGE = 1000

#: Set before MLflow is imported; a user's own settings win.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that restarts is waited for about a minute a call (MLflow's own default hangs
    # four minutes); callers that must not wait run on a thread of their own.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
}


def quiet_warning(text: str) -> None:
    """Say something on the library's logger."""
    logging.getLogger("rcopt.tracking").warning("%s", text)


def resolve_uri(uri: str, project: Path) -> str:
    """Return a tracking URI that means the same from every folder.

    Args:
        uri: ``sqlite:///PATH`` (relative paths belong to the project) or ``http(s)://``.
        project: The folder that holds ``studies/``.

    Raises:
        InputError: If it is neither.
    """
    if uri.startswith(("http://", "https://")):
        return uri.rstrip("/")
    path = uri.removeprefix(_SQLITE)
    if path == uri or not path:
        raise InputError(
            f"tracking.uri: expected sqlite:///PATH or http(s)://HOST:PORT, got {uri!r}"
        )
    return _SQLITE + str((project.resolve() / path).resolve())


class Connection:
    """An open store. `Tracker` builds on it; nothing else makes one.

    Attributes:
        uri: The resolved tracking URI.
        client: MLflow's client, with this URI.
        project: The project's folder.
        artifacts: Folder of the artifacts of a SQLite store; None behind a server.
        warn: Called with one line for what was mended or must be known.
    """

    def __init__(self, uri: str, project: Path, warn: Warn = quiet_warning) -> None:
        self.uri = resolve_uri(uri, project)
        self.project = project.resolve()
        self.warn = warn
        self.artifacts: Path | None = None
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        if self.uri.startswith(_SQLITE):
            database = Path(self.uri.removeprefix(_SQLITE))
            self.artifacts = database.parent / "artifacts"
            self.client = _open_sqlite(self.uri, database)
        else:
            self.client = _open_server(self.uri)

    def search(
        self, experiments: Sequence[str], where: str, order: Sequence[str] = ()
    ) -> "Iterator[Run]":
        """Yield every run of the experiments that fits a filter, page by page."""
        token: str | None = None
        while experiments:
            page = self.client.search_runs(
                list(experiments),
                where,
                max_results=_PAGE,
                order_by=[*order, "attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def experiments(self) -> list[str]:
        """Return the ids of all experiments that are not deleted."""
        found: list[str] = []
        token: str | None = None
        while True:
            page = self.client.search_experiments(max_results=_PAGE, page_token=token)
            found += [experiment.experiment_id for experiment in page]
            token = page.token
            if not token:
                return found

    def upload(self, run_id: str, name: str, source: Path) -> str:
        """Put a file under a run as an artifact and see that it arrived whole.

        Returns:
            Its sha256.

        Raises:
            WorkError: If what was stored is not what was sent.
        """
        digest = sha256(source)
        folder, _, base = name.rpartition("/")
        # MLflow names an artifact after the file, which may be called anything.
        with tempfile.TemporaryDirectory(prefix="rcopt-") as made:
            sent = source
            if source.name != base:
                sent = Path(made) / base
                try:
                    sent.hardlink_to(source.resolve())
                except OSError:
                    shutil.copyfile(source, sent)
            self.client.log_artifact(run_id, str(sent), folder or None)
        stored = self._local(run_id, name)
        if stored is not None:
            whole = stored.is_file() and sha256(stored) == digest
        else:
            sizes = {f.path: f.file_size for f in self.client.list_artifacts(run_id, folder)}
            whole = sizes.get(name) == source.stat().st_size
        if not whole:
            raise WorkError(f"{name} of run {run_id} did not arrive whole in the MLflow store")
        return digest

    def fetch(self, run_id: str, name: str, digest: str | None = None) -> Path:
        """Return a local path of an artifact, downloaded once where the store is remote.

        Args:
            run_id: Run that holds it.
            name: Its path in the run.
            digest: Its sha256; None takes the file as it is and downloads it anew.

        Raises:
            InputError: If it is missing or its digest is another.
        """
        path = self._local(run_id, name)
        if path is None:
            path = self.project / "mlruns" / "downloads" / run_id / name
            if digest is None or not path.is_file() or sha256(path) != digest:
                self._download(run_id, name, path)
        if not path.is_file():
            raise InputError(f"{path}: the artifact {name} of run {run_id} is missing")
        if digest is not None and sha256(path) != digest:
            raise InputError(
                f"{path}: damaged, its sha256 is not the one its run {run_id} recorded"
            )
        return path

    def artifact_names(self, run_id: str) -> set[str]:
        """Return the names of a run's files, folders not entered."""
        return {f.path for f in self.client.list_artifacts(run_id) if not f.is_dir}

    def _local(self, run_id: str, name: str) -> Path | None:
        uri = str(self.client.get_run(run_id).info.artifact_uri)
        parts = urllib.parse.urlsplit(uri)
        if parts.scheme == "file":
            return Path(urllib.request.url2pathname(parts.path)) / name
        return Path(uri) / name if uri.startswith("/") else None

    def _download(self, run_id: str, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            try:
                got = self.client.download_artifacts(run_id, name, folder)
            except FileNotFoundError:
                return
            Path(got).replace(path)


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn what MLflow and the file system raise into one line.

    Raises:
        InputError: If no space is left.
        WorkError: On anything else that MLflow refused.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if "disk is full" in str(error) or "No space left" in str(error):
            raise InputError(f"{what}: no space left; free some and repeat") from None
        raise WorkError(f"{what}: {first_line(error)}") from error
    except OSError as error:
        if error.errno in _FULL:
            where = error.filename or "the MLflow store's disk"
            raise InputError(f"{what}: no space left on {where}; free some and repeat") from None
        raise WorkError(f"{what}: {error}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def sha256(path: Path) -> str:
    """Return a file's sha256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quoted(text: str) -> str:
    """Return text as a string of MLflow's filter language."""
    if "'" in text and '"' in text:
        raise ValueError(f"text must not hold both kinds of quotation marks, got {text!r}")
    return f'"{text}"' if "'" in text else f"'{text}'"


def relocate(database: Path) -> int:
    """Point a moved SQLite store at its artifacts, which lie beside it.

    MLflow stores absolute locations. rcopt marks each experiment with where its artifacts lie
    relative to the database, so what has moved together is found together.

    Args:
        database: The SQLite file; artifacts lie under ``artifacts/`` beside it.

    Returns:
        Number of experiments whose location changed.
    """
    changed = 0
    with _sqlite(database) as db:
        marked = db.execute(
            "select e.experiment_id, e.artifact_location, t.value from experiments e join "
            "experiment_tags t using (experiment_id) where t.key = 'rcopt.artifacts'"
        ).fetchall()
        for experiment, old, relative in marked:
            new = (database.parent / relative).as_uri()
            if old == new:
                continue
            changed += 1
            db.execute(
                "update experiments set artifact_location = ? where experiment_id = ?",
                (new, experiment),
            )
            for table, column in _LOCATIONS:
                db.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) "
                    f"where substr({column}, 1, ?) = ?",
                    (new + "/", len(old) + 2, len(old) + 1, old + "/"),
                )
    return changed


_FULL = (28, 122)
_LOCATIONS = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


@contextmanager
def _sqlite(database: Path) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(database, timeout=30)
    try:
        with db:
            yield db
    finally:
        db.close()


def _open_sqlite(uri: str, database: Path) -> "MlflowClient":
    mend = "move it away or name another file in tracking.uri"
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        (database.parent / "artifacts").mkdir(exist_ok=True)
        # MLflow builds its tables without a lock: two processes at first use break the file.
        with FileLock(f"{database}.lock"):
            if database.exists():
                with database.open("r+b") as file:
                    head = file.read(16)
                if head not in (b"", b"SQLite format 3\0"):
                    raise InputError(f"{database}: not an MLflow database; {mend}")
            client = _client(uri)
            relocate(database)
            return client
    except sqlite3.DatabaseError as error:
        raise InputError(f"{database}: damaged MLflow database ({error}); {mend}") from error
    except OSError as error:
        if error.errno in _FULL:
            raise InputError(f"{database}: no space left; free some and repeat") from error
        raise InputError(f"{database}: cannot be used as MLflow store ({error})") from error


def _client(uri: str) -> "MlflowClient":
    # MLflow and SQLAlchemy warn about each other when mapping tables; no user can act on it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for name, level in _LOGGERS.items():
            logging.getLogger(name).setLevel(level)
        try:
            client = MlflowClient(uri, registry_uri=uri)
            client.search_experiments(max_results=1)
        except MlflowException as error:
            raise InputError(_explain(uri, error)) from error
        except Exception as error:
            # SQLAlchemy and alembic raise their own kinds while the tables are looked at.
            raise InputError(_explain(uri, error)) from error
    return client


#: Errors are raised and told once; these would tell them again, or report normal work.
_LOGGERS: Mapping[str, int] = {
    "mlflow.store.db.utils": logging.CRITICAL + 1,
    "alembic": logging.ERROR,
    "urllib3.connectionpool": logging.ERROR,
}


def _explain(uri: str, error: Exception) -> str:
    text = first_line(error)
    if "out-of-date database schema" in text:
        return f"{uri}: made by an older MLflow; back it up, then run: mlflow db upgrade {uri}"
    if "Can't locate revision" in text:
        return f"{uri}: made by a newer MLflow than the one installed; upgrade MLflow"
    return f"{uri}: cannot be opened as an MLflow store ({text})"


def _open_server(uri: str) -> "MlflowClient":
    mend = "start it (rcopt ui) or mend tracking.uri"
    try:
        urllib.parse.urlsplit(uri).port  # noqa: B018 - reading it checks it
    except ValueError as error:
        raise InputError(f"tracking.uri: {uri!r} is not an address ({error})") from None
    problem = _probe(uri)
    if problem:
        raise InputError(f"tracking server {uri} {problem}; {mend}")
    return _client(uri)


def _probe(uri: str) -> str:
    """Ask once, without the patience that work deserves; return what is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.exceptions import MlflowException
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    try:
        answer: Any = http_request(  # type: ignore[no-untyped-call]
            get_default_host_creds(uri),  # type: ignore[no-untyped-call]
            "/api/2.0/mlflow/experiments/search",
            "POST",
            max_retries=0,
            timeout=20,
            raise_on_status=False,
            json={"max_results": 1},
        )
    except MlflowException as error:
        reason = re.search(r"(refused|timed out|resolve|certificate|SSL)", str(error))
        return f"cannot be reached ({reason.group(0) if reason else first_line(error)})"
    if answer.status_code in (401, 403):
        return (
            f"refuses the login (HTTP {answer.status_code}): set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if answer.status_code != 200:
        return f"does not answer as MLflow does (HTTP {answer.status_code})"
    return ""
