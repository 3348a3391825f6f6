"""Commands after something was renamed, deleted or edited in MLflow's UI behind their back."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rcopt.cli.main import main
from rcopt.study.file import Study
from rcopt.tracking import StudyRun, Tracker
from tests.support.study_helpers import stored_study

Act = Callable[[Tracker, StudyRun], object]


@pytest.fixture
def started(store_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study on stored predictions with 5 trials."""
    study = stored_study(tmp_path, store_template)
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(study.file), "--quiet", "--trials", "5"]) == 0
    return study


def opened(study: Study) -> tuple[Tracker, StudyRun]:
    tracker = study.open_tracker()
    run = tracker.study_of(study.name)
    assert run is not None
    return tracker, run


def content(study: Study) -> list[str]:
    with closing(sqlite3.connect(study.project / "mlruns" / "mlflow.db")) as db:
        return list(db.iterdump())


def delete_all(tracker: Tracker, run: StudyRun, where: str) -> None:
    for found in tracker.store.search([run.experiment_id], where):
        tracker.store.client.delete_run(found.info.run_id)


def restore_all(tracker: Tracker, run: StudyRun) -> None:
    tracker.store.client.delete_experiment(run.experiment_id)
    tracker.store.client.restore_experiment(run.experiment_id)


def edit_all(tracker: Tracker, run: StudyRun, word: str | None) -> None:
    for found in list(tracker.store.search([run.experiment_id], "")):
        for key in found.data.tags:
            if key.startswith("rcopt.") and word is None:
                tracker.store.client.delete_tag(found.info.run_id, key)
            elif key.startswith("rcopt."):
                tracker.store.client.set_tag(found.info.run_id, key, word)


ACTS: dict[str, Act] = {
    "experiment renamed": lambda t, s: t.store.client.rename_experiment(s.experiment_id, "mine"),
    "study run deleted": lambda t, s: t.store.client.delete_run(s.run_id),
    "cascades deleted": lambda t, s: delete_all(t, s, "tags.`rcopt.kind` = 'cascade'"),
    "stages deleted": lambda t, s: delete_all(t, s, "tags.`rcopt.kind` = 'stage'"),
    "all runs deleted": lambda t, s: delete_all(t, s, ""),
    "restored with all": restore_all,
    "all tags gone": lambda t, s: edit_all(t, s, None),
    "all tags words": lambda t, s: edit_all(t, s, "word"),
}


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
def test_reading_changes_nothing_and_the_next_run_mends(
    started: Study, act: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ACTS[act](*opened(started))
    before = content(started)
    for command in (["status"], ["front"], ["select", "--knee"], ["export"]):
        more = ["out"] if command == ["export"] else command[1:]
        assert main([command[0], str(started.file), *more]) == 0, capsys.readouterr().err
    assert content(started) == before
    assert main(["run", str(started.file), "--quiet", "--trials", "6"]) == 0
    tracker, run = opened(started)
    children = [
        child
        for kind in ("stage", "cascade")
        for child in tracker.store.search([run.experiment_id], f"tags.`rcopt.kind` = '{kind}'")
    ]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {run.run_id}
    front = list(tracker.store.search([run.experiment_id], "tags.`rcopt.pareto` = 'true'"))
    assert front
    assert all("test/accuracy" in member.data.metrics for member in front)
    assert "internal error" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_report_says_where_it_is_not_stored(
    started: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker, run = opened(started)
    tracker.store.client.delete_run(run.run_id)
    capsys.readouterr()
    assert main(["report", str(started.file)]) == 0
    said = "".join(capsys.readouterr())
    assert "not stored in MLflow, where the study has no run" in said
    assert "also stored" not in said
    assert main(["run", str(started.file), "--quiet"]) == 0
    assert main(["report", str(started.file)]) == 0
    assert "also stored with the study's MLflow run" in "".join(capsys.readouterr())
    assert "report" in {
        file.path for file in tracker.store.client.list_artifacts(opened(started)[1].run_id)
    }


@pytest.mark.slow
def test_a_deleted_experiment_stops_whoever_needs_it_before_anything_is_made(
    started: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker, run = opened(started)
    tracker.store.client.delete_experiment(run.experiment_id)
    before = content(started)
    for command in ("status", "front"):
        assert main([command, str(started.file)]) == 0
    for needing, *more in (["run"], ["report"], ["ui", "--no-browser"]):
        assert main([needing, str(started.file), *more]) == 2, needing
        said = capsys.readouterr().err
        assert "its MLflow experiment was deleted; restore it" in said
    assert content(started) == before
    other = ["--set", "name=other"]
    assert main(["run", str(started.file), "--quiet", "--trials", "3", *other]) == 0
