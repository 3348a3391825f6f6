"""Projects that several workers share; the fixture ``new_site`` makes them."""

import platform
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from rcopt.study.file import Study, load_study
from rcopt.study.results_file import load_results
from rcopt.study.status import Status, read_status
from rcopt.study.trial_records import trial_source
from rcopt.study.trials import Trials
from rcopt.study.workers.claim import Claims
from rcopt.study.workers.claims import open_claims
from rcopt.study.workers.slots import active_workers
from tests.support.study_helpers import (
    TRAINED,
    Command,
    runs_of,
    start,
    statuses,
    stored_runs,
)
from tests.support.tracking_helpers import Server

#: How many stages there are to train, and how long it takes: some seconds in all.
SPACE = TRAINED.replace("resolutions = [8, 16]", "resolutions = [8, 12, 16]").replace(
    "epochs = 2", "epochs = 5"
)


@dataclass
class Site:
    """A project whose trials lie in PostgreSQL and whose runs lie behind an MLflow server."""

    project: Path
    folder: Path
    server: Server | None
    commands: list[Command] = field(default_factory=list)

    def begin(self, *arguments: str, pause: str = "") -> Command:
        """Start a command that is killed with the test."""
        command = start(
            self.project, self.folder / f"{len(self.commands)}", *arguments, pause=pause
        )
        self.commands.append(command)
        return command

    def end(self) -> None:
        """End what still runs, with what it started itself."""
        for command in self.commands:
            command.process.terminate()
        for command in self.commands:
            command.process.join(20)
            command.process.kill()

    @property
    def study(self) -> Study:
        return load_study(self.project / "studies" / "tiny.toml")

    def holder(self, commands: list[Command]) -> Command | None:
        """Return a command that is training a stage, waiting a little for one."""
        for _ in range(30):
            training = {w.process for w in active_workers("tiny", self.claims()) if w.training}
            for command in commands:
                if f"{platform.node()}:{command.process.pid}" in training:
                    return command
            time.sleep(0.1)
        return None

    def claims(self) -> Claims:
        """The claims of its workers."""
        return open_claims(self.study.storage, self.study.claims)

    def sampled(self) -> int:
        return self.status().sampled

    def status(self) -> Status:
        """What `rcopt status` knows; waits until the study is there to ask about."""
        study = self.study
        wait_until((study.folder / "study.toml").exists, "the study's start")
        return read_status(study)


NewSite = Callable[..., Site]


def wait_until(there: Callable[[], bool], what: str, timeout: float = 240) -> None:
    end = time.monotonic() + timeout
    while not there():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.1)


def numbers(project: Path) -> list[tuple[float, float]]:
    """The final front: accuracy and mean FLOPs of every point."""
    points = load_results(project / "mlruns/studies/tiny/results.json").points
    return [(p.validation.accuracy, p.validation.mean_flops) for p in points]


def assert_complete(site: Site, trials: int) -> None:
    """Every trial is there once, also in MLflow; no stage was trained twice, no run is open."""
    study = site.study
    with closing(Trials(study.storage, "tiny", study.folder, None)) as trials_of:
        stored = trials_of.all()
    sources = Counter(trial_source(trial) for trial in stored)
    assert sources["sampled"] == trials
    assert set(sources) == {"sampled", "exact"}
    assert "RUNNING" not in {run.status for run in stored_runs(site.project)}
    assert statuses(site.project, "study") == {"FINISHED": 1}
    stages = Counter(
        run.tags["rcopt.stage_key"]
        for run in runs_of(site.project, "stage", "FINISHED")
        if "rcopt.stage_key" in run.tags
    )
    assert set(stages.values()) == {1}
    logged = Counter(
        run.tags["rcopt.trial"]
        for run in runs_of(site.project, "cascade")
        if run.tags["rcopt.trial"] != "none"
    )
    limit = study.settings.tracking.cascade_runs
    runs = [str(trial.number) for trial in stored if trial.number < limit]
    assert {number: logged[number] for number in runs} == dict.fromkeys(runs, 1)
    # Beyond the limit only members of the front have runs, and all are steps.
    assert set(logged.values()) == {1}
    (study_run,) = runs_of(site.project, "study")
    assert len(study_run.metrics.get("val/accuracy", ())) == len(stored) - len(runs)
