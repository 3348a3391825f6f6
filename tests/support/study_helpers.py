"""What the tests of whole studies share: projects, the command line in processes, the store."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rcopt.core.predictions import Split
from rcopt.data.prediction_files import save_stage
from rcopt.study.file import Study, load_study
from tests.support.simulated import simulated_stages

SIZES: Mapping[Split, int] = {"train": 10, "validation": 40, "test": 40}

TRAINED = """\
seed = 0

[data]
source = "folder"
root = "images"

[stages]
resolutions = [8, 16]
backbones = ["mobilenet_v2-0.1", "mobilenet_v2-0.25"]

[training]
epochs = 2
batch_size = 8
lr = 0.05

[search]
trials = 6
exact_trials = 4
"""

STORED = """\
seed = 0

[data]
source = "predictions"
root = "stored"

[search]
trials = 8
exact_trials = 3

[tracking]
cascade_runs = 0
"""

#: Of Optuna's journal.
_CREATE_TRIAL = 4

#: Loaded once by the server that commands are forked from, before any of them runs.
_PRELOADED = [
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "rcopt.models.backbones",
    "rcopt.cli.main",
    "rcopt.data.loading",
    "rcopt.study",
    "rcopt.models.training",
]


def write_study(project: Path, text: str, name: str = "tiny") -> Path:
    """Write a study file into a project."""
    path = project / "studies" / f"{name}.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def store_predictions(folder: Path, seed: int = 0) -> None:
    """Fill a folder with three simulated stages, their answers full of ties."""
    folder.mkdir()
    for trained in simulated_stages(SIZES, seed, decimals=2):
        save_stage(folder / f"{trained.stage.name}.safetensors", trained)


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str


def stored_study(project: Path, store_template: Path) -> Study:
    """Make a project with a store and a study on stored predictions, which was not run yet."""
    (project / "mlruns").mkdir()
    shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
    store_predictions(project / "stored")
    return load_study(write_study(project, STORED))


def run_rcopt(project: Path, *arguments: str, timeout: float = 250) -> Finished:
    """Run the real command in a fresh interpreter, away from any terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "rcopt.cli", *arguments],
        cwd=project,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@dataclass
class Command:
    """A command in a process of its own, forked from one that has loaded the libraries."""

    process: BaseProcess
    folder: Path

    def wait(self, timeout: float = 250) -> Finished:
        """Wait for its end; the code is minus the signal if one killed it."""
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise TimeoutError(self.err)
        return Finished(code, (self.folder / "out").read_text(), self.err)

    @property
    def err(self) -> str:
        """What it wrote to standard error so far."""
        return (self.folder / "err").read_text()

    def wait_until_paused(self) -> None:
        """Wait until it stands still where `start` told it to."""
        self._wait_until(lambda: (self.folder / "paused").exists())

    def wait_until_told(self, text: str) -> None:
        """Wait until it has written something to standard error."""
        self._wait_until(lambda: text in self.err)

    def _wait_until(self, there: Callable[[], bool], timeout: float = 250) -> None:
        end = time.monotonic() + timeout
        while not there():
            if not self.process.is_alive():
                raise AssertionError(f"ended before the moment came: {self.err}")
            if time.monotonic() > end:
                self.process.kill()
                raise TimeoutError(self.err)
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


def start(project: Path, folder: Path, *arguments: str, pause: str = "") -> Command:
    """Start a command without waiting.

    Args:
        project: Where it runs.
        folder: For what it writes; made here.
        arguments: Its command line.
        pause: ``module:name:count``; it stands still before its count-th call of that.
    """
    folder.mkdir()
    for name in ("out", "err"):
        (folder / name).touch()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(
        target=_command, args=(str(project), str(folder), arguments, pause), daemon=True
    )
    process.start()
    return Command(process, folder)


def _command(project: str, folder: str, arguments: Sequence[str], pause: str) -> None:
    os.chdir(project)
    for number, name in ((1, "out"), (2, "err")):
        with open(f"{folder}/{name}", "wb") as file:
            os.dup2(file.fileno(), number)
    # Whatever started the tests may have had it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from rcopt.cli.main import main

    if pause:
        _pause_before(pause, Path(folder) / "paused")
    sys.exit(main(list(arguments)))


def _pause_before(where: str, flag: Path) -> None:
    """Let a function wait, at one of its calls, for the signal that is about to come."""
    import importlib

    module, name, count = where.split(":")
    owner: Any = importlib.import_module(module)
    *classes, attribute = name.split(".")
    for part in classes:
        owner = getattr(owner, part)
    original = getattr(owner, attribute)
    left = int(count)

    def paused(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            flag.touch()
            for _ in range(1200):
                time.sleep(0.05)
            raise AssertionError("no signal came")
        return original(*args, **kwargs)

    setattr(owner, attribute, paused)


@dataclass(frozen=True)
class StoredRun:
    """An MLflow run as the database holds it."""

    run_id: str
    name: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, list[float]]
    params: Mapping[str, str]

    @property
    def kind(self) -> str:
        """``study``, ``stage`` or ``cascade``."""
        return self.tags["rcopt.kind"]


def stored_runs(project: Path) -> list[StoredRun]:
    """Read every run that was not deleted, straight from the database."""
    with closing(sqlite3.connect(project / "mlruns" / "mlflow.db")) as db:
        runs = db.execute(
            "select run_uuid, name, status from runs where lifecycle_stage = 'active' "
            "order by start_time"
        ).fetchall()
        found = []
        for run_id, name, status in runs:
            tags = db.execute("select key, value from tags where run_uuid = ?", [run_id])
            params = db.execute("select key, value from params where run_uuid = ?", [run_id])
            metrics: dict[str, list[float]] = {}
            for key, value in db.execute(
                "select key, value from metrics where run_uuid = ? order by step", [run_id]
            ):
                metrics.setdefault(key, []).append(value)
            found.append(
                StoredRun(run_id, name, status, dict(tags.fetchall()), metrics, dict(params))
            )
    return found


def runs_of(project: Path, kind: str, status: str | None = None) -> list[StoredRun]:
    """Runs of one kind, oldest first."""
    return [
        run
        for run in stored_runs(project)
        if run.kind == kind and (status is None or run.status == status)
    ]


def statuses(project: Path, kind: str) -> dict[str, int]:
    """How many runs of a kind have each status."""
    return dict(Counter(run.status for run in runs_of(project, kind)))


def trials_of(project: Path, name: str = "tiny") -> list[dict[str, Any]]:
    """The trials of a study's journal: number's order, values, parameters, source."""
    trials = []
    for line in (project / f"mlruns/studies/{name}/trials.journal").read_text().splitlines():
        entry = json.loads(line)
        if entry["op_code"] != _CREATE_TRIAL:
            continue
        trials.append(
            {
                "values": entry.get("values"),
                "params": entry.get("params"),
                "source": entry["user_attrs"]["source"],
                "thresholds": entry["user_attrs"]["thresholds"],
                "stages": entry["user_attrs"]["stages"],
            }
        )
    return trials


def without_run_ids(front: str) -> list[dict[str, Any]]:
    """A front's JSON, but for what differs from store to store."""
    points: list[dict[str, Any]] = json.loads(front)
    return [{key: value for key, value in point.items() if key != "run_id"} for point in points]
