"""Many processes on one project at once."""

import json
import os
import signal

import pytest
from sites import NewSite, assert_complete, wait_until
from study_helpers import runs_of, statuses, stored_runs, write_study

from rcopt.trials import Trials, trial_source

pytest_plugins = ["tracking_fixtures", "site_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


@pytest.mark.parametrize("kind", [pytest.param("postgres", marks=pytest.mark.postgres), "journal"])
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
        stored = Trials("journal", name, folder, None).all()
        assert [trial_source(t) for t in stored].count("sampled") == trials


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
