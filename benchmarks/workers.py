"""Trials a second of 1, 2 and 4 workers: ``python -m benchmarks.workers [--postgres URL]``.

Nothing is trained: the stages are the recorded ones, and every trial is proposed, evaluated,
stored and logged as in any study. Trials lie in a journal; with ``--postgres URL`` (an empty
database, written to) in PostgreSQL too. Rounds are alternated. What counts is the time from the
first stored trial to the last, so that starting up does not, and beside it the processor time of
all workers, start included.

Writes results/workers.json.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.pools import RECORDED
from rcopt.study.file import load_study
from rcopt.study.trial_records import trial_source
from rcopt.study.trials import Trials

RESULTS = Path(__file__).parent / "results"
WORKERS = (1, 2, 4)
#: Some seconds of work, against which it matters little that workers do not start together.
TRIALS = {"journal": 1500, "postgresql": 250}
ROUNDS = 2


@dataclass(frozen=True)
class Run:
    """One study.

    Attributes:
        storage: ``journal`` or ``postgresql``.
        workers: How many worked on it.
        trials_per_second: Of all of them together.
        processor_ms: Processor time a trial, start of the workers included.
    """

    storage: str
    workers: int
    trials_per_second: float
    processor_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--postgres", metavar="URL", help="an empty database to write to")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    storages = {"journal": "journal"}
    if options.postgres:
        storages["postgresql"] = options.postgres
    runs = []
    for number in range(options.rounds):
        for name, url in storages.items():
            for workers in WORKERS:
                runs.append(measure(name, url, workers, number))
                print(runs[-1], flush=True)
    found = {
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "trials": TRIALS,
        "rounds": options.rounds,
        "runs": [asdict(run) for run in runs],
    }
    (RESULTS / "workers.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(runs))


def measure(name: str, url: str, workers: int, number: int) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "studies").mkdir()
        file = project / "studies" / f"workers-{workers}-{number}.toml"
        file.write_text(
            f'[data]\nsource = "predictions"\nroot = "{RECORDED}"\n\n'
            f'[search]\nstorage = "{url}"\nsampler = "random"\ntrials = {TRIALS[name]}\n\n'
            "[tracking]\ncascade_runs = 0\n"
        )
        # The stores are made and the exact trials stored before the time is taken.
        command = [sys.executable, "-m", "rcopt.cli", "worker", str(file), "--quiet"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--trials", "5"], check=True, env=environment)
        before = _children()
        processes = [subprocess.Popen(command, env=environment) for _ in range(workers)]
        codes = [process.wait() for process in processes]
        if any(codes):
            raise RuntimeError(f"workers ended with {codes}")
        processor = _children() - before
        study = load_study(file)
        with closing(Trials(study.storage, study.name, study.folder, None)) as stored:
            sampled = [t for t in stored.all() if trial_source(t) == "sampled"][5:]
        times = [t.datetime_complete for t in sampled if t.datetime_complete is not None]
        seconds = (max(times) - min(times)).total_seconds()
    return Run(name, workers, (len(times) - 1) / seconds, 1000 * processor / len(times))


def table(runs: list[Run]) -> str:
    lines = [f"{'storage':12}{'workers':>8}{'trials/s':>26}{'ms processor':>14}"]
    for storage in dict.fromkeys(run.storage for run in runs):
        for workers in WORKERS:
            some = [r for r in runs if (r.storage, r.workers) == (storage, workers)]
            rates = sorted(run.trials_per_second for run in some)
            middle = f"{statistics.median(rates):.1f} ({rates[0]:.1f} to {rates[-1]:.1f})"
            cost = statistics.median(run.processor_ms for run in some)
            lines.append(f"{storage:12}{workers:8}{middle:>26}{cost:14.0f}")
    return "\n".join(lines)


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
