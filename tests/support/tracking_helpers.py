"""What the tests of tracking share: a real server, small stages, operating points."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Stage
from rcopt.core.predictions import Predictions, Split
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import save_stage
from rcopt.tracking import PREDICTIONS, WEIGHTS, StudyRun, Tracker

URI = "sqlite:///mlruns/mlflow.db"


@dataclass
class Warnings:
    """Collects what a tracker tells."""

    lines: list[str] = field(default_factory=list)

    def __call__(self, text: str) -> None:
        self.lines.append(text)


@dataclass
class Server:
    """A real ``mlflow server`` on loopback, one worker."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    #: Where clients are to put artifacts themselves; None where the server serves them.
    artifacts: Path | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = os.environ | {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        if self.artifacts is None:
            command += ["--artifacts-destination", str(self.folder / "artifacts")]
        else:
            command += ["--no-serve-artifacts", "--default-artifact-root", str(self.artifacts)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError((self.folder / "log").read_text()[-2000:])

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def free_port() -> int:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def make_stage(
    backbone: str = "resnet18", resolution: int = 32, key: str = "k1", seed: int = 0
) -> TrainedStage:
    """A small stage with random predictions on three splits."""
    rng = np.random.default_rng(seed)
    predictions: dict[Split, Predictions] = {}
    splits: tuple[Split, ...] = ("train", "validation", "test")
    for split in splits:
        p = rng.dirichlet(np.ones(3), 20).astype(np.float32)
        labels = rng.integers(0, 3, 20)
        names = tuple(f"{split}{i}" for i in range(20))
        predictions[split] = Predictions(split, p, labels, names)
    return TrainedStage(
        stage=Stage(resolution, backbone, 7.4e7),
        predictions=predictions,
        key=key,
        macs=37_000_000,
        parameters=11_000_000,
        seconds=12.5,
        details={"hardware": "a test"},
    )


def publish(
    tracker: Tracker, study: StudyRun, trained: TrainedStage, folder: Path
) -> TrainedStage:
    """Store a stage the way training does."""
    run_id = tracker.stages.start_stage(study, trained.key, trained.stage, {"epochs": 2})
    save_stage(folder / PREDICTIONS, trained)
    weights = folder / "model.bin"
    weights.write_bytes(b"weights of " + trained.key.encode())
    files = {PREDICTIONS: folder / PREDICTIONS, WEIGHTS: weights}
    return tracker.stages.finish_stage(run_id, trained, files)


def open_study(tracker: Tracker, name: str = "s") -> StudyRun:
    return tracker.open_study(
        name,
        description="A study of cascades.",
        note="Made by a test.",
        params={"seed": 0},
        config_toml=f'name = "{name}"\n',
        resolutions=(32, 224),
    )


def make_point(
    trial: int | None = 0, threshold: float = 0.9, accuracy: float = 0.912345
) -> OperatingPoint:
    """A two-stage operating point."""
    stages = (Stage(32, "resnet18", 7.4e7), Stage(224, "resnet50", 8.2e9))
    rate = 0.5 + (trial or 0) % 7 / 20
    evaluation = Evaluation(
        accuracy=accuracy,
        mean_flops=7.4e7 + (1 - rate) * 8.2e9,
        exit_rates=(rate, 1 - rate),
        reach_rates=(1.0, 1 - rate),
        deferral_rates=(1 - rate,),
        n_images=1000,
    )
    return OperatingPoint(
        Cascade(stages, (threshold,)),
        evaluation,
        source="exact" if trial is None else "sampled",
        trial=trial,
    )
