"""Where a run was made: source commit, versions, hardware, as tags."""

import getpass
import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("rcopt", "torch", "torchvision", "optuna", "mlflow", "numpy")


@lru_cache
def environment_tags(project: Path) -> dict[str, str]:
    """Return tags that say what code ran on what.

    Args:
        project: Folder whose git commit is the source's; without git the tag is left out.
    """
    tags = {
        "mlflow.source.name": "rcopt",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
        "rcopt.versions": _versions(),
        "rcopt.hardware": _hardware(),
    }
    commit = _git(project, "rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit
        if _git(project, "status", "--porcelain", "--untracked-files=no"):
            tags["rcopt.source_changed"] = "true"
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _versions() -> str:
    found = [f"python {platform.python_version()}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _hardware() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = f", {size / 2**30:.0f} GiB"
    return f"{model}, {cores} cores{memory}, {platform.system()}"


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
