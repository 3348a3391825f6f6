"""MLflow's UI, and on demand optuna-dashboard, on a project's own stores."""

import importlib.util
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rcopt.errors import InputError, WorkError
from rcopt.processes import module_command, server_environment
from rcopt.tracking import open_tracker, view_link

Say = Callable[[str], None]

#: Seconds a server may take to answer; MLflow's first start on a busy machine takes a while.
_START = 180.0
#: Seconds a server may take to end before it is killed.
_STOP = 10.0
#: How many ports beyond the wanted one are tried.
_PORTS = 100

#: One user looking at one store: no telemetry, no helper processes for jobs nobody sends.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def serve(
    uri: str,
    project: Path,
    *,
    study: str | None = None,
    dashboard: str | None = None,
    host: str = "127.0.0.1",
    port: int = 5000,
    open_browser: bool = True,
    say: Say = print,
    warn: Say = _to_stderr,
) -> None:
    """Run MLflow's UI until interrupted; print (and open) the link to a study's front.

    Args:
        uri: The tracking URI; of a server that runs already only the link is shown.
        project: The folder that holds ``studies/``.
        study: Whose front to open.
        dashboard: Optuna storage (a journal's path or a URL) for optuna-dashboard beside it.
        host: Interface to listen on.
        port: The next free one is taken if it is in use.
        open_browser: Open the link where there is a desktop.
        say: Called with each line for the user.
        warn: Called with a line where the servers can be reached from other machines.

    Raises:
        InputError: If the store, the study or the port cannot be used.
        WorkError: If a server does not start, or ends by itself.
    """
    tracker = open_tracker(uri, project, warn=say)
    experiment = None
    if study is not None:
        experiment = tracker.experiment_of(study)
        if experiment is None:
            raise InputError(
                f"study {study}: not in the MLflow store {tracker.store.uri} yet; start it with "
                f"rcopt run {study}"
            )
    try:
        with ExitStack() as servers:
            running: list[subprocess.Popen[bytes]] = []
            if not is_loopback(host) and (
                tracker.store.artifacts is not None or dashboard is not None
            ):
                warn(
                    f"warning: there is no login: whoever reaches {host} can read, change and "
                    "delete every run and model; docs/faults.md says what to set before"
                )
            base = tracker.store.uri
            if tracker.store.artifacts is not None:
                base, process = servers.enter_context(
                    mlflow_server(
                        tracker.store.uri, tracker.store.artifacts, host=host, port=port, say=say
                    )
                )
                running.append(process)
            link = base if experiment is None else view_link(base, experiment)
            say(f"MLflow: {link}")
            if dashboard is not None:
                address, process = servers.enter_context(
                    dashboard_server(dashboard, host=host, say=say)
                )
                running.append(process)
                say(f"optuna-dashboard: {address}")
            if open_browser and _has_desktop():
                webbrowser.open(link)
            if running:
                say("stop with Ctrl-C")
                _wait(running)
    except KeyboardInterrupt:
        say("stopped")


@contextmanager
def mlflow_server(
    uri: str,
    artifacts: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 5000,
    say: Say = print,
) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    """Run ``mlflow server`` with one worker; yield its address and process, then end it.

    Args:
        uri: Resolved SQLite URI.
        artifacts: Where it keeps what clients upload through it.
        host: Interface.
        port: The next free one is taken, and said, if it is in use.
        say: Called with each line for the user.
    """
    port = free_port(host, port, say)
    command = [*module_command("mlflow"), "server", "--host", host, "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri]
    command += ["--artifacts-destination", artifacts.as_uri()]
    address = _address(host, port)
    with _running("mlflow server", command, f"{address}/health") as process:
        yield address, process


@contextmanager
def dashboard_server(
    storage: str, *, host: str = "127.0.0.1", port: int = 8080, say: Say = print
) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    """Run optuna-dashboard; yield its address and process, then end it.

    Raises:
        InputError: If optuna-dashboard is not installed.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise InputError(
            "--dashboard: optuna-dashboard is not installed; pip install 'rcopt[dashboard]'"
        )
    port = free_port(host, port, say)
    command = [*module_command("optuna_dashboard._cli"), storage]
    command += ["--host", host, "--port", str(port), "--quiet"]
    if "://" not in storage:
        command += ["--storage-class", "JournalFileStorage"]
    address = _address(host, port)
    with _running("optuna-dashboard", command, f"{address}/") as process:
        yield address, process


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches servers on an interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def free_port(host: str, wanted: int, say: Say = print) -> int:
    """Return the wanted port, or the next free one and say so.

    Raises:
        InputError: If the host is no interface of this machine, or no port is free.
    """
    if not 0 < wanted < 65536:
        raise InputError(f"port: expected a number from 1 to 65535, got {wanted}")
    for port in range(wanted, min(wanted + _PORTS, 65536)):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((host, port))
            except PermissionError:
                continue
            except OSError as error:
                if isinstance(error, socket.gaierror) or error.errno in _NO_INTERFACE:
                    raise InputError(
                        f"host {host!r} is no address of this machine ({error.strerror})"
                    ) from error
                continue
        if port != wanted:
            say(f"port {wanted} is in use, {port} is taken instead")
        return port
    raise InputError(f"port: none of {wanted} to {port} is free; name another")


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

#: EADDRNOTAVAIL on Linux, macOS and Windows.
_NO_INTERFACE = (99, 49, 10049)


def _wait(running: "Sequence[subprocess.Popen[bytes]]") -> None:
    while all(process.poll() is None for process in running):
        time.sleep(0.5)
    raise WorkError("a server ended by itself; start it again with rcopt ui")


@contextmanager
def _running(
    name: str, command: Sequence[str], health: str
) -> "Iterator[subprocess.Popen[bytes]]":
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as empty:
        process = subprocess.Popen(
            command,
            # uvicorn puts its working folder on the path, and what lies there would be run.
            cwd=empty,
            env=server_environment() | _ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A group of its own: Ctrl-C reaches this process alone, which then ends them all.
            start_new_session=True,
        )
        try:
            if not _answers(process, health):
                output.seek(0)
                said = output.read().decode(errors="replace").strip().splitlines()
                raise WorkError(
                    f"{name} does not start: {said[-1] if said else 'no reason given'}"
                )
            yield process
        finally:
            _stop(process)


def _answers(process: "subprocess.Popen[bytes]", health: str) -> bool:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            # Through no proxy: it is this machine's own server.
            with _DIRECT.open(health, timeout=5):
                return process.poll() is None
        except OSError:
            time.sleep(0.1)
    return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a server and what it started, kindly first."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _address(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown and '[' not in shown else shown}:{port}"


def _has_desktop() -> bool:
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
