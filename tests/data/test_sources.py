"""Data sets as people have them, read where they are unambiguous, else refused with a way out."""

import os
import shutil
import struct
import subprocess
import sys
import time
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcopt.data import sources
from rcopt.data.dataset import Dataset
from rcopt.data.images import decode
from rcopt.errors import InputError
from tests.support.datasets import load_pictures

CLASSES = ("bar", "disc")


def pixels(label: int, number: int) -> np.ndarray:
    rng = np.random.default_rng([label, number])
    return rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)


def make(root: Path, parts: dict[str, int], classes: tuple[str, ...] = CLASSES) -> Path:
    """Different pictures in each place."""
    start = 0
    for part, count in parts.items():
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                picture = Image.fromarray(pixels(label, start + number))
                picture.save(root / part / name / f"{number:03d}.png")
        start += count
    return root


def load(root: Path, **changes: Any) -> Dataset:
    return load_pictures(root, changes.pop("cache", root.parent / "cache"), **changes)


@pytest.mark.parametrize("name", sources.NAMES)
def test_every_source_keeps_its_contract(name: str) -> None:
    module = sources.source(name)
    assert isinstance(module.NEEDS_ROOT, bool)
    assert callable(module.load)


def test_thumbnails_and_litter_of_other_programs_are_left_out_and_counted(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", {"train": 3, "val": 4})
    for part in ("train", "val"):
        thumbnails = root / part / "disc" / "@eaDir" / "000.png"
        thumbnails.mkdir(parents=True)
        Image.new("RGB", (9, 9), "red").save(thumbnails / "SYNOPHOTO_THUMB_SM.jpg")
        (root / part / "__MACOSX" / "disc").mkdir(parents=True)
        (root / part / "__MACOSX" / "disc" / "._000.png").write_bytes(b"Mac OS X")
        (root / part / "disc" / "Thumbs.db").write_bytes(b"\xd0\xcf")
        (root / part / "bar" / "Icon\r").write_bytes(b"")
        (root / part / "bar" / ".DS_Store").write_bytes(b"")
        (root / part / "bar" / "desktop.ini").write_text("[x]")
        (root / part / ".ipynb_checkpoints").mkdir()
    found = load(root)
    assert found.classes == CLASSES
    assert len(found.images) == 14
    assert any("2 @eaDir" in note and "2 Thumbs.db" in note for note in found.notes)


@pytest.mark.parametrize(
    ("train", "held"), [("train", "valid"), ("Train", "Validation"), ("training", "dev")]
)
def test_parts_go_by_their_usual_names(tmp_path: Path, train: str, held: str) -> None:
    found = load(make(tmp_path / "pictures", {train: 3, held: 4}))
    assert {name: len(i) for name, i in found.splits.items()} == {
        "train": 6, "validation": 4, "calibration": 0, "test": 4
    }  # fmt: skip
    assert found.notes == ()


def test_train_and_test_alone_deal_test_out_and_say_so(tmp_path: Path) -> None:
    found = load(make(tmp_path / "pictures", {"train": 3, "test": 4}))
    assert len(found.splits["validation"]) == len(found.splits["test"]) == 4
    assert "test is dealt out to validation, calibration and test" in found.notes[0]


def test_a_test_part_of_its_own_is_the_test_split(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", {"train": 3, "val": 4, "test": 5})
    found = load(root, validation=0.3, calibration=0.3, test=0.4)
    names = {split: {found.images[i] for i in rows} for split, rows in found.splits.items()}
    assert all(name.startswith("test/") for name in names["test"])
    assert len(names["test"]) == 10
    assert all(name.startswith("val/") for name in names["validation"] | names["calibration"])
    assert len(names["validation"]) == len(names["calibration"]) == 4
    assert "test is the test split" in found.notes[0]


def test_a_tiny_part_to_choose_on_is_told(tmp_path: Path) -> None:
    found = load(make(tmp_path / "pictures", {"train": 3, "val": 1, "test": 12}))
    assert any("val holds only 2 pictures beside 24 of test" in note for note in found.notes)


def test_classes_without_parts_are_held_out_from_by_chance(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    make(root / "here", {".": 20})
    found = load(root / "here", held_out=0.4)
    assert found.classes == CLASSES
    sizes = {name: len(rows) for name, rows in found.splits.items()}
    assert sizes == {"train": 24, "validation": 8, "calibration": 0, "test": 8}
    assert "0.4 of each class is held out at random" in found.notes[0]
    again = load(root / "here", held_out=0.4)
    assert found.split_digest == again.split_digest
    assert found.split_digest != load(root / "here", held_out=0.4, seed=1).split_digest


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/a", "train/b"), "has no folder 'val' or 'test'"),
        (("val/a", "val/b"), "has no folder 'train'"),
        (("archive/train/a", "archive/val/a"), r"did you mean .*archive\?"),
        (("train/a", "train/b", "val/a", "valid/a"), "'val' and 'valid', both for validation"),
    ],
)
def test_ambiguous_folders_are_refused_with_a_way_out(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    for folder in folders:
        (tmp_path / "pictures" / folder).mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "pictures")


def test_one_class_spelt_by_composed_and_decomposed_letters_is_one(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    name = "pâté"
    make(root, {"train": 3}, ("bar", unicodedata.normalize("NFC", name)))
    make(root, {"val": 4}, ("bar", unicodedata.normalize("NFD", name)))
    assert load(root).classes == ("bar", unicodedata.normalize("NFC", name))
    (root / "val" / unicodedata.normalize("NFC", name)).mkdir()
    with pytest.raises(InputError, match="would both be stored as"):
        load(root)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_class_whose_name_is_no_utf_8_is_read_under_a_name_that_can_be_stored(
    tmp_path: Path,
) -> None:
    root = make(tmp_path / "pictures", {"train": 3, "val": 4})
    for part in ("train", "val"):
        os.rename(os.fsencode(root / part / "disc"), os.fsencode(root / part) + b"/caf\xe9")
    found = load(root)
    assert found.classes == ("bar", r"caf\xe9")
    for name in (*found.classes, *found.images):
        name.encode("utf-8")
    assert r"val/caf\xe9/000.png" in found.images


def test_all_bad_pictures_are_told_at_once(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", {"train": 15, "val": 4})
    bad = [root / "train" / "disc" / f"{number:03d}.png" for number in range(12)]
    for file in bad:
        file.write_bytes(b"")
    with pytest.raises(InputError) as refused:
        load(root)
    line = str(refused.value)
    assert line.startswith("12 of 38 pictures cannot be read: ")
    assert all(str(file) in line for file in bad[:10])
    assert "and 2 more" in line
    assert "data.skip_bad = true" in line
    assert "\n" not in line


def test_bad_pictures_may_be_skipped_and_are_counted_and_named(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", {"train": 4, "val": 4})
    (root / "train" / "disc" / "001.png").write_bytes(b"nothing")
    (root / "val" / "bar" / "notes.txt").write_text("hello")
    for _ in range(2):  # decoded, then from the cache
        found = load(root, skip_bad=True)
        assert len(found.images) == len(found.base) == len(found.labels) == 15 + 0
        assert "train/disc/001.png" not in found.images
        (note,) = found.notes
        assert "left out 2 pictures that cannot be read" in note
        assert "train/disc/001.png" in note
        assert "val/bar/notes.txt" in note
        for row, name in enumerate(found.images):
            np.testing.assert_array_equal(found.base[row], decode(root / name, 16, name))


def test_pictures_in_two_parts_or_under_two_labels_are_told(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", {"train": 4, "val": 4})
    # Another format with the same pixels.
    Image.open(root / "train/bar/000.png").save(root / "val/bar/copy.bmp")
    shutil.copy(root / "train/disc/001.png", root / "train/bar/again.png")
    for colour in range(2):  # Of one colour is no sign of a copy.
        Image.new("RGB", (20, 20)).save(root / ("train", "val")[colour] / "disc" / "black.png")
    shared, torn = load(root).notes
    assert shared.startswith("1 held-out pictures are training pictures too")
    assert "val/bar/copy.bmp = train/bar/000.png" in shared
    assert torn.startswith("1 pictures lie under two labels")
    assert "train/disc/001.png = train/bar/again.png" in torn


def test_a_test_picture_that_is_chosen_on_is_told(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", {"train": 3, "val": 4, "test": 5})
    os.link(root / "val/bar/000.png", root / "test/bar/linked.png")
    (note,) = [note for note in load(root).notes if "too" in note]
    assert note.startswith("1 test pictures are in validation or calibration too")
    assert note.endswith("test/bar/linked.png = val/bar/000.png")


def test_folders_beside_the_parts_and_pictures_outside_classes_are_told(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", {"train": 3, "val": 4})
    (root / "extra" / "bar").mkdir(parents=True)
    shutil.copy(root / "train/bar/000.png", root / "train/loose.png")
    beside, loose = load(root).notes
    assert beside == "left out, as it is neither train, val nor test: extra"
    assert loose == (
        "left out 1 pictures of pictures/train that are in no class folder, such as loose.png"
    )


def test_a_test_part_without_labels_is_left_out_and_told(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", {"train": 3, "val": 4})
    (root / "test").mkdir()
    shutil.copy(root / "train/bar/000.png", root / "test/1.png")
    found = load(root)
    assert found.notes == ("left out pictures/test: its 1 files are in no class folder",)
    shutil.rmtree(root / "val")
    with pytest.raises(InputError, match=r"set data\.root to .*train and a share of it is held"):
        load(root)


def test_parts_below_the_classes_are_refused(tmp_path: Path) -> None:
    for name in CLASSES:
        make(tmp_path / "pictures" / name, {"train": 1, "val": 1}, ("x", "y"))
    with pytest.raises(InputError, match=r"is ROOT/CLASS/\{train,val\}"):
        load(tmp_path / "pictures")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_two_classes_that_would_be_stored_under_one_name_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", {"train": 3, "val": 4}, ("bar", r"caf\xe9", "disc"))
    for part in ("train", "val"):
        os.rename(os.fsencode(root / part / "disc"), os.fsencode(root / part) + b"/caf\xe9")
    with pytest.raises(InputError, match="would both be stored as"):
        load(root)


def test_a_class_without_a_readable_training_picture_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", {"train": 1, "val": 4})
    (root / "train/disc/000.png").write_bytes(b"")
    with pytest.raises(InputError, match="class 'disc' has no image to train on"):
        load(root, skip_bad=True)


def deep(root: Path, low: float, high: float, kind: str) -> Path:
    """The same pictures with samples of more than 8 bits, as a camera or program has them."""
    for file in sorted(root.rglob("*.png")):
        grey = np.asarray(Image.open(file).convert("L")) / 255
        samples = low + grey * (high - low)
        Image.fromarray(samples.astype(kind)).save(file.with_suffix(".tif"))
        file.unlink()
    return root


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (0, 1, "float32"),
        (0, 255, "float32"),
        (0, 1.03, "float32"),
        (-0.02, 1.02, "float32"),
        (-1, 1, "float32"),
        (-32768, 32767, "int16"),
        (0, 4095, "uint16"),
        (0, 65535, "uint16"),
        (-1000, 3000, "int32"),
    ],
)
def test_deep_pictures_keep_their_contrast(
    tmp_path: Path, low: float, high: float, kind: str
) -> None:
    plain = load(make(tmp_path / "plain" / "pictures", {"train": 3, "val": 4}))
    root = make(tmp_path / "deep" / "pictures", {"train": 3, "val": 4})
    found = load(deep(root, low, high, kind))
    weights = np.array([0.299, 0.587, 0.114])
    off = np.abs(found.base[..., 0].astype(float) - plain.base @ weights)
    assert off.max() <= 8  # the samples drawn do not reach both ends
    assert found.levels is not None
    assert found.levels[0] == pytest.approx(low, abs=0.03 * (high - low))
    assert found.levels[1] == pytest.approx(high, abs=0.03 * (high - low))
    assert "is taken as black" in found.notes[0]


def test_one_range_holds_for_the_whole_data_set(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", {"train": 3, "val": 4})
    for file in sorted(root.rglob("*.png")):
        file.unlink()
        dark = "bar" in str(file)
        samples = np.linspace(0, 200 if dark else 4000, 400).reshape(20, 20).astype(np.uint16)
        Image.fromarray(samples).save(file)
    found = load(root)
    assert found.levels == (0.0, 4095.0)
    assert found.base[found.labels == 0].max() < 16
    assert found.base[found.labels == 1].max() > 230


def test_a_set_of_one_colour_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", {"train": 3, "val": 4})
    for file in root.rglob("*.png"):
        Image.new("RGB", (20, 20), (7, 7, 8)).save(file)
    with pytest.raises(InputError, match="all pictures are of one colour"):
        load(root)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_set_that_a_hot_pixel_makes_black_is_refused(tmp_path: Path, skip_bad: bool) -> None:
    root = deep(make(tmp_path / "pictures", {"train": 9, "val": 4}), 0, 1, "float32")
    samples = np.array(Image.open(root / "train/bar/000.tif"))
    samples[3, 3] = 1e6
    Image.fromarray(samples).save(root / "train/bar/000.tif")
    if skip_bad:
        (root / "train/bar/001.tif").write_bytes(b"")
    with pytest.raises(InputError, match="all pictures are of one colour"):
        load(root, skip_bad=skip_bad)


def png_with(kind: bytes, content: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes((40, 200, 90)) * 4 for _ in range(4)))
    made = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (kind, content), (b"IDAT", rows), (b"IEND", b"")):
        made += struct.pack(">I", len(data)) + name + data
        made += struct.pack(">I", zlib.crc32(name + data))
    return made


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"iCCP", b"ICC\0\0" + zlib.compress(b"\0" * 20_000_000)),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 20_000_000)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 20_000_000)),
    ],
)
def test_a_sound_png_with_large_metadata_is_read(kind: bytes, content: bytes) -> None:
    base = decode(png_with(kind, content), 4, "a")
    assert (base == (40, 200, 90)).all()


