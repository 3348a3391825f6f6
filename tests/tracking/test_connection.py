"""Opening stores: paths, bad stores, first use by several processes."""

import errno
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from rcopt.errors import InputError, WorkError
from rcopt.processes import owner_alive, this_owner
from rcopt.tracking import Tracker, open_tracker, relocate, resolve_uri
from rcopt.tracking.faults import reported
from tests.support.tracking_helpers import URI, free_port, open_study


def test_relative_paths_belong_to_the_project(tmp_path: Path) -> None:
    assert resolve_uri(URI, tmp_path) == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert resolve_uri("sqlite:////var/x.db", tmp_path) == "sqlite:////var/x.db"
    assert resolve_uri("http://host:5000/", tmp_path) == "http://host:5000"


@pytest.mark.parametrize("uri", ["mlruns", "file:///x", "sqlite://", "sqlite:///", "ftp://h"])
def test_other_addresses_are_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(InputError, match=r"tracking\.uri: expected sqlite:///PATH or http"):
        open_tracker(uri, tmp_path)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    file = tmp_path / "mlruns" / "mlflow.db"
    file.write_text("a shopping list, long enough")
    with pytest.raises(InputError, match=r"mlflow\.db: not an MLflow database; move it away"):
        open_tracker(URI, tmp_path)
    assert file.read_text() == "a shopping list, long enough"


def test_a_damaged_database_is_refused(project: Path) -> None:
    file = project / "mlruns" / "mlflow.db"
    content = bytearray(file.read_bytes())
    content[4096 : len(content) // 2] = bytes(len(content) // 2 - 4096)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"mlflow\.db"):
        open_tracker(URI, project)


def test_a_store_made_by_another_mlflow_says_what_to_do(project: Path) -> None:
    with sqlite3.connect(project / "mlruns" / "mlflow.db") as db:
        db.execute("update alembic_version set version_num = 'f5a4f2784254'")
    db.close()
    with pytest.raises(InputError, match=r"made by an older MLflow; .* mlflow db upgrade sqlite"):
        open_tracker(URI, project)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be used as MLflow store"):
        open_tracker(URI, tmp_path)


def test_a_folder_in_the_place_of_the_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlruns" / "mlflow.db").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be used as MLflow store"):
        open_tracker(URI, tmp_path)


def test_a_server_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    port = free_port()
    with pytest.raises(
        InputError, match=rf"tracking server http://127.0.0.1:{port} cannot be reached \(refused\)"
    ):
        open_tracker(f"http://127.0.0.1:{port}", tmp_path)


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tracking\.uri: 'http://h:port' is not an address"):
        open_tracker("http://h:port", tmp_path)


@pytest.mark.slow
def test_processes_that_use_a_fresh_store_at_once_all_succeed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rcopt.tracking import open_tracker\n"
        f"t = open_tracker({URI!r}, Path(sys.argv[1]))\n"
        "s = t.open_study('s', description='d', params={'seed': 0}, config_toml='')\n"
        "print(s.run_id)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert len({out for out, _ in ends}) == 1, "one study run for both"
    assert [err for _, err in ends] == ["", ""], "and nothing is said"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "weights.safetensors"),
        MlflowException("(sqlite3.OperationalError) database or disk is full\n[SQL: ...]"),
    ],
)
def test_a_full_disk_is_the_users_to_mend(error: Exception) -> None:
    with pytest.raises(InputError, match="r18: no space left"), reported("storing r18"):
        raise error


def test_other_failures_are_told_in_one_line() -> None:
    with pytest.raises(WorkError, match=r"^storing r18: first line$"), reported("storing r18"):
        raise MlflowException("first line\nsecond line")


def test_importing_tracking_does_not_load_mlflow() -> None:
    code = (
        "import sys, rcopt.tracking; assert not {'mlflow', 'torch', 'optuna'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_new_store_lets_people_look_while_it_is_written(project: Path) -> None:
    open_tracker(URI, project)
    with closing(sqlite3.connect(project / "mlruns" / "mlflow.db")) as db:
        assert db.execute("pragma journal_mode").fetchone() == ("wal",)


def test_a_store_of_plain_mlflow_keeps_its_mode(project: Path) -> None:
    with closing(sqlite3.connect(project / "mlruns" / "mlflow.db")) as db:
        db.execute("pragma journal_mode = delete")
    open_tracker(URI, project)
    with closing(sqlite3.connect(project / "mlruns" / "mlflow.db")) as db:
        assert db.execute("pragma journal_mode").fetchone() == ("delete",)


def test_relocating_a_store_in_its_place_changes_nothing(project: Path) -> None:
    tracker = open_tracker(URI, project)
    tracker.open_study("s", description="d", params={}, config_toml="")
    assert relocate(project / "mlruns" / "mlflow.db") == 0


def test_this_process_is_alive_and_dead_ones_are_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from rcopt.processes import this_owner; print(this_owner())"],
        check=True,
        capture_output=True,
        text=True,
    )
    host, pid, start = this_owner().rsplit(":", 2)
    assert owner_alive(this_owner())
    assert not owner_alive(done.stdout.strip())
    assert not owner_alive(f"{host}:{pid}:another start"), "a later process with the same pid"
    assert owner_alive(f"another-host:{pid}:{start}"), "another host cannot be asked"
    assert not owner_alive("nonsense")


def test_a_store_whose_making_was_killed_is_made_anew(tmp_path: Path) -> None:
    database = tmp_path / "mlruns" / "mlflow.db"
    database.parent.mkdir()
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("create table trace_info (x)")
    Path(f"{database}.new").touch()
    open_tracker(URI, tmp_path)
    assert not Path(f"{database}.new").exists()
    again = open_tracker(URI, tmp_path)
    assert again.experiment_of("s") is None


def test_a_store_with_runs_is_never_taken_for_unfinished(tracker: Tracker, tmp_path: Path) -> None:
    study = open_study(tracker)
    Path(f"{tmp_path / 'mlruns' / 'mlflow.db'}.new").touch()
    assert open_tracker(URI, tmp_path).experiment_of("s") == study.experiment_id
