"""Opening an MLflow store: addresses, first use, moved projects, servers that are not there."""

import logging
import os
import re
import sqlite3
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from rcopt.errors import InputError
from rcopt.files import odd_in_url
from rcopt.processes import without_proxy_for_loopback
from rcopt.redaction import has_login
from rcopt.tracking.faults import first_line, no_space
from rcopt.tracking.reaching import check_server

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"

#: Set before MLflow is imported; a user's own settings win.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A call gives up after seconds (MLflow's own default hangs four minutes, silently): what
    # must be done is repeated by `rcopt.patience`, which says what it waits for.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


def resolve_uri(uri: str, project: Path) -> str:
    """Return a tracking URI that means the same from every folder.

    Args:
        uri: ``sqlite:///PATH`` (relative paths belong to the project) or ``http(s)://``.
        project: The folder that holds ``studies/``.

    Raises:
        InputError: If it is neither, or holds a login.
    """
    if has_login(uri):
        # It would be shown with the links and by other programs' lists of processes.
        raise InputError(
            "tracking.uri: must not hold a login; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if uri.startswith(("http://", "https://")):
        return uri.rstrip("/")
    path = uri.removeprefix(_SQLITE)
    if path == uri or not path:
        raise InputError(
            f"tracking.uri: expected sqlite:///PATH or http(s)://HOST:PORT, got {uri!r}"
        )
    database = str((project.resolve() / path).resolve())
    if odd := odd_in_url(database):
        raise InputError(
            f"tracking.uri: {database} holds {odd!r}, which means something else in the address "
            "of a database; move the project to a folder without it"
        )
    return _SQLITE + database


def open_store(uri: str) -> "tuple[MlflowClient, Path | None]":
    """Open a store, making a SQLite one where it is missing.

    Args:
        uri: From `resolve_uri`.

    Returns:
        MLflow's client, and the folder of the artifacts of a SQLite store.

    Raises:
        InputError: If the server cannot be reached or the file is no MLflow store.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ |= without_proxy_for_loopback(os.environ)
    if not uri.startswith(_SQLITE):
        check_server(uri)
        return _client(uri), None
    database = Path(uri.removeprefix(_SQLITE))
    return _open_sqlite(uri, database), database.parent / "artifacts"


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
            if old == new or not _may_move(database, old, relative):
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


def _may_move(database: Path, old: str, relative: str) -> bool:
    """Return whether artifacts may lie where an experiment's tag says, which anyone can edit."""
    parts = Path(relative).parts
    if len(parts) != 2 or parts[0] != "artifacts" or ".." in parts:
        return False
    before = Path(urllib.request.url2pathname(urllib.parse.urlsplit(old).path))
    return (database.parent / relative).is_dir() or not before.is_dir()


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
            begun = Path(f"{database}.new")
            if begun.exists():
                _drop_unfinished(database)
            head = b""
            if database.exists():
                with database.open("r+b") as file:
                    head = file.read(16)
            if head not in (b"", b"SQLite format 3\0"):
                raise InputError(f"{database}: not an MLflow database; {mend}")
            if not head:
                # Kept in the file: writers then wait for the disk once a call instead of four
                # times, and someone looking at the UI holds nobody up. Some network drives
                # cannot; there it stays as it is.
                begun.touch()
                with suppress(sqlite3.OperationalError), _sqlite(database) as db:
                    db.execute("pragma journal_mode = wal")
            client = _client(uri)
            begun.unlink(missing_ok=True)
            relocate(database)
            return client
    except sqlite3.DatabaseError as error:
        raise InputError(f"{database}: damaged MLflow database ({error}); {mend}") from error
    except OSError as error:
        if no_space(error):
            raise InputError(f"{database}: no space left; free some and repeat") from error
        raise InputError(f"{database}: cannot be used as MLflow store ({error})") from error


def _drop_unfinished(database: Path) -> None:
    """Remove a database whose making was cut short; MLflow would stumble over its tables."""
    try:
        with _sqlite(database) as db:
            used = db.execute("select count(*) from runs").fetchone()[0]
    except sqlite3.OperationalError as error:
        used = "no such table" not in str(error)
    if not used:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{database}{suffix}").unlink(missing_ok=True)


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
    if no_space(error):
        return f"{uri.removeprefix(_SQLITE)}: no space left; free some and repeat"
    if "out-of-date database schema" in text and not _is_newer(text):
        return f"{uri}: made by an older MLflow; back it up, then run: mlflow db upgrade {uri}"
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return (
            f"{uri}: made by a newer MLflow than this one, {version('mlflow')}; upgrade it (pip "
            "install --upgrade mlflow), or name another file in tracking.uri"
        )
    return f"{uri}: cannot be opened as an MLflow store ({text})"


def _is_newer(text: str) -> bool:
    """Return whether the version that MLflow found in a database is one it does not know.

    MLflow tells an unknown version as it tells an older one: out of date.
    """
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.store import db_migrations

    found = re.search(r"found version (\w+)", text)
    if found is None:
        return False
    known = ScriptDirectory(str(Path(str(db_migrations.__file__)).parent))
    try:
        return known.get_revision(found.group(1)) is None
    except CommandError:
        return True
