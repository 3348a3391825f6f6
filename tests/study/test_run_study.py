import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.evaluating import evaluate
from rcopt.core.predictions import Split
from rcopt.data.prediction_files import load_stage, save_stage
from rcopt.errors import InputError, WorkError
from rcopt.progress import Progress
from rcopt.study.file import Study, load_study
from rcopt.study.run_study import front, run
from rcopt.study.stages.lookup import trained_stages
from rcopt.study.stages.recorded import StoredPredictions
from rcopt.study.status import read_status
from rcopt.study.trials import Failure
from rcopt.tracking import CascadeStore, open_tracker
from tests.support.study_helpers import (
    SIZES,
    STORED,
    runs_of,
    start,
    statuses,
    store_predictions,
    trials_of,
    write_study,
)

NewStudy = Callable[..., Study]


class InterruptAt(Progress):
    """Interrupts, as Ctrl-C does, when so many trials (or stages) are done."""

    def __init__(self, done: int, what: str = "trials") -> None:
        self._done, self._what = done, what

    def count(self, what: str, done: int, total: int, detail: str = "") -> None:
        if what == self._what and done == self._done:
            raise KeyboardInterrupt


@pytest.fixture
def new_study(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> NewStudy:
    """Makes a study on stored predictions, in a project of its own."""

    def make(*overrides: str) -> Study:
        project = tmp_path_factory.mktemp("project")
        (project / "mlruns").mkdir()
        shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
        store_predictions(project / "stored")
        return load_study(write_study(project, STORED), overrides)

    return make


def again(study: Study, *overrides: str) -> Study:
    return load_study(study.file, overrides)


def outcome(study: Study) -> object:
    """All that a study came to, but for the ids of its runs, and the digest over them."""
    tree = json.loads((study.folder / "results.json").read_text())
    del tree["sha256"]
    for entry in (*tree["front"], *tree["stages"]):
        entry["run_id"] = None
    return tree, trials_of(study.project, study.name)


def sources(study: Study) -> dict[str, int]:
    return dict(Counter(trial["source"] for trial in trials_of(study.project, study.name)))


def test_a_study_of_stored_predictions_ends_with_an_exact_front(new_study: NewStudy) -> None:
    study = new_study()
    results = run(study)
    assert (results.sampled, results.exact) == (8, True)
    assert results.split_sizes == SIZES
    assert results.sampled_hypervolume is not None
    assert 0 < results.sampled_hypervolume <= results.hypervolume <= 1
    accuracies = [p.validation.accuracy for p in results.points]
    flops = [p.validation.mean_flops for p in results.points]
    assert accuracies == sorted(set(accuracies))
    assert flops == sorted(set(flops))
    # What was stored is what Python returns, and what `front` returns is the same.
    assert repr(list(front(study, everything=True))) == repr(list(results.points))
    assert len(front(study)) <= 20


def test_every_point_evaluates_to_its_own_numbers_on_both_splits(new_study: NewStudy) -> None:
    study = new_study()
    results = run(study)
    tracker = open_tracker(study.settings.tracking.uri, study.project)
    stages = {t.stage.name: t for t in trained_stages(study, tracker)}
    splits: tuple[Split, ...] = ("validation", "test")
    for point in results.points:
        chosen = [stages[s.name] for s in point.cascade.stages]
        for split, stored in zip(splits, (point.validation, point.test), strict=True):
            answers = stage_answers([t.predictions[split] for t in chosen], AnswerRule())
            flops = [t.stage.flops for t in chosen]
            made = evaluate(answers.confidence, answers.correct, flops, point.cascade.thresholds)
            assert repr(made) == repr(stored)


def test_sampled_and_exact_trials_stay_apart_and_exact_ones_enter_once(
    new_study: NewStudy,
) -> None:
    study = new_study()
    run(study)
    found = sources(study)
    assert found["sampled"] == 8
    # Three spread points after each of three stages, some of them the same ones.
    assert 3 <= found["exact"] <= 9
    exact = [
        (str(t["stages"]), str(t["thresholds"]))
        for t in trials_of(study.project)
        if t["source"] == "exact"
    ]
    assert len(set(exact)) == len(exact)


def test_without_exact_only_the_sampler_speaks(new_study: NewStudy) -> None:
    study = new_study("search.exact=false")
    results = run(study)
    assert sources(study) == {"sampled": 8}
    assert not results.exact
    assert results.hypervolume == results.sampled_hypervolume
    assert {p.source for p in results.points} == {"sampled"}


def test_exact_points_can_be_kept_from_the_trials_and_are_on_the_front_all_the_same(
    new_study: NewStudy,
) -> None:
    study = new_study("search.exact_trials=0")
    results = run(study)
    assert sources(study) == {"sampled": 8}
    assert "exact" in {p.source for p in results.points}


def test_the_number_of_trials_is_the_total(new_study: NewStudy) -> None:
    study = new_study()
    run(study)
    before = outcome(study)
    run(study)
    assert outcome(study) == before
    run(study, trials=5)
    assert outcome(study) == before
    results = run(study, trials=11)
    assert results.sampled == 11
    assert sources(study)["sampled"] == 11


def test_a_study_that_was_extended_equals_one_that_was_longer_from_the_start(
    new_study: NewStudy,
) -> None:
    extended, long = new_study(), new_study()
    run(extended)
    run(extended, trials=12)
    run(long, trials=12)
    assert outcome(extended) == outcome(long)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_an_interrupted_and_continued_study_equals_an_undisturbed_one(
    new_study: NewStudy, sampler: str
) -> None:
    setting = f"search.sampler={sampler}"
    undisturbed, stopped = new_study(setting), new_study(setting)
    run(undisturbed, trials=14)
    for trials in (0, 4, 11):
        with pytest.raises(KeyboardInterrupt):
            run(stopped, trials=14, progress=InterruptAt(trials))
        assert [r.status for r in runs_of(stopped.project, "study")] == ["KILLED"]
    run(stopped, trials=14)
    assert outcome(stopped) == outcome(undisturbed)
    assert [r.status for r in runs_of(stopped.project, "study")] == ["FINISHED"]


def test_an_interrupted_study_says_so_in_its_run(new_study: NewStudy) -> None:
    study = new_study()
    with pytest.raises(KeyboardInterrupt):
        run(study, progress=InterruptAt(3))
    (study_run,) = runs_of(study.project, "study")
    assert study_run.status == "KILLED"
    assert "the same command continues" in study_run.tags["rcopt.reason"]
    assert sources(study)["sampled"] == 3
    # What the stages so far can do is there already.
    assert read_status(study).sampled == 3
    assert {p.test is None for p in front(study)} == {False}


def test_a_study_that_was_not_started_has_neither_status_nor_front(new_study: NewStudy) -> None:
    study = new_study()
    with pytest.raises(InputError, match="not started yet; 'rcopt run"):
        read_status(study)
    with pytest.raises(InputError, match="no front yet; 'rcopt run'"):
        front(study)
    assert not study.folder.exists()


def test_two_processes_on_one_study_never_overshoot_its_total(
    new_study: NewStudy, tmp_path: Path
) -> None:
    study = new_study()
    commands = [
        start(study.project, tmp_path / name, "run", "tiny", "--trials", "25", "--format", "json")
        for name in ("one", "two")
    ]
    for finished in [command.wait() for command in commands]:
        assert (finished.code, finished.err.count("rror")) == (0, 0), finished.err
    assert sources(study)["sampled"] == 25
    assert statuses(study.project, "study") == {"FINISHED": 1}
    assert "RUNNING" not in statuses(study.project, "cascade")


def test_a_log_that_lags_behind_is_shown(
    new_study: NewStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(Progress):
        def count(self, what: str, done: int, total: int, detail: str = "") -> None:
            told.append((what, done, total))

    told: list[tuple[str, int, int]] = []
    log_cascade = CascadeStore.log_cascade

    def slowly(*arguments: Any) -> str:
        time.sleep(0.3)
        return log_cascade(*arguments)

    monkeypatch.setattr(CascadeStore, "log_cascade", slowly)
    run(new_study("tracking.cascade_runs=100"), progress=Told())
    logged = [(done, total) for what, done, total in told if what == "log cascades"]
    assert logged == sorted(logged)
    assert len({total for _, total in logged}) == 1
    assert 0 <= logged[0][0] < logged[-1][0] <= logged[0][1]


def test_a_worker_reports_stages_that_only_another_one_used(
    new_study: NewStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = new_study(), new_study()
    run(other, trials=10)
    moment = iter([True])

    class AnotherFinishes(Progress):
        """At the first trial, another worker writes all of the study's trials."""

        def count(self, what: str, done: int, total: int, detail: str = "") -> None:
            if what == "trials" and next(moment, False):
                source = other.folder / "trials.journal"
                added = source.read_bytes().splitlines(keepends=True)
                path = study.folder / "trials.journal"
                already = len(path.read_bytes().splitlines())
                with path.open("ab") as file:
                    file.writelines(added[already:])

    results = run(study, trials=10, progress=AnotherFinishes())
    assert results.sampled == 10
    assert outcome(study) == outcome(other)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", "seed was 0 when it was started and is 1 now"),
        ("answers.average=true", "answers.average was False .* is True now"),
        ("data.validation=0.4", r"data\.validation was 0\.5 .* is 0\.4 now"),
        ("stages.optional=false", "stages.optional was True .* is False now"),
    ],
)
def test_a_changed_setting_is_refused_and_nothing_is_touched(
    new_study: NewStudy, override: str, message: str
) -> None:
    study = new_study()
    run(study)
    before = {p: p.read_bytes() for p in study.folder.iterdir() if p.is_file()}
    with pytest.raises(InputError, match=message + ".*--set name=NEW"):
        run(again(study, override))
    assert {p: p.read_bytes() for p in study.folder.iterdir() if p.is_file()} == before
    assert statuses(study.project, "study") == {"FINISHED": 1}


def test_changed_predictions_are_refused(new_study: NewStudy) -> None:
    study = new_study()
    run(study)
    shutil.rmtree(study.project / "stored")
    store_predictions(study.project / "stored", seed=1)
    with pytest.raises(InputError, match=r"data\.digest was"):
        run(study)


def test_settings_that_change_no_number_may_change(new_study: NewStudy) -> None:
    study = new_study()
    run(study)
    (study.project / "stored").rename(study.project / "moved")
    shutil.copyfile(study.project / "mlruns/mlflow.db", study.project / "other.db")
    results = run(
        again(
            study,
            "data.root=moved",
            "search.trials=10",
            "search.sampler=random",
            "search.exact_trials=4",
            "training.device=cpu",
            "tracking.uri=sqlite:///other.db",
            "tracking.cascade_runs=5",
        )
    )
    assert results.sampled == 10


def test_trials_in_a_database_of_the_project_give_the_same_study(new_study: NewStudy) -> None:
    in_database, in_journal = new_study("search.storage=sqlite:///optuna.db"), new_study()
    assert run(in_database).hypervolume == run(in_journal).hypervolume
    assert (in_database.project / "optuna.db").is_file()
    assert read_status(in_database).sampled == 8
    assert run(in_database, trials=9).sampled == 9


def test_of_equal_points_the_front_names_the_one_with_fewer_stages(new_study: NewStudy) -> None:
    study = new_study("search.sampler=random", "search.exact_trials=0")
    for path in (study.project / "stored").iterdir():
        # Always equally sure: the images leave all together, at the first stage or the last.
        trained = load_stage(path)
        steady = {}
        for split, p in trained.predictions.items():
            first = p.probabilities[:, :1] >= 0.5
            sure = np.where(first, [0.75, 0.25], [0.25, 0.75]).astype(np.float32)
            steady[split] = replace(p, probabilities=sure)
        save_stage(path, replace(trained, predictions=steady))
    results = run(study, trials=12)
    idle = [t for t in trials_of(study.project) if 0.0 in t["thresholds"]]
    assert idle
    assert len(results.points) >= 2
    for point in results.points:
        assert point.validation.reach_rates[-1] > 0


def test_a_study_can_be_named_anew_to_change_a_setting(new_study: NewStudy) -> None:
    study = new_study()
    run(study)
    renamed = again(study, "seed=1", "name=second")
    assert run(renamed).sampled == 8
    assert outcome(study) != outcome(renamed)


def test_trials_beyond_the_limit_of_runs_are_steps_of_the_study_run(new_study: NewStudy) -> None:
    study = new_study("tracking.cascade_runs=4", "search.exact_trials=0")
    run(study)
    (study_run,) = runs_of(study.project, "study")
    assert len(study_run.metrics["val/accuracy"]) == 4
    trials = {r.tags["rcopt.trial"] for r in runs_of(study.project, "cascade")}
    assert {"0", "1", "2", "3"} <= trials
    assert trials & {"4", "5", "6", "7"} <= {
        r.tags["rcopt.trial"]
        for r in runs_of(study.project, "cascade")
        if r.tags.get("rcopt.pareto") == "true"
    }


def test_trials_that_mlflow_lost_are_logged_by_the_next_command(new_study: NewStudy) -> None:
    study = new_study("tracking.cascade_runs=100")
    run(study)
    before = Counter(r.tags["rcopt.trial"] for r in runs_of(study.project, "cascade"))
    tracker = open_tracker(study.settings.tracking.uri, study.project)
    for lost in runs_of(study.project, "cascade")[:3]:
        tracker.store.client.delete_run(lost.run_id)
    run(study)
    assert Counter(r.tags["rcopt.trial"] for r in runs_of(study.project, "cascade")) == before
    assert statuses(study.project, "cascade") == {"FINISHED": before.total()}


class _Failing:
    """Stages of which some cannot be obtained, as when their training diverges."""

    def __init__(self, bad: set[tuple[int, str]]) -> None:
        self.bad = bad
        self.mended_after = 1_000
        self.asked: list[tuple[int, str]] = []
        self._obtain = StoredPredictions.obtain

    def __call__(
        self, material: StoredPredictions, run: object, key: tuple[int, str], *, wait: bool
    ) -> object:
        self.asked.append(key)
        if key in self.bad and self.asked.count(key) <= self.mended_after:
            raise WorkError(f"training diverged at {key[0]}")
        return self._obtain(material, run, key, wait=wait)  # type: ignore[arg-type]


def failing(monkeypatch: pytest.MonkeyPatch, *bad: tuple[int, str]) -> _Failing:
    failing = _Failing(set(bad))
    monkeypatch.setattr(
        StoredPredictions,
        "obtain",
        lambda self, run, key, *, wait: failing(self, run, key, wait=wait),
    )
    return failing


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_failing_stage_is_tried_so_many_times_and_then_the_study_goes_on_without(
    new_study: NewStudy, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    study = new_study(f"training.attempts={attempts}")
    bad = (96, "resnet34")
    material = failing(monkeypatch, bad)
    results = run(study)
    assert results.sampled == 8
    assert [s.stage.name for s in results.stages] == ["resnet18@32", "resnet50@224"]
    assert material.asked.count(bad) == attempts
    # Given up is given up, whoever asks next, until somebody asks for another try.
    run(study, trials=12)
    assert material.asked.count(bad) == attempts
    assert read_status(study).failed == {bad: Failure(attempts, "training diverged at 96")}
    material.bad.clear()
    results = run(study, trials=24, retry_failed=True)
    assert len(results.stages) == 3
    assert material.asked.count(bad) == attempts + 1
    assert read_status(study).failed == {}


def test_a_stage_that_fails_once_is_used_all_the_same(
    new_study: NewStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study()
    material = failing(monkeypatch, (96, "resnet34"))
    material.mended_after = 1
    assert len(run(study).stages) == 3
    assert read_status(study).failed == {}


@pytest.mark.slow
def test_a_study_with_a_failing_stage_is_continued_as_if_undisturbed(
    new_study: NewStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, (96, "resnet34"))
    undisturbed, stopped = new_study("search.sampler=tpe"), new_study("search.sampler=tpe")
    run(undisturbed, trials=24)
    for trials in (3, 12, 15):
        with pytest.raises(KeyboardInterrupt):
            run(stopped, trials=24, progress=InterruptAt(trials))
    run(stopped, trials=24)
    assert outcome(stopped) == outcome(undisturbed)


def test_a_study_of_which_every_stage_fails_says_why(
    new_study: NewStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study()
    failing(monkeypatch, (32, "resnet18"), (96, "resnet34"), (224, "resnet50"))
    with pytest.raises(WorkError, match=r"no cascade is left to evaluate: .*diverged at 32") as no:
        run(study)
    assert "\n" not in str(no.value)
    assert statuses(study.project, "study") == {"FAILED": 1}


# --- every stage ---


@pytest.mark.parametrize("overrides", [(), ("search.exact_trials=0",), ("search.exact=false",)])
def test_every_stage_is_had_whatever_the_trials_ask_for(
    new_study: NewStudy, overrides: tuple[str, ...]
) -> None:
    everything = ["resnet18@32", "resnet34@96", "resnet50@224"]
    few = run(new_study(*overrides), trials=1)
    assert len(few.stages) < 3
    study = new_study(*overrides)
    results = run(study, trials=1, every_stage=True)
    assert [s.stage.name for s in results.stages] == everything
    assert results.sampled == 1
    assert statuses(study.project, "stage") == {"FINISHED": 3}
    tracker = open_tracker(study.settings.tracking.uri, study.project)
    assert [t.stage.name for t in trained_stages(study, tracker)] == everything


def test_having_every_stage_can_be_interrupted_and_continued(new_study: NewStudy) -> None:
    undisturbed, stopped = new_study(), new_study()
    run(undisturbed, every_stage=True)
    for stages in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(stopped, every_stage=True, progress=InterruptAt(stages, "stages"))
        assert len(front(stopped)) > 0
    run(stopped, every_stage=True)
    assert outcome(stopped) == outcome(undisturbed)
    assert statuses(stopped.project, "study") == {"FINISHED": 1}


def test_a_stage_that_cannot_be_had_is_told_when_all_else_is_done(
    new_study: NewStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study()
    failing(monkeypatch, (32, "resnet18"))
    with pytest.raises(WorkError, match=r"not every stage .*resnet18@32: training diverged at 32"):
        run(study, every_stage=True)
    assert len(front(study)) > 0
    assert sources(study)["sampled"] == 8
