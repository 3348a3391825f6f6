"""What optuna-dashboard and other scripts do to a study between two commands."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from rcopt.cli.main import main
from rcopt.study.file import Study
from rcopt.study.foreign_trials import ANSWERS, SKIPPED, TAKEN, misfit, requests
from rcopt.study.space import Space
from rcopt.study.trials import Trials
from tests.support.study_helpers import stored_study

SPACE = Space({32: ("resnet18", "resnet34"), 224: ("resnet50",)}, optional=True)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({}, ""),
        ({"backbone.32": "resnet18"}, ""),
        ({"backbone.32": "none", "backbone.224": "resnet50", "deferral_rate.32": 0.5}, ""),
        ({"backbone.32": "resnet50"}, "backbone.32 is 'resnet50', the study has"),
        ({"backbone.64": "resnet18"}, "no parameter backbone.64"),
        ({"lr": 0.1}, "no parameter lr"),
        ({"threshold.32": 0.1}, "no parameter threshold.32"),
        ({"deferral_rate.32": 1.5}, "expected a number from 0 to 1"),
        ({"deferral_rate.32": "half"}, "expected a number from 0 to 1"),
        ({"backbone.32": "none", "backbone.224": "none"}, "leaves every resolution out"),
    ],
)
def test_what_fits_the_space(params: dict[str, Any], told: str) -> None:
    found = misfit(params, SPACE)
    assert told in found
    assert bool(told) == bool(found)


def test_each_foreign_trial_is_asked_for_until_it_is_answered() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.enqueue_trial({"backbone.32": "resnet18"})
    added = create_trial(
        values=[0.5, 1.0],
        params={"backbone.32": "resnet101"},
        distributions={"backbone.32": CategoricalDistribution(["resnet101"])},
    )
    study.add_trial(added)
    asked = list(requests(study.trials, SPACE))
    assert [(r.number, bool(r.misfit)) for r in asked] == [(0, False), (1, True)]
    assert [r.number for r in requests(study.trials, SPACE, {1})] == [0]
    answer = create_trial(values=[0.5, 1.0], user_attrs={"source": "sampled", ANSWERS: 0})
    study.add_trial(answer)
    assert [r.number for r in requests(study.trials, SPACE)] == [1]


@pytest.fixture
def started(store_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study on stored predictions with 5 trials."""
    study = stored_study(tmp_path, store_template)
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(study.file), "--quiet", "--trials", "5"]) == 0
    return study


def opened(study: Study, name: str | None = None) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(study.folder / "trials.journal")))
    return optuna.load_study(study_name=name or study.name, storage=storage)


def run(study: Study, trials: int) -> int:
    return main(["run", str(study.file), "--quiet", "--trials", str(trials)])


def sampled(study: Study) -> int:
    with closing(Trials(study.storage, study.name, study.folder, None)) as stored:
        return stored.count_sampled()


def test_an_enqueued_trial_is_evaluated_once_with_what_it_asks_for(started: Study) -> None:
    study = opened(started)
    first = next(t for t in study.trials if t.params)
    backbones = {k: v for k, v in first.params.items() if k.startswith("backbone.")}
    study.enqueue_trial({**backbones, "deferral_rate.32": 0.25})
    number = study.trials[-1].number
    for trials in (5, 7):
        assert run(started, trials) == 0
        done = opened(started).trials[number]
        assert done.state == TrialState.COMPLETE
        assert done.user_attrs["source"] == "sampled"
        assert {k: done.params[k] for k in backbones} == backbones
    assert not [t for t in opened(started).trials if not t.state.is_finished()]
    assert sampled(started) == 7


def test_an_enqueued_trial_that_a_killed_worker_had_begun_is_answered(started: Study) -> None:
    study = opened(started)
    study.enqueue_trial({})
    number = study.trials[-1].number
    trial_id = study.trials[number]._trial_id
    study._storage.set_trial_user_attr(trial_id, TAKEN, True)
    study._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    assert run(started, 6) == 0
    assert opened(started).trials[number].state == TrialState.COMPLETE


