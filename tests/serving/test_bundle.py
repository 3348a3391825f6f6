import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.cascade import Stage
from rcopt.core.evaluating import exits
from rcopt.core.predictions import Predictions
from rcopt.errors import InputError
from rcopt.files import digest
from rcopt.models.prediction import predict_batch
from rcopt.models.weights import load_weights
from rcopt.serving.bundle import DESCRIPTION, open_cascade, save_cascade
from tests.support.packaging_helpers import (
    CLASSES,
    SIDE,
    STAGES,
    base_images,
    make_package,
    save_stage_weights,
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[Stage, Path]:
    return save_stage_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def folder(tmp_path: Path, weights: dict[Stage, Path]) -> Path:
    save_cascade(tmp_path / "cascade", make_package(), weights)
    return tmp_path / "cascade"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    description = json.loads((folder / DESCRIPTION).read_text())
    change(description)
    description.pop("sha256")
    description["sha256"] = digest(description)
    (folder / DESCRIPTION).write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        (AnswerRule(), 0.7),
        (AnswerRule("margin", temperature=True, average=True), 0.4321),
        (AnswerRule(weighted=True), 0.7),
    ],
    ids=str,
)
def test_an_opened_cascade_answers_as_the_stored_predictions_say(
    tmp_path: Path, weights: dict[Stage, Path], rule: AnswerRule, threshold: float
) -> None:
    package = make_package(threshold, rule)
    save_cascade(tmp_path / "c", package, weights)
    loaded = open_cascade(tmp_path / "c")

    images = base_images(60)
    names = tuple(str(i) for i in range(60))
    stored = [
        Predictions(
            "test",
            predict_batch(load_weights(weights[s]).model, images, s.resolution, "float32").numpy(),
            np.arange(60) % 3,
            names,
        )
        for s in STAGES
    ]
    answers = stage_answers(stored, rule, package.fitted.temperatures, package.fitted.weights)
    stage = exits(answers.confidence, package.point.cascade.thresholds)
    output = loaded.executor(images)
    assert set(stage) == {0, 1}
    assert np.array_equal(output.stages.numpy(), stage)
    assert np.array_equal(output.classes.numpy(), answers.predicted[stage, np.arange(60)])
    assert loaded.cascade == package.point.cascade
    assert (loaded.classes, loaded.base_side) == (CLASSES, SIDE)


def test_description_holds_numbers_digests_and_preprocessing(folder: Path) -> None:
    description = json.loads((folder / DESCRIPTION).read_text())
    package = make_package()
    assert description["validation"]["accuracy"] == package.point.validation.accuracy
    assert description["validation"]["n_images"] == package.point.validation.n_images
    assert description["test"] is None
    assert description["data"] == {"digest": "d" * 64, "splits": "e" * 64}
    assert description["preprocessing"]["base_side"] == SIDE
    assert [s["threshold"] for s in description["stages"]] == [0.7, None]


def test_a_changed_weights_file_is_refused(folder: Path) -> None:
    path = folder / "stage-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"stage-1.safetensors: changed since it was packaged"):
        open_cascade(folder)


def test_a_missing_weights_file_is_named(folder: Path) -> None:
    (folder / "stage-0.safetensors").unlink()
    with pytest.raises(InputError, match=r"stage-0.safetensors: missing"):
        open_cascade(folder)


@pytest.mark.parametrize("name", ["../stage-0.safetensors", "/etc/passwd", "a/b", "..", ""])
def test_weights_outside_the_folder_are_refused(folder: Path, name: str) -> None:
    rewrite(folder, lambda d: d["stages"][0].update(weights=name))
    with pytest.raises(InputError, match="is not the name of a file beside it"):
        open_cascade(folder)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "stage-0.safetensors"
    path.rename(tmp_path / "elsewhere.safetensors")
    path.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(InputError, match="leads out of its folder"):
        open_cascade(folder)


def test_stages_that_are_not_those_of_the_weights_are_refused(folder: Path) -> None:
    rewrite(folder, lambda d: d["stages"][0].update(backbone="mobilenet_v2-0.2"))
    with pytest.raises(InputError, match=r"is of mobilenet_v2-0.1@32, not mobilenet_v2-0.2@32"):
        open_cascade(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("stages"), "damaged .KeyError: 'stages'"),
        (lambda d: d["stages"][0].update(threshold=None), "damaged"),
        (lambda d: d["stages"][0].update(threshold=float("nan")), "threshold"),
        (lambda d: d["stages"][0].update(flops=10**400), "damaged .OverflowError"),
        (lambda d: d["preprocessing"].update(base_side=10**9), "base_side is 1000000000"),
        (lambda d: d["preprocessing"].update(base_side=0), "base_side is 0"),
        (
            lambda d: d["answers"].update(confidence="luck"),
            "confidence must be one of .* got 'luck'",
        ),
        (lambda d: d.update(precision="int3"), "precision is 'int3'"),
        (lambda d: d["classes"].pop(), "has 3 classes, not 2"),
        (lambda d: d.update(format="other-2"), "format is 'other-2'"),
        (
            lambda d: d["stages"][0]["preprocessing"].update(mean=[0, 0, 0]),
            "prepared in another way",
        ),
        (lambda d: d.update(stages=[]), "damaged"),
    ],
)
def test_a_damaged_description_gives_one_clear_line(
    folder: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(InputError, match=said) as error:
        open_cascade(folder)
    assert "\n" not in str(error.value)


def test_a_changed_description_is_refused(folder: Path) -> None:
    text = (folder / DESCRIPTION).read_text()
    changed = text.replace('"threshold": 0.7', '"threshold": 0.6')
    assert changed != text
    (folder / DESCRIPTION).write_text(changed)
    with pytest.raises(InputError, match=r"cascade.json: changed since it was packaged"):
        open_cascade(folder)


def test_what_is_no_cascade_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"cascade.json: no such file"):
        open_cascade(tmp_path / "nowhere")
    (folder / DESCRIPTION).write_text("not json")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        open_cascade(folder)
    (folder / DESCRIPTION).write_text("[" * 100_000)
    with pytest.raises(InputError, match="cannot be read as JSON"):
        open_cascade(folder)
    (folder / DESCRIPTION).write_text("[1]")
    with pytest.raises(InputError, match="format is None"):
        open_cascade(folder)


def test_saving_needs_the_weights_of_each_stage(
    tmp_path: Path, weights: dict[Stage, Path]
) -> None:
    first = STAGES[0]
    with pytest.raises(ValueError, match=r"weights hold none of stage mobilenet_v2-0.2@48"):
        save_cascade(tmp_path / "a", make_package(), {first: weights[first]})
    missing = {**weights, first: tmp_path / "gone.safetensors"}
    with pytest.raises(InputError, match=r"gone.safetensors: cannot be copied"):
        save_cascade(tmp_path / "b", make_package(), missing)


def test_thresholds_keep_every_bit(tmp_path: Path, weights: dict[Stage, Path]) -> None:
    package = make_package(0.1 + 0.2)
    package = replace(package, precision="auto")
    save_cascade(tmp_path / "c", package, weights)
    assert open_cascade(tmp_path / "c").cascade.thresholds == (0.1 + 0.2,)
