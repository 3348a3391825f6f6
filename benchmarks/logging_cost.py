"""Cost of storing and logging trials: ``python -m benchmarks.logging_cost``.

Side by side: rcopt (journal storage, cascade log) and Optuna with SQLite storage and
optuna-integration's MLflowCallback, for the same trials; then 2,000 trials with rcopt alone.
Needs ``pip install optuna-integration``. Prints a table and writes results/logging_cost.json.
"""

import importlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
from mlflow import MlflowClient
from optuna.samplers import RandomSampler

from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Stage
from rcopt.study.samplers import Sampler
from rcopt.study.space import NONE, Space
from rcopt.study.trial_records import DIRECTIONS, exact_trial
from rcopt.study.trials import Trials
from rcopt.tracking import CascadeLog, open_tracker
from rcopt.tracking.server import mlflow_server

RESULTS = Path(__file__).parent / "results"
URI = "sqlite:///mlruns/mlflow.db"
ROUNDS, TRIALS, LARGE = 3, 100, 2_000

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
SPACE = Space({32: BACKBONES, 96: BACKBONES, 224: BACKBONES}, optional=True)


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    found: dict[str, Any] = {"hardware": hardware(), "trials": TRIALS, "rounds": ROUNDS}
    with tempfile.TemporaryDirectory(prefix="rcopt-bench-") as folder:
        place = Path(folder)
        # Each way gets the store it would make itself, opened once: first use is not measured.
        stores = {way: place / way for way in WAYS}
        for way, store in stores.items():
            child("open", store, way, 0)
        found["sqlite"] = side_by_side(stores, place, TRIALS, dict.fromkeys(WAYS, URI))
        with (
            server(stores["rcopt"], place / "server-rcopt") as ours,
            server(stores["callback"], place / "server-callback") as theirs,
        ):
            uris = {"rcopt": ours, "callback": theirs}
            found["http"] = side_by_side(stores, place, TRIALS, uris)
        large = child("rcopt", project(stores["rcopt"], place / "large"), URI, LARGE)
        found["large"] = {"trials": LARGE, **large}
    (RESULTS / "logging_cost.json").write_text(json.dumps(found, indent=2) + "\n")
    print(found["hardware"])
    for kind in ("sqlite", "http"):
        one = found[kind]
        print(
            f"{kind}: rcopt {one['rcopt']:.1f} ms a trial to everything visible, "
            f"{one['rcopt_search']:.1f} until the search was done; callback "
            f"{one['callback']:.1f} ms; ratio {one['ratio']:.2f} (goal: at most 0.33)"
        )
    large = found["large"]
    print(
        f"{LARGE} trials: search done after {large['search']:.0f} s, all logged after "
        f"{large['seconds']:.0f} s, {large['peak_mb']:.0f} MB at the peak, database "
        f"{large['database_mb']:.1f} MB, journal {large['journal_mb']:.1f} MB; asking what is "
        f"missing {large['missing']:.2f} s"
    )


def hardware() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    load = f"load average {os.getloadavg()[0]:.1f} before the run"
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {load}"


@contextmanager
def server(template: Path, folder: Path) -> Iterator[str]:
    """Yield the address of a real server on a fresh store."""
    store = project(template, folder) / "mlruns"
    uri = f"sqlite:///{store / 'mlflow.db'}"
    with mlflow_server(uri, store / "artifacts", port=5400, say=lambda _: None) as (base, _):
        yield base


def side_by_side(
    stores: Mapping[str, Path], folder: Path, trials: int, uris: Mapping[str, str]
) -> dict[str, Any]:
    """Run both ways in turn, each in a process of its own; medians in ms a trial."""
    seconds: dict[str, list[float]] = {"rcopt": [], "callback": [], "rcopt_search": []}
    for number in range(ROUNDS):
        for way, uri in uris.items():
            place = project(stores[way], folder / f"{way}-{number}-{uri.partition(':')[0]}")
            result = child(way, place, uri, trials)
            seconds[way].append(result["seconds"])
            if way == "rcopt":
                seconds["rcopt_search"].append(result["search"])
    figures: dict[str, Any] = {k: 1000 * median(v) / trials for k, v in seconds.items()}
    figures["ratio"] = figures["rcopt"] / figures["callback"]
    figures["all"] = {k: [round(1000 * s / trials, 1) for s in v] for k, v in seconds.items()}
    return figures


def project(template: Path, folder: Path) -> Path:
    shutil.copytree(template, folder)
    return folder


