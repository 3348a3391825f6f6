"""What stands in the environment and the working folder must not steer rcopt."""

import os
import shutil
import socketserver
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from rcopt.cli.main import main
from rcopt.files import odd_in_url
from rcopt.processes import server_environment, without_proxy_for_loopback
from rcopt.tracking import open_tracker
from rcopt.tracking.server import mlflow_server
from tests.support.study_helpers import STORED, run_rcopt, start, store_predictions, write_study


@pytest.fixture
def project(tmp_path: Path, store_template: Path) -> Path:
    (tmp_path / "mlruns").mkdir()
    shutil.copyfile(store_template, tmp_path / "mlruns" / "mlflow.db")
    store_predictions(tmp_path / "stored")
    write_study(tmp_path, STORED)
    return tmp_path


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that refuses everything and notes what it was asked for."""
    asked: list[str] = []

    class Refuse(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            asked.append(self.rfile.readline(1000).decode())
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.mark.slow
def test_this_machines_own_servers_are_asked_without_a_proxy(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy() as (address, asked):
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, address)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        tracker = open_tracker("sqlite:///mlruns/mlflow.db", project)
        assert tracker.store.artifacts is not None
        with mlflow_server(tracker.store.uri, tracker.store.artifacts, port=5600) as (url, _):
            remote = open_tracker(url, project)
            assert remote.experiment_of("nobody") is None
    assert asked == []


@pytest.mark.slow
def test_a_module_in_the_working_folder_is_never_executed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mlflow", "statistics", "uvicorn", "sitecustomize", "json", "rcopt"):
        (project / f"{name}.py").write_text(
            f"from pathlib import Path\nPath({str(project / 'executed')!r}).touch()\n"
        )
    monkeypatch.chdir(project)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", os.environ.get("PYTHONPATH", "")]))
    tracker = open_tracker("sqlite:///mlruns/mlflow.db", project)
    assert tracker.store.artifacts is not None
    with mlflow_server(tracker.store.uri, tracker.store.artifacts, port=5610):
        pass
    assert not (project / "executed").exists()


@pytest.mark.slow
def test_what_was_set_for_other_servers_changes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steering = {
        "MLFLOW_STATIC_PREFIX": "/elsewhere",
        "MLFLOW_ARTIFACTS_ONLY": "true",
        "_MLFLOW_SERVER_ARTIFACTS_ONLY": "true",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "example.org",
        "MLFLOW_PORT": "1",
        "MLFLOW_HOST": "192.0.2.1",
        "MLFLOW_BACKEND_STORE_URI": "sqlite:///nowhere.db",
        "PYTHONWARNINGS": "error",
        "UVICORN_PORT": "1",
        "GUNICORN_CMD_ARGS": "--bind 192.0.2.1:1",
    }
    tracker = open_tracker("sqlite:///mlruns/mlflow.db", project)
    assert tracker.store.artifacts is not None
    for name, value in steering.items():
        monkeypatch.setenv(name, value)
    assert not steering.keys() & server_environment().keys()
    with mlflow_server(tracker.store.uri, tracker.store.artifacts, port=5620) as (url, _):
        assert open_tracker(url, project).experiment_of("nobody") is None


def test_hosts_that_need_no_proxy_are_kept() -> None:
    found = without_proxy_for_loopback({"no_proxy": "example.org,localhost"})
    assert found["no_proxy"].split(",") == [
        "example.org", "localhost", "127.0.0.1", "::1", "[::1]"
    ]  # fmt: skip
    assert found["NO_PROXY"].startswith("localhost,")
    assert without_proxy_for_loopback({"no_proxy": "*"})["no_proxy"] == "*"


@pytest.mark.parametrize(
    ("path", "odd"),
    [("/a/b c", ""), ("/a/50%", ""), ("/a?b", "?"), ("/a#b", ""), ("/a%20b", "%20"), ("/é", "")],
)
def test_what_a_database_address_would_take_apart(path: str, odd: str) -> None:
    assert odd_in_url(path) == odd


@pytest.mark.parametrize("name", ["what?", "a%20b"])
def test_a_project_in_such_a_folder_is_refused_and_nothing_is_made_elsewhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "outside" / name
    folder.mkdir(parents=True)
    store_predictions(folder / "stored")
    write_study(folder, STORED)
    monkeypatch.chdir(folder)
    before = {path for path in tmp_path.rglob("*") if folder not in path.parents}
    assert main(["run", "studies/tiny.toml", "--quiet"]) == 2
    assert "means something else in the address of a database" in capsys.readouterr().err
    assert {path for path in tmp_path.rglob("*") if folder not in path.parents} == before


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a folder that nobody can write")
def test_without_a_home_or_a_cache_that_can_be_written_it_runs_all_the_same(
    project: Path, tmp_path: Path
) -> None:
    nowhere = tmp_path / "read-only"
    nowhere.mkdir()
    nowhere.chmod(stat.S_IRUSR | stat.S_IXUSR)
    code = (
        "import sys, numba.core.caching as c\n"
        # As where the package lies in a folder that cannot be written, and there is no home.
        "c._CacheLocator.ensure_cache_path = lambda self: (_ for _ in ()).throw(OSError('ro'))\n"
        "from rcopt.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "studies/tiny.toml", "--quiet", "--trials", "2"],
        cwd=project,
        env={k: v for k, v in os.environ.items() if k != "HOME"}
        | {
            "HOME": str(nowhere / "nobody"),
            "XDG_CACHE_HOME": str(nowhere),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="closes streams as a POSIX shell does")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_results_hold_no_messages_where_a_stream_is_closed(project: Path, closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m rcopt.cli run tiny --trials 2 {closed}', sys.executable],
        cwd=project,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert run_rcopt(project, "front", "tiny").code == 0
    for file in (project / "mlruns").rglob("*.json"):
        assert b"trials:" not in file.read_bytes(), file


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(__import__("signal"), "SIGHUP"), reason="no SIGHUP here")
def test_a_terminal_that_is_closed_leaves_no_run_running(project: Path, tmp_path: Path) -> None:
    import signal

    command = start(
        project, tmp_path / "run", "run", "tiny", "--trials", "100000", "--quiet",
        pause="rcopt.study.samplers:Sampler.stored:3",
    )  # fmt: skip
    command.wait_until_paused()
    command.signal(signal.SIGHUP)
    assert command.wait().code == 130
    from tests.support.study_helpers import stored_runs

    assert "RUNNING" not in {run.status for run in stored_runs(project)}
