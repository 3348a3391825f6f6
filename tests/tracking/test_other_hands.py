"""What people and other programs rename, delete, restore or edit in MLflow between two commands.

Each is done with MLflow's own client on a real store, as its UI does it.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Run, ViewType

from rcopt.errors import InputError, WorkError
from rcopt.tracking import CascadeLog, StudyRun, Tracker, open_tracker
from tests.support.tracking_helpers import (
    URI,
    Server,
    Warnings,
    make_point,
    make_stage,
    open_study,
    publish,
)


def runs(tracker: Tracker, study: StudyRun, kind: str) -> list[Run]:
    where = f"tags.`rcopt.kind` = '{kind}'"
    return list(tracker.store.search([study.experiment_id], where))


def log(tracker: Tracker, study: StudyRun, count: int = 3, cascade_runs: int = 2) -> None:
    """What a command does with its trials: look for what is missing, then log it."""
    with_log = CascadeLog(tracker, study, cascade_runs=cascade_runs)
    for number in with_log.missing(range(count)):
        with_log.add(make_point(number))
    assert with_log.close() == 0


def experiments(tracker: Tracker) -> list[str]:
    return [
        e.name for e in tracker.store.client.search_experiments(view_type=ViewType.ALL)
        if e.name != "Default"
    ]  # fmt: skip


# --------------------------------------------------------------------------- experiments


def test_a_renamed_experiment_is_used_under_its_new_name(
    tracker: Tracker, told: Warnings, tmp_path: Path
) -> None:
    study = open_study(tracker)
    publish(tracker, study, make_stage(), tmp_path)
    tracker.store.client.rename_experiment(study.experiment_id, "my best study")
    again = open_study(tracker)
    assert (again.experiment_id, again.run_id) == (study.experiment_id, study.run_id)
    assert experiments(tracker) == ["my best study"]
    assert any("now named 'my best study'" in line for line in told.lines)
    assert tracker.experiment_of("s") == study.experiment_id
    assert tracker.stages.find_stage("k1") is not None


def test_a_name_that_another_study_now_has_is_not_taken_over(tracker: Tracker) -> None:
    other = open_study(tracker, "other")
    tracker.store.client.rename_experiment(other.experiment_id, "s")
    with pytest.raises(InputError, match="is study other's, renamed; rename it back"):
        open_study(tracker)
    assert experiments(tracker) == ["s"]
    assert open_study(tracker, "other").experiment_id == other.experiment_id


def test_two_studies_that_swapped_names_keep_their_own(tracker: Tracker) -> None:
    one, two = open_study(tracker, "one"), open_study(tracker, "two")
    for experiment, name in ((one, "x"), (two, "one"), (one, "two")):
        tracker.store.client.rename_experiment(experiment.experiment_id, name)
    assert open_study(tracker, "one").experiment_id == one.experiment_id
    assert open_study(tracker, "two").experiment_id == two.experiment_id


@pytest.mark.parametrize("renamed", [False, True])
def test_a_deleted_experiment_is_told_and_comes_back_as_advised(
    tracker: Tracker, renamed: bool
) -> None:
    study = open_study(tracker)
    log(tracker, study)
    if renamed:
        tracker.store.client.rename_experiment(study.experiment_id, "elsewhere")
    tracker.store.client.delete_experiment(study.experiment_id)
    for ask in (lambda: tracker.experiment_of("s"), lambda: open_study(tracker)):
        with pytest.raises(InputError, match="its MLflow experiment was deleted; restore") as told:
            ask()
    assert experiments(tracker) == ["elsewhere" if renamed else "s"], "nothing else is made"
    assert "mlflow gc --experiment-ids" in str(told.value)
    follow(str(told.value), "restore")
    again = open_study(tracker)
    assert again.run_id == study.run_id
    log(tracker, again)
    assert len(runs(tracker, study, "cascade")) == 2


@pytest.mark.slow
def test_a_deleted_experiment_can_be_removed_for_good_as_advised(tracker: Tracker) -> None:
    study = open_study(tracker)
    tracker.store.client.delete_experiment(study.experiment_id)
    with pytest.raises(InputError) as told:
        open_study(tracker)
    follow(str(told.value), "mlflow gc")
    assert open_study(tracker).run_id != study.run_id


def follow(advice: str, verb: str) -> None:
    """Run the command in brackets that holds this, as a shell would."""
    command = next(part for part in re.findall(r"\(([^)]*)\)", advice) if verb in part)
    words = shlex.split(command)
    settings = dict(word.split("=", 1) for word in words if word.startswith("MLFLOW"))
    program = [word for word in words if not word.startswith("MLFLOW")]
    assert program.pop(0) == "mlflow"
    subprocess.run(
        [sys.executable, "-m", "mlflow", *program],
        check=True,
        capture_output=True,
        env=os.environ | settings,
    )


def test_a_restored_duplicate_is_logged_once(tracker: Tracker) -> None:
    study = open_study(tracker)
    log(tracker, study)
    twice = tracker.cascades.log_cascade(study, make_point(1))
    log(tracker, study)
    # Restoring an experiment restores all of its runs, also those that were deleted before.
    tracker.store.client.delete_experiment(study.experiment_id)
    tracker.store.client.restore_experiment(study.experiment_id)
    assert tracker.store.client.get_run(twice).info.lifecycle_stage == "active"
    log(tracker, open_study(tracker))
    trials = Counter(run.data.tags["rcopt.trial"] for run in runs(tracker, study, "cascade"))
    assert trials == {"0": 1, "1": 1}


# --------------------------------------------------------------------------- runs


def test_children_of_a_deleted_study_run_are_put_below_the_new_one(
    tracker: Tracker, told: Warnings, tmp_path: Path
) -> None:
    study = open_study(tracker)
    publish(tracker, study, make_stage(), tmp_path)
    log(tracker, study)
    tracker.store.client.delete_run(study.run_id)
    assert tracker.study_of("s") is None, "who only reads makes none"
    again = open_study(tracker)
    children = [*runs(tracker, study, "stage"), *runs(tracker, study, "cascade")]
    assert len(children) == 3
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {again.run_id}
    assert any(f"3 stages and cascades are now below run {again.run_id}" in x for x in told.lines)
    log(tracker, again)
    steps = tracker.store.client.get_metric_history(again.run_id, "val/accuracy")
    assert [metric.step for metric in steps] == [2], "and what the run held is held again"
    assert "trials.csv" in tracker.files.artifact_names(again.run_id)


def test_a_restored_study_run_has_its_children_again(tracker: Tracker) -> None:
    study = open_study(tracker)
    log(tracker, study)
    tracker.store.client.delete_run(study.run_id)
    open_study(tracker)
    tracker.store.client.restore_run(study.run_id)
    again = open_study(tracker)
    assert again.run_id == study.run_id
    children = runs(tracker, study, "cascade")
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {study.run_id}


def test_deleted_cascades_are_logged_again(tracker: Tracker) -> None:
    study = open_study(tracker)
    log(tracker, study)
    points = [replace(make_point(n), test=make_point(n).validation) for n in (0, 1)]
    for run in runs(tracker, study, "cascade"):
        tracker.store.client.delete_run(run.info.run_id)
    log(tracker, open_study(tracker))
    marked = tracker.cascades.mark_front(study, points)
    assert {p.run_id for p in marked} == {r.info.run_id for r in runs(tracker, study, "cascade")}


def test_a_point_whose_run_was_deleted_gets_another(tracker: Tracker) -> None:
    study = open_study(tracker)
    point = replace(make_point(0), run_id=tracker.cascades.log_cascade(study, make_point(0)))
    assert tracker.cascades.run_of(study, point) == point.run_id
    tracker.store.client.delete_run(str(point.run_id))
    found = tracker.cascades.run_of(study, point)
    assert found != point.run_id
    assert tracker.store.client.get_run(found).info.lifecycle_stage == "active"
    assert tracker.cascades.run_of(study, point) == found, "made once"


def test_a_deleted_stage_is_named_with_the_way_back(
    tracker: Tracker, told: Warnings, tmp_path: Path
) -> None:
    study = open_study(tracker)
    stored = publish(tracker, study, make_stage(), tmp_path)
    tracker.store.client.delete_run(str(stored.run_id))
    assert tracker.stages.find_stages(["k1"]) == {}
    assert f"run {stored.run_id} was deleted in MLflow" in tracker.stages.why_missing("k1")
    tracker.stages.start_stage(study, "k1", make_stage().stage, {})
    assert any(f"run {stored.run_id} was deleted in MLflow" in line for line in told.lines)
    tracker.store.client.restore_run(str(stored.run_id))
    assert tracker.stages.find_stage("k1") is not None


def test_a_stage_whose_experiment_was_deleted_is_named_with_the_way_back(
    tracker: Tracker, tmp_path: Path
) -> None:
    study = open_study(tracker, "gone")
    publish(tracker, study, make_stage(), tmp_path)
    tracker.store.client.delete_experiment(study.experiment_id)
    assert "experiment gone was deleted in MLflow" in tracker.stages.why_missing("k1")
    assert tracker.stages.why_missing("never trained") == ""


def test_a_training_whose_run_was_deleted_meanwhile_is_not_lost(
    tracker: Tracker, told: Warnings, tmp_path: Path
) -> None:
    study = open_study(tracker)
    real = tracker.stages.start_stage

    def deleted_at_once(*arguments: object) -> str:
        run_id = real(*arguments)  # type: ignore[arg-type]
        tracker.store.client.delete_run(run_id)
        return run_id

    tracker.stages.start_stage = deleted_at_once  # type: ignore[method-assign,assignment]
    stored = publish(tracker, study, make_stage(), tmp_path)
    assert tracker.stages.find_stage("k1") is not None
    assert any(f"run {stored.run_id} was deleted in MLflow" in line for line in told.lines)


def test_a_study_run_deleted_while_a_command_runs_says_what_to_do(tracker: Tracker) -> None:
    study = open_study(tracker)
    tracker.store.client.delete_run(study.run_id)
    with pytest.raises(WorkError, match="was deleted in MLflow meanwhile; repeat the command"):
        tracker.set_study_metrics(study, {"stages": 1.0})


# --------------------------------------------------------------------------- tags


@pytest.mark.parametrize("word", ["best", "", "1.5"])
def test_a_word_where_a_number_was_is_named_and_mended(
    tracker: Tracker, told: Warnings, word: str
) -> None:
    study = open_study(tracker)
    log(tracker, study)
    odd = runs(tracker, study, "cascade")[1].info.run_id
    tracker.store.client.set_tag(odd, "rcopt.trial", word)
    log(tracker, study)
    assert any(odd in line and "rcopt.trial" in line for line in told.lines)
    trials = Counter(run.data.tags["rcopt.trial"] for run in runs(tracker, study, "cascade"))
    assert trials == {"0": 1, "1": 1}


def test_a_run_whose_number_is_lost_is_named_and_left_alone(
    tracker: Tracker, told: Warnings
) -> None:
    study = open_study(tracker)
    log(tracker, study)
    odd = runs(tracker, study, "cascade")[1].info.run_id
    tracker.store.client.set_tag(odd, "rcopt.trial", "best")
    tracker.store.client.set_tag(odd, "rcopt.point", "gone")
    log(tracker, study)
    assert any(odd in line and "rcopt.trial" in line for line in told.lines)
    trials = Counter(run.data.tags["rcopt.trial"] for run in runs(tracker, study, "cascade"))
    assert trials == {"0": 1, "1": 1, "best": 1}


@pytest.mark.parametrize("key", ["rcopt.trial", "rcopt.point", "rcopt.owner", "rcopt.kind"])
def test_any_tag_of_a_cascade_may_be_edited_or_removed(tracker: Tracker, key: str) -> None:
    study = open_study(tracker)
    log(tracker, study)
    first, second = (run.info.run_id for run in runs(tracker, study, "cascade"))
    tracker.store.client.set_tag(first, key, "none")
    tracker.store.client.delete_tag(second, key)
    again = open_study(tracker)
    tracker.close_stale(again)
    log(tracker, again)
    marked = tracker.cascades.mark_front(again, [make_point(0), make_point(None)])
    assert all(point.run_id for point in marked)


def test_an_edited_place_of_artifacts_moves_nothing(
    tracker: Tracker, project: Path, tmp_path: Path
) -> None:
    study = open_study(tracker)
    publish(tracker, study, make_stage(), tmp_path)
    for word in ("elsewhere", "artifacts/elsewhere", "../artifacts/s", "/tmp"):
        tracker.store.client.set_experiment_tag(study.experiment_id, "rcopt.artifacts", word)
        assert open_tracker(URI, project).stages.find_stage("k1") is not None


# --------------------------------------------------------------------------- over HTTP


@pytest.fixture
def remote(server: Server, tmp_path: Path, told: Warnings) -> Tracker:
    return open_tracker(server.uri, tmp_path, warn=told)


@pytest.mark.slow
def test_the_same_is_seen_through_a_server(
    remote: Tracker, told: Warnings, tmp_path: Path
) -> None:
    study = open_study(remote, "hands")
    publish(remote, study, make_stage(key="hands"), tmp_path)
    log(remote, study)
    client = remote.store.client
    client.rename_experiment(study.experiment_id, "renamed hands")
    client.delete_run(study.run_id)
    again = open_study(remote, "hands")
    assert again.experiment_id == study.experiment_id
    children = [*runs(remote, study, "stage"), *runs(remote, study, "cascade")]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {again.run_id}
    client.delete_run(again.run_id)
    with pytest.raises(WorkError, match="was deleted in MLflow meanwhile"):
        remote.set_study_metrics(again, {"stages": 1.0})
    client.delete_experiment(study.experiment_id)
    with pytest.raises(InputError) as advice:
        open_study(remote, "hands")
    assert "on the server's machine: MLFLOW" in str(advice.value)
    assert "--backend-store-uri http" not in str(advice.value)
    follow(str(advice.value), "restore")
    assert open_study(remote, "hands").experiment_id == study.experiment_id


def test_the_database_of_a_newer_mlflow_is_told_as_such(project: Path) -> None:
    import sqlite3

    database = project / "mlruns" / "mlflow.db"
    kept = project / "kept.db"
    with sqlite3.connect(database) as db:
        db.execute("update alembic_version set version_num = 'ffffffffffff'")
    db.close()
    shutil.copyfile(database, kept)
    with pytest.raises(InputError, match="made by a newer MLflow than this one, 3") as told:
        open_tracker(URI, project)
    assert "db upgrade" not in str(told.value)
    assert "pip install --upgrade mlflow" in str(told.value)
    assert database.read_bytes() == kept.read_bytes()
