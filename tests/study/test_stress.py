import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import rcopt
from rcopt.cli.main import main
from rcopt.core.cascade import Cascade
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.predictions import Predictions
from rcopt.data.prediction_files import load_stage
from rcopt.study.stages.lookup import trained_stages
from rcopt.study.stress import STRENGTHS, Stress, stress
from tests.support.generated_images import make_images
from tests.support.study_helpers import STORED, TRAINED, store_predictions, write_study


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a study of two trained stages; it is the working folder."""
    project = tmp_path_factory.mktemp("stress")
    make_images(project / "images", train=9, held_out=9)
    text = TRAINED.replace('["mobilenet_v2-0.1", "mobilenet_v2-0.25"]', '["mobilenet_v2-0.1"]')
    write_study(project, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert main(["run", "tiny", "--quiet"]) == 0
        yield project


@pytest.fixture(scope="module")
def found(project: Path) -> Stress:
    study = rcopt.load_study("tiny")
    choice = rcopt.select(study, rcopt.Criterion(min_accuracy=0))
    return stress(study, choice, split="test", corruptions=["noise", "blur"], drop=0.05)


def test_every_kind_is_there_once_after_the_clean_images(found: Stress) -> None:
    kinds = [(c.corruption, c.strength) for c in found.conditions]
    expected = [(name, strength) for name in ("noise", "blur") for strength in STRENGTHS]
    assert kinds == [("clean", 0), *expected]


def test_clean_numbers_are_those_of_the_choice(found: Stress) -> None:
    choice = rcopt.select(rcopt.load_study("tiny"), rcopt.Criterion(min_accuracy=0))
    assert found.conditions[0].comparison == choice.test
    assert found.conditions[0].cascade == choice.point.test


def test_numbers_are_those_of_the_kept_answers(found: Stress, project: Path) -> None:
    study = rcopt.load_study("tiny")
    stages = trained_stages(study, study.open_tracker())
    files = {t.key: project / "mlruns/stress" / t.key / "test-noise-4.safetensors" for t in stages}
    used = {*found.cascade.stages, found.reference}
    seen = []
    for trained in stages:
        if trained.stage in used:
            kept: Predictions = load_stage(files[trained.key]).predictions["test"]
            assert kept.images == trained.predictions["test"].images
            seen.append(trained)
            vars(trained)["predictions"] = {**trained.predictions, "test": kept}
    own, alone = cascade_outcomes(
        [found.cascade, Cascade((found.reference,), ())], seen, "test", study.answer_rule
    )
    (noise,) = [c for c in found.conditions if (c.corruption, c.strength) == ("noise", 4)]
    assert noise.cascade == own.evaluation
    assert noise.reference == alone.evaluation.accuracy


def test_kept_answers_are_used_again_and_damaged_ones_are_not(
    found: Stress, project: Path
) -> None:
    files = sorted((project / "mlruns" / "stress").rglob("*.safetensors"))
    before = {file: file.stat().st_mtime_ns for file in files}
    files[0].write_bytes(b"damaged")
    study = rcopt.load_study("tiny")
    choice = rcopt.select(study, rcopt.Criterion(min_accuracy=0))
    again = stress(study, choice, split="test", corruptions=["noise", "blur"], drop=0.05)
    assert again == found
    changed = [file for file in files if file.stat().st_mtime_ns != before[file]]
    assert changed == files[:1]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_the_command_prints_every_condition(
    form: str, found: Stress, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--min-accuracy", "0", "--on", "test", "--corruptions", "noise,blur"]
    assert main(["stress", "tiny", *arguments, "--format", form]) == 0
    out = capsys.readouterr().out
    if form == "json":
        assert len(json.loads(out)["conditions"]) == 11
    elif form == "csv":
        rows = list(csv.DictReader(out.splitlines()))
        assert [row["corruption"] for row in rows] == ["clean"] + ["noise"] * 5 + ["blur"] * 5
    else:
        assert max(map(len, out.splitlines())) <= 100
        assert "noise 5" in out
        assert out.startswith("Worst: ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--corruptions", "fog"], "unknown corruption 'fog'; expected some of blur, noise"),
        (["--on", "calibration"], "no calibration images"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    project: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stress", "tiny", "--knee", *arguments]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err


def test_stored_predictions_have_no_networks_to_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store_predictions(tmp_path / "stored")
    write_study(tmp_path, STORED)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "tiny", "--quiet"]) == 0
    assert main(["stress", "tiny", "--knee"]) == 2
    assert "without weights" in capsys.readouterr().err