def test_pictures_that_were_exchanged_within_size_and_time_are_seen(tmp_path: Path) -> None:
    root = make(tmp_path / "pictures", {"train": 3, "val": 4})
    for file in root.rglob("*.png"):
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
        os.utime(file.with_suffix(".bmp"), (1_600_000_000, 1_600_000_000))
    time.sleep(2.1)  # so that the first reading is trusted later
    before = load(root)
    one, other = root / "train/bar/000.bmp", root / "val/disc/001.bmp"
    first, second = one.read_bytes(), other.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    other.write_bytes(first)
    for file in (one, other):
        os.utime(file, (1_600_000_000, 1_600_000_000))
    after = load(root)
    assert after.digest != before.digest
    for row, name in enumerate(after.images):
        np.testing.assert_array_equal(after.base[row], decode(root / name, 16, name))


def test_files_that_did_not_change_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "pictures", {"train": 3, "val": 4})
    time.sleep(2.1)
    load(root)
    opened: list[Path] = []
    plain = Path.open

    def watched(self: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(self)
        return plain(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", watched)
    load(root)
    assert not [path for path in opened if path.suffix == ".png"]


def test_two_folders_with_the_same_names_sizes_and_times_are_told_apart(tmp_path: Path) -> None:
    roots = [make(tmp_path / name / "pictures", {"train": 3, "val": 4}) for name in ("a", "b")]
    for label, name in enumerate(CLASSES):
        Image.fromarray(pixels(label, 99)).save(roots[1] / "val" / name / "000.png")
    cache = tmp_path / "cache"
    one, other = (load(root, cache=cache) for root in roots)
    assert one.digest != other.digest


@pytest.mark.slow
def test_a_class_name_beyond_ascii_is_read_in_any_locale(tmp_path: Path) -> None:
    root = make(
        tmp_path / "pictures", {"train": 3}, ("bar", unicodedata.normalize("NFC", "naïve"))
    )
    make(root, {"val": 4}, ("bar", unicodedata.normalize("NFD", "naïve")))
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.support.datasets import load_pictures\n"
        "d = load_pictures(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print(ascii(d.classes))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code, str(root), str(tmp_path / "cache")],
            env=os.environ | extra,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for extra in (
            {},
            {"LC_ALL": "C"},
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        )
    ]
    assert set(said) == {"('bar', 'na\\xefve')\n"}
