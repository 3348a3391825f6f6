"""The study file of EfficientNets, run end to end at small size."""

from pathlib import Path

import pytest

from rcopt.core.cascade import StageId
from rcopt.study.file import load_study
from rcopt.study.run_study import run
from rcopt.study.stages.preview import preview
from rcopt.study.stages.starting_weights import larger_stage, starting_weights
from tests.support.generated_images import make_images

FILE = Path(__file__).parents[2] / "studies" / "compound.toml"


def test_every_network_starts_from_its_larger_stage_or_from_public_weights() -> None:
    study = load_study(FILE)
    table = study.settings.stages.table()
    every = [StageId(r, name) for r, names in table.items() for name in names]
    largest = {name: max(s for s in every if s.backbone == name) for _, name in every}
    for stage in every:
        if stage == largest[stage.backbone]:
            assert starting_weights(study, stage) == "pretrained"
        else:
            larger = larger_stage(study, stage, every)
            assert larger is not None
            assert larger.resolution > stage.resolution


@pytest.mark.slow
def test_it_runs_end_to_end_at_small_size(project: Path) -> None:
    make_images(project / "images")
    (project / "studies").mkdir()
    file = project / "studies" / FILE.name
    file.write_text(FILE.read_text(encoding="utf-8"), encoding="utf-8")
    small = load_study(
        file,
        [
            "data.source=folder",
            "data.root=images",
            "stages.resolutions=[32, 48]",
            'stages.backbones={32=["efficientnet_b0"],48=["efficientnet_b0","efficientnet_b1"]}',
            'training.override={"*@48"={weights="none"}}',
            "training.epochs=1",
            "training.batch_size=8",
            "training.threads=1",
            "search.trials=4",
        ],
    )
    previewed = preview(small, time=False)
    assert [one.refused for one in previewed] == ["", "", ""]
    results = run(small, every_stage=True)
    assert len(results.stages) == 3
    assert results.points
    assert {s.stage.name: s.macs for s in results.stages} == {
        one.stage.name: one.macs for one in previewed
    }
