"""Who may work on what: claims that die with their holder, and short shared locks.

A stage is trained under a claim, so that no two workers train it at once. On one machine the
kernel keeps the claim as a file lock. Across machines it is a lease: a row in PostgreSQL that
its holder renews and that is free again once it has expired. The holder stops believing in
its claim before the row can expire, so what is published follows a call of ``alive()``.
"""

import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString, Protocol

from filelock import FileLock, Timeout

from rcopt.errors import UnreachableError, WorkError
from rcopt.processes import this_process
from rcopt.study.workers.postgres import PostgresServer, is_postgres

#: Raises `ClaimLost` when the claim may have passed to another worker.
Alive = Callable[[], None]


class ClaimLost(WorkError):  # noqa: N818 - a state of the claim, not only an error
    """The claim may have passed to another worker, so nothing may be published under it."""


@dataclass(frozen=True)
class Holder:
    """Who holds a claim.

    Attributes:
        key: What is claimed.
        owner: ``host:pid`` of the process that holds it.
        since: When it was claimed (UTC; the server's clock, if there is a server).
    """

    key: str
    owner: str
    since: datetime


class Claims(Protocol):
    """Exclusive claims on keys, among all workers that share one store."""

    def claim(self, key: str) -> AbstractContextManager[Alive | None]:
        """Hold a key inside the block, if nobody else holds it.

        Args:
            key: Letters, digits and ``. _ @ -``, at most 200 of them, no dot in front.

        Returns:
            A context manager that yields None if somebody else holds the key, and otherwise a
            function to be called while working and before publishing: it raises `ClaimLost`
            when the claim may be ours no longer.

        Raises:
            ValueError: If the key has other characters.
            UnreachableError: If the store does not answer; worth another attempt.
            WorkError: If the claim cannot be kept, as on a full disk.
        """
        ...

    def held(self) -> list[Holder]:
        """Return who holds what now, sorted by key."""
        ...


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
    _check_name("name", name)
    if not is_postgres(storage):
        with _file_lock(folder, f"{name}.lock", timeout):
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
        path = self._folder / f"{_check_name('key', key)}.lock"
        note = path.with_name(f"{key}.owner")
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
            for note in sorted(self._folder.glob("*.owner")):
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
                    holders.append(Holder(note.stem, note.read_text(), since))
        return holders

    def _gate(self) -> AbstractContextManager[None]:
        # Asking whether a lock is held means taking it for a moment. Behind the gate nobody
        # claims in that moment, so nobody is refused for it.
        return _file_lock(self._folder, ".gate", timeout=10.0)


class LeaseClaims:
    """Claims among the machines that share a PostgreSQL database, kept as leases.

    A claim outlives its holder by at most ``ttl``. A server that is away for less than about
    0.7 ``ttl`` costs no claim; one that is away for longer than ``ttl`` costs all of them.
    Times are compared on the server's clock alone, so the workers' clocks do not matter.

    Args:
        url: SQLAlchemy URL of the database.
        ttl: How long a lease lasts without renewal, in seconds.

    Raises:
        InputError: If the URL is malformed or psycopg is missing.
    """

    def __init__(self, url: str, ttl: float = 90.0) -> None:
        if not 0 < ttl < math.inf:
            raise ValueError(f"ttl must be a positive number of seconds, got {ttl}")
        self._server = PostgresServer(url)
        self._ttl = ttl
        self._prepared = False

    @contextmanager
    def claim(self, key: str) -> Iterator[Alive | None]:
        """Hold a key inside the block; see `Claims.claim`."""
        _check_name("key", key)
        self._prepare()
        # A random part for every claim, so that a late renewal of an earlier one misses.
        owner = f"{this_process()}:{secrets.token_hex(8)}"
        row = {"key": key, "owner": owner, "ttl": self._ttl}
        asked = _clock()
        if not self._server.rows(_CLAIM, row):
            yield None
            return
        lease = _Lease(key, self._ttl, asked, lambda: bool(self._server.rows(_RENEW, row)))
        try:
            yield lease.alive
        finally:
            lease.stop()
            # A row that cannot be deleted now expires by itself.
            with suppress(UnreachableError):
                self._server.rows(_RELEASE, row)

    def held(self) -> list[Holder]:
        """Return who holds what now, sorted by key."""
        self._prepare()
        return [
            Holder(key, owner.rpartition(":")[0], since.astimezone(UTC))
            for key, owner, since in self._server.rows(_HELD, {})
        ]

    def _prepare(self) -> None:
        if not self._prepared:
            self._server.create(_TABLE)
            self._prepared = True


_TABLE: LiteralString = """
    create table if not exists rcopt_claim (
        key text primary key, owner text not null,
        since timestamptz not null, until timestamptz not null)"""

_CLAIM: LiteralString = """
    insert into rcopt_claim (key, owner, since, until)
    values (%(key)s, %(owner)s, now(), now() + make_interval(secs => %(ttl)s))
    on conflict (key) do update
    set owner = excluded.owner, since = excluded.since, until = excluded.until
    where rcopt_claim.until < now()
    returning key"""

_RENEW: LiteralString = """
    update rcopt_claim set until = now() + make_interval(secs => %(ttl)s)
    where key = %(key)s and owner = %(owner)s
    returning key"""

_RELEASE: LiteralString = """
    delete from rcopt_claim where key = %(key)s and owner = %(owner)s returning key"""

_HELD: LiteralString = """
    select key, owner, since from rcopt_claim where until >= now() order by key collate "C" """


class _Lease:
    """One held row, renewed by a thread; in our own view it expires before the row does.

    Args:
        key: What is held, for messages.
        ttl: How long a renewal lasts, in seconds.
        asked: When the row was asked for, on our clock, before the server answered.
        renew: Renews the row and returns whether it is still ours.
    """

    def __init__(self, key: str, ttl: float, asked: float, renew: Callable[[], bool]) -> None:
        self._key = key
        self._ttl = ttl
        self._renewed = asked
        self._renew = renew
        self._lost = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {key}", daemon=True)
        self._thread.start()

    def alive(self) -> None:
        if self._is_lost():
            raise ClaimLost(
                f"claim on {self._key}: taken by another worker, or not renewed within "
                f"{self._ttl:g} s; what was done under it is dropped"
            )

    def stop(self) -> None:
        self._stopped.set()
        # A renewal that hangs on the network can do no harm: its owner's row is gone by then.
        self._thread.join(timeout=1.0)

    def _is_lost(self) -> bool:
        # Once lost it stays so, whatever a renewal under way may still bring.
        self._lost = self._lost or _clock() - self._renewed > self._ttl
        return self._lost

    def _keep(self) -> None:
        pause = self._ttl / 4
        while not self._stopped.wait(pause):
            asked = _clock()
            if self._is_lost():
                return
            try:
                ours = self._renew()
            except UnreachableError:
                # Often, or the server's return could be missed by more than the ttl has left.
                pause = self._ttl / 40
                continue
            if not ours:
                self._lost = True
                return
            self._renewed = asked
            pause = self._ttl / 4


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


def _check_name(argument: str, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_@-][A-Za-z0-9._@-]{0,199}", value):
        raise ValueError(
            f"{argument} must be at most 200 letters, digits and . _ @ -, with no dot in front, "
            f"got {value!r}"
        )
    return value


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _clock() -> float:
    # Where there is one, a clock that goes on while the machine sleeps, as the server's does.
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)
