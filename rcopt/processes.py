"""Processes by name, ``host:pid``, and whether they still run."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path


def this_process() -> str:
    """Return ``host:pid`` of this process."""
    return f"{platform.node()}:{os.getpid()}"


def this_owner() -> str:
    """Return ``host:pid:start`` of this process; the start tells it from a later namesake."""
    return f"{this_process()}:{_start_of(os.getpid())}"


def owner_alive(owner: str) -> bool:
    """Return whether the process that wrote this tag still runs.

    A process of another host cannot be asked and counts as alive; text that is no owner
    counts as dead.
    """
    parts = owner.rsplit(":", 2)
    if len(parts) != 3 or not parts[1].isdigit():
        return False
    host, pid, start = parts
    if host != platform.node():
        return True
    return bool(start) and _start_of(int(pid)) == start


def process_alive(process: str) -> bool:
    """Return whether ``host:pid`` still runs; one of another host counts as alive."""
    host, _, pid = process.rpartition(":")
    return host != platform.node() or bool(_start_of(int(pid)))


def _start_of(pid: int) -> str:
    """Return when a process started, in any unit that stays the same; '' if there is none."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            text = stat.read_text()
        except OSError:
            return ""
        fields = text[text.rindex(")") + 2 :].split()
        # A zombie has ended; its parent has only not asked yet.
        return "" if fields[0] in "ZX" else f"{fields[19]}-{_boot()}"
    asked = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return "-".join(asked.stdout.split()).replace(":", ".")


@lru_cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return "0"


#: Variables that steer Python or servers by default; a child gets none of them from the shell.
_STEERING = ("MLFLOW_", "_MLFLOW_", "UVICORN_", "GUNICORN_")
_STEERING_PYTHON = frozenset(
    {"PYTHONWARNINGS", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONOPTIMIZE", "PYTHONHOME"}
)
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")


def module_command(module: str) -> list[str]:
    """Return the command that runs an installed module of this interpreter.

    ``-P`` keeps the working folder off the path: a file there that is called as a module of
    the standard library, or of MLflow, would be executed in its place.
    """
    return [sys.executable, "-P", "-m", module]


def server_environment() -> dict[str, str]:
    """Return the environment for a server that this process starts and configures.

    What was set for other servers or other programs stays out, and its own children keep the
    working folder off their path too.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_STEERING) and name not in _STEERING_PYTHON
    }
    if path := kept.pop("PYTHONPATH", ""):
        absolute = [entry for entry in path.split(os.pathsep) if os.path.isabs(entry)]
        kept["PYTHONPATH"] = os.pathsep.join(absolute)
    return kept | {"PYTHONSAFEPATH": "1"} | without_proxy_for_loopback(kept)


def without_proxy_for_loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which this machine's own servers are asked without a proxy."""
    named = {}
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in environment.get(name, "").split(",") if host.strip()]
        if "*" not in hosts:
            hosts += [host for host in _LOOPBACK if host not in hosts]
        named[name] = ",".join(hosts)
    return named
