"""PostgreSQL, asked directly: single statements and locks, each over a connection of its own.

A new connection for each statement costs milliseconds, outlives every restart of the server
and needs no code that reconnects. psycopg and SQLAlchemy are imported when first needed.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any, LiteralString

from rcopt.errors import InputError, UnreachableError

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]


def is_postgres(storage: str) -> bool:
    """Return whether a storage is a PostgreSQL URL, shared by machines.

    Args:
        storage: ``journal``, or the SQLAlchemy URL of an SQLite or PostgreSQL database.

    Raises:
        InputError: If it is of another kind.
    """
    if storage == "journal" or storage.startswith("sqlite:"):
        return False
    if re.match(r"postgresql(\+psycopg2?)?://", storage):
        return True
    # Only the scheme is shown: what follows may hold a password.
    scheme = storage.partition(":")[0]
    raise InputError(
        f'search.storage: {scheme!r} is not supported; expected "journal", '
        '"sqlite:///FILE" or "postgresql+psycopg://USER@HOST/DATABASE"'
    )


#: Of a connection (libpq's names): a dead server or network shows within seconds, while
#: connecting and afterwards.
PATIENCE: Mapping[str, int] = {
    "connect_timeout": 3,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}


class PostgresServer:
    """A database on a PostgreSQL server; nothing is connected before the first question.

    Every method raises `UnreachableError` if the server does not answer. No text of an error
    holds the password.

    Args:
        url: SQLAlchemy URL of the database.

    Raises:
        InputError: If the URL is malformed or psycopg is missing.
    """

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise InputError(
                "search.storage: PostgreSQL needs the psycopg package; "
                "install it with: pip install 'rcopt[postgres]'"
            ) from error
        self._psycopg = psycopg
        self._parameters = _connect_parameters(url)

    def rows(self, statement: LiteralString, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Run one statement that returns rows, and return them."""
        with self._errors(), closing(self._connect()) as connection:
            return connection.execute(statement, values).fetchall()

    def create(self, statement: LiteralString) -> None:
        """Run a ``create ... if not exists``; any number may do so at once."""
        # Without the lock "if not exists" fails when two create at the same time.
        with self._errors(), closing(self._connect()) as connection, connection.transaction():
            connection.execute("select pg_advisory_xact_lock(%s)", (_lock_number("create"),))
            connection.execute(statement)

    def lock(self, name: str, timeout: float) -> "Connection":
        """Wait for a lock and return the connection that holds it until it is closed.

        Args:
            name: One name is one lock in the whole database.
            timeout: Longest wait, in seconds.

        Raises:
            TimeoutError: If another connection keeps the lock for longer.
        """
        settings = {
            # Without these the server keeps the lock of a lost host for hours.
            "tcp_keepalives_idle": "2",
            "tcp_keepalives_interval": "1",
            "tcp_keepalives_count": "3",
            "tcp_user_timeout": "5000",
            "lock_timeout": str(max(1, round(timeout * 1000))),
        }
        with self._errors(), ExitStack() as opened:
            connection = opened.enter_context(closing(self._connect()))
            try:
                for setting, value in settings.items():
                    connection.execute("select set_config(%s, %s, false)", (setting, value))
                connection.execute("select pg_advisory_lock(%s)", (_lock_number(name),))
            except self._psycopg.errors.LockNotAvailable as error:
                raise TimeoutError(name) from error
            opened.pop_all()
        return connection

    def _connect(self) -> "Connection":
        return self._psycopg.connect(**self._parameters, autocommit=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._psycopg.Error as error:
            reason = " ".join(str(error).strip().splitlines()[:1]) or type(error).__name__
            # Without the cause: how the drivers word their errors is out of our hands, and a
            # traceback must not show a password.
            raise UnreachableError(f"search.storage: PostgreSQL: {reason}") from None


def _connect_parameters(url: str) -> dict[str, Any]:
    # SQLAlchemy reads the URL, so that claims and trials are sure to meet in one database.
    from psycopg import ProgrammingError
    from psycopg.conninfo import make_conninfo
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    parameters: dict[str, Any] = {}
    try:
        parsed = make_url(url)
        parameters.update(parsed.get_dialect()().create_connect_args(parsed)[1])
        make_conninfo(**parameters)
        well_formed = "@" not in (parsed.host or "")
    except (SQLAlchemyError, ProgrammingError, ValueError):
        well_formed = False
    if not well_formed:
        # No part of a malformed URL is shown: any may be a piece of the password.
        raise InputError(
            "search.storage: malformed PostgreSQL URL; expected "
            "postgresql+psycopg://USER@HOST:PORT/DATABASE, with @ : / in user and password "
            "percent-encoded (or the password left out and given by PGPASSWORD or PGPASSFILE)"
        )
    return {**parameters, **PATIENCE, "application_name": "rcopt"}


def _lock_number(name: str) -> int:
    digest = hashlib.sha256(f"rcopt/{name}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)
