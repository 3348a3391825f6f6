"""Real MLflow stores for tests, cheap: one fresh SQLite store is made and then copied.

Loaded by ``tests/conftest.py``.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rcopt.tracking import Tracker, open_tracker
from tests.support.tracking_helpers import URI, Server, Warnings, free_port


@pytest.fixture(scope="session")
def store_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    open_tracker(URI, folder)
    database = folder / "mlruns" / "mlflow.db"
    with closing(sqlite3.connect(database)) as db:
        # All in the one file that will be copied.
        db.execute("pragma wal_checkpoint(truncate)")
    return database


@pytest.fixture
def project(store_template: Path, tmp_path: Path) -> Path:
    """A project folder with an empty store of its own."""
    (tmp_path / "mlruns").mkdir()
    shutil.copyfile(store_template, tmp_path / "mlruns" / "mlflow.db")
    return tmp_path


@pytest.fixture
def told() -> Warnings:
    return Warnings()


@pytest.fixture
def tracker(project: Path, told: Warnings) -> Tracker:
    return open_tracker(URI, project, warn=told)


@pytest.fixture(scope="session")
def server(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(store_template, folder / "mlflow.db")
    running = Server(folder, free_port())
    running.start()
    yield running
    running.kill()
