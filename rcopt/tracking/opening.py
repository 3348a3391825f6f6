"""Opening an MLflow store: addresses, first use, moved projects, servers that are not there."""

import logging
import os
import re
import sqlite3
import urllib.parse
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from rcopt.errors import InputError
from rcopt.files import odd_in_url
from rcopt.processes import without_proxy_for_loopback
from rcopt.redaction import has_login

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

#: What errors of libraries that speak to stores are called, or say, when nobody answers.
_AWAY = (
    "EndpointConnectionError", "ConnectTimeout", "ReadTimeout", "ConnectionClosed",
    "ConnectionError", "ServiceUnavailable", "SlowDown", "InternalError",
    "ServiceRequestError",
    "Could not connect to the endpoint", "Connection refused", "timed out", "Max retries",
)  # fmt: skip

#: ENOSPC and EDQUOT.
_FULL = (28, 122)


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
        return _open_server(uri), None
    database = Path(uri.removeprefix(_SQLITE))
    return _open_sqlite(uri, database), database.parent / "artifacts"


def no_space(error: Exception) -> bool:
    """Return whether an error says that a disk is full."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return "disk is full" in str(error) or "No space left" in str(error)


def away(error: Exception) -> bool:
    """Return whether an error says that a server, or the database behind it, does not answer.

    MLflow tells a lost connection by its words alone; of a server's answers only those count
    that mean "not now" (408, 429 and all from 500, where a lost database shows).
    """
    from mlflow.exceptions import MlflowException, RestException
    from requests.exceptions import ConnectionError, HTTPError, Timeout

    if isinstance(error, HTTPError):
        return error.response is not None and _later(error.response.status_code)
    if isinstance(error, (ConnectionError, Timeout)):
        return True
    if isinstance(error, RestException):
        return _later(int(error.get_http_status_code()))  # type: ignore[no-untyped-call]
    return isinstance(error, MlflowException) and (
        error.error_code == "TEMPORARILY_UNAVAILABLE"
        or str(error).startswith("API request to http")
    )


def store_away(error: BaseException) -> bool:
    """Return whether a store of artifacts says that it is away, by its own library's error.

    The libraries share no base class. They do carry an HTTP status where a server answered, and
    name a lost connection by their class or in their text.
    """
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(status, int) and status:
        return _later(status)
    name, text = type(error).__name__, str(error)
    return any(word in name or word in text for word in _AWAY) or (
        error.__cause__ is not None and store_away(error.__cause__)
    )


def store_hint(error: BaseException) -> str:
    """Return what to do about an error of a store of artifacts, where its text leaves it open."""
    text = f"{type(error).__name__} {error}"
    if "Credential" in text or "credential" in text:
        return "; set the credentials that the store's library reads"
    if "NoSuchBucket" in text or "bucket does not exist" in text:
        return "; make the bucket, or name another artifact root"
    if "AccessDenied" in text or "Forbidden" in text or "403" in text:
        return "; allow this user to write there"
    return ""


def _later(status: int) -> bool:
    return status in (408, 429) or status >= 500


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


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
        raise InputError(f"tracking.uri: {uri!r} is not an address ({error})") from error
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
