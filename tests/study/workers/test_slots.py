"""Many processes on one project at once."""

import json
import os
import signal
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rcopt.cli.tables import status_table, status_tree
from rcopt.core.cascade import Stage, StageId
from rcopt.core.hypervolumes import Frame
from rcopt.files import sealed
from rcopt.processes import this_owner
from rcopt.study.file import Study, load_study
from rcopt.study.results import Results, StageSummary
from rcopt.study.results_file import save_results
from rcopt.study.status import Status, read_status
from rcopt.study.trial_records import trial_source
from rcopt.study.trials import Failure, Trials
from rcopt.study.workers.claim import Claims
from rcopt.study.workers.claims import open_claims
from rcopt.study.workers.slots import Worker, WorkerSlot, active_workers, join
from tests.support.sites import SPACE, NewSite, assert_complete, wait_until
from tests.support.study_helpers import runs_of, statuses, stored_runs, write_study

pytestmark = [pytest.mark.slow]


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
    first = site.begin("run", "tiny", pause="rcopt.models.training:save_checkpoint:1")
    first.wait_until_paused()
    second = site.begin("worker", "tiny").wait()
    assert second.code == 2
    assert 'an SQLite file serves one worker only; use "journal"' in second.err
    several = site.begin("run", "tiny", "--workers", "2").wait()
    assert several.code == 2
    assert "an SQLite file serves one worker only" in several.err


# --- slots ---


@pytest.fixture(params=["file", pytest.param("lease", marks=pytest.mark.postgres)])
def study_and_claims(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Study, Claims]:
    storage = "journal"
    if request.param == "lease":
        storage = request.getfixturevalue("database")
    study = load_study(write_study(tmp_path, SPACE), [f"search.storage={storage}"])
    return study, open_claims(study.storage, study.claims)


def test_workers_take_the_lowest_free_place(study_and_claims: tuple[Study, Claims]) -> None:
    study, claims = study_and_claims
    with join(study, claims) as first, join(study, claims) as second:
        with join(study, claims) as third:
            assert [p.index for p in (first, second, third)] == [0, 1, 2]
            assert [w.index for w in second.others()] == [0, 2]
        first.leave()
        with join(study, claims) as again:
            assert again.index == 0
            assert [w.index for w in active_workers("tiny", claims)] == [0, 1]
            # Another study's workers have slots of their own.
            assert active_workers("tiny.1", claims) == []
            assert active_workers("other", claims) == []
    assert active_workers("tiny", claims) == []


def test_a_worker_is_shown_with_the_stages_it_trains(
    study_and_claims: tuple[Study, Claims],
) -> None:
    study, claims = study_and_claims
    with join(study, claims), claims.claim("resnet18@32.0123abc"), claims.claim("not-a-stage"):
        (worker,) = active_workers("tiny", claims)
        assert worker.process == f"{os.uname().nodename}:{os.getpid()}"
        assert [name for name, _ in worker.training] == ["resnet18@32"]


def test_of_another_host_only_workers_count_as_at_work(
    study_and_claims: tuple[Study, Claims], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, claims = study_and_claims
    with join(study, claims) as place:
        assert place.works(this_owner())
        assert not place.works(f"{os.uname().nodename}:{os.getpid()}:another-start")
        assert not place.works("elsewhere:77:0")
        there = Worker(1, "elsewhere:77", datetime.now(UTC))
        monkeypatch.setattr(WorkerSlot, "others", lambda self: [there])
        assert place.works("elsewhere:77:0")
        assert not place.works("elsewhere:78:0")


def test_a_process_that_was_killed_holds_no_place(
    study_and_claims: tuple[Study, Claims], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, claims = study_and_claims
    with join(study, claims):
        # As with a lease, which outlives its holder.
        monkeypatch.setattr("rcopt.study.workers.slots.process_alive", lambda process: False)
        assert active_workers("tiny", claims) == []


def test_the_table_of_status_names_workers_and_what_was_given_up() -> None:
    since = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    told = Status(
        sampled=3,
        exact=4,
        total=9,
        workers=(
            Worker(0, "here:1", since, (("resnet50@224", since),)),
            Worker(2, "there:7", since),
        ),
        failed={StageId(32, "resnet18"): Failure(2, "the loss became nan")},
        stages=6,
        seconds_left=5400.0,
        results=None,
    )
    assert status_table("s", told).splitlines()[:6] == [
        "s: 3 of 9 trials, 4 points of exact fronts among the study's trials",
        "stages: 4 not asked for yet, 0 done, 1 running, 1 failed",
        "time left: at most about 90 min of training",
        "worker 0 (here:1, joined 2026-01-02 03:04 UTC): "
        "training resnet50@224 since 2026-01-02 03:04 UTC",
        "worker 2 (there:7, joined 2026-01-02 03:04 UTC): between stages",
        "given up after 2 attempts: resnet18@32 (the loss became nan)",
    ]
    tree = status_tree("s", told)
    assert [w["training"] for w in tree["workers"]] == [
        [{"stage": "resnet50@224", "since": since.isoformat()}],
        [],
    ]
    assert tree["failed"] == [
        {"stage": "resnet18@32", "attempts": 2, "reason": "the loss became nan"}
    ]


def test_the_time_left_is_the_work_left_at_the_pace_so_far(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, SPACE))
    study.folder.mkdir(parents=True)
    (study.folder / "study.toml").write_text(study.to_toml())
    with closing(Trials("journal", "tiny", study.folder, {})):
        pass  # the study's trials, of which there are none yet
    macs = {"mobilenet_v2-0.1@8/3": 100, "mobilenet_v2-0.25@8/3": 300, "mobilenet_v2-0.1@12/3": 50}
    (study.folder / "macs.json").write_text(json.dumps(sealed({"macs": macs})))
    assert read_status(study).seconds_left is None
    done = StageSummary(
        Stage(8, "mobilenet_v2-0.1", 200.0), "k", 100, 1, 0.5, 0.5, seconds=10.0, run_id=None
    )
    results = Results(
        study="tiny",
        points=(),
        stages=(done,),
        frame=Frame(0.3, 1e6, 1e3),
        hypervolume=1.0,
        sampled_hypervolume=1.0,
        sampled=1,
        exact=True,
        split_sizes={},
        classes=("a", "b", "c"),
        experiment_id="1",
    )
    save_results(study.folder / "results.json", results)
    told = read_status(study)
    assert (told.stages, told.done, told.queued) == (6, 1, 5)
    assert told.seconds_left == 35.0
    claims = open_claims("journal", study.claims)
    with join(study, claims), join(study, claims):
        assert read_status(study).seconds_left == 17.5
    with closing(Trials("journal", "tiny", study.folder, None)) as stored:
        for _ in range(study.settings.training.attempts):
            stored.add_failure(StageId(8, "mobilenet_v2-0.25"), "the loss became nan")
    assert read_status(study).seconds_left == 5.0
