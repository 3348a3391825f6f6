"""Stopped at any moment by any signal, the same command finishes the study as if undisturbed."""

import shutil
import signal
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rcopt.cli.main import main
from tests.support.generated_images import make_images
from tests.support.study_helpers import (
    TRAINED,
    Finished,
    runs_of,
    start,
    statuses,
    stored_runs,
    trials_of,
    without_run_ids,
    write_study,
)

pytestmark = [pytest.mark.slow]

COMMAND = ("run", "tiny", "--format", "json")

#: Before which call a command stands still when the signal comes.
TRAINING = "rcopt.models.training:save_checkpoint:2"  # a first epoch is saved, a second is done
PREDICTION = "rcopt.models.prediction:predict:2"
PUBLICATION = (
    "rcopt.tracking.run_files:RunFiles.upload:2"  # predictions are stored, weights are not
)
BETWEEN_TRIALS = "rcopt.study.samplers:Sampler.learn:2"
AFTER_A_TRIAL = (
    "rcopt.study.samplers:Sampler.stored:1"  # before the exact points that belong to it
)
AFTER_PUBLICATION = (
    "rcopt.study.stages.train_once:_clear:1"  # the stage is stored, its checkpoint is still there
)
THE_END = "rcopt.tracking.cascades:CascadeStore.mark_front:1"


