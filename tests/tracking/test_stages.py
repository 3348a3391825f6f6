"""The stage store on a real SQLite store."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcopt.core.cascade import Stage
from rcopt.errors import InputError, UnseenError
from rcopt.tracking import PREDICTIONS, WEIGHTS, DataInput, Tracker
from tests.support.tracking_helpers import Warnings, make_stage, open_study, publish


@dataclass(frozen=True)
class Record:
    epoch: int
    loss: float = 1.5
    accuracy: float = 0.25
    lr: float = 0.1


def test_a_finished_stage_is_found_with_its_predictions(tracker: Tracker, tmp_path: Path) -> None:
    trained = make_stage(key="abc")
    stored = publish(tracker, open_study(tracker), trained, tmp_path)
    found = tracker.stages.find_stage("abc")
    assert found is not None
    assert found.run_id == stored.run_id
    assert found.stage == trained.stage
    for split, predictions in trained.predictions.items():
        np.testing.assert_array_equal(
            found.predictions[split].probabilities, predictions.probabilities
        )
    assert tracker.stages.find_stage("other") is None


def test_a_stage_cannot_be_found_before_it_is_finished(tracker: Tracker) -> None:
    study = open_study(tracker)
    run_id = tracker.stages.start_stage(study, "abc", Stage(32, "resnet18", 1.0), {"epochs": 1})
    assert tracker.stages.find_stage("abc") is None
    tracker.stages.end_stage(run_id, "FAILED", "loss became NaN in epoch 3")
    assert tracker.stages.find_stage("abc") is None
    run = tracker.store.client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["rcopt.reason"] == "loss became NaN in epoch 3"


def test_stages_are_found_from_other_studies_and_in_batches(
    tracker: Tracker, tmp_path: Path
) -> None:
    first, second = open_study(tracker, "one"), open_study(tracker, "two")
    publish(tracker, first, make_stage(key="a"), tmp_path)
    publish(tracker, second, make_stage(key="b", resolution=96), tmp_path)
    found = tracker.stages.find_stages(["a", "b", "c"])
    assert sorted(found) == ["a", "b"]
    assert found["b"].stage.resolution == 96


def test_a_deleted_run_is_a_forgotten_stage(tracker: Tracker, tmp_path: Path) -> None:
    stored = publish(tracker, open_study(tracker), make_stage(key="abc"), tmp_path)
    tracker.store.client.delete_run(stored.run_id or "")
    assert tracker.stages.find_stage("abc") is None


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_stage_is_named_and_made_again(
    tracker: Tracker, told: Warnings, tmp_path: Path, damage: str
) -> None:
    study = open_study(tracker)
    stored = publish(tracker, study, make_stage(key="abc"), tmp_path)
    path = tracker.files.fetch(stored.run_id or "", PREDICTIONS)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-10] if damage == "cut" else content[:-1] + b"\0")
    assert tracker.stages.find_stage("abc") is None
    assert len(told.lines) == 1
    assert PREDICTIONS in told.lines[0]
    assert "made again" in told.lines[0]
    assert tracker.stages.find_stage("abc") is None, "and it stays missing"
    # What is damaged is marked for good; what is gone may come back.
    assert len(told.lines) == (2 if damage == "gone" else 1)
    marked = "rcopt.damaged" in tracker.store.client.get_run(stored.run_id or "").data.tags
    assert marked == (damage != "gone")
    again = publish(tracker, study, make_stage(key="abc"), tmp_path)
    lines = len(told.lines)
    found = tracker.stages.find_stage("abc")
    assert found is not None
    assert found.run_id == again.run_id
    assert len(told.lines) == lines, "nothing is missed any more"
    if damage == "gone":
        path.write_bytes(content)
        back = tracker.stages.find_stage("abc")
        assert back is not None
        assert back.run_id == stored.run_id


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_reading_commands_change_nothing(
    tracker: Tracker, told: Warnings, tmp_path: Path, damage: str
) -> None:
    stored = publish(tracker, open_study(tracker), make_stage(key="abc"), tmp_path)
    path = tracker.files.fetch(stored.run_id or "", PREDICTIONS)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\0") if damage == "changed" else path.unlink()
    assert tracker.stages.find_stages(["abc"]) == {}
    assert len(told.lines) == 1
    assert "rcopt.damaged" not in tracker.store.client.get_run(stored.run_id or "").data.tags
    path.write_bytes(content)
    assert set(tracker.stages.find_stages(["abc"])) == {"abc"}


def test_what_cannot_be_seen_from_here_is_neither_missing_nor_damaged(
    tracker: Tracker, told: Warnings, tmp_path: Path
) -> None:
    stored = publish(tracker, open_study(tracker), make_stage(key="abc"), tmp_path)
    artifacts = tracker.files.fetch(stored.run_id or "", PREDICTIONS).parents[2]
    away = artifacts.with_name("unmounted")
    artifacts.rename(away)
    for find in (
        lambda: tracker.stages.find_stage("abc"),
        lambda: tracker.stages.find_stages(["abc"]),
    ):
        with pytest.raises(UnseenError, match="the folder of this store's artifacts is not here"):
            find()
    away.rename(artifacts)
    assert tracker.stages.find_stage("abc") is not None
    assert told.lines == []


def test_an_artifact_that_cannot_be_read_is_not_damaged(
    tracker: Tracker, told: Warnings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tracker, open_study(tracker), make_stage(key="abc"), tmp_path)
    plain = Path.open

    def denied(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == PREDICTIONS:
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", denied)
        with pytest.raises(UnseenError, match="cannot be read"):
            tracker.stages.find_stage("abc")
    assert tracker.stages.find_stage("abc") is not None
    assert told.lines == []


def test_of_two_runs_of_one_stage_the_first_finished_counts(
    tracker: Tracker, tmp_path: Path
) -> None:
    study = open_study(tracker)
    first = publish(tracker, study, make_stage(key="abc"), tmp_path)
    time.sleep(0.002)
    publish(tracker, study, make_stage(key="abc"), tmp_path)
    found = tracker.stages.find_stage("abc")
    assert found is not None
    assert found.run_id == first.run_id


def test_a_stage_run_explains_itself(tracker: Tracker, tmp_path: Path) -> None:
    data = DataInput("digits", "d" * 64, "scikit-learn", '{"train": 1078}')
    study = replace(open_study(tracker), data=data)
    trained = make_stage("resnet34", 96, "abc")
    stored = publish(tracker, study, trained, tmp_path)
    run = tracker.store.client.get_run(stored.run_id or "")
    assert run.info.run_name == "resnet34@96"
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "2"
    assert run.data.metrics["val/accuracy"] == round(trained.predictions["validation"].accuracy, 4)
    assert run.data.metrics["mflops"] == 74.0
    assert run.data.metrics["mmacs"] == 37.0
    assert "test/accuracy" not in run.data.metrics
    tags = run.data.tags
    assert tags["rcopt.kind"] == "stage"
    assert tags["rcopt.study"] == "s"
    assert tags["mlflow.parentRunId"] == study.run_id
    assert "rcopt.versions" in tags
    assert "rcopt.hardware" in tags
    assert "on test" not in tags["mlflow.note.content"]
    assert run.inputs is not None
    (shown,) = run.inputs.dataset_inputs
    assert (shown.dataset.name, shown.dataset.digest) == ("digits", "d" * 36)


def test_epochs_become_curves(tracker: Tracker) -> None:
    study = open_study(tracker)
    run_id = tracker.stages.start_stage(study, "abc", Stage(32, "resnet18", 1.0), {})
    for epoch in (1, 2, 3):
        tracker.stages.log_epoch(run_id, Record(epoch, loss=1 / epoch))
    history = tracker.store.client.get_metric_history(run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert set(tracker.store.client.get_run(run_id).data.metrics) == {
        "train/loss",
        "train/accuracy",
        "train/lr",
    }


def test_a_reused_stage_shows_once_in_each_study(tracker: Tracker, tmp_path: Path) -> None:
    first, second = open_study(tracker, "one"), open_study(tracker, "two")
    stored = publish(tracker, first, make_stage(key="abc"), tmp_path)
    assert tracker.stages.reuse_stage(first, stored) == stored.run_id
    shown = tracker.stages.reuse_stage(second, stored)
    assert tracker.stages.reuse_stage(second, stored) == shown != stored.run_id
    run = tracker.store.client.get_run(shown)
    assert run.info.experiment_id == second.experiment_id
    assert run.info.status == "FINISHED"
    assert run.data.tags["rcopt.reused_from"] == stored.run_id
    assert "rcopt.stage_key" not in run.data.tags
    found = tracker.stages.find_stage("abc")
    assert found is not None
    assert found.run_id == stored.run_id


def test_weights_come_verified(tracker: Tracker, tmp_path: Path) -> None:
    stored = publish(tracker, open_study(tracker), make_stage(key="abc"), tmp_path)
    assert stored.run_id is not None
    path = tracker.stages.weights_path(stored.run_id)
    assert path.name == WEIGHTS
    assert path.read_bytes() == b"weights of abc"
    path.write_bytes(b"weights of abd")
    with pytest.raises(InputError, match=r"weights\.safetensors: damaged, its SHA-256"):
        tracker.stages.weights_path(stored.run_id)


def test_a_stage_whose_weights_are_damaged_is_made_again(tracker: Tracker, tmp_path: Path) -> None:
    study = open_study(tracker)
    stored = publish(tracker, study, make_stage(key="abc"), tmp_path)
    assert stored.run_id is not None
    # Without weights the predictions are sound, so nobody notices before they are wanted.
    tracker.stages.weights_path(stored.run_id).unlink()
    assert tracker.stages.find_stage("abc") is not None
    with pytest.raises(InputError, match=r"artifact weights\.safetensors of run .* is missing"):
        tracker.stages.weights_path(stored.run_id)
    assert tracker.stages.find_stage("abc") is None
    again = publish(tracker, study, make_stage(key="abc"), tmp_path)
    assert again.run_id not in (None, stored.run_id)
    found = tracker.stages.find_stage("abc")
    assert found is not None
    assert found.run_id == again.run_id
    assert tracker.stages.weights_path(str(found.run_id)).read_bytes() == b"weights of abc"


def test_finishing_without_predictions_is_refused(tracker: Tracker) -> None:
    with pytest.raises(ValueError, match=r"files must hold 'stage\.safetensors', got \[\]"):
        tracker.stages.finish_stage("run", make_stage(), {})
