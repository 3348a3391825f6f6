"""Cascade evaluations reach MLflow once, whatever happens on the way."""

import csv
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rcopt.core.cascade import OperatingPoint
from rcopt.errors import WorkError
from rcopt.tracking import CascadeLog, StudyRun, Tracker, open_tracker
from tests.support.tracking_helpers import URI, Warnings, make_point, open_study


def _log(
    tracker: Tracker, study: StudyRun, points: list[OperatingPoint], cascade_runs: int = 100
) -> int:
    log = CascadeLog(tracker, study, cascade_runs=cascade_runs)
    for point in points:
        log.add(point)
    return log.close()


def _trials(tracker: Tracker, study: StudyRun) -> list[int]:
    return sorted(int(run.data.tags["rcopt.trial"]) for run in tracker.cascades.find_trials(study))


def _table(tracker: Tracker, study: StudyRun) -> list[dict[str, str]]:
    with tracker.files.fetch(study.run_id, "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _steps(tracker: Tracker, study: StudyRun) -> list[int]:
    history = tracker.store.client.get_metric_history(study.run_id, "val/accuracy")
    return [metric.step for metric in history]


def test_a_trial_becomes_a_readable_run(tracker: Tracker) -> None:
    study = open_study(tracker)
    point = make_point(3)
    assert _log(tracker, study, [point]) == 0
    (run,) = tracker.cascades.find_trials(study)
    assert run.info.run_name == "r18@32 > r50@224  0.91"
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "backbone.32": "resnet18",
        "backbone.224": "resnet50",
        "threshold.32": "0.9000",
    }
    assert run.data.metrics == {
        "val/accuracy": 0.9123,
        "val/mflops": 2944.0,
        "val/log10_mflops": 3.469,
        "exit/32": 0.65,
        "exit/224": 0.35,
    }
    assert run.data.tags["rcopt.kind"] == "cascade"
    assert run.data.tags["mlflow.parentRunId"] == study.run_id
    assert "0.912345" in run.data.tags["rcopt.point"], "the exact value is kept"


def test_beyond_the_number_trials_are_steps_and_all_are_rows(tracker: Tracker) -> None:
    study = open_study(tracker)
    assert _log(tracker, study, [make_point(n) for n in range(6)], cascade_runs=2) == 0
    assert _trials(tracker, study) == [0, 1]
    assert _steps(tracker, study) == [2, 3, 4, 5]
    rows = _table(tracker, study)
    assert [int(row["trial"]) for row in rows] == [0, 1, 2, 3, 4, 5]
    assert float(rows[5]["accuracy"]) == 0.912345
    assert rows[5]["backbone.224"] == "resnet50"
    assert rows[5]["threshold.224"] == ""


def test_logging_again_changes_nothing(tracker: Tracker) -> None:
    study = open_study(tracker)
    points = [make_point(n) for n in range(4)]
    for _ in range(2):
        assert _log(tracker, study, points, cascade_runs=2) == 0
    assert _trials(tracker, study) == [0, 1]
    assert _steps(tracker, study) == [2, 3]
    assert len(_table(tracker, study)) == 4


def test_steps_logged_before_a_crash_are_not_doubled(tracker: Tracker) -> None:
    study = open_study(tracker)
    tracker.cascades.log_steps(study, {5: make_point(5)})
    assert _log(tracker, study, [make_point(5)], cascade_runs=2) == 0
    assert _steps(tracker, study) == [5]
    assert len(_table(tracker, study)) == 1


def test_missing_names_what_mlflow_does_not_hold(tracker: Tracker) -> None:
    study = open_study(tracker)
    _log(tracker, study, [make_point(n) for n in (0, 2, 5)], cascade_runs=3)
    log = CascadeLog(tracker, study, cascade_runs=3)
    assert log.missing(range(7)) == [1, 3, 4, 6]
    log.close()
    larger = CascadeLog(tracker, study, cascade_runs=10)
    assert larger.missing(range(7)) == [1, 3, 4, 5, 6], "5 has no run of its own yet"
    larger.close()


def test_a_run_left_half_made_is_completed(tracker: Tracker) -> None:
    study = open_study(tracker)
    made = tracker.store.client.create_run(
        study.experiment_id,
        tags={"rcopt.kind": "cascade", "rcopt.trial": "0", "rcopt.owner": "nobody"},
    )
    _log(tracker, study, [make_point(0)])
    (run,) = tracker.cascades.find_trials(study)
    assert run.info.run_id == made.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val/accuracy"] == 0.9123


def test_a_trial_logged_twice_loses_the_later_run(tracker: Tracker) -> None:
    study = open_study(tracker)
    first = tracker.cascades.log_cascade(study, make_point(0))
    tracker.cascades.log_cascade(study, make_point(0))
    _log(tracker, study, [make_point(1)])
    kept = {r.data.tags["rcopt.trial"]: r.info.run_id for r in tracker.cascades.find_trials(study)}
    assert _trials(tracker, study) == [0, 1]
    assert kept["0"] == first


