"""Cost of a trial without training: ``python -m benchmarks.loop`` (two minutes of processor time).

A study of the recorded Imagenette stages goes on for some trials at different sizes; what each
part of a trial costs is listed, storage and logging included. Older trials are made up and
written at once, for they only have to be there. Then the commands that read such a study are
timed. Prints a table of goals and figures and writes results/loop.json.

Processor time is the process's own; wall-clock time also holds what other work on the machine
and the disk cost.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from filelock import FileLock

from benchmarks.execution import hardware
from benchmarks.pools import RECORDED
from rcopt import tracking
from rcopt.study import run_study, runner, samplers
from rcopt.study.file import load_study
from rcopt.study.trial_records import trial_source
from rcopt.study.trials import Trials

RESULTS = Path(__file__).parent / "results"
PROJECT = Path(__file__).parent.parent
NAME = "imagenette-small-predictions"
SIZES = (0, 2_000, 10_000)
MEASURED = {"random": 200, "tpe": 30}
COMMANDS = {"--help": 0.5, f"front {NAME}": 3.0, "front large": 2.0, "status large": None}
CALLS = 5
#: Trials that bring every stage into a study.
FIRST = 20

#: The parts of a trial: what is timed, less what is timed inside it.
PARTS: dict[str, list[tuple[Any, str]]] = {
    "propose": [(samplers.Sampler, "propose"), (samplers.Sampler, "finished")],
    "learn of others' trials": [(samplers.Sampler, "learn")],
    "evaluate": [(runner, "operating_point")],
    "list and count trials": [(Trials, "all"), (Trials, "count_sampled")],
    "store": [(Trials, "_add")],
    "take and give back locks": [(FileLock, "acquire"), (FileLock, "release")],
    "hand over to MLflow's thread": [(tracking.CascadeLog, "add")],
}


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    found: dict[str, Any] = {"hardware": hardware(), "trials": [], "commands": {}}
    with tempfile.TemporaryDirectory(prefix="rcopt-bench-") as made:
        place = Path(made)
        (place / "studies").mkdir()
        shutil.copytree(RECORDED, place / "studies" / RECORDED.name)
        shutil.copy(PROJECT / "studies" / f"{NAME}.toml", place / "studies")
        child(place, NAME, "random", 0, FIRST)
        for sampler, trials in MEASURED.items():
            for size in SIZES:
                name = "large" if (sampler, size) == ("random", SIZES[-1]) else f"{sampler}{size}"
                one = child(place, name, sampler, size, trials)
                found["trials"].append({"sampler": sampler, "before": size, **one})
                print(described(found["trials"][-1]), flush=True)
        for command, goal in COMMANDS.items():
            found["commands"][command] = {"goal": goal, **timed(place, command)}
    (RESULTS / "loop.json").write_text(json.dumps(found, indent=1) + "\n")
    print(found["hardware"])
    for command, one in found["commands"].items():
        asked = "-" if one["goal"] is None else f"at most {one['goal']} s"
        print(
            f"rcopt {command:32} {asked:14} {one['seconds']:.2f} s, processor time "
            f"{one['processor']:.2f} s, n = {CALLS}"
        )


def described(one: dict[str, Any]) -> str:
    parts = sorted(one["parts"].items(), key=lambda part: -float(part[1]["processor"]))
    lines = [
        f"{one['sampler']}, {one['trials']} trials after {one['before']:,}: processor time "
        f"{one['processor']:.2f} ms a trial, wall clock {one['wall']:.2f}"
    ]
    lines += [f"  {n:30} {p['processor']:8.2f} {p['wall']:8.2f}" for n, p in parts]
    return "\n".join(lines)


def child(place: Path, name: str, sampler: str, before: int, trials: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.loop", name, sampler, str(before), str(trials)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=place, env=environment
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def timed(place: Path, command: str) -> dict[str, float]:
    """Return the median time of a command, in a process of its own."""
    seconds, processor = [], []
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    for _ in range(CALLS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "rcopt.cli", *command.split()],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=place,
            env=environment,
        )
        seconds.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return {"seconds": median(seconds), "processor": median(processor)}


def measure(name: str, sampler: str, before: int, trials: int) -> dict[str, Any]:
    """Go on with a study and return what a trial costs, in ms."""
    # As by default, where trials beyond the first 1,000 get no run of their own.
    runs = 0 if before else 1000
    changes = [f"name={name}", f"search.sampler={sampler}", f"tracking.cascade_runs={runs}"]
    loaded = load_study(Path("studies") / f"{NAME}.toml", changes)
    # The stages join the study and old trials are logged first: neither is a cost of the next.
    run_study.run(loaded, trials=FIRST)
    fill(loaded, before)
    run_study.run(loaded, trials=FIRST + before)
    clock = Clock()
    with clock.watching():
        run_study.run(loaded, trials=FIRST + before + trials)
    per_trial = 1e3 / (trials - 1)
    looped = clock.loop
    parts = {
        part: {"wall": wall * per_trial, "processor": cpu * per_trial}
        for part, (wall, cpu) in clock.spent.items()
    }
    listed = [sum(p[kind] for p in parts.values()) for kind in ("wall", "processor")]
    parts["the rest of the loop"] = {
        "wall": looped[0] * per_trial - listed[0],
        "processor": looped[1] * per_trial - listed[1],
    }
    parts["MLflow's thread meanwhile"] = {"wall": 0.0, "processor": clock.beside * per_trial}
    return {
        "trials": trials,
        "wall": looped[0] * per_trial,
        "processor": (looped[1] + clock.beside) * per_trial,
        "parts": parts,
    }


def fill(loaded: Any, count: int) -> None:
    """Write copies of the study's sampled trials, without waiting for the disk each time."""
    stored = Trials(loaded.storage, loaded.name, loaded.folder, None)
    sampled = [t for t in stored.all() if trial_source(t) == "sampled"]
    with mock.patch("os.fsync"), stored.adding() as add:
        for number in range(count):
            add(sampled[number % len(sampled)])


