"""Real faults on real servers: killed workers, outages, signals, many at once.

The MLflow server keeps its database where a local store would, so that its runs can be read
with the helpers of all other tests.
"""

import json
import os
import platform
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from generated_images import make_images
from postgres import PostgresProcess
from study_helpers import (
    TRAINED,
    Command,
    runs_of,
    start,
    statuses,
    stored_runs,
    write_study,
)
from tracking_helpers import Server, free_port

from rcopt import search
from rcopt.claims import Claims, open_claims
from rcopt.config import Study, load_study
from rcopt.results import load_results
from rcopt.status import Status, status
from rcopt.workers import workers

pytest_plugins = ["tracking_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(420)]

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
            training = {w.process for w in workers("tiny", self.claims()) if w.training}
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
        return status(study)


NewSite = Callable[..., Site]


@pytest.fixture
def new_site(store_template: Path, tmp_path: Path) -> Iterator[NewSite]:
    with ExitStack() as ends:

        def make(
            storage: str, *search_settings: str, http: bool = True, name: str = "site"
        ) -> Site:
            project = tmp_path / name
            (project / "mlruns").mkdir(parents=True)
            shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
            make_images(project / "images")
            settings = "\n".join(["[search]", f'storage = "{storage}"', *search_settings, ""])
            text = SPACE.replace("[search]\n", settings)
            site = Site(project, tmp_path / f"{name}-commands", None)
            site.folder.mkdir()
            if http:
                site.server = Server(project / "mlruns", free_port())
                site.server.start()
                ends.callback(site.server.kill)
                text += f'\n[tracking]\nuri = "{site.server.uri}"\n'
            write_study(project, text)
            ends.callback(site.end)
            return site

        yield make


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
    with closing(search.Trials(study.storage, "tiny", study.folder, None)) as trials_of:
        stored = trials_of.all()
    sources = Counter(search.trial_source(trial) for trial in stored)
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
    assert logged == dict.fromkeys((str(t.number) for t in stored), 1)


@pytest.fixture(scope="module")
def undisturbed(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One worker alone, in peace, with files only; it trains every stage of the space."""
    project = tmp_path_factory.mktemp("undisturbed")
    (project / "mlruns").mkdir()
    shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
    make_images(project / "images")
    write_study(project, SPACE)
    command = start(project, project / "run", "run", "tiny", "--trials", "60", "--quiet")
    finished = command.wait()
    assert finished.code == 0, finished.err
    assert statuses(project, "stage") == {"FINISHED": 6}
    return project


def test_workers_that_are_killed_all_the_time_finish_the_study(
    database: str, new_site: NewSite, undisturbed: Path
) -> None:
    trials, kills = 80, 50
    site = new_site(database, "lease = 2.0")
    work = ("worker", "tiny", "--trials", str(trials))
    chance = random.Random(0)
    at_work = [site.begin(*work) for _ in range(4)]
    holding = 0
    for number in range(kills):
        time.sleep(chance.uniform(0.2, 1.5))
        victim = chance.choice(at_work)
        if number % 2 and (holder := site.holder(at_work)) is not None:
            victim = holder
            holding += 1
        victim.signal(signal.SIGKILL)
        victim.process.join()
        at_work.remove(victim)
        at_work.append(site.begin(*work))
    for worker in at_work:
        finished = worker.wait()
        assert finished.code == 0, finished.err
    # Some died while they held a stage, or little was shown.
    assert holding >= 5
    assert_complete(site, trials)
    assert numbers(site.project) == numbers(undisturbed)


def test_workers_outlast_restarts_and_a_minute_without_any_server(
    database: str, postgres_server: PostgresProcess, new_site: NewSite, undisturbed: Path
) -> None:
    trials = 100
    site = new_site(database)
    server = site.server
    assert server is not None
    at_work = [site.begin("worker", "tiny", "--trials", str(trials)) for _ in range(2)]
    wait_until(lambda: site.sampled() >= 3, "the first trials")
    postgres_server.stop()
    time.sleep(2)
    postgres_server.start()
    before = site.sampled()
    wait_until(lambda: site.sampled() > before, "a trial after PostgreSQL's restart")
    server.kill()
    time.sleep(2)
    server.start()
    before = site.sampled()
    wait_until(lambda: site.sampled() > before, "a trial after the MLflow server's restart")
    assert before < trials, "the study must not be over when the long outage comes"
    postgres_server.stop()
    server.kill()
    time.sleep(60)
    postgres_server.start()
    server.start()
    for worker in at_work:
        finished = worker.wait()
        assert finished.code == 0, finished.err
        assert "PostgreSQL" in finished.err or "search.storage" in finished.err
        assert "waiting for it (up to 3600 s)" in finished.err
        assert "it is back after" in finished.err
        assert "Traceback" not in finished.err
    assert_complete(site, trials)
    assert numbers(site.project) == numbers(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_worker_soon_also_when_no_server_answers(
    database: str,
    postgres_server: PostgresProcess,
    new_site: NewSite,
    number: signal.Signals,
) -> None:
    site = new_site(database, "lease = 2.0")
    assert site.server is not None
    worker = site.begin("worker", "tiny", "--trials", "100000")
    wait_until(lambda: site.sampled() >= 1, "a first trial")
    postgres_server.stop()
    site.server.kill()
    try:
        worker.wait_until_told("waiting for it")
        worker.signal(number)
        # Ten seconds are promised; a busy machine gets some more.
        finished = worker.wait(30)
    finally:
        postgres_server.start()
    assert finished.code == 130
    assert "interrupted; what is done is kept" in finished.err
    assert "Traceback" not in finished.err
    site.server.start()
    last = site.begin("run", "tiny", "--trials", str(site.sampled() + 2), "--quiet").wait()
    assert last.code == 0, last.err
    assert "RUNNING" not in {run.status for run in stored_runs(site.project)}


@pytest.mark.parametrize("kind", ["postgres", "journal"])
def test_eight_processes_make_first_use_of_empty_stores_at_once(
    request: pytest.FixtureRequest, new_site: NewSite, kind: str
) -> None:
    storage = "journal" if kind == "journal" else request.getfixturevalue("database")
    site = new_site(storage, http=False)
    (site.project / "mlruns" / "mlflow.db").unlink()
    commands = [site.begin("run", "tiny", "--trials", "16", "--format", "json") for _ in range(8)]
    for command in commands:
        finished = command.wait()
        assert finished.code == 0, finished.err
        assert json.loads(finished.out)
    assert_complete(site, 16)


def test_two_studies_at_once_share_stages_and_nothing_else(new_site: NewSite) -> None:
    site = new_site("journal", http=False)
    text = (site.project / "studies" / "tiny.toml").read_text()
    write_study(site.project, text.replace("trials = 6", "trials = 9"), "other")
    commands = [site.begin("run", name, "--quiet") for name in ("tiny", "other")]
    for command in commands:
        finished = command.wait()
        assert finished.code == 0, finished.err
    keys = [
        run.tags["rcopt.stage_key"]
        for run in runs_of(site.project, "stage", "FINISHED")
        if "rcopt.stage_key" in run.tags
    ]
    assert len(keys) == len(set(keys))
    assert statuses(site.project, "study") == {"FINISHED": 2}
    for name, trials in (("tiny", 6), ("other", 9)):
        folder = site.project / "mlruns" / "studies" / name
        stored = search.Trials("journal", name, folder, None).all()
        assert [search.trial_source(t) for t in stored].count("sampled") == trials


def test_local_workers_are_told_apart_and_stopped_together(new_site: NewSite) -> None:
    site = new_site("journal", http=False)
    command = site.begin("run", "tiny", "--workers", "2", "--trials", "100000")
    wait_until(lambda: site.sampled() >= 4, "some trials")
    at_work = site.status().workers
    assert [worker.index for worker in at_work] == [0, 1]
    assert "[0] " in command.err
    assert "[1] " in command.err
    command.signal(signal.SIGTERM)
    finished = command.wait(60)
    assert finished.code == 130, finished.err
    assert site.status().workers == ()
    assert "RUNNING" not in {run.status for run in stored_runs(site.project)}
    assert statuses(site.project, "study") == {"KILLED": 1}


def test_a_local_worker_that_is_killed_takes_no_other_with_it(new_site: NewSite) -> None:
    site = new_site("journal", http=False)
    command = site.begin("run", "tiny", "--workers", "2", "--trials", "40", "--format", "json")
    wait_until(lambda: site.sampled() >= 1, "a first trial")
    (first, *_) = site.status().workers
    killed = int(first.process.rpartition(":")[2])
    os.kill(killed, signal.SIGKILL)
    finished = command.wait()
    assert finished.code == 0, finished.err
    assert "was killed by signal 9; the others go on" in finished.err
    assert json.loads(finished.out)
    assert_complete(site, 40)


def test_an_sqlite_file_serves_one_worker_only(new_site: NewSite) -> None:
    site = new_site("sqlite:///optuna.db", http=False)
    first = site.begin("run", "tiny", pause="rcopt.training:save_checkpoint:1")
    first.wait_until_paused()
    second = site.begin("worker", "tiny").wait()
    assert second.code == 2
    assert 'an SQLite file serves one worker only; use "journal"' in second.err
    several = site.begin("run", "tiny", "--workers", "2").wait()
    assert several.code == 2
    assert "an SQLite file serves one worker only" in several.err
