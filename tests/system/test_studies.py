"""The study files that come with the project."""

import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from rcopt.models.families import parse
from rcopt.study.file import load_study
from rcopt.study.stages.recorded import read_predictions

STUDIES = Path(__file__).parents[2] / "studies"
FILES = sorted(STUDIES.glob("*.toml"))
STORED = [file for file in FILES if file.stem.endswith("-predictions")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_study_file_names_stages_that_exist(file: Path) -> None:
    settings = load_study(file).settings
    assert settings.name == file.stem
    names = []
    for resolution, backbones in settings.stages.table().items():
        assert [parse(name).name for name in backbones] == list(backbones)
        names += [f"{name}@{resolution}" for name in backbones]
    for pattern in settings.training.override:
        assert any(fnmatchcase(name, pattern) for name in names), pattern


def test_the_large_study_holds_the_reports_stages_and_every_resolution() -> None:
    table = load_study(STUDIES / "imagenette.toml").settings.stages.table()
    assert list(table) == [32, 64, 96, 128, 160, 224]
    everywhere = {"mobilenet_v2-0.5", "mobilenet_v2", "resnet18", "resnet34", "resnet50"}
    assert all(everywhere <= set(backbones) for backbones in table.values())
    assert {"resnet101", "resnet152"} <= set(table[224])
    assert {"resnet18-s1", "resnet18-s2"} <= set(table[32]) & set(table[64])


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.stem)
def test_stored_stages_say_what_they_are(file: Path) -> None:
    stages = list(read_predictions(load_study(file)).values())
    assert sum(path.stat().st_size for path in file.with_suffix("").iterdir()) < 5_000_000
    assert len(stages) >= 5
    for trained in stages:
        assert set(trained.predictions) == {"validation", "calibration", "test"}
        for predictions in trained.predictions.values():
            assert predictions.probabilities.dtype == "float32"
            assert all(image.startswith("val/") for image in predictions.images)
        assert trained.macs > 0
        assert trained.parameters > 0
        assert trained.seconds > 0
        assert trained.stage.flops == 2 * trained.macs
        assert {"hardware", "epochs", "torch", "data_digest"} <= set(trained.details)


def test_the_pool_of_the_page_keeps_its_recipes() -> None:
    for trained in read_predictions(load_study(STUDIES / "imagenette-predictions.toml")).values():
        recipe = json.loads(trained.details["recipe"])
        assert recipe["epochs"] == int(trained.details["epochs"])
        assert trained.details["weights"] == "none"
        assert trained.details["seed"] == "0"
