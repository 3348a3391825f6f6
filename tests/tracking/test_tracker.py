"""Studies in a real SQLite store: experiment, study run, front, what crashes leave."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from rcopt.errors import InputError
from rcopt.processes import this_owner
from rcopt.tracking import DataInput, Tracker, open_tracker, view_link
from rcopt.tracking.view import FRONT_FILTER, SHOWN_FILTER, TAG
from tests.support.tracking_helpers import URI, make_point, make_stage, open_study, publish


def test_a_study_is_one_experiment_with_one_run(tracker: Tracker) -> None:
    data = DataInput("digits", "abc")
    study = tracker.open_study(
        "s",
        description="Cascades on digits.",
        note="| a | b |",
        params={"seed": 0},
        config_toml="seed = 0\n",
        tags={"extra": "x"},
        resolutions=(224, 32),
        data=data,
    )
    assert study.resolutions == (32, 224)
    experiment = tracker.store.client.get_experiment(study.experiment_id)
    assert experiment.name == "s"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    first_line = experiment.tags["mlflow.note.content"].splitlines()[0]
    assert first_line.startswith("[Open the Pareto front](#/experiments/")
    assert first_line.endswith("Cascades on digits.")
    assert tracker.experiment_of("s") == study.experiment_id
    assert tracker.experiment_of("t") is None
    run = tracker.store.client.get_run(study.run_id)
    assert (run.info.run_name, run.info.status) == ("s", "RUNNING")
    assert run.data.tags["rcopt.kind"] == "study"
    assert run.data.tags["extra"] == "x"
    assert run.data.tags["rcopt.owner"] == this_owner()
    assert run.data.params == {"seed": "0"}
    assert tracker.files.fetch(study.run_id, "study.toml").read_text() == "seed = 0\n"
    assert run.inputs is not None
    assert run.inputs.dataset_inputs[0].dataset.name == "digits"


def test_a_continued_study_keeps_its_run_and_its_start(tracker: Tracker, project: Path) -> None:
    first = open_study(tracker)
    tracker.end_study(first, "KILLED", "interrupted")
    again = open_tracker(URI, project)
    second = again.open_study(
        "s", description="New.", params={"seed": 1, "more": 2}, config_toml="new\n"
    )
    assert (second.run_id, second.started) == (first.run_id, first.started)
    run = again.store.client.get_run(second.run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"seed": "0", "more": "2"}, "the first value is kept"
    assert again.files.fetch(second.run_id, "study.toml").read_text() == "new\n"
    again.end_study(second, "FINISHED")
    assert again.store.client.get_run(second.run_id).info.status == "FINISHED"


def test_a_study_deleted_in_mlflow_says_how_to_mend_it(tracker: Tracker) -> None:
    study = open_study(tracker)
    tracker.store.client.delete_experiment(study.experiment_id)
    with pytest.raises(InputError, match=r"study s: its MLflow experiment was deleted; restore"):
        open_study(tracker)


def test_a_study_run_deleted_in_mlflow_is_made_again(tracker: Tracker) -> None:
    study = open_study(tracker)
    tracker.store.client.delete_run(study.run_id)
    again = open_study(tracker)
    assert again.experiment_id == study.experiment_id
    assert again.run_id != study.run_id


def test_two_study_runs_made_at_once_become_one(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(tracker)
    real = tracker.store.search
    answers = [False]

    def blind_once(*arguments: object) -> object:
        if answers:
            answers.pop()
            return iter(())
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tracker.store, "search", blind_once)
    assert open_study(tracker).run_id == study.run_id
    monkeypatch.undo()
    assert len(list(tracker.store.search([study.experiment_id], ""))) == 1


def test_what_a_dead_process_left_open_is_closed(tracker: Tracker) -> None:
    study = open_study(tracker)
    stage = make_stage().stage
    dead = tracker.stages.start_stage(study, "a", stage, {}, {"rcopt.owner": "gone"})
    alive = tracker.stages.start_stage(study, "b", stage, {})
    assert tracker.close_stale(study) == [dead]
    assert tracker.store.client.get_run(dead).info.status == "KILLED"
    assert "is gone" in tracker.store.client.get_run(dead).data.tags["rcopt.reason"]
    assert tracker.store.client.get_run(alive).info.status == "RUNNING"
    assert tracker.store.client.get_run(study.run_id).info.status == "RUNNING"
    assert tracker.close_stale(study, lambda owner: False) == [alive]
    assert tracker.store.client.get_run(study.run_id).info.status == "RUNNING"


def test_the_front_is_tagged_and_only_the_front_has_test_numbers(tracker: Tracker) -> None:
    study = open_study(tracker)
    for n in range(3):
        tracker.cascades.log_cascade(study, make_point(n))
    tested = [replace(make_point(n), test=make_point(n).validation) for n in (0, 1)]
    marked = tracker.cascades.mark_front(study, tested)
    assert [point.trial for point in marked] == [0, 1]
    runs = {r.data.tags["rcopt.trial"]: r for r in tracker.cascades.find_trials(study)}
    assert len(runs) == 3, "no second run for a trial that has one"
    assert {r.info.run_id for n, r in runs.items() if n != "2"} == {p.run_id for p in marked}
    assert runs["0"].data.metrics["test/accuracy"] == 0.9123
    assert runs["0"].data.metrics["test/mflops"] == runs["0"].data.metrics["val/mflops"]
    assert "test/accuracy" not in runs["2"].data.metrics
    tracker.cascades.mark_front(study, tested[1:])
    members = [
        r.data.tags["rcopt.trial"]
        for r in tracker.store.search([study.experiment_id], FRONT_FILTER)
    ]
    assert members == ["1"]


def test_front_members_without_a_run_get_one_once(tracker: Tracker) -> None:
    study = open_study(tracker)
    points = [make_point(None, threshold=0.7), make_point(2000, threshold=0.8)]
    first = tracker.cascades.mark_front(study, points)
    second = tracker.cascades.mark_front(study, points)
    assert [p.run_id for p in first] == [p.run_id for p in second]
    assert len({p.run_id for p in first}) == 2
    run = tracker.store.client.get_run(first[0].run_id or "")
    assert run.data.tags["rcopt.source"] == "exact"
    assert run.data.tags["rcopt.pareto"] == "true"
    assert run.info.status == "FINISHED"


def test_marking_again_adds_no_metric_values(tracker: Tracker) -> None:
    study = open_study(tracker)
    points = [replace(make_point(0), test=make_point(0).validation)]
    for _ in range(2):
        (point,) = tracker.cascades.mark_front(study, points)
    history = tracker.store.client.get_metric_history(point.run_id or "", "test/accuracy")
    assert len(history) == 1


def test_the_ready_made_view_can_be_parsed(tracker: Tracker) -> None:
    study = open_study(tracker)
    tag = tracker.store.client.get_experiment(study.experiment_id).tags[TAG]
    assert len(tag) < 20_000
    view = json.loads(tag)
    state = json.loads(view["state"])
    assert view["name"] == "Pareto front"
    assert state["searchFilter"] == "tags.\"rcopt.shown\" = 'true'"
    scatter, pictures, parallel = state["compareRunCharts"][:3]
    axes = (scatter["xaxis"]["key"], scatter["yaxis"]["key"])
    assert axes == ("val/log10_mflops", "val/accuracy")
    assert (pictures["type"], pictures["imageKeys"]) == ("IMAGE", ["front"])
    assert parallel["selectedParams"] == ["backbone.32", "backbone.224", "threshold.32"]
    assert view_link("http://127.0.0.1:5000", "7") == (
        "http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning"
        "&compareRunsMode=CHART&viewStateShareKey=rcopt-front"
    )


def test_the_view_shows_the_front_and_the_studys_pictures(tracker: Tracker) -> None:
    study = open_study(tracker)
    points = [make_point(n) for n in range(3)]
    for point in points:
        tracker.cascades.log_cascade(study, point)
    for front in (points[:2], points[1:]):
        marked = tracker.cascades.mark_front(study, front)
        shown = {
            run.info.run_id for run in tracker.store.search([study.experiment_id], SHOWN_FILTER)
        }
        assert shown == {study.run_id, *(point.run_id for point in marked)}


def test_the_notes_begin_with_the_result(tracker: Tracker) -> None:
    study = open_study(tracker)
    picture = io.BytesIO()
    Image.new("RGB", (4, 3)).save(picture, format="png")
    tracker.tell_result(study, "Cascades save half.", "More.", picture.getvalue())
    for step in (1, 2):
        tracker.show_progress(study, picture.getvalue(), step)
    note = tracker.store.client.get_run(study.run_id).data.tags["mlflow.note.content"]
    assert note.startswith("Cascades save half.\n\n[Open the Pareto front](#/experiments/")
    assert f"![front](get-artifact?path=front.png&run_uuid={study.run_id})" in note
    assert "/artifacts/report/report.html" in note
    experiment = tracker.store.client.get_experiment(study.experiment_id)
    first = experiment.tags["mlflow.note.content"].splitlines()[0]
    assert first.endswith("). Cascades save half.")
    assert tracker.files.fetch(study.run_id, "front.png").read_bytes() == picture.getvalue()
    names = {f.path for f in tracker.store.client.list_artifacts(study.run_id, "images")}
    assert sum(name.endswith(".png") for name in names) == 2


def test_files_and_numbers_of_the_study_are_kept(tracker: Tracker, tmp_path: Path) -> None:
    study = open_study(tracker)
    report = tmp_path / "report.html"
    report.write_text("<p>front</p>")
    tracker.log_files(study, [report])
    tracker.log_files(study, [report], "figures")
    assert tracker.files.fetch(study.run_id, "report.html").read_text() == "<p>front</p>"
    assert tracker.files.fetch(study.run_id, "figures/report.html").is_file()
    for step in (1, 2):
        tracker.set_study_metrics(study, {"hypervolume": step / 10}, step)
    history = tracker.store.client.get_metric_history(study.run_id, "hypervolume")
    assert [(m.step, m.value) for m in history] == [(1, 0.1), (2, 0.2)]


def test_a_moved_project_finds_its_artifacts(tracker: Tracker, project: Path) -> None:
    study = open_study(tracker)
    stored = publish(tracker, study, make_stage(key="abc"), project)
    moved = project.with_name(project.name + " moved #1")
    project.rename(moved)
    elsewhere = open_tracker(URI, moved)
    found = elsewhere.stages.find_stage("abc")
    assert found is not None
    assert found.run_id == stored.run_id
    assert elsewhere.stages.weights_path(stored.run_id or "").is_relative_to(moved)
    again = publish(elsewhere, open_study(elsewhere), make_stage(key="new"), moved)
    assert elsewhere.stages.weights_path(again.run_id or "").is_relative_to(moved)
    assert not list(project.rglob("*.safetensors")), "nothing is written to the old place"