@pytest.mark.parametrize("params", [{"backbone.32": "resnet1000"}, {"lr": 1.0}])
def test_an_enqueued_trial_outside_the_space_is_skipped_and_named(
    started: Study, params: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    opened(started).enqueue_trial(params)
    number = opened(started).trials[-1].number
    code = main(["run", str(started.file), "--trials", "6"])
    said = capsys.readouterr().err
    assert code == 0
    assert f"trial {number}, added by another program, is skipped: " in said
    done = opened(started).trials[number]
    assert done.state == TrialState.FAIL
    assert done.user_attrs[SKIPPED]
    assert main(["run", str(started.file), "--trials", "7"]) == 0
    assert "added by another program" not in capsys.readouterr().err


def test_added_trials_are_answered_or_left_out_and_harm_nothing(started: Study) -> None:
    study = opened(started)
    first = next(t for t in study.trials if t.params)
    study.add_trial(
        create_trial(values=[0.9, 1.0], params=first.params, distributions=first.distributions)
    )
    study.add_trial(
        create_trial(
            values=[1.0, 0.0],
            params={"backbone.32": "vgg", "deferral_rate.32": 7.0},
            distributions={
                "backbone.32": CategoricalDistribution(["vgg", "none"]),
                "deferral_rate.32": FloatDistribution(0.0, 9.0),
            },
        )
    )
    fitting, other = (trial.number for trial in study.trials[-2:])
    for trials in (7, 8):
        assert run(started, trials) == 0
    answers = [t.user_attrs[ANSWERS] for t in opened(started).trials if ANSWERS in t.user_attrs]
    assert answers == [fitting]
    assert str(other) in opened(started).user_attrs[SKIPPED]
    # What others claim is on no front.
    front = json.loads(started.results_file.read_text())["front"]
    assert all(point["trial"] not in (fitting, other) for point in front)
    for command in ("status", "front"):
        assert main([command, str(started.file)]) == 0


def test_a_study_that_was_renamed_goes_on(started: Study) -> None:
    before = opened(started)
    renamed = optuna.create_study(
        study_name="my best study", storage=before._storage, directions=before.directions
    )
    for key, value in before.user_attrs.items():
        renamed.set_user_attr(key, value)
    renamed.add_trials(before.trials)
    optuna.delete_study(study_name=started.name, storage=before._storage)
    assert run(started, 7) == 0
    assert sampled(started) == 7
    assert len(opened(started, "my best study").trials) >= 7


def test_a_study_that_was_deleted_begins_anew(started: Study) -> None:
    optuna.delete_study(study_name=started.name, storage=opened(started)._storage)
    assert run(started, 2) == 0
    assert sampled(started) == 2


def test_a_study_that_was_deleted_is_not_made_by_who_reads(
    started: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = started.folder / "trials.journal"
    optuna.delete_study(study_name=started.name, storage=opened(started)._storage)
    before = journal.read_bytes()
    assert main(["status", str(started.file)]) == 2
    said = capsys.readouterr().err
    assert "its trials are not in search.storage = 'journal' (deleted" in said
    assert f"'rcopt run {started.name}' begins them anew" in said
    assert journal.read_bytes() == before


def test_trials_that_begin_anew_replace_those_of_before_in_mlflow(started: Study) -> None:
    tracker = started.open_tracker()
    run_of_study = tracker.study_of(started.name)
    assert run_of_study is not None
    optuna.delete_study(study_name=started.name, storage=opened(started)._storage)
    assert main(["run", str(started.file), "--quiet", "--trials", "3"]) == 0
    stored = {t.number: t.user_attrs for t in opened(started).trials}
    for run in tracker.cascades.find_trials(run_of_study):
        number = int(run.data.tags["rcopt.trial"])
        if number in stored:
            logged = json.loads(run.data.tags["rcopt.point"])
            stages = [[s["resolution"], s["backbone"]] for s in logged["stages"]]
            assert stages == [list(stage) for stage in stored[number]["stages"]]
            assert logged["validation"]["accuracy"] == pytest.approx(
                opened(started).trials[number].values[0]
            )


def test_a_failure_that_another_program_wrote_over_counts_as_none(started: Study) -> None:
    for number, word in enumerate(("often", 3, {"attempts": "many"}, None)):
        opened(started).set_user_attr(f"rcopt.failed.resnet18@{number}", word)
    assert main(["status", str(started.file)]) == 0
    assert run(started, 6) == 0


def test_a_study_of_one_stage_shows_its_front_in_its_status(
    started: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ["--set", "name=one", "--set", "stages.resolutions=[32]", "--set", "search.trials=2"]
    assert main(["run", str(started.file), "--quiet", *one]) == 0
    capsys.readouterr()
    assert main(["status", "one"]) == 0
    told = capsys.readouterr().out
    assert "front: 1 point" in told
    assert "no front yet" not in told
