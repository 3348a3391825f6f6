"""An open MLflow store: queries, files, and what goes wrong told in one line."""

import logging
import re
import secrets
import shutil
import stat
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rcopt.errors import (
    AbsentError,
    DamagedError,
    InputError,
    UnreachableError,
    UnseenError,
    WorkError,
)
from rcopt.files import file_digest
from rcopt.tracking.opening import (
    away,
    first_line,
    no_space,
    open_store,
    resolve_uri,
    store_away,
    store_hint,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

Warn = Callable[[str], None]

_PAGE = 1000


def quiet_warning(text: str) -> None:
    """Say something on the library's logger."""
    logging.getLogger("rcopt.tracking").warning("%s", text)


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
        self.client, self.artifacts = open_store(self.uri)

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
        digest = file_digest(source)
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
            whole = stored.is_file() and file_digest(stored) == digest
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
            DamagedError: If its digest is another.
            AbsentError: If it is missing where the others are.
            UnseenError: If this machine cannot see or read the place.
        """
        path = self._local(run_id, name)
        if path is None:
            if not re.fullmatch(r"\w[\w-]*", run_id):
                raise InputError(f"run {run_id!r}: not an id that MLflow gives")
            path = self.project / "mlruns" / "downloads" / run_id / name
            if digest is None or not path.is_file() or file_digest(path) != digest:
                self._download(run_id, name, path)
        try:
            there = stat.S_ISREG(path.stat().st_mode)
            sound = there and (digest is None or file_digest(path) == digest)
        except FileNotFoundError:
            there = sound = False
        except OSError as error:
            raise UnseenError(
                f"{path}: the artifact {name} of run {run_id} cannot be read ({error.strerror}); "
                "it may well be sound"
            ) from error
        if not there:
            root = self._root(run_id)
            if root is not None and not root.is_dir():
                raise UnseenError(
                    f"{root}: the folder of this store's artifacts is not here; mount it, or "
                    "have the MLflow server serve artifacts"
                )
            raise AbsentError(f"{path}: the artifact {name} of run {run_id} is missing")
        if not sound:
            raise DamagedError(
                f"{path}: damaged, its SHA-256 is not the one its run {run_id} recorded"
            )
        return path

    def artifact_names(self, run_id: str) -> set[str]:
        """Return the names of a run's files, folders not entered."""
        return {f.path for f in self.client.list_artifacts(run_id) if not f.is_dir}

    def _root(self, run_id: str) -> Path | None:
        """Return the folder that all artifacts of a run's experiment lie in, where it is local."""
        run = self._local(run_id, "")
        return None if run is None else run.parent.parent

    def check_writable(self, run_id: str) -> None:
        """Store a small file with a run and read it back, before anything rests on it.

        A server may keep artifacts in a folder that clients are to write themselves: on a
        machine that does not see it, MLflow would make a folder of that name and say nothing.
        So the first to store something leaves a token there that all others must find.

        Raises:
            UnseenError: If the folder is another one here, or cannot be written.
        """
        folder = self._local(run_id, "")
        if folder is None or self.artifacts is not None:
            return
        known = self.client.get_run(run_id).data.tags.get("rcopt.artifacts")
        place = folder / "artifacts.token"
        if known is None:
            known = secrets.token_hex(8)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                place.write_text(known)
            except OSError as error:
                raise UnseenError(
                    f"{folder}: the MLflow server wants artifacts to be written there, and this "
                    f"machine cannot ({error.strerror}); mount the folder, or have the server "
                    "serve artifacts"
                ) from error
            self.client.set_tag(run_id, "rcopt.artifacts", known)
        elif not place.is_file() or place.read_text() != known:
            raise UnseenError(
                f"{folder}: the MLflow server keeps artifacts in a folder of that name that this "
                "machine does not see; mount it, or have the server serve artifacts"
            )

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
        UnreachableError: If the server, or the database behind it, does not answer.
        WorkError: On anything else that MLflow refused.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if no_space(error):
            raise InputError(f"{what}: no space left; free some and repeat") from error
        if away(error):
            raise UnreachableError(f"{what}: MLflow: {first_line(error)}") from error
        raise WorkError(f"{what}: {first_line(error)}") from error
    except OSError as error:
        if no_space(error):
            where = error.filename or "the MLflow store's disk"
            raise InputError(f"{what}: no space left on {where}; free some and repeat") from error
        if away(error):
            raise UnreachableError(f"{what}: MLflow: {first_line(error)}") from error
        raise WorkError(f"{what}: {error}") from error
    except ImportError as error:
        raise InputError(
            f"{what}: the store of its artifacts needs a package that is not installed "
            f"({first_line(error)}); install it"
        ) from error
    except Exception as error:
        # Stores of artifacts raise the errors of their own libraries (boto3, google, azure, ...).
        if type(error).__module__.partition(".")[0] in ("builtins", "rcopt"):
            raise
        if store_away(error):
            raise UnreachableError(f"{what}: artifacts: {first_line(error)}") from error
        raise WorkError(f"{what}: artifacts: {first_line(error)}{store_hint(error)}") from error


def quoted(text: str) -> str:
    """Return text as a string of MLflow's filter language."""
    if "'" in text and '"' in text:
        raise ValueError(f"text must not hold both kinds of quotation marks, got {text!r}")
    return f'"{text}"' if "'" in text else f"'{text}'"
