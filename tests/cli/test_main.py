"""The main job through the real command line, on generated images in many formats."""

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.nn import functional

import rcopt
from rcopt.cli.main import main
from rcopt.data.prediction_files import load_stage
from rcopt.models import backbones, training
from rcopt.study.results_file import load_results
from tests.support.generated_images import FORMATS, make_images
from tests.support.study_helpers import (
    TRAINED,
    Finished,
    run_rcopt,
    runs_of,
    start,
    statuses,
    stored_runs,
    trials_of,
    without_run_ids,
    write_study,
)


def new_project(project: Path, store_template: Path, text: str = TRAINED) -> Path:
    (project / "mlruns").mkdir(parents=True)
    shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
    make_images(project / "images", train=len(FORMATS) + 1, held_out=len(FORMATS) + 1)
    write_study(project, text)
    return project


@pytest.fixture(scope="module")
def project(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose study was run once; tests that change it work on a copy."""
    project = new_project(tmp_path_factory.mktemp("done") / "project", store_template)
    # From nothing, the store included: the real first command.
    (project / "mlruns" / "mlflow.db").unlink()
    finished = run_rcopt(project, "run", "studies/tiny.toml")
    (project / "out").write_text(finished.out)
    (project / "err").write_text(finished.err)
    assert finished.code == 0, finished.err
    return project


@pytest.fixture
def copied(project: Path, tmp_path: Path) -> Path:
    return shutil.copytree(project, tmp_path / "copied")


def command(project: Path, tmp_path: Path, *arguments: str) -> Finished:
    """Run a command in a process of its own; it must succeed."""
    number = len(list(tmp_path.glob("command*")))
    finished = start(project, tmp_path / f"command{number}", *arguments).wait()
    assert finished.code == 0, finished.err
    return finished


# --- what one sees ---


def test_running_prints_the_front_and_nothing_else_on_standard_output(project: Path) -> None:
    lines = (project / "out").read_text().splitlines()
    assert lines[0] == "tiny: exact front, picked on validation, reported on test"
    assert re.fullmatch(r"\d+ of \d+ points, 4 trained stages", lines[1])
    assert lines[2] == "images: 24 train, 12 validation, 12 test"
    assert lines[4].startswith("cascade (stage, threshold, next)")
    assert "next: rcopt status tiny" in (project / "err").read_text()
    assert max(map(len, lines)) <= 100


def test_progress_away_from_a_terminal_is_plain_lines_on_standard_error(project: Path) -> None:
    err = (project / "err").read_text()
    assert "\r" not in err
    assert "\x1b" not in err
    lines = err.splitlines()
    assert any(line.startswith("decode images: 48/48") for line in lines)
    assert "count MACs: 4/4" in lines
    for stage in ("0.1@8", "0.25@8", "0.1@16", "0.25@16"):
        name = re.escape(f"mobilenet_v2-{stage}")
        for epoch in (1, 2):
            assert re.search(rf"^train {name}: {epoch}/2  loss \d+\.\d+  \d+ images/s$", err, re.M)
        assert re.search(rf"^trained {name}: validation accuracy 0\.\d+, \d\.\d MMACs", err, re.M)
    assert any(line.startswith("trials: 6/6  4 stages") for line in lines)
    assert "Warning" not in err


def test_quiet_says_nothing_but_the_result(copied: Path, tmp_path: Path) -> None:
    finished = command(copied, tmp_path, "run", "tiny", "--quiet", "--format", "csv")
    assert finished.err == ""
    assert len(list(csv.DictReader(io.StringIO(finished.out)))) >= 2


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["run", "--help"], ["front", "--help"], ["status", "--help"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
    out = capsys.readouterr().out
    assert "rcopt run digits" in out
    assert "0 done, 1 the work failed, 2 the input was wrong, 130 interrupted" in out


def test_a_reader_that_leaves_early_is_no_error(project: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "rcopt.cli", "front", "tiny", "--format", "json"],
        cwd=project,
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=100,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 0
    said = done.stderr.decode().splitlines()
    assert all(line.startswith("note: test numbers of tiny were shown") for line in said)


# --- the front ---


@pytest.fixture(scope="module")
def fronts(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("fronts")
    return {
        kind: command(project, folder, "front", "tiny", "--format", kind).out
        for kind in ("json", "csv", "table")
    }


def test_the_front_as_json_is_the_contract(fronts: dict[str, str]) -> None:
    points = json.loads(fronts["json"])
    assert len(points) >= 2
    for point in points:
        assert set(point) == {"stages", "validation", "test", "run_id"}
        assert re.fullmatch("[0-9a-f]{32}", point["run_id"])
        stages = point["stages"]
        resolutions = [stage["resolution"] for stage in stages]
        assert resolutions == sorted(set(resolutions))
        for stage in stages:
            assert set(stage) == {"resolution", "backbone", "flops", "threshold"}
            assert type(stage["resolution"]) is int
            assert stage["backbone"] in ("mobilenet_v2-0.1", "mobilenet_v2-0.25")
            assert stage["flops"] > 0
        assert all(type(stage["threshold"]) is float for stage in stages[:-1])
        assert stages[-1]["threshold"] is None
        for split in ("validation", "test"):
            measured = point[split]
            assert set(measured) == {"accuracy", "mean_flops", "exit_rates"}
            assert 0 <= measured["accuracy"] <= 1
            assert len(measured["exit_rates"]) == len(stages)
            assert math.isclose(sum(measured["exit_rates"]), 1)
            reach, expected = 1.0, 0.0
            for stage, exits in zip(stages, measured["exit_rates"], strict=True):
                expected += reach * stage["flops"]
                reach -= exits
            assert math.isclose(measured["mean_flops"], expected)
    for key in ("accuracy", "mean_flops"):
        values = [point["validation"][key] for point in points]
        assert values == sorted(set(values))


def test_the_front_as_csv_and_as_table_says_the_same(fronts: dict[str, str]) -> None:
    points = json.loads(fronts["json"])
    rows = list(csv.DictReader(io.StringIO(fronts["csv"])))
    assert [float(row["val_accuracy"]) for row in rows] == [
        point["validation"]["accuracy"] for point in points
    ]
    assert [row["run_id"] for row in rows] == [point["run_id"] for point in points]
    lines = fronts["table"].splitlines()
    assert max(map(len, lines)) <= 100
    for point, line in zip(points, lines[-len(points) :], strict=True):
        assert f" {100 * point['validation']['accuracy']:.2f} " in line
        assert f" {100 * point['test']['accuracy']:.2f} " in line


def test_python_returns_what_the_command_prints(
    project: Path, fronts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    points = rcopt.front(rcopt.load_study("tiny"))
    expected = json.loads(fronts["json"])
    assert [p.validation.accuracy for p in points] == [
        p["validation"]["accuracy"] for p in expected
    ]
    assert [p.run_id for p in points] == [p["run_id"] for p in expected]


def test_status_tells_what_is_trained_and_how_close_the_search_came(
    project: Path, tmp_path: Path
) -> None:
    told = json.loads(command(project, tmp_path, "status", "tiny", "--format", "json").out)
    assert (told["study"], told["trials"], told["trials_total"]) == ("tiny", 6, 6)
    assert told["exact_trials"] == len(trials_of(project)) - 6
    assert (told["workers"], told["failed"], told["seconds_left"]) == ([], [], 0.0)
    assert (told["stages_done"], told["stages_running"], told["stages_queued"]) == (4, 0, 0)
    assert told["stages"] == [
        f"mobilenet_v2-{width}@{side}" for side in (8, 16) for width in ("0.1", "0.25")
    ]
    assert 0 <= told["sampled_hypervolume"] <= told["hypervolume"]
    text = command(project, tmp_path, "status", "tiny").out
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith("tiny: 6 of 6 trials, ")
    assert all(name in text for name in told["stages"])
    if told["hypervolume"]:
        assert told["sampled_share"] == told["sampled_hypervolume"] / told["hypervolume"]
        assert f"sampled trials alone reach {100 * told['sampled_share']:.1f} %" in text
    else:
        # Trained for two epochs, the cheapest stage may be the most accurate one: then there is
        # nothing between the two to measure, and the front is shown without a share.
        stages = load_results(project / "mlruns" / "studies" / "tiny" / "results.json").stages
        cheapest = min(stages, key=lambda summary: summary.stage.flops)
        assert cheapest.validation == max(summary.validation for summary in stages)
        assert told["sampled_share"] is None
        assert "front: " in text
        assert "sampled trials alone reach" not in text


# --- the store ---


def test_the_store_holds_study_stages_and_cascades_as_the_contract_says(project: Path) -> None:
    (study,) = runs_of(project, "study")
    stages, cascades = runs_of(project, "stage"), runs_of(project, "cascade")
    assert {run.status for run in stored_runs(project)} == {"FINISHED"}
    assert study.name == "tiny"
    assert len(stages) == 4
    for run in (*stages, *cascades):
        assert run.tags["mlflow.parentRunId"] == study.run_id
    for run in stages:
        assert len(run.metrics["train/loss"]) == len(run.metrics["train/accuracy"]) == 2
        assert 0 <= run.metrics["val/accuracy"][0] <= 1
        assert run.params["backbone"].startswith("mobilenet_v2-")
        assert (run.params["epochs"], run.params["lr"]) == ("2", "0.05")
        files = project / "mlruns" / "artifacts" / "tiny" / run.run_id / "artifacts"
        assert {path.name for path in files.iterdir()} == {
            "stage.safetensors",
            "weights.safetensors",
        }
    for run in cascades:
        assert set(run.metrics) >= {"val/accuracy", "val/mflops"}
        assert {key.split(".")[0] for key in run.params} <= {"backbone", "threshold"}
        assert {"backbone.8", "backbone.16"} & set(run.params)
    files = project / "mlruns" / "artifacts" / "tiny" / study.run_id / "artifacts"
    assert {"study.toml", "results.json", "trials.csv"} <= {p.name for p in files.iterdir()}


def test_test_numbers_are_on_the_runs_of_the_front_and_nowhere_else(
    project: Path, fronts: dict[str, str]
) -> None:
    front = {point["run_id"]: point for point in json.loads(fronts["json"])}
    marked = {
        r.run_id for r in runs_of(project, "cascade") if r.tags.get("rcopt.pareto") == "true"
    }
    assert marked == set(front)
    for run in stored_runs(project):
        tested = {key for key in run.metrics if key.startswith("test")}
        assert tested == ({"test/accuracy", "test/mflops"} if run.run_id in front else set())
        if run.run_id in front:
            expected = front[run.run_id]["test"]["accuracy"]
            assert run.metrics["test/accuracy"] == [pytest.approx(expected, abs=1e-4)]


def test_every_trial_is_in_the_store_once(project: Path) -> None:
    logged = [r.tags["rcopt.trial"] for r in runs_of(project, "cascade")]
    numbers = sorted(int(number) for number in logged if number != "none")
    assert numbers == list(range(len(trials_of(project))))


# --- again ---


def test_the_same_command_again_does_nothing_and_a_larger_total_extends(
    copied: Path, tmp_path: Path
) -> None:
    before, trials = stored_runs(copied), trials_of(copied)
    front = (copied / "mlruns/studies/tiny/results.json").read_bytes()
    command(copied, tmp_path, "run", "tiny", "--trials", "6")
    assert trials_of(copied) == trials
    assert (copied / "mlruns/studies/tiny/results.json").read_bytes() == front
    assert [r.run_id for r in stored_runs(copied)] == [r.run_id for r in before]
    command(copied, tmp_path, "run", "tiny", "--trials", "8")
    extended = trials_of(copied)
    assert extended[: len(trials)] == trials
    assert [t["source"] for t in extended].count("sampled") == 8
    assert statuses(copied, "stage") == {"FINISHED": 4}


def test_another_study_on_the_same_stages_trains_nothing(copied: Path, tmp_path: Path) -> None:
    text = TRAINED.replace("trials = 6", 'trials = 5\nsampler = "random"')
    write_study(copied, text, "other")
    finished = command(copied, tmp_path, "run", "other")
    assert "train " not in finished.err
    own = [r for r in runs_of(copied, "stage") if r.tags["rcopt.study"] == "other"]
    assert own
    trained = {r.run_id for r in runs_of(copied, "stage") if r.tags["rcopt.study"] == "tiny"}
    assert {r.tags["rcopt.reused_from"] for r in own} <= trained


def test_another_recipe_trains_anew(copied: Path, tmp_path: Path) -> None:
    overrides = ["--set", "name=other", "--set", "training.lr=0.01", "--set", "search.trials=1"]
    finished = command(copied, tmp_path, "run", "tiny", *overrides)
    assert "train mobilenet_v2" in finished.err


def test_train_has_every_stage_for_every_seed_and_the_results_compose(
    store_template: Path, tmp_path: Path
) -> None:
    project = new_project(tmp_path / "project", store_template)
    one_trial = ["--set", "search.trials=1", "--set", "training.epochs=1"]
    one_trial += ["--set", "training.override={'*@16' = {lr = 0.03}}"]
    finished = command(project, tmp_path, "train", "tiny", "--seeds", "2", *one_trial)
    assert finished.out.splitlines() == [
        "tiny: seed 0, 4 trained stages",
        "tiny-1: seed 1, 4 trained stages",
    ]
    assert "rcopt repeats tiny tiny-1" in finished.err
    assert statuses(project, "stage") == {"FINISHED": 8}
    for name in ("tiny", "tiny-1"):
        command(project, tmp_path, "export", name, f"stages-{name}")
        stages = [load_stage(path) for path in (project / f"stages-{name}").iterdir()]
        assert len(stages) == 4
        for trained in stages:
            recipe = json.loads(trained.details["recipe"])
            assert recipe["lr"] == (0.03 if trained.stage.resolution == 16 else 0.05)
            assert recipe["epochs"] == 1
            assert trained.details["seed"] == ("1" if name == "tiny-1" else "0")
    rates = {(r.params["resolution"], r.params["lr"]) for r in runs_of(project, "stage")}
    assert rates == {("8", "0.05"), ("16", "0.03")}
    assert command(project, tmp_path, "repeats", "tiny", "tiny-1").out
    again = command(project, tmp_path, "train", "tiny", "--seeds", "2", *one_trial)
    assert again.out == finished.out
    assert statuses(project, "stage") == {"FINISHED": 8}
    # Only what an override names is trained anew.
    one_trial[-1] = "training.override={'*@16' = {lr = 0.02}}"
    command(project, tmp_path, "train", "tiny", "--set", "name=other", *one_trial)
    assert sum("rcopt.reused_from" in r.tags for r in runs_of(project, "stage")) == 2
    assert statuses(project, "stage") == {"FINISHED": 12}


@pytest.mark.slow
def test_the_same_study_from_nothing_gives_the_identical_front(
    project: Path, fronts: dict[str, str], store_template: Path, tmp_path: Path
) -> None:
    other = new_project(tmp_path / "other", store_template)
    finished = command(other, tmp_path, "run", "tiny", "--format", "json")
    assert without_run_ids(finished.out) == without_run_ids(fronts["json"])
    assert trials_of(other) == trials_of(project)


# --- training that fails ---


def test_a_stage_that_diverges_fails_with_its_epoch_and_the_study_goes_on(
    store_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = new_project(tmp_path / "project", store_template)
    monkeypatch.chdir(project)
    cross_entropy, build = functional.cross_entropy, backbones.build
    wide = False

    def diverging(logits: Any, labels: Any, **settings: Any) -> Any:
        loss = cross_entropy(logits, labels, **settings)
        return loss * float("nan") if wide else loss

    def watched(name: str, *args: Any, **settings: Any) -> Any:
        nonlocal wide
        wide = name == "mobilenet_v2-0.25"
        return build(name, *args, **settings)

    monkeypatch.setattr(backbones, "build", watched)
    monkeypatch.setattr(functional, "cross_entropy", diverging)
    assert main(["run", "tiny", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    names = {stage["backbone"] for point in json.loads(out) for stage in point["stages"]}
    assert names == {"mobilenet_v2-0.1"}
    assert "mobilenet_v2-0.25@" in err
    for attempt in (1, 2):
        assert (
            f"failed, attempt {attempt} of 2: training diverged: the loss became nan in epoch 1"
            in err
        )
    assert statuses(project, "stage") == {"FINISHED": 2, "FAILED": 4}
    for run in runs_of(project, "stage", "FAILED"):
        assert "the loss became nan in epoch 1; a smaller lr helps" in run.tags["rcopt.reason"]
        assert "rcopt.stage_key" not in run.tags
    assert [t["source"] for t in trials_of(project)].count("sampled") == 6


def test_when_every_stage_fails_the_work_has_failed(
    store_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = new_project(tmp_path / "project", store_template)
    monkeypatch.chdir(project)

    def diverges(*_: object, **__: object) -> Iterator[None]:
        raise training.TrainingDiverged(3, float("inf"))
        yield

    monkeypatch.setattr("rcopt.models.training.train", diverges)
    assert main(["run", "tiny", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("rcopt: error: no cascade is left to evaluate: mobilenet_v2-0")
    assert "the loss became inf in epoch 3" in line
    assert statuses(project, "study") == {"FAILED": 1}
    assert statuses(project, "stage") == {"FAILED": 8}
    assert trials_of(project) == []
