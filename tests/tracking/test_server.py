"""`rcopt ui`: a real server on loopback, found, looked at and stopped."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from rcopt.errors import InputError, WorkError
from rcopt.tracking import Tracker
from rcopt.tracking.server import dashboard_server, free_port, mlflow_server, serve
from tests.support.tracking_helpers import URI, open_study

HOST = "127.0.0.1"

#: Servers start slowly on a busy machine.


def _listening() -> socket.socket:
    taken = socket.socket()
    taken.bind((HOST, 0))
    taken.listen()
    return taken


def test_a_free_port_is_taken_as_it_is() -> None:
    said: list[str] = []
    with _listening() as taken:
        port = taken.getsockname()[1]
    assert free_port(HOST, port, said.append) == port
    assert said == []


def test_a_port_in_use_gets_a_line_and_the_next_free_one() -> None:
    said: list[str] = []
    with _listening() as taken:
        wanted = taken.getsockname()[1]
        port = free_port(HOST, wanted, said.append)
    assert wanted < port < wanted + 100
    assert said == [f"port {wanted} is in use, {port} is taken instead"]


@pytest.mark.parametrize("port", [0, -1, 70_000])
def test_an_impossible_port_is_refused(port: int) -> None:
    with pytest.raises(InputError, match=rf"port: expected a number from 1 to 65535, got {port}"):
        free_port(HOST, port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
def test_a_host_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(InputError, match=r"host .* is no address of this machine"):
        free_port(host, 5000)


def test_a_study_that_was_never_started_is_refused(tracker: Tracker) -> None:
    with pytest.raises(InputError, match=r"study s: not in the MLflow store .* rcopt run s"):
        serve(URI, tracker.store.project, study="s", open_browser=False)


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(project: Path) -> None:
    port = free_port(HOST, 5600)
    with (
        pytest.raises(WorkError, match=r"mlflow server does not start: .*no such store"),
        mlflow_server("nonsense://no such store", project, port=port),
    ):
        pass


@pytest.mark.slow
def test_ui_serves_the_study_and_ctrl_c_stops_everything(tracker: Tracker) -> None:
    study = open_study(tracker)
    code = (
        "from pathlib import Path; from rcopt.tracking.server import serve\n"
        "import functools, signal\n"
        # Whatever started the tests may have had it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"serve({URI!r}, Path({str(tracker.store.project)!r}), study='s', port=5700, "
        "open_browser=False, say=functools.partial(print, flush=True))"
    )
    ui = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert ui.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith("MLflow: "):
        lines.append(ui.stdout.readline())
        assert lines[-1], ui.communicate()[1]
    link = lines[-1].removeprefix("MLflow: ").strip()
    base, _, rest = link.partition("/#")
    assert base.startswith("http://127.0.0.1:57")
    assert rest.startswith(f"/experiments/{study.experiment_id}/runs?workflowType=")
    asked = f"{base}/api/2.0/mlflow/experiments/get?experiment_id={study.experiment_id}"
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert json.load(answer)["experiment"]["name"] == "s"
    artifact = f"{base}/get-artifact?run_uuid={study.run_id}&path=study.toml"
    with urllib.request.urlopen(artifact, timeout=30) as answer:
        assert answer.read() == b'name = "s"\n'
    os.kill(ui.pid, signal.SIGINT)
    assert ui.wait(timeout=30) == 0
    assert ui.stdout.read().splitlines()[-1] == "stopped"
    assert ui.stderr is not None
    assert ui.stderr.read() == ""
    ui.stdout.close()
    ui.stderr.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(base, timeout=5)


@pytest.mark.slow
def test_a_server_that_ends_by_itself_is_told(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    real = time.sleep
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remember(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = popen(*arguments, **options)  # type: ignore[call-overload]
        started.append(process)
        return process

    def kill_then_sleep(seconds: float) -> None:
        if any(line == "stop with Ctrl-C" for line in said):
            os.killpg(started[0].pid, signal.SIGKILL)
        real(seconds)

    monkeypatch.setattr("rcopt.tracking.server.subprocess.Popen", remember)
    monkeypatch.setattr("rcopt.tracking.server.time.sleep", kill_then_sleep)
    with pytest.raises(WorkError, match="a server ended by itself"):
        serve(URI, tracker.store.project, port=5800, open_browser=False, say=said.append)


@pytest.mark.slow
def test_the_dashboard_shows_a_journal(tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    journal = tmp_path / "trials.journal"
    optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))), study_name="cascades"
    )
    with (
        dashboard_server(str(journal), port=5900) as (address, _),
        urllib.request.urlopen(f"{address}/api/studies", timeout=30) as answer,
    ):
        assert json.load(answer)["study_summaries"][0]["study_name"] == "cascades"