@pytest.fixture(scope="module")
def undisturbed(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    project = new_project(folder / "project", store_template)
    finished = start(project, folder / "run", *COMMAND).wait()
    assert finished.code == 0, finished.err
    (project / "front.json").write_text(finished.out)
    return project


def new_project(project: Path, store_template: Path) -> Path:
    (project / "mlruns").mkdir(parents=True)
    shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
    make_images(project / "images")
    write_study(project, TRAINED)
    return project


def stop(project: Path, folder: Path, moment: str, number: int) -> Finished:
    """Start the command, wait for the moment, send the signal, wait for the end."""
    command = start(project, folder, *COMMAND, pause=moment)
    command.wait_until_paused()
    command.signal(number)
    return command.wait()


@pytest.mark.parametrize(
    "stops",
    [
        ((TRAINING, signal.SIGINT), (PREDICTION, signal.SIGTERM), (AFTER_A_TRIAL, signal.SIGKILL)),
        (
            (TRAINING, signal.SIGKILL),
            (PREDICTION, signal.SIGINT),
            (BETWEEN_TRIALS, signal.SIGTERM),
        ),
        (
            (TRAINING, signal.SIGTERM),
            (PREDICTION, signal.SIGKILL),
            (BETWEEN_TRIALS, signal.SIGINT),
        ),
        (
            (PUBLICATION, signal.SIGKILL),
            (BETWEEN_TRIALS, signal.SIGKILL),
            (THE_END, signal.SIGKILL),
        ),
        (
            (PUBLICATION, signal.SIGINT),
            (AFTER_PUBLICATION, signal.SIGKILL),
            (THE_END, signal.SIGTERM),
        ),
    ],
    ids=lambda stops: "-".join(
        f"{number.name}@{moment.split(':')[1].split('.')[-1]}" for moment, number in stops
    ),
)
def test_a_stopped_study_is_finished_by_the_same_command_as_if_undisturbed(
    tmp_path: Path,
    store_template: Path,
    undisturbed: Path,
    stops: tuple[tuple[str, signal.Signals], ...],
) -> None:
    project = new_project(tmp_path / "project", store_template)
    for moment, number in stops:
        complete = {run.run_id for run in runs_of(project, "stage", "FINISHED")}
        trials = (project / "mlruns/studies/tiny/trials.journal").exists() and trials_of(project)
        finished = stop(project, tmp_path / moment.replace(":", "-"), moment, number)
        if number == signal.SIGKILL:
            assert finished.code == -number
        else:
            assert finished.code == 130
            assert "interrupted; what is done is kept" in finished.err
            assert "Traceback" not in finished.err
            assert "RUNNING" not in {run.status for run in stored_runs(project)}
            assert statuses(project, "study") == {"KILLED": 1}
        assert finished.out == ""
        # What was complete still is, and is not made again.
        assert complete <= {run.run_id for run in runs_of(project, "stage", "FINISHED")}
        assert trials_of(project)[: len(trials or ())] == (trials or [])
    last = start(project, tmp_path / "last", *COMMAND).wait()
    assert last.code == 0, last.err
    assert_equal_to_undisturbed(project, undisturbed, last.out)


def assert_equal_to_undisturbed(project: Path, undisturbed: Path, front: str) -> None:
    expected = (undisturbed / "front.json").read_text()
    assert without_run_ids(front) == without_run_ids(expected)
    assert trials_of(project) == trials_of(undisturbed)
    assert "RUNNING" not in {run.status for run in stored_runs(project)}
    # No stage was trained to its end twice, no trial was logged twice or lost.
    assert statuses(project, "stage")["FINISHED"] == statuses(undisturbed, "stage")["FINISHED"]
    assert logged(project) == logged(undisturbed)
    assert {r.tags["rcopt.point"] for r in runs_of(project, "cascade") if pareto(r.tags)} == {
        r.tags["rcopt.point"] for r in runs_of(undisturbed, "cascade") if pareto(r.tags)
    }
    checkpoints = project / "mlruns" / "checkpoints"
    assert list(checkpoints.iterdir()) == []


def logged(project: Path) -> Counter[str]:
    return Counter(
        run.tags["rcopt.trial"]
        for run in runs_of(project, "cascade")
        if run.status == "FINISHED" and run.tags["rcopt.trial"] != "none"
    )


def pareto(tags: Any) -> bool:
    return bool(tags.get("rcopt.pareto") == "true")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_training_goes_on_from_the_last_epoch(
    tmp_path: Path, store_template: Path, number: signal.Signals
) -> None:
    project = new_project(tmp_path / "project", store_template)
    first = stop(project, tmp_path / "first", TRAINING, number)
    (line,) = [line for line in first.err.splitlines() if line.startswith("train ")]
    stage = line.split(":")[0]
    assert f"{stage}: 1/2" in line
    (left,) = runs_of(project, "stage")
    second = stop(project, tmp_path / "second", PREDICTION, signal.SIGKILL)
    assert f"{stage}: 1/2" not in second.err
    assert f"{stage}: 2/2" in second.err
    # The run that was left tells what became of it, the new one has the epochs of its own.
    old, new = runs_of(project, "stage")
    assert (old.run_id, old.status) == (left.run_id, "KILLED")
    assert old.tags["rcopt.reason"]
    assert len(new.metrics["train/loss"]) == 1


def test_a_stage_that_another_process_trains_is_left_to_it(
    tmp_path: Path, store_template: Path
) -> None:
    project = new_project(tmp_path / "project", store_template)
    first = start(project, tmp_path / "first", *COMMAND, pause=TRAINING)
    first.wait_until_paused()
    (line,) = [line for line in first.err.splitlines() if line.startswith("train ")]
    second = start(project, tmp_path / "second", "worker", "tiny").wait()
    assert second.code == 0, second.err
    assert "joining as worker 1" in second.err
    assert line.split(":")[0] + ":" not in second.err
    assert [t["source"] for t in trials_of(project)].count("sampled") == 6
    # Whoever leaves while others are at it leaves the study's run open.
    assert statuses(project, "study") == {"RUNNING": 1}
    first.signal(signal.SIGKILL)
    first.wait()
    last = start(project, tmp_path / "last", *COMMAND).wait()
    assert last.code == 0, last.err
    assert "RUNNING" not in {run.status for run in stored_runs(project)}
    finished = [run.name for run in runs_of(project, "stage", "FINISHED")]
    assert len(finished) == len(set(finished))


def test_when_all_that_is_left_is_trained_by_others_a_worker_waits_and_takes_over(
    tmp_path: Path, store_template: Path
) -> None:
    project = new_project(tmp_path / "project", store_template)
    one_stage = [
        *("--set", "stages.resolutions=[8]"),
        *("--set", 'stages.backbones=["resnet18"]'),
        *("--set", "stages.optional=false"),
    ]
    first = start(project, tmp_path / "first", *COMMAND, *one_stage, pause=TRAINING)
    first.wait_until_paused()
    second = start(project, tmp_path / "second", *COMMAND, *one_stage)
    second.wait_until_told("waiting for other workers")
    first.signal(signal.SIGKILL)
    first.wait()
    finished = second.wait()
    assert finished.code == 0, finished.err
    # From the epoch that the first one had saved.
    assert "train resnet18@8: 2/2" in finished.err
    assert "train resnet18@8: 1/2" not in finished.err
    assert statuses(project, "stage") == {"KILLED": 1, "FINISHED": 1}
    assert statuses(project, "study") == {"FINISHED": 1}


def test_a_second_signal_stops_at_once(tmp_path: Path, store_template: Path) -> None:
    project = new_project(tmp_path / "project", store_template)
    # Stands still while it tidies up after the first one.
    command = start(
        project, tmp_path / "run", *COMMAND, pause="rcopt.tracking.stages:StageStore.end_stage:1"
    )
    command.wait_until_told("train ")
    command.signal(signal.SIGTERM)
    command.wait_until_paused()
    command.signal(signal.SIGINT)
    finished = command.wait(10)
    assert finished.code == 130
    assert finished.err.endswith("rcopt: stopped at once; the same command goes on\n")
    assert start(project, tmp_path / "last", *COMMAND).wait().code == 0
    assert "RUNNING" not in {run.status for run in stored_runs(project)}


@pytest.mark.parametrize("error", [None, TypeError("cannot compare")])
@pytest.mark.parametrize(
    "place", ["rcopt.models.training.save_checkpoint", "rcopt.study.runner.operating_point"]
)
def test_a_signal_that_a_library_swallows_or_turns_into_an_error_stops_all_the_same(
    store_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception | None,
) -> None:
    project = new_project(tmp_path / "project", store_template)
    monkeypatch.chdir(project)
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "1")  # changed by the signal, put back by the test
    module, _, name = place.rpartition(".")
    plain = getattr(import_module(module), name)
    signals = iter([signal.SIGTERM])

    def lossy(*given: Any, **settings: Any) -> Any:
        try:
            for number in signals:
                signal.raise_signal(number)
        except KeyboardInterrupt:
            if error is not None:
                raise error from None
        return plain(*given, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(place, lossy)
        assert main([*COMMAND]) == 130
    assert statuses(project, "study") == {"KILLED": 1}
    assert set(statuses(project, "stage")) <= {"FINISHED", "KILLED"}
    assert main([*COMMAND]) == 0
    assert "FAILED" not in statuses(project, "stage")
