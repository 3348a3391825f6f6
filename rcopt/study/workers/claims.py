"""Who may work on what: claims that die with their holder, and short shared locks.

A stage is trained under a claim, so that no two workers train it at once. On one machine the
kernel keeps the claim as a file lock. Across machines it is a lease: a row in PostgreSQL that
its holder renews and that is free again once it has expired. The holder stops believing in
its claim before the row can expire, so what is published follows a call of ``alive()``.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from rcopt.errors import WorkError
from rcopt.files import file_name, named_by
from rcopt.processes import this_process
from rcopt.study.workers.claim import Alive, ClaimLost, Claims, Holder, check_name
from rcopt.study.workers.leases import LeaseClaims
from rcopt.study.workers.postgres import PostgresServer, is_postgres


def open_claims(storage: str, folder: Path, lease: float = 90.0) -> Claims:
    """Return the claims that suit a storage: leases on PostgreSQL, else file locks.

    Args:
        storage: ``journal``, or the SQLAlchemy URL of an SQLite or PostgreSQL database.
        folder: Where file locks lie; one folder for all who must exclude each other.
        lease: How long a lease lasts without renewal, in seconds.

    Raises:
        InputError: If the storage is of another kind, its URL is malformed, or psycopg is
            missing.
    """
    return LeaseClaims(storage, lease) if is_postgres(storage) else FileClaims(folder)


@contextmanager
def shared_lock(storage: str, folder: Path, name: str, timeout: float = 300.0) -> Iterator[None]:
    """Hold a short lock that everybody on the same storage respects.

    It is meant for milliseconds to a minute: the first opening of a store, counting trials and
    adding one. It is not reentrant. A restart of the database takes it away unnoticed, so what
    is done inside must be harmless when two do it at once.

    Args:
        storage: As for `open_claims`.
        folder: Where the file lock lies, without PostgreSQL.
        name: Which lock, spelled as a claim's key; on PostgreSQL one name is one lock in the
            whole database.
        timeout: Longest wait, in seconds.

    Raises:
        InputError: As for `open_claims`.
        UnreachableError: If the database does not answer; worth another attempt.
        WorkError: If somebody else keeps the lock for longer than the timeout.
    """
    check_name("name", name)
    if not is_postgres(storage):
        with _file_lock(folder, f"{file_name(name)}.lock", timeout):
            yield
        return
    try:
        connection = PostgresServer(storage).lock(name, timeout)
    except TimeoutError as error:
        raise _kept_too_long(name, timeout) from error
    with closing(connection):
        yield


class FileClaims:
    """Claims among the processes of one machine, kept by its kernel, freed even by SIGKILL.

    Not for network file systems. The lock files stay: deleting one would let a second holder in.

    Args:
        folder: Where the lock files lie; made on first use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def claim(self, key: str) -> Iterator[Alive | None]:
        """Hold a key inside the block; see `Claims.claim`."""
        name = file_name(check_name("key", key))
        path = self._folder / f"{name}.lock"
        note = path.with_name(f"{name}.owner")
        lock = FileLock(path, thread_local=False)
        with self._gate(), _os_errors(self._folder), ExitStack() as undo:
            won = _try_lock(lock)
            if won:
                undo.callback(lock.release)
                mine = _identity(path)
                note.write_text(this_process())
                undo.pop_all()
        if not won:
            yield None
            return

        def alive() -> None:
            if _identity(path) != mine:
                raise ClaimLost(f"claim on {key}: its lock file was deleted while it was held")

        try:
            yield alive
        finally:
            with suppress(OSError):
                note.unlink()
            lock.release()

    def held(self) -> list[Holder]:
        """Return who holds what now, sorted by key."""
        if not self._folder.exists():
            return []
        holders = []
        with self._gate(), _os_errors(self._folder):
            for note in self._folder.glob("*.owner"):
                lock = FileLock(note.with_name(f"{note.stem}.lock"))
                if _try_lock(lock):
                    try:
                        note.unlink(missing_ok=True)
                    finally:
                        lock.release()
                    continue
                # It may be released at any moment, gate or not.
                with suppress(FileNotFoundError):
                    since = datetime.fromtimestamp(note.stat().st_mtime, UTC)
                    holders.append(Holder(named_by(note.stem), note.read_text(), since))
        return sorted(holders, key=lambda holder: holder.key)

    def _gate(self) -> AbstractContextManager[None]:
        # Asking whether a lock is held means taking it for a moment. Behind the gate nobody
        # claims in that moment, so nobody is refused for it.
        return _file_lock(self._folder, ".gate", timeout=10.0)


@contextmanager
def _file_lock(folder: Path, name: str, timeout: float) -> Iterator[None]:
    with _os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / name, thread_local=False)
        if not _try_lock(lock, timeout):
            raise _kept_too_long(name, timeout)
    try:
        yield
    finally:
        lock.release()


def _try_lock(lock: FileLock, timeout: float = 0.0) -> bool:
    try:
        lock.acquire(timeout=timeout, poll_interval=0.005)
    except Timeout:
        return False
    return True


@contextmanager
def _os_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkError(f"{folder}: no lock can be kept there ({error.strerror})") from error


def _kept_too_long(name: str, timeout: float) -> WorkError:
    return WorkError(
        f"timed out after {timeout:g} s waiting for lock {name}, held by another process; check "
        "whether that process is stopped or stuck"
    )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
