from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rcopt.core.cascade import Cascade
from rcopt.data.images import decode
from rcopt.errors import InputError
from rcopt.serving.bundle import LoadedCascade, open_cascade, save_cascade
from rcopt.serving.recalibration import recalibrate, weights_of
from tests.support.packaging_helpers import (
    CLASSES,
    SIDE,
    STAGES,
    make_package,
    picture,
    save_stage_weights,
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedCascade:
    folder = tmp_path_factory.mktemp("old")
    save_cascade(folder / "cascade", make_package(), save_stage_weights(folder / "weights"))
    return open_cascade(folder / "cascade")


@pytest.fixture(scope="module")
def labelled(loaded: LoadedCascade, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures labelled by what the larger network says of them, but for some."""
    root = tmp_path_factory.mktemp("labelled")
    top = open_cascade(loaded.folder)
    for number in range(240):
        content = picture(number)
        base = torch.from_numpy(decode(content, SIDE, "picture")[None])
        large = top.executor.networks[1](
            torch.nn.functional.interpolate(base.permute(0, 3, 1, 2).float(), (48, 48))
        )
        name = CLASSES[int(large.argmax()) if number % 10 else number % 3]
        file = root / name / f"{number:03}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    return root


def test_the_new_numbers_are_those_of_running_the_new_cascade(
    loaded: LoadedCascade, labelled: Path, tmp_path: Path
) -> None:
    found = recalibrate(loaded, labelled, max_drop=0.02)
    package = replace(found.package, point=replace(found.package.point, run_id=None))
    used = {stage: weights_of(loaded)[stage] for stage in package.point.cascade.stages}
    save_cascade(tmp_path / "new", package, used)
    new = open_cascade(tmp_path / "new")
    files = sorted(labelled.rglob("*.png"))
    base = np.stack([decode(file, SIDE, str(file)) for file in files])
    labels = np.array([CLASSES.index(file.parent.name) for file in files])
    right = (new.executor(torch.from_numpy(base)).classes.numpy() == labels).sum()
    a, b = found.n_images
    validation = package.point.validation
    assert a + b == len(files)
    expected = validation.accuracy * a + found.calibration_accuracy * b
    assert abs(right - expected) <= 2  # confidences within rounding of a threshold
    assert validation.accuracy >= found.reference_accuracy - 0.02
    assert new.classes == loaded.classes
    assert sum(new.seen_before.values()) == b


def test_a_certificate_is_of_the_half_that_chose_nothing(
    loaded: LoadedCascade, labelled: Path
) -> None:
    found = recalibrate(loaded, labelled, max_drop=0.5, confidence=0.8, promise="lost")
    assert found.certificate is not None
    assert found.certificate.n_images == found.n_images[1]
    assert found.package.point.cascade.stages != (found.reference,)


def test_the_same_pictures_give_the_same_thresholds(loaded: LoadedCascade, labelled: Path) -> None:
    first, again = (recalibrate(loaded, labelled, max_drop=0.05) for _ in range(2))
    assert first.package.point == again.package.point
    assert isinstance(first.package.point.cascade, Cascade)
    assert set(first.package.point.cascade.stages) <= set(STAGES)


def test_what_cannot_be_used_is_refused(
    loaded: LoadedCascade, labelled: Path, tmp_path: Path
) -> None:
    for name in ("apple", "pear"):
        (tmp_path / "few" / name).mkdir(parents=True)
        (tmp_path / "few" / name / "1.png").write_bytes(picture(1))
    with pytest.raises(InputError, match="2 pictures are too few"):
        recalibrate(loaded, tmp_path / "few", max_drop=0.01)
    (tmp_path / "few" / "apple").rename(tmp_path / "few" / "zebra")
    with pytest.raises(InputError, match="class 'zebra' is none of the cascade's"):
        recalibrate(loaded, tmp_path / "few", max_drop=0.01)
    with pytest.raises(InputError, match="certif"):
        recalibrate(loaded, labelled, max_drop=0.0001, confidence=0.99, promise="lost")
    with pytest.raises(InputError, match="drop must lie"):
        recalibrate(loaded, labelled, max_drop=2)
