import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rcopt.cli.main import main
from rcopt.core.answers import AnswerRule
from rcopt.core.outcomes import cascade_outcomes
from rcopt.errors import InputError
from rcopt.serving.pictures import predict_files
from rcopt.serving.registry import load_cascade
from rcopt.study.choice import Choice, Criterion
from rcopt.study.choosing import select
from rcopt.study.file import Study, load_study
from rcopt.study.run_study import front
from rcopt.study.stages.lookup import trained_stages
from rcopt.tracking import open_tracker
from tests.support.generated_images import make_images
from tests.support.study_helpers import (
    STORED,
    TRAINED,
    store_predictions,
    stored_runs,
    write_study,
)


@pytest.fixture(scope="module")
def trained(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with weights, run to its end."""
    project = tmp_path_factory.mktemp("trained")
    (project / "mlruns").mkdir()
    shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
    make_images(project / "images")
    file = write_study(project, TRAINED.replace("seed = 0", "seed = 1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert main(["run", str(file), "--quiet"]) == 0
    return load_study(file)


@pytest.fixture(scope="module")
def stored(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study on stored predictions, without weights and without calibration images."""
    project = tmp_path_factory.mktemp("stored")
    (project / "mlruns").mkdir()
    shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
    store_predictions(project / "stored")
    file = write_study(project, STORED)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert main(["run", str(file), "--quiet"]) == 0
    return load_study(file)


def _said(capsys: pytest.CaptureFixture[str], study: Study, *arguments: str) -> tuple[int, str]:
    try:
        code = main([arguments[0], str(study.file), *arguments[1:]])
    except SystemExit as stopped:  # what argparse refuses
        code = int(str(stopped.code))
    done = capsys.readouterr()
    return code, done.err if code else done.out


@pytest.mark.parametrize(
    ("criterion", "satisfied"),
    [
        (Criterion(max_flops=2e9), lambda c: c.point.validation.mean_flops <= 2e9),
        (Criterion(min_accuracy=0.7), lambda c: c.point.validation.accuracy >= 0.7),
        (
            Criterion(max_drop=0.05),
            lambda c: c.point.validation.accuracy >= c.reference.validation - 0.05,
        ),
        (Criterion(knee=True), lambda c: c.point.test is not None),
    ],
)
def test_a_criterion_is_satisfied_on_validation(
    stored: Study, criterion: Criterion, satisfied: "object"
) -> None:
    choice = select(stored, criterion)
    assert isinstance(choice, Choice)
    assert callable(satisfied)
    assert satisfied(choice)
    assert choice.test.accuracy.low <= choice.test.accuracy.estimate <= choice.test.accuracy.high
    assert choice.point.test is not None
    assert choice.test.accuracy.estimate == choice.point.test.accuracy


@pytest.mark.parametrize("drop", [0.0, 0.01, 0.2, 1.0])
def test_a_drop_is_never_bought_at_more_than_the_reference_costs(
    stored: Study, drop: float
) -> None:
    choice = select(stored, Criterion(max_drop=drop))
    assert choice.point.validation.mean_flops <= choice.reference.stage.flops
    assert choice.asked_drop is not None
    assert choice.asked_drop <= drop
    if choice.point.cascade.stages == (choice.reference.stage,):
        assert choice.verdict().startswith("Do not cascade")
        assert choice.test.change.low == choice.test.change.high == 0.0


def test_what_to_expect_is_told_beside_what_was_chosen(
    stored: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = _said(capsys, stored, "select", "--knee", "--format", "json")
    assert code == 0
    told = json.loads(text)["expected"]
    assert told["accuracy_interval"][0] <= told["accuracy"] <= told["accuracy_interval"][1]
    code, text = _said(capsys, stored, "select", "--knee")
    (line,) = [line for line in text.splitlines() if line.startswith("to be expected")]
    assert f"{100 * told['accuracy']:.2f}" in line


def test_a_trial_of_the_front_is_found_by_its_number(
    stored: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = [p.trial for p in front(stored, everything=True) if p.trial is not None]
    code, text = _said(capsys, stored, "select", "--trial", str(numbers[0]), "--format", "json")
    assert code == 0
    assert json.loads(text)["trial"] == numbers[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --max-flops"),
        (["--knee", "--trial", "1"], "--trial: not allowed with argument --knee"),
        (["--max-flops", "1"], "max_flops 1 is below every point"),
        (["--min-accuracy", "1.0"], "out of reach"),
        (["--knee", "--certify", "0.9"], "certify needs max_drop"),
        (["--max-drop", "0.1", "--certify", "0.9"], "certify needs calibration images"),
        (["--knee", "--register", "m"], "stored predictions, without weights"),
    ],
)
def test_what_cannot_be_chosen_is_said_in_one_line(
    stored: Study,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    code, text = _said(capsys, stored, "select", *arguments)
    assert code == 2
    assert message in text
    assert text.count("\n") == 1


def test_the_table_of_a_choice_fits_100_columns(
    stored: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = _said(capsys, stored, "select", "--knee")
    assert code == 0
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.slow
def test_a_registered_cascade_answers_every_test_image_as_the_study_stored(
    trained: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained.project)
    assert _said(capsys, trained, "select", "--max-flops", "1T", "--register", "shapes")[0] == 0
    tracker = open_tracker(trained.settings.tracking.uri, trained.project)
    choice = select(trained, Criterion(max_flops=1e12))
    stages = trained_stages(trained, tracker)
    expected = cascade_outcomes([choice.point.cascade], stages, "test", AnswerRule())[0].correct
    test = stages[0].predictions["test"]
    loaded = load_cascade("shapes", tracker)
    files = [trained.project / "images" / name for name in test.images]
    answers = list(predict_files(loaded, files))
    right = [
        answer.class_name == loaded.classes[label]
        for answer, label in zip(answers, test.labels.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(right, expected)
    # The cascade's run tells which model came of it, and the model's run which cascade.
    assert any("rcopt.model" in run.tags for run in stored_runs(trained.project))


@pytest.mark.slow
def test_predict_prints_answers_and_names_what_is_no_picture(
    trained: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained.project)
    assert _said(capsys, trained, "select", "--knee", "--register", "knee")[0] == 0
    folder = trained.project / "images" / "val"
    assert main(["predict", "knee", str(folder), "--format", "json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert {answer["error"] for answer in answers} == {None}
    assert all(answer["flops"] > 0 for answer in answers)
    bad = trained.project / "bad.jpg"
    bad.write_bytes(b"no picture")
    assert main(["predict", "knee", str(bad)]) == 2
    assert "bad.jpg" in capsys.readouterr().out
    assert main(["predict", "nobody", str(folder)]) == 2
    assert capsys.readouterr().err.startswith("rcopt: error: ")


def test_bench_times_what_select_picks(
    trained: Study,
    stored: Study,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(trained.project)
    folder = str(trained.project / "images" / "val")
    few = ["--count", "4", "--batch-sizes", "2", "4"]
    assert main(["bench", trained.name, folder, "--min-accuracy", "0", *few]) == 0
    told, said = capsys.readouterr()
    choice = select(trained, Criterion(min_accuracy=0.0))
    assert f"picked {choice.point.cascade}" in said
    assert "4 images" in told
    for stage in choice.point.cascade.stages:
        assert stage.name in told
    with pytest.raises(SystemExit):
        main(["bench", trained.name, folder, "--min-accuracy", "0", "--knee"])
    assert "not allowed with argument" in capsys.readouterr().err
    assert main(["bench", str(stored.file), folder, "--knee"]) == 2
    assert "without weights, so there is nothing to run" in capsys.readouterr().err


@pytest.mark.slow
def test_exported_predictions_give_the_same_front_without_images(
    trained: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = _said(capsys, trained, "export", str(tmp_path / "stored"))
    assert code == 0
    assert len(text.split()) == len(list((tmp_path / "stored").iterdir()))
    _, first = _said(capsys, trained, "front", "--all", "--format", "json")
    file = write_study(
        tmp_path,
        'seed = 1\n[data]\nsource = "predictions"\nroot = "stored"\n'
        "[search]\ntrials = 6\nexact_trials = 4\n",
        "again",
    )
    assert main(["run", str(file), "--quiet"]) == 0
    capsys.readouterr()
    _, again = _said(capsys, load_study(file), "front", "--all", "--format", "json")

    def numbers(text: str) -> list[object]:
        return [(p["stages"], p["validation"], p["test"]) for p in json.loads(text)]

    assert numbers(again) == numbers(first)


@pytest.mark.slow
def test_the_report_is_written_and_kept_with_the_study_run(
    trained: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = _said(capsys, trained, "report", "--output", str(tmp_path))
    assert code == 0
    assert Path(text.split()[0]).read_text(encoding="utf-8").startswith("<!doctype html>")
    kept = list((trained.project / "mlruns" / "artifacts").rglob("report/report.html"))
    assert len(kept) == 1


def test_register_refuses_a_name_that_mlflow_does_not_take() -> None:
    from rcopt.serving.registry import check_names

    with pytest.raises(InputError, match="name"):
        check_names("a/b", "champion")
