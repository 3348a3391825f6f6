from pathlib import Path

import numpy as np
import pytest

from rcopt.core.cascade import Stage
from rcopt.core.predictions import Predictions
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import load_stage, save_stage
from rcopt.errors import InputError


@pytest.fixture
def trained() -> TrainedStage:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), size=5).astype(np.float32)
    predictions = Predictions(
        split="validation",
        probabilities=p,
        labels=np.array([0, 1, 2, 0, 1]),
        images=("a/1.png", "b/ü.png", "c", "d", "e"),
    )
    return TrainedStage(
        stage=Stage(32, "resnet18", 7.4e7),
        predictions={"validation": predictions},
        key="k" * 64,
        macs=37_000_000,
        parameters=11,
        seconds=1.5,
        details={"device": "cpu"},
    )


def test_a_saved_stage_reads_back_bit_for_bit(tmp_path: Path, trained: TrainedStage) -> None:
    save_stage(tmp_path / "stage.safetensors", trained)
    back = load_stage(tmp_path / "stage.safetensors", run_id="r")
    assert back.stage == trained.stage
    assert (back.key, back.macs, back.parameters, back.seconds, back.run_id, back.details) == (
        trained.key,
        trained.macs,
        trained.parameters,
        trained.seconds,
        "r",
        trained.details,
    )
    mine, theirs = back.predictions["validation"], trained.predictions["validation"]
    assert mine.images == theirs.images
    np.testing.assert_array_equal(mine.probabilities, theirs.probabilities)
    np.testing.assert_array_equal(mine.labels, theirs.labels)
    assert [p.name for p in tmp_path.iterdir()] == ["stage.safetensors"]


def test_every_truncation_of_a_file_is_one_clear_line(
    tmp_path: Path, trained: TrainedStage
) -> None:
    path = tmp_path / "stage.safetensors"
    save_stage(path, trained)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"damaged predictions file") as caught:
            load_stage(path)
        assert "\n" not in str(caught.value)


def test_flipped_header_bytes_end_in_a_clear_line_or_a_valid_stage(
    tmp_path: Path, trained: TrainedStage
) -> None:
    path = tmp_path / "stage.safetensors"
    save_stage(path, trained)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for at in rng.integers(0, len(whole), 200).tolist():
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            back = load_stage(path).predictions["validation"]
        except InputError as error:
            assert "\n" not in str(error)
        else:
            # Only where the digest itself was made unreadable nobody can tell.
            assert b'"sha256"' not in bytes(damaged) or same(back, trained)


def same(back: Predictions, trained: TrainedStage) -> bool:
    whole = trained.predictions["validation"]
    return bool(np.array_equal(back.probabilities, whole.probabilities))


def test_a_file_without_a_digest_is_taken_as_other_makers_write_it(
    tmp_path: Path, trained: TrainedStage
) -> None:
    path = tmp_path / "stage.safetensors"
    save_stage(path, trained)
    renamed = path.read_bytes().replace(b'"sha256":', b'"sha257":')
    path.write_bytes(renamed)
    assert same(load_stage(path).predictions["validation"], trained)


def test_a_flipped_bit_of_a_probability_is_seen(tmp_path: Path, trained: TrainedStage) -> None:
    path = tmp_path / "stage.safetensors"
    save_stage(path, trained)
    whole = path.read_bytes()
    value = trained.predictions["validation"].probabilities.tobytes()
    at = whole.index(value)  # the lowest bit of the first one: rows still sum to 1
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(InputError, match=r"damaged predictions file \(SHA-256 mismatch\)"):
        load_stage(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.safetensors: no such predictions file"):
        load_stage(tmp_path / "nothing.safetensors")