def test_two_workers_keep_each_others_rows(project: Path) -> None:
    one, two = open_tracker(URI, project), open_tracker(URI, project)
    study = open_study(one)
    first, second = (CascadeLog(t, study, cascade_runs=0) for t in (one, two))
    first.add(make_point(0))
    second.add(make_point(1))
    assert first.close() == second.close() == 0
    assert [row["trial"] for row in _table(one, study)] == ["0", "1"]


@pytest.mark.slow
def test_processes_that_log_at_once_lose_nothing(tracker: Tracker) -> None:
    study = open_study(tracker)
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from tests.support.tracking_helpers import make_point, open_study, URI\n"
        "from rcopt.tracking import CascadeLog, open_tracker\n"
        "tracker = open_tracker(URI, Path(sys.argv[2])); study = open_study(tracker)\n"
        "log = CascadeLog(tracker, study, cascade_runs=100)\n"
        "for n in range(int(sys.argv[3]), 40, 2): log.add(make_point(n))\n"
        "sys.exit(log.close())"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(Path(__file__).parents[2]),
        str(tracker.store.project),
    ]
    workers = [
        subprocess.Popen([*command, str(n)], stderr=subprocess.PIPE, text=True) for n in (0, 1)
    ]
    said = [worker.communicate(timeout=110)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert said == ["", ""]
    assert _trials(tracker, study) == list(range(40))


def test_a_damaged_table_is_made_again(tracker: Tracker, told: Warnings) -> None:
    study = open_study(tracker)
    points = [make_point(n) for n in range(3)]
    _log(tracker, study, points)
    tracker.files.fetch(study.run_id, "trials.csv").write_bytes(b"trial\n\xff\xfe?\n")
    log = CascadeLog(tracker, study, cascade_runs=100)
    assert log.missing(range(3)) == [0, 1, 2]
    for point in points:
        log.add(point)
    assert log.close() == 0
    assert len(_table(tracker, study)) == 3
    assert _trials(tracker, study) == [0, 1, 2]
    assert "trials.csv: damaged" in told.lines[0]


def test_a_store_that_fails_loses_nothing(
    tracker: Tracker, told: Warnings, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(tracker)
    real, failures = tracker.cascades.log_cascade, [WorkError("lost"), WorkError("lost")]

    def flaky(study: StudyRun, point: OperatingPoint, run_id: str | None = None) -> str:
        made = real(study, point, run_id)
        if failures:
            raise failures.pop()
        return made

    monkeypatch.setattr(tracker.cascades, "log_cascade", flaky)
    monkeypatch.setattr("rcopt.tracking.cascade_log._FIRST_PAUSE", 0.01)
    assert _log(tracker, study, [make_point(n) for n in range(3)]) == 0
    assert _trials(tracker, study) == [0, 1, 2]
    assert set(told.lines) == {"lost; the search goes on, the log follows later"}


def test_closing_gives_up_in_time_and_says_how_many_are_left(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(tracker)

    def lost(*_: object) -> str:
        raise WorkError("lost")

    monkeypatch.setattr(tracker.cascades, "log_cascade", lost)
    log = CascadeLog(tracker, study, cascade_runs=100)
    for n in range(3):
        log.add(make_point(n))
    seen: list[int] = []
    assert log.close(timeout=0.5, progress=seen.append) == 3
    assert seen
    assert seen[-1] == 3
    monkeypatch.undo()
    again = CascadeLog(tracker, study, cascade_runs=100)
    assert again.missing(range(3)) == [0, 1, 2]
    again.close()


def test_closing_ends_at_its_limit_however_well_the_log_gets_on(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(tracker)
    plain = tracker.cascades.log_cascade

    def slow(*given: Any) -> str:
        time.sleep(0.2)
        return plain(*given)

    monkeypatch.setattr(tracker.cascades, "log_cascade", slow)
    log = CascadeLog(tracker, study, cascade_runs=100)
    for n in range(40):
        log.add(make_point(n))
    left = log.close(limit=1.0)
    assert 0 < left < 40
    assert "RUNNING" not in {run.info.status for run in tracker.cascades.find_trials(study)}


def test_a_full_queue_drops_and_says_so(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(tracker)
    monkeypatch.setattr("rcopt.tracking.cascade_log._CAPACITY", 2)
    log = CascadeLog(tracker, study, cascade_runs=0)
    with log._using:
        for n in range(300):
            log.add(make_point(n))
    left = log.close()
    assert 0 < left <= 300
    again = CascadeLog(tracker, study, cascade_runs=0)
    assert len(again.missing(range(300))) == left
    again.close()


def test_points_without_a_trial_and_after_closing_are_refused(tracker: Tracker) -> None:
    study = open_study(tracker)
    log = CascadeLog(tracker, study, cascade_runs=0)
    with pytest.raises(ValueError, match="point must have a trial number"):
        log.add(make_point(None))
    log.close()
    with pytest.raises(ValueError, match="the log is closed"):
        log.add(make_point(0))
    with pytest.raises(ValueError, match="cascade_runs must not be negative, got -1"):
        CascadeLog(tracker, study, cascade_runs=-1)
