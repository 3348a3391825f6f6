from pathlib import Path

import pytest
from PIL import Image

from rcopt.data.survey import survey
from rcopt.errors import InputError


def picture(file: Path, size: tuple[int, int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(file)


def test_pictures_are_counted_and_their_size_is_told(tmp_path: Path) -> None:
    for number in range(5):
        picture(tmp_path / f"train/cat/{number}.png", (90, 60 + number))
        picture(tmp_path / f"val/cat/{number}.png", (90, 70))
        picture(tmp_path / f"val/dog/{number}.png", (50, 100))
    for number in range(3):
        picture(tmp_path / f"train/dog/{number}.png", (64, 64))
    found = survey(tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.sizes == {"train": 8, "held_out": 10}
    assert found.smallest == ("dog", 3)
    assert found.short_side == 64


def test_a_file_that_is_no_picture_is_passed_over(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / name / "1.png", (40, 40))
        (tmp_path / name / "2.png").write_bytes(b"no picture")
    found = survey(tmp_path)
    assert found.sizes == {"all": 4}
    assert found.short_side == 40


def test_a_folder_without_a_single_picture_is_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("none")
    with pytest.raises(InputError, match="none of 2 files tried is a picture"):
        survey(tmp_path)