class Clock:
    """Times the parts of a trial on the thread that searches."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {part: [0.0, 0.0] for part in PARTS}
        self.loop = (0.0, 0.0)
        self.beside = 0.0
        self._inside: list[list[float]] = []
        self._warm = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time the parts inside the block."""
        replaced: list[Any] = []
        for part, owners in PARTS.items():
            for owner, name in owners:
                function = self._timing(part, getattr(owner, name))
                replaced.append(mock.patch.object(owner, name, function))
        replaced.append(mock.patch.object(runner.Runner, "_one_trial", self._whole()))
        for one in replaced:
            one.start()
        try:
            yield
        finally:
            for one in replaced:
                one.stop()

    def _whole(self) -> Callable[..., None]:
        original = runner.Runner._one_trial

        def one_trial(*arguments: Any) -> None:
            if not self._warm:
                # The first trial of a command reads all the earlier ones.
                self._warm = True
                original(*arguments)
                return
            process = time.process_time()
            began = time.perf_counter(), time.thread_time()
            self._inside = [[0.0, 0.0]]
            original(*arguments)
            spent = time.perf_counter() - began[0], time.thread_time() - began[1]
            self.loop = (self.loop[0] + spent[0], self.loop[1] + spent[1])
            self.beside += time.process_time() - process - spent[1]
            self._inside = []

        return one_trial

    def _timing(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timing(*arguments: Any, **named: Any) -> Any:
            if not self._inside or threading.current_thread() is not threading.main_thread():
                return function(*arguments, **named)
            began = time.perf_counter(), time.thread_time()
            self._inside.append([0.0, 0.0])
            try:
                return function(*arguments, **named)
            finally:
                spent = [time.perf_counter() - began[0], time.thread_time() - began[1]]
                within = self._inside.pop()
                for k in (0, 1):
                    self.spent[part][k] += spent[k] - within[k]
                    self._inside[-1][k] += spent[k]

        return timing


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        name, sampler, before, trials = sys.argv[1:]
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        print(json.dumps(measure(name, sampler, int(before), int(trials))))
