"""The whole way to a lent machine and back, rehearsed with 200 pictures on the CPU."""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.gpu import plan as plans
from benchmarks.gpu.pack import pack
from benchmarks.gpu.plan import Planned, read_images, read_plan
from benchmarks.gpu.take import take
from benchmarks.gpu.train import train_plan
from rcopt.core.predictions import check_aligned
from rcopt.data.prediction_files import load_stage
from rcopt.errors import InputError
from rcopt.models.backbones import build
from rcopt.models.macs import count_macs
from rcopt.models.prediction import predict
from rcopt.models.recipe import Recipe
from rcopt.models.training import train

PLAN = """
[data]
source = "folder"
validation = 0.4
calibration = 0.2
test = 0.4
base_side = 16
[[stages]]
name = "compact-8@16"
recipe = "fast"
epochs = 3
precision = "float32"
[[stages]]
name = "compact-4-mirrored@12"
seeds = 2
epochs = 1
batch_size = 32
precision = "float32"
compiled = true
"""

#: Without what the lent machine lacks.
BARE = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("optuna", "mlflow", "pydantic", "ptflops", "tomli_w", "scipy"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import rcopt
print(rcopt.__file__)
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    for part, n in (("train", 60), ("val", 40)):
        for kind, colour in (("red", 0), ("blue", 2)):
            folder = tmp_path / "images" / part / kind
            folder.mkdir(parents=True)
            for k in range(n):
                pixels = rng.integers(0, 120, (16, 16, 3), dtype=np.uint8)
                pixels[..., colour] += 100
                Image.fromarray(pixels).save(folder / f"{k}.png")
    (tmp_path / "plan.toml").write_text(PLAN)
    monkeypatch.setattr(plans, "PART", 50_000)
    packed = tmp_path / "packed"
    pack(tmp_path / "plan.toml", packed, images=tmp_path / "images", cache=tmp_path / "cache")
    return packed


def lent(packed: Path, *arguments: str) -> str:
    """Run ``train`` as the lent machine does: from the packed code, without our packages."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", BARE, "train", "..", "../results", *arguments, "--device", "cpu"],
        cwd=packed / "code",
        env=environment | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_what_comes_back_is_what_training_here_gives(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = sorted(packed.glob("images-*.npy"))
    assert len(parts) > 2
    assert all(part.stat().st_size < 51_000 for part in parts)
    assert "the time is over" in lent(packed, "--limit", "0")
    said = lent(packed)
    assert str(packed.resolve()) in said.splitlines()[0]
    names = [line.partition(":")[0] for line in said.splitlines() if "images/s" in line]
    assert names == [
        "compact-8@16.seed0",
        "compact-4-mirrored@12.seed0",
        "compact-4-mirrored@12.seed1",
    ]
    assert "of the peak" in said
    # What is there is not trained again.
    assert "images/s" not in lent(packed)

    capsys.readouterr()
    take(packed, packed / "results", tmp_path / "pool")
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert {file.name for file in (tmp_path / "pool-1").iterdir()} == {
        "compact-4-mirrored@12.safetensors"
    }
    stages = [load_stage(file) for file in sorted((tmp_path / "pool").iterdir())]
    assert [stage.stage.name for stage in stages] == ["compact-4-mirrored@12", "compact-8@16"]
    for split in ("validation", "calibration", "test"):
        check_aligned([stage.predictions[split] for stage in stages])
    dataset = read_images(packed)
    model = build("compact-8", 2, 16)
    recipe = Recipe(**read_plan(packed)[0].recipe)
    list(train(model, dataset, 16, recipe, seed=0))
    expected = predict(model, dataset, "test", 16, precision="float32")
    got = stages[1].predictions["test"]
    assert got.images == expected.images
    np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-5)
    assert stages[1].macs == count_macs(model, 16).macs
    assert stages[1].stage.flops == 2 * stages[1].macs


def test_a_stage_that_the_time_does_not_suffice_for_is_continued_later(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_plan(packed, tmp_path / "whole", limit=1e9, device="cpu")
    clock = count()
    with monkeypatch.context() as patched:
        # Read at the start, before a stage and after an epoch: the time is over after one epoch.
        patched.setattr("benchmarks.gpu.train.time.monotonic", lambda: next(clock))
        train_plan(packed, tmp_path / "cut", limit=2, device="cpu")
    assert [file.name for file in (tmp_path / "cut").iterdir()] == [
        "compact-8@16.seed0.unfinished"
    ]
    train_plan(packed, tmp_path / "cut", limit=1e9, device="cpu")
    names = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert sorted(file.name for file in (tmp_path / "cut").iterdir()) == names
    assert len(names) == 3
    for folder in ("whole", "cut"):
        take(packed, tmp_path / folder, tmp_path / f"{folder}-pool")
    one, two = (
        load_stage(tmp_path / f"{folder}-pool" / "compact-8@16.safetensors").predictions["test"]
        for folder in ("whole", "cut")
    )
    np.testing.assert_array_equal(one.probabilities, two.probabilities)


def test_mistakes_are_told(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is there already"):
        pack(tmp_path / "plan.toml", packed, images=None, cache=tmp_path)
    with pytest.raises(InputError, match="no answers"):
        take(packed, tmp_path, tmp_path / "pool")
    for wrong in ("name = 'resnet18'", "name = 'resnet18@8'\nepoch = 3", "epochs = 3"):
        text = PLAN.partition("[[stages]]")[0] + f"[[stages]]\n{wrong}\n"
        (tmp_path / "wrong.toml").write_text(text)
        with pytest.raises(InputError, match="a stage has a name such as"):
            pack(
                tmp_path / "wrong.toml", tmp_path / "x", images=tmp_path / "images", cache=tmp_path
            )
    next(packed.glob("images-001*")).unlink()
    with pytest.raises(InputError, match="copy all its files"):
        read_images(packed)


def test_flops_follow_the_sides_that_a_training_has() -> None:
    half = Planned("x", 64, 0, {"crop": "plain", "crop_side": 0.5, "epochs": 3}, 1000, 1)
    assert half.image_flops() == 3 * 6 * 1000 / 4
    growing = Planned("x", 64, 0, {"progressive": 0.5, "epochs": 8}, 1000, 1)
    assert growing.epoch_flops(0) < growing.epoch_flops(7) == 6000
