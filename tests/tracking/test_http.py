"""A real MLflow server on loopback: the same store over HTTP, and what an outage costs."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rcopt.data.prediction_files import save_stage
from rcopt.errors import InputError, WorkError
from rcopt.tracking import PREDICTIONS, CascadeLog, StudyRun, Tracker, open_tracker
from tests.support.tracking_helpers import (
    Server,
    Warnings,
    make_point,
    make_stage,
    open_study,
    publish,
)

pytestmark = [pytest.mark.slow]


@dataclass(frozen=True)
class Record:
    epoch: int
    loss: float = 1.5
    accuracy: float = 0.25
    lr: float = 0.1


@pytest.fixture
def remote(server: Server, tmp_path: Path, told: Warnings) -> Tracker:
    return open_tracker(server.uri, tmp_path, warn=told)


def test_a_stage_travels_over_http(
    remote: Tracker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = open_study(remote, "stages")
    trained = make_stage(key="over http")
    stored = publish(remote, study, trained, tmp_path)
    found = remote.stages.find_stage("over http")
    assert found is not None
    np.testing.assert_array_equal(
        found.predictions["validation"].probabilities,
        trained.predictions["validation"].probabilities,
    )
    weights = remote.stages.weights_path(stored.run_id or "")
    assert weights.read_bytes() == b"weights of over http"
    assert weights.is_relative_to(tmp_path / "mlruns" / "downloads")
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_a_download_is_kept_and_a_damaged_one_replaced(remote: Tracker, tmp_path: Path) -> None:
    stored = publish(remote, open_study(remote, "kept"), make_stage(key="kept"), tmp_path)
    path = remote.stages.weights_path(stored.run_id or "")
    written = path.stat().st_mtime_ns
    assert remote.stages.weights_path(stored.run_id or "").stat().st_mtime_ns == written
    path.write_bytes(b"half")
    assert remote.stages.weights_path(stored.run_id or "").read_bytes() == b"weights of kept"


def test_trials_and_front_travel_over_http(remote: Tracker) -> None:
    study = open_study(remote, "trials")
    log = CascadeLog(remote, study, cascade_runs=2)
    for n in range(4):
        log.add(make_point(n))
    assert log.close() == 0
    again = CascadeLog(remote, study, cascade_runs=2)
    assert again.missing(range(6)) == [4, 5]
    assert again.close() == 0
    marked = remote.cascades.mark_front(study, [make_point(1), make_point(3)])
    assert len({point.run_id for point in marked}) == 2


@dataclass
class Outage:
    """What was seen while the server was down and after it came back."""

    tracker: Tracker
    stayed: StudyRun
    left: StudyRun
    stage_run: str
    told: list[str]
    seconds_to_add: float
    left_over: int
    errors: list[Exception]
    missing: list[int]


@pytest.fixture(scope="module")
def outage(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Outage:
    """Kill the server under two logs and a training, then start it again."""
    folder, told = tmp_path_factory.mktemp("outage"), Warnings()
    tracker = open_tracker(server.uri, folder, warn=told)
    stayed, left = open_study(tracker, "stayed"), open_study(tracker, "left")
    trained = make_stage(key="curves")
    stage_run = tracker.stages.start_stage(stayed, "curves", trained.stage, {})
    tracker.stages.log_epoch(stage_run, Record(1))
    with pytest.MonkeyPatch.context() as patch:
        # Give up a call on a lost server at once, to keep the test short.
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setattr("rcopt.tracking.cascade_log._FIRST_PAUSE", 0.05)
        stays = CascadeLog(tracker, stayed, cascade_runs=100)
        leaves = CascadeLog(tracker, left, cascade_runs=100)
        for n in range(3):
            leaves.add(make_point(n))
        while leaves.waiting > 1:
            time.sleep(0.01)
        server.kill()
        started = time.monotonic()
        for n in range(3, 8):
            leaves.add(make_point(n))
            stays.add(make_point(n))
        seconds_to_add = time.monotonic() - started
        left_over = leaves.close(timeout=1.0)
        tracker.stages.log_epoch(stage_run, Record(2))
        tracker.stages.log_epoch(stage_run, Record(3))
        errors: list[Exception] = []
        for attempt in (
            lambda: tracker.stages.find_stage("curves"),
            lambda: open_tracker(server.uri, folder),
            lambda: CascadeLog(tracker, left, cascade_runs=1).missing([1]),
        ):
            try:
                attempt()
            except (WorkError, InputError) as error:
                errors.append(error)
        server.start()
        back = CascadeLog(tracker, left, cascade_runs=100)
        missing = back.missing(range(8))
        for n in missing:
            back.add(make_point(n))
        assert back.close() == stays.close() == 0
        path = folder / PREDICTIONS
        save_stage(path, trained)
        tracker.stages.finish_stage(stage_run, trained, {PREDICTIONS: path})
    return Outage(
        tracker,
        stayed,
        left,
        stage_run,
        told.lines,
        seconds_to_add,
        left_over,
        errors,
        missing,
    )


def test_the_search_does_not_wait_for_a_lost_server(outage: Outage) -> None:
    assert outage.seconds_to_add < 0.5
    assert outage.left_over >= 5, "and closing says how many trials are left"
    assert any("the search goes on, the log follows later" in line for line in outage.told)


def test_the_next_command_logs_what_an_outage_left_each_once(outage: Outage) -> None:
    assert set(outage.missing) >= {3, 4, 5, 6, 7}
    trials = [
        int(run.data.tags["rcopt.trial"])
        for run in outage.tracker.cascades.find_trials(outage.left)
    ]
    assert sorted(trials) == list(range(8))


def test_a_log_goes_on_by_itself_when_the_server_is_back(outage: Outage) -> None:
    assert len(outage.tracker.cascades.find_trials(outage.stayed)) == 5


def test_training_goes_on_without_the_server_and_its_curves_follow(outage: Outage) -> None:
    assert sum("training goes on" in line for line in outage.told) == 1
    history = outage.tracker.store.client.get_metric_history(outage.stage_run, "train/loss")
    assert [metric.step for metric in history] == [1, 2, 3]
    assert outage.tracker.stages.find_stage("curves") is not None


def test_a_lost_server_is_told_in_one_line(outage: Outage) -> None:
    finding, opening, asking = outage.errors
    assert isinstance(opening, InputError)
    assert "cannot be reached" in str(opening)
    for error in (finding, asking):
        assert isinstance(error, WorkError)
        assert "\n" not in str(error)
    assert "looking for trained stages" in str(finding)
