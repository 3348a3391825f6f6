"""Studies of networks from elsewhere: their names hold a slash or a colon."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rcopt.core.cascade import OperatingPoint
from rcopt.data.prediction_files import load_stage
from rcopt.errors import InputError
from rcopt.models.families import own
from rcopt.report.publish import publish_report
from rcopt.study import choosing, packing
from rcopt.study.choice import Criterion
from rcopt.study.file import Study, load_study
from rcopt.study.run_study import front, run
from rcopt.study.stages.lookup import export_predictions
from rcopt.study.stages.times import stage_times
from rcopt.study.status import read_status
from tests.support.generated_images import make_images
from tests.support.study_helpers import STORED, run_rcopt, runs_of, write_study

NETWORKS = """
from torch import nn

def tiny(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))
"""
STUDY = """\
[data]
source = "folder"
root = "images"
[stages]
resolutions = [16, 32]
backbones = ["my_networks.nets:tiny", "timm/test_resnet"]
[training]
epochs = 1
batch_size = 8
threads = 1
[search]
trials = 4
"""
NAMES = {f"{b}@{r}" for b in ("my_networks.nets:tiny", "timm/test_resnet") for r in (16, 32)}


@pytest.fixture
def study(project: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    make_images(project / "images")
    (project / "my_networks").mkdir()
    (project / "my_networks" / "nets.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(project)  # here
    monkeypatch.setenv("PYTHONPATH", str(project))  # and in other processes
    return load_study(write_study(project, STUDY))


@pytest.mark.slow
def test_they_go_from_the_study_file_to_a_served_model(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run(study, every_stage=True)
    assert {summary.stage.name for summary in results.stages} == NAMES
    assert {stage.name for stage in runs_of(study.project, "stage")} == NAMES
    extended = run(study, trials=6)
    assert extended.sampled == 6
    assert len(extended.stages) == 4
    assert len(runs_of(study.project, "stage")) == 4
    status = read_status(study)
    assert (status.done, status.running, status.queued) == (4, 0, 0)
    assert len(publish_report(study, study.project / "reports").files) > 1
    assert set(stage_times(study, [s.stage for s in results.stages], 3).amounts) == NAMES

    files = export_predictions(study, study.project / "stored")
    assert {load_stage(path).stage.name for path in files} == NAMES
    stored = load_study(write_study(study.project, STORED, "stored"))
    assert {s.stage.name for s in run(stored, every_stage=True).stages} == NAMES

    point = next(p for p in front(study, everything=True) if _own(p))
    choice = replace(choosing.select(study, Criterion(max_drop=1.0)), point=point)
    assert packing.opened(study, choice).cascade == point.cascade
    registered = packing.register(study, choice, "mine")
    picture = str(next((study.project / "images" / "val").rglob("*.png")))
    refused = run_rcopt(study.project, "predict", registered.name, picture)
    assert refused.code == 2
    assert "code of somebody's own, which stored files never run" in refused.err
    monkeypatch.setenv(own.VARIABLE, "my_networks.nets:tiny")
    served = run_rcopt(study.project, "predict", registered.name, picture, "--format", "json")
    assert json.loads(served.out)[0]["stage_name"] in NAMES


def _own(point: OperatingPoint) -> bool:
    return any(":" in stage.backbone for stage in point.cascade.stages)


def test_one_s_own_network_that_was_edited_is_another(study: Study) -> None:
    run(study)
    file = study.project / "my_networks" / "nets.py"
    file.write_text(NETWORKS.replace("8", "9"))
    again = run_rcopt(study.project, "run", "tiny")
    assert again.code == 2
    assert "stages.my_networks.nets:tiny was" in again.err
    assert "give the study another name" in again.err


@pytest.mark.parametrize(
    ("backbones", "said"),
    [
        ('["timm/efficientformer_l1"]', "efficientformer_l1 cannot take images of 16 pixels"),
        ('["alexnet"]', r"alexnet cannot take images of 16 pixels .* it takes 64, 96"),
        ('["my_networks.nets:none"]', "my_networks.nets:none: cannot be imported"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_image_is_read(
    study: Study, backbones: str, said: str
) -> None:
    changed = load_study(study.file, [f"stages.backbones={backbones}", "data.root=nowhere"])
    with pytest.raises(InputError, match=said):
        run(changed)


def test_so_is_a_recipe_that_trains_on_too_small_images(study: Study) -> None:
    growing = ["training.progressive=0.1", "training.epochs=8", "stages.backbones=['compact-8']"]
    changed = load_study(study.file, [*growing, "data.root=nowhere"])
    with pytest.raises(InputError, match="compact-8@16 cannot take images of 8 pixels, which its"):
        run(changed)
