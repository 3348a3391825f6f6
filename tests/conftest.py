from collections.abc import Iterator

import pytest

from tests.support.postgres import PostgresProcess, running_postgres

pytest_plugins = ["tests.support.tracking_fixtures", "tests.support.site_fixtures"]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresProcess]:
    """One private server for the whole session; a test that stops it starts it again."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresProcess) -> Iterator[str]:
    """URL of an empty database for one test."""
    with postgres_server.database() as url:
        yield url
