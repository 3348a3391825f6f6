"""Files of runs: put there whole, and found again, wherever the store keeps them."""

import re
import secrets
import shutil
import stat
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

from rcopt.errors import (
    AbsentError,
    DamagedError,
    InputError,
    UnreachableError,
    UnseenError,
    WorkError,
)
from rcopt.files import file_digest
from rcopt.tracking.connection import Connection


class RunFiles:
    """The artifacts of a store's runs.

    Args:
        store: Where the runs are.
    """

    def __init__(self, store: Connection) -> None:
        self._store = store

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
            self._store.client.log_artifact(run_id, str(sent), folder or None)
        stored = self._local(run_id, name)
        if stored is not None:
            whole = stored.is_file() and file_digest(stored) == digest
        else:
            sizes = {
                f.path: f.file_size for f in self._store.client.list_artifacts(run_id, folder)
            }
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
            path = self._store.project / "mlruns" / "downloads" / run_id / name
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
        return {f.path for f in self._store.client.list_artifacts(run_id) if not f.is_dir}

    def check_writable(self, run_id: str) -> None:
        """Store a small file with a run and read it back, before anything rests on it.

        A server may keep artifacts in a folder that clients are to write themselves: on a
        machine that does not see it, MLflow would make a folder of that name and say nothing.
        So the first to store something leaves a token there that all others must find.

        Raises:
            UnseenError: If the folder is another one here, or cannot be written.
        """
        folder = self._local(run_id, "")
        if folder is None or self._store.artifacts is not None:
            return
        known = self._store.client.get_run(run_id).data.tags.get("rcopt.artifacts")
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
            self._store.client.set_tag(run_id, "rcopt.artifacts", known)
        elif not place.is_file() or place.read_text() != known:
            raise UnseenError(
                f"{folder}: the MLflow server keeps artifacts in a folder of that name that this "
                "machine does not see; mount it, or have the server serve artifacts"
            )

    def _root(self, run_id: str) -> Path | None:
        """Return the folder that all artifacts of a run's experiment lie in, where it is local."""
        run = self._local(run_id, "")
        return None if run is None else run.parent.parent

    def _local(self, run_id: str, name: str) -> Path | None:
        uri = str(self._store.client.get_run(run_id).info.artifact_uri)
        parts = urllib.parse.urlsplit(uri)
        if parts.scheme == "file":
            return Path(urllib.request.url2pathname(parts.path)) / name
        return Path(uri) / name if uri.startswith("/") else None

    def _download(self, run_id: str, name: str, path: Path) -> None:
        """Put an artifact at a path; leave nothing there if the store does not have it."""
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        # Not by MlflowClient, which says of every failure that the path is wrong.
        source = f"{self._store.client.get_run(run_id).info.artifact_uri}/{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            try:
                got = download_artifacts(
                    artifact_uri=source, dst_path=folder, tracking_uri=self._store.uri
                )
            except FileNotFoundError:
                return
            except MlflowException as error:
                # It holds the store's own error as text alone. A store that is away says so
                # when it is asked what it has.
                if name not in self._names(run_id, name.rpartition("/")[0]):
                    return
                if re.search(r"\b4\d\d Client Error", str(error)):
                    raise
                reason = str(error).strip().splitlines()[-1][:200]
                raise UnreachableError(f"{name} of run {run_id}: artifacts: {reason}") from error
            Path(got).replace(path)

    def _names(self, run_id: str, folder: str) -> set[str]:
        return {f.path for f in self._store.client.list_artifacts(run_id, folder or None)}
