"""Stages that start from weights: their order, what is refused, and what is told of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import load_stage
from rcopt.errors import InputError
from rcopt.files import file_digest
from rcopt.models.backbones import build
from rcopt.models.weights import load_weights
from rcopt.report.publish import publish_report
from rcopt.study import choosing, packing
from rcopt.study.choice import Criterion
from rcopt.study.file import Study, load_study
from rcopt.study.run_study import front, run
from rcopt.study.stages.lookup import export_predictions, trained_stages
from tests.support.generated_images import make_images
from tests.support.study_helpers import TRAINED, runs_of, write_study

SMALL, LARGE = "mobilenet_v2-0.1@8", "mobilenet_v2-0.1@16"
STUDY = (
    TRAINED.replace(', "mobilenet_v2-0.25"', "").replace("lr = 0.05", "lr = 1e-9")
    + """
[training.override."*@8"]
weights = "larger"
[training.override."*@16"]
weights = "start"
"""
)


@pytest.fixture
def study(project: Path) -> Study:
    make_images(project / "images")
    (project / "start").mkdir()
    start = build("mobilenet_v2-0.1", 3, seed=7)
    torch.save(start.state_dict(), project / "start" / "pytorch_model.bin")
    return load_study(write_study(project, STUDY))


def by_name(study: Study) -> dict[str, TrainedStage]:
    return {t.stage.name: t for t in trained_stages(study, study.open_tracker())}


def test_a_stage_starts_from_the_larger_one_which_is_trained_before(study: Study) -> None:
    run(study, every_stage=True)  # cheapest first
    stages = by_name(study)
    order = {run.name: number for number, run in enumerate(runs_of(study.project, "stage"))}
    assert order[LARGE] < order[SMALL]
    tracker = study.open_tracker()
    small, large = (
        load_weights(tracker.stages.weights_path(str(stages[name].run_id))).model.state_dict()
        for name in (SMALL, LARGE)
    )
    # At this learning rate nothing moves but what batch norm has seen.
    start = build("mobilenet_v2-0.1", 3, seed=7).state_dict()
    for name in ("features.0.0.weight", "classifier.1.weight"):
        torch.testing.assert_close(large[name], start[name], atol=1e-4, rtol=0)
        torch.testing.assert_close(small[name], start[name], atol=1e-4, rtol=0)

    file = study.project / "start" / "pytorch_model.bin"
    told = stages[LARGE].details
    assert told["weights_source"] == "file pytorch_model.bin"
    assert told["weights_sha256"] == told["weights"] == file_digest(file)
    assert told["weights_images"] == told["weights_licence"] == "not known to rcopt"
    told = stages[SMALL].details
    assert told["weights"] == "larger"
    assert told["weights_source"] == f"stage {LARGE}, which started from file pytorch_model.bin"
    assert told["weights_sha256"] == file_digest(file)

    assert all(
        load_stage(path).details["weights_source"]
        for path in export_predictions(study, study.project / "stored")
    )
    page = publish_report(study, study.project / "page", n_resamples=20).files[0].read_text()
    assert "start from weights that were trained elsewhere" in page
    choice = choosing.select(study, Criterion(max_drop=1.0))
    single = next(p for p in front(study, everything=True) if len(p.cascade.stages) == 1)
    packed = packing.opened(study, replace(choice, point=single))
    assert packed.description["stages"][0]["started_from"]["sha256"] == file_digest(file)


def test_other_weights_of_the_larger_stage_make_both_other_stages(study: Study) -> None:
    keys = {name: trained.key for name, trained in _trained(study).items()}
    torch.save(
        build("mobilenet_v2-0.1", 3, seed=8).state_dict(),
        study.project / "start" / "pytorch_model.bin",
    )
    renamed = load_study(study.file, ["name=other"])
    again = {name: trained.key for name, trained in _trained(renamed).items()}
    assert all(again[name] != keys[name] for name in (SMALL, LARGE))
    # Nothing of it is trained twice.
    assert len(runs_of(study.project, "stage")) == 4


def _trained(study: Study) -> dict[str, TrainedStage]:
    run(study, every_stage=True)
    return by_name(study)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"*@16"]\nweights = "larger"', rf"{LARGE} has no larger stage of the same backbone"),
        ('"*@16"]\nweights = "nothing.pth"', r"training.weights: .*nothing.pth cannot be read"),
        ('"*@16"]\nweights = "images"', r"the folder .*images holds neither model.safetensors"),
        ('"*@16"]\nweights = "pretrained"', "no public weights of mobilenet_v2-0.1"),
        ('"*@16"]\nweihgts = "none"', r"weihgts: unknown key; .* 'weights'"),
    ],
)
def test_what_cannot_be_started_from_is_refused_at_once(
    study: Study, text: str, said: str
) -> None:
    file = write_study(study.project, STUDY.replace('"*@16"]\nweights = "start"', text))
    with pytest.raises(InputError, match=said):
        run(load_study(file))
    assert not runs_of(study.project, "stage")
