import csv
import io
import json
from pathlib import Path

import pytest

from rcopt.cli.main import main
from tests.support.generated_images import make_images
from tests.support.study_helpers import write_study

STUDY = """\
[data]
source = "folder"
root = "images"
[stages]
resolutions = [32, 64]
backbones = ["mobilenet_v2-0.1", "mobilenet_v2", "resnet18", "timm/test_vit"]
[training]
batch_size = 4
[training.override."mobilenet_v2@64"]
weights = "pretrained"
[training.override."mobilenet_v2@32"]
weights = "larger"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    make_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    return str(write_study(tmp_path, STUDY))


def listed(file: str, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code = main(["stages", file, *options])
    out, err = capsys.readouterr()
    return code, out, err


def test_stages_are_listed_with_all_that_is_known(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = listed(file, capsys, "--format", "json")
    stages = {tree["stage"]: tree for tree in json.loads(out)}
    assert code == 0
    assert next(iter(stages)) == "mobilenet_v2-0.1@32"
    assert len(stages) == 8
    assert all(tree["seconds"] > 0 and tree["memory"] > 0 for tree in stages.values())
    assert stages["resnet18@32"]["parameters"] == 11_178_051
    assert stages["resnet18@32"]["flops"] == 2 * stages["resnet18@32"]["macs_ptflops"]
    assert stages["timm/test_vit@32"]["macs"] == stages["timm/test_vit@32"]["macs_torch"]
    assert stages["timm/test_vit@32"]["preprocessing"]["interpolation"] == "bicubic"
    assert stages["resnet18@32"]["layers"] == 17  # and three in shortcuts
    assert stages["resnet18@32"]["share_beyond"] > stages["resnet18@64"]["share_beyond"] > 0.25
    assert "resnet18-s1" in stages["resnet18@32"]["notes"][0]
    started = stages["mobilenet_v2@32"]
    assert started["weights"] == "mobilenet_v2@64"
    assert started["origin"] == stages["mobilenet_v2@64"]["origin"]
    assert started["origin"]["images"] == "ImageNet-1k"
    assert "note: mobilenet_v2@32, mobilenet_v2@64 start from weights" in err
    # Nothing was trained, and no image decoded.
    assert not Path("mlruns").exists()


def test_tables_say_the_same_to_people_and_programs(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, table, _ = listed(file, capsys, "--no-time")
    assert "mobilenet_v2@64" in table
    assert "ptflops counts more than torch" in table
    assert "suits" in table
    _, text, _ = listed(file, capsys, "--no-time", "--format", "csv")
    rows = {row["stage"]: row for row in csv.DictReader(io.StringIO(text))}
    assert rows["resnet18@64"]["parameters"] == "11178051"
    assert rows["resnet18@64"]["seconds"] == ""


def test_what_would_be_refused_is_told_and_the_others_listed(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = '["resnet18", "alexnet", "resnet19", "squeezenet1_0"]'
    code, out, err = listed(
        file, capsys, "--no-time", "--set", f"stages.backbones={names}", "--set",
        "training.weights=none.pth", "--set", "training.override={}",
    )  # fmt: skip
    assert code == 2
    assert out == ""
    assert "stages.backbones: alexnet cannot take images of 32 pixels" in err
    assert "refused: resnet19@64: unknown backbone 'resnet19'; did you mean 'resnet1" in err
    assert "refused: resnet18@32: training.weights: " in err
    code, out, _ = listed(
        file, capsys, "--no-time", "--set", f"stages.backbones={names}", "--set",
        "training.override={}", "--format", "json",
    )  # fmt: skip
    assert code == 2
    assert {t["stage"] for t in json.loads(out) if not t["refused"]} == {
        *("resnet18@32", "resnet18@64", "alexnet@64", "squeezenet1_0@32", "squeezenet1_0@64")
    }


def test_a_study_that_trains_nothing_has_no_stages_to_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_study(tmp_path, '[data]\nsource = "predictions"\nroot = "stored"\n')
    code, _, err = listed(str(file), capsys)
    assert code == 2
    assert "trains no stages" in err
