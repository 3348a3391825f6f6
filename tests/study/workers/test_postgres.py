import subprocess
import sys

import pytest

from rcopt.errors import InputError, UnreachableError
from rcopt.study.workers.postgres import PostgresServer, is_postgres

LEAKS = ("hunter", "secret")


@pytest.mark.parametrize("storage", ["journal", "sqlite:///trials.db"])
def test_what_lies_in_a_file_is_not_postgres(storage: str) -> None:
    assert not is_postgres(storage)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_a_postgres_url_is_known_by_its_scheme(scheme: str) -> None:
    assert is_postgres(f"{scheme}://user@host/database")


@pytest.mark.parametrize(
    "storage",
    [
        "mysql://user:hunter@host/secret",
        "postgresql+asyncpg://user:hunter@host/secret",
        "journals",
    ],
)
def test_another_storage_is_refused_by_its_scheme_alone(storage: str) -> None:
    with pytest.raises(InputError, match=r"search\.storage: '.*' is not supported") as caught:
        is_postgres(storage)
    assert storage.split(":")[0] in str(caught.value)
    assert not any(leak in str(caught.value) for leak in LEAKS)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://user:hunter@secret@host/database",
        "postgresql+psycopg://user:hunter",
        "postgresql+psycopg://user:x@host:hunter/database",
        "postgresql+psycopg://user:hunter@host/database?secret=1",
        "hunter",
    ],
)
def test_a_malformed_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InputError, match="malformed PostgreSQL URL; expected") as caught:
        PostgresServer(url)
    assert not any(leak in str(caught.value) for leak in LEAKS)


@pytest.mark.parametrize("password", ["hunter", "hunter%40secret", "hunter/secret", "%hunter"])
def test_a_server_that_is_not_there_is_named_without_the_password(password: str) -> None:
    # Port 1 of the own machine: nobody listens there.
    server = PostgresServer(f"postgresql+psycopg://user:{password}@127.0.0.1:1/database")
    with pytest.raises(UnreachableError, match=r"PostgreSQL: connection.*127\.0\.0\.1") as caught:
        server.rows("select 1", {})
    assert "\n" not in str(caught.value)
    assert not any(leak in str(caught.value) for leak in LEAKS)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_missing_psycopg_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"pip install 'rcopt\[postgres\]'"):
        PostgresServer("postgresql+psycopg://host/database")


@pytest.mark.postgres
def test_rows_are_returned_and_wrong_statements_reported_on_one_line(database: str) -> None:
    server = PostgresServer(database)
    assert server.rows("select %(a)s::int, 'x'", {"a": 3}) == [(3, "x")]
    with pytest.raises(UnreachableError, match="PostgreSQL: syntax error at or near") as caught:
        server.rows("selec 1", {})
    assert "\n" not in str(caught.value)


@pytest.mark.postgres
def test_creating_what_exists_changes_nothing(database: str) -> None:
    server = PostgresServer(database)
    server.create("create table if not exists t (a int)")
    server.rows("insert into t values (5) returning a", {})
    server.create("create table if not exists t (a int)")
    assert server.rows("select a from t", {}) == [(5,)]


@pytest.mark.postgres
def test_a_lock_is_held_until_its_connection_closes(database: str) -> None:
    server = PostgresServer(database)
    connection = server.lock("a", timeout=1.0)
    with pytest.raises(TimeoutError):
        server.lock("a", timeout=0.05)
    server.lock("b", timeout=0.05).close()
    connection.close()
    server.lock("a", timeout=5.0).close()


def test_drivers_are_not_imported_before_they_are_needed() -> None:
    code = """if True:
        import sys, rcopt.study.workers.claims
        print(*({'psycopg', 'sqlalchemy'} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