def child(way: str, folder: Path, uri: str, trials: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.logging_cost", way, str(folder), uri, str(trials)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def point(stages: tuple[tuple[int, str], ...], rates: tuple[float, ...]) -> OperatingPoint:
    """Return a made-up evaluation: this measures storing, not cascades."""
    chosen = tuple(Stage(r, b, 1e6 * r * (2 + BACKBONES.index(b))) for r, b in stages)
    reach = np.cumprod([1.0, *rates]).tolist()
    exits = (-np.diff([*reach, 0.0])).tolist()
    evaluation = Evaluation(
        accuracy=0.7 + 0.2 * (1 - exits[0]),
        mean_flops=sum(r * s.flops for r, s in zip(reach, chosen, strict=True)),
        exit_rates=tuple(exits),
        reach_rates=tuple(reach),
        deferral_rates=rates,
        n_images=1963,
    )
    return OperatingPoint(Cascade(chosen, tuple(0.5 + r / 2 for r in rates)), evaluation)


def with_rcopt(folder: Path, uri: str, trials: int) -> dict[str, float]:
    tracker = open_tracker(uri, folder)
    stored = Trials("journal", "bench", folder / "study", {})
    sampler = Sampler("random", SPACE, seed=0)
    run = tracker.open_study(
        folder.name, description="d", params={}, config_toml="", resolutions=(32, 96, 224)
    )
    started = time.perf_counter()
    log = CascadeLog(tracker, run, cascade_runs=1000)
    for number in range(trials):
        sampler.learn(stored.all())
        proposal = sampler.propose(number, lambda _: True)
        made = point(proposal.stages, proposal.deferral_rates)
        with stored.adding() as add:
            trial = add(sampler.finished(proposal, made))
        sampler.stored(trial)
        log.add(replace(made, trial=trial))
    searched = time.perf_counter() - started
    assert log.close() == 0
    seconds = time.perf_counter() - started
    asked = time.perf_counter()
    again = CascadeLog(tracker, run, cascade_runs=1000)
    assert again.missing(range(trials)) == []
    result = {"search": searched, "seconds": seconds, "missing": time.perf_counter() - asked}
    again.close()
    database = folder / "mlruns" / "mlflow.db"
    result["database_mb"] = database.stat().st_size / 1e6
    result["journal_mb"] = (folder / "study" / "trials.journal").stat().st_size / 1e6
    return result


def with_callback(folder: Path, uri: str, trials: int) -> dict[str, float]:
    os.chdir(folder)
    callback_class = importlib.import_module("optuna_integration.mlflow").MLflowCallback
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'optuna.db'}",
        study_name=folder.name,
        directions=DIRECTIONS,
        sampler=RandomSampler(0),
    )

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        stages: list[tuple[int, str]] = []
        for resolution in SPACE.backbones:
            choices = SPACE.choices(resolution).choices
            backbone = str(trial.suggest_categorical(f"backbone.{resolution}", choices))
            if backbone != NONE:
                stages.append((resolution, backbone))
        stages = stages or [(32, "resnet18")]
        rates = tuple(
            trial.suggest_float(f"deferral_rate.{resolution}", 0.0, 1.0)
            for resolution, _ in stages[:-1]
        )
        made = point(tuple(stages), rates)
        for key, value in exact_trial(made, SPACE).user_attrs.items():
            trial.set_user_attr(key, value)
        return made.validation.accuracy, made.validation.mean_flops

    where = uri if uri.startswith("http") else f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}"
    callback = callback_class(where, metric_name=["accuracy", "mean_flops"])
    # The store opened and the experiment made, as for rcopt.
    callback._initialize_experiment(study)
    started = time.perf_counter()
    study.optimize(objective, n_trials=trials, callbacks=[callback])
    seconds = time.perf_counter() - started
    return {"search": seconds, "seconds": seconds}


def opened(folder: Path, way: str, _: int) -> dict[str, float]:
    """Make a fresh store as rcopt does, or as MLflow does by itself."""
    if way == "rcopt":
        open_tracker(URI, folder)
    else:
        (folder / "mlruns" / "artifacts").mkdir(parents=True)
        MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}").search_experiments()
    return {}


WAYS: dict[str, Callable[[Path, str, int], dict[str, float]]] = {
    "rcopt": with_rcopt,
    "callback": with_callback,
}

if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        way, folder, uri, trials = sys.argv[1:]
        warnings.simplefilter("ignore")
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        found = {**WAYS, "open": opened}[way](Path(folder), uri, int(trials))
        found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(json.dumps(found))
