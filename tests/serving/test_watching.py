import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rcopt.cli.main import main
from rcopt.core.statistics.drift import count_confidences
from rcopt.serving.bundle import LoadedCascade, open_cascade, save_cascade
from rcopt.serving.pictures import Answer
from rcopt.serving.watching import Watched
from tests.support.packaging_helpers import make_package, picture, save_stage_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packaged cascade that was calibrated on very confident answers."""
    place = tmp_path_factory.mktemp("watched")
    counts = count_confidences(np.linspace(0.97, 0.999, 300))
    package = replace(make_package(), seen_before=counts)
    save_cascade(place / "cascade", package, save_stage_weights(place / "weights"))
    for number in range(60):
        file = place / "pictures" / f"{number:03}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(picture(number))
    return place


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedCascade:
    return open_cascade(folder / "cascade")


def answers(confidences: np.ndarray) -> list[Answer]:
    return [Answer("x", first_confidence=float(value)) for value in confidences]


def test_counts_come_back_as_they_were_packed(loaded: LoadedCascade) -> None:
    assert loaded.seen_before == count_confidences(np.linspace(0.97, 0.999, 300))


def test_images_like_those_of_calibration_raise_no_alarm(loaded: LoadedCascade) -> None:
    watched = Watched(loaded)
    watched.seen(answers(np.random.default_rng(0).uniform(0.97, 0.999, 500)))
    assert watched.alarm is None


def test_other_images_raise_it_once_in_the_log(
    loaded: LoadedCascade, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(loaded)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            watched.seen([*answers(np.full(40, 0.5)), Answer("y", error="no picture")])
    assert watched.alarm is not None
    assert "not like those of calibration" in watched.alarm
    assert [r.message.count("not like those") for r in caplog.records] == [1]


def test_a_cascade_packaged_without_confidences_is_not_watched(loaded: LoadedCascade) -> None:
    watched = Watched(replace(loaded, seen_before={}))
    watched.seen(answers(np.full(400, 0.1)))
    assert watched.monitor is None
    assert watched.alarm is None


def test_the_command_says_what_it_saw(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["monitor", str(folder / "cascade"), str(folder / "pictures")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("60 pictures, the first stage answers ")
    assert "they are not like those of calibration" in out
    assert main([*arguments, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 60
    assert 0 < found["alarm_after"] <= 60


def test_a_cascade_of_before_is_refused_with_a_way_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_cascade(tmp_path / "old", make_package(), save_stage_weights(tmp_path / "weights"))
    assert main(["monitor", str(tmp_path / "old"), str(folder / "pictures")]) == 2
    assert "register it again" in capsys.readouterr().err
