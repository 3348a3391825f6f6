import json
from pathlib import Path

import pytest

from rcopt.cli.main import main
from rcopt.study.file import load_study
from tests.support.generated_images import CLASSES


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from PIL import Image

    for part in ("train", "val"):
        for name in CLASSES:
            for number in range(3):
                file = tmp_path / "my shapes" / part / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (48, 64)).save(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "my shapes"


def test_a_study_file_is_written_that_loads(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "my shapes"]) == 0
    out, err = capsys.readouterr()
    assert out == "studies/my-shapes.toml\n"
    assert "      rcopt run studies/my-shapes.toml" in err
    study = load_study("my-shapes")
    assert study.root == pictures
    assert study.settings.stages.resolutions == (16, 32)


def test_nothing_is_written_over(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(pictures), "--name", "one"]) == 0
    before = Path("studies/one.toml").read_text()
    assert main(["init", str(pictures), "--name", "one"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert Path("studies/one.toml").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "no folder"),
        (["my shapes", "--name", "../x"], "expected letters"),
        (["my shapes/train/" + CLASSES[0]], "has no folder 'train'"),
    ],
)
def test_what_cannot_be_a_study_is_refused_in_one_line(
    pictures: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", *arguments]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not Path("studies").exists()


def test_settings_are_listed_for_people_and_for_editors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["settings"]) == 0
    assert "| `resolutions` |" in capsys.readouterr().out
    assert main(["settings", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["stages"]
