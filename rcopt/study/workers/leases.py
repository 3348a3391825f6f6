"""Claims across machines: rows in PostgreSQL that their holder renews and that expire."""

import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC
from typing import LiteralString

from rcopt.errors import UnreachableError
from rcopt.processes import this_process
from rcopt.study.workers.claim import Alive, ClaimLost, Holder, check_name
from rcopt.study.workers.postgres import PostgresServer


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
        check_name("key", key)
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


def _clock() -> float:
    # Where there is one, a clock that goes on while the machine sleeps, as the server's does.
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)
