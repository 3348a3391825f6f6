import errno
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from rcopt.compat import import_torchvision
from rcopt.data import decoded
from rcopt.data.dataset import Dataset, release
from rcopt.data.images import decode
from rcopt.data.loading import load_data
from rcopt.data.settings import DataSettings
from rcopt.errors import InputError, WorkError
from tests.support.datasets import load_pictures
from tests.support.mapped_memory import needs_linux, resident_bytes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a folder of two classes, 4 images to train on and 6 held out in each."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 6)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "pictures"


def load(root: Path | None, **changes: Any) -> Dataset:
    cache = (root.parent / "cache") if root else Path("unused")
    return load_pictures(root, changes.pop("cache", cache), **changes)


def test_a_folder_is_read_with_its_classes_names_and_pixels(root: Path) -> None:
    loaded = load(root)
    assert loaded.name == "folder"
    assert loaded.classes == ("cat", "dog")
    assert loaded.base.shape == (20, 16, 16, 3)
    assert loaded.base_side == 16
    assert loaded.labels.tolist() == [0] * 4 + [1] * 4 + [0] * 6 + [1] * 6
    assert loaded.images[0] == "train/cat/0.png"
    assert loaded.splits["train"].tolist() == list(range(8))
    for number, name in enumerate(loaded.images):
        np.testing.assert_array_equal(loaded.base[number], decode(root / name, 16, name))


def test_the_base_is_memory_mapped_and_read_only(root: Path) -> None:
    base = load(root).base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        base[0, 0, 0, 0] = 1


@needs_linux
def test_mapped_pictures_take_no_memory_but_while_they_are_looked_at(root: Path) -> None:
    load(root, base_side=64)
    base = load(root, base_side=64).base
    file = Path(str(base.filename))  # type: ignore[attr-defined]
    assert base.nbytes > 200_000
    assert resident_bytes(file) <= 32_768  # the header, and what the system reads around it
    before = base.sum()
    assert resident_bytes(file) >= base.nbytes
    release(base)
    assert resident_bytes(file) == 0
    assert base.sum() == before
    release(np.zeros((1, 2, 2, 3), dtype=np.uint8))  # not mapped: stays as it is


def test_splits_are_disjoint_stratified_and_seeded(root: Path) -> None:
    loaded = load(root, validation=1 / 3, calibration=1 / 3, test=1 / 3)
    held_out = [loaded.splits[name] for name in ("validation", "calibration", "test")]
    assert sorted(np.concatenate(held_out)) == list(range(8, 20))
    for indices in held_out:
        assert np.bincount(loaded.labels[indices]).tolist() == [2, 2]
        assert (np.diff(indices) > 0).all()
    same, other = load(root, seed=0), load(root, seed=1)
    assert same.split_digest == load(root).split_digest
    assert same.split_digest != other.split_digest
    assert same.digest == other.digest


def test_shares_below_one_leave_images_out(root: Path) -> None:
    splits = load(root, validation=0.5, test=0.2).splits
    assert [len(splits[name]) for name in ("validation", "calibration", "test")] == [6, 0, 2]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"validation": 0.95, "test": 0.05}, r"test = 0\.05 leaves class 'cat' without an image"),
        ({"calibration": 0.01, "test": 0.4}, r"calibration = 0\.01 leaves class 'cat'"),
    ],
)
def test_shares_that_leave_a_class_without_an_image_are_refused(
    root: Path, shares: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load(root, **shares)


def test_pictures_are_decoded_only_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(root)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(decoded, "decode", never)
    again = load(root)
    assert again.digest == first.digest
    with pytest.raises(AssertionError, match="decoded again"):
        load(root, base_side=8)


def test_a_changed_picture_is_decoded_again(root: Path) -> None:
    before = load(root)
    Image.new("RGB", (20, 20), "red").save(root / "train/cat/0.png")
    after = load(root)
    assert after.digest != before.digest
    assert after.split_digest == before.split_digest
    assert (after.base[0] == [255, 0, 0]).all()


def test_the_digest_does_not_depend_on_where_the_folder_lies(root: Path) -> None:
    before = load(root).digest
    moved = root.rename(root.parent / "moved")
    assert load(moved).digest == before


@pytest.mark.parametrize("name", ["about.json", "base.npy"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\x93NUMPY garbage"])
def test_a_damaged_cache_is_made_anew(root: Path, name: str, content: bytes) -> None:
    before = load(root)
    digest = before.digest
    (kept,) = (root.parent / "cache").glob(f"*/{name}")
    del before
    kept.unlink()
    kept.write_bytes(content)
    again = load(root)
    assert again.digest == digest
    np.testing.assert_array_equal(again.base[0], decode(root / again.images[0], 16, "a"))


def test_a_changed_pixel_of_the_cache_is_told_and_decoded_again(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = load(root).digest
    (kept,) = (root.parent / "cache").glob("*/base.npy")
    content = bytearray(kept.read_bytes())
    content[-7] ^= 4
    kept.unlink()
    kept.write_bytes(content)
    again = load(root)
    assert again.digest == before
    np.testing.assert_array_equal(again.base[-1], decode(root / again.images[-1], 16, "a"))
    (record,) = caplog.records
    assert record.getMessage() == f"{kept.parent}: damaged decoded images; they are decoded again"
    caplog.clear()
    load(root)
    assert not caplog.records


def test_hidden_files_are_left_out_and_subfolders_read(root: Path) -> None:
    (root / "train/cat/.DS_Store").write_bytes(b"x")
    (root / "train/.hidden").mkdir()
    (root / "train/cat/deep").mkdir()
    Image.new("L", (20, 20), 9).save(root / "train/cat/deep/z.jpg")
    loaded = load(root)
    assert "train/cat/deep/z.jpg" in loaded.images
    assert len(loaded.images) == 21


def remove(folder: Path) -> None:
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    folder.rmdir()


def test_bad_folders_are_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"root: no folder .*nowhere; expected ROOT"):
        load(root / "nowhere")
    (root / "val/dog").rename(root / "val/wolf")
    with pytest.raises(InputError, match=r"class 'dog' is in .*train but not in .*val"):
        load(root)
    (root / "val/wolf").rename(root / "val/dog")
    (root / "val/wolf").mkdir()
    with pytest.raises(InputError, match=r"class 'wolf' is in .*val but not in .*train"):
        load(root)
    (root / "train/wolf").mkdir()
    with pytest.raises(InputError, match=r"class folder .*train/wolf is empty"):
        load(root)
    for part in ("train", "val"):
        remove(root / part / "wolf")
        remove(root / part / "dog")
    with pytest.raises(InputError, match="has 1 class folders, at least 2"):
        load(root)
    remove(root / "val")
    with pytest.raises(InputError, match=r"has no folder 'val'"):
        load(root)


def test_an_unreadable_image_is_named_and_nothing_is_left(root: Path) -> None:
    (root / "val/dog/notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"val/dog/notes\.txt: not an image"):
        load(root)
    (root / "val/dog/notes.txt").unlink()
    whole = (root / "val/dog/0.png").read_bytes()
    (root / "val/dog/0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"val/dog/0\.png: damaged or truncated"):
        load(root)
    assert {file.suffix for file in (root.parent / "cache").iterdir()} == {".lock", ".json"}


def test_a_full_disk_is_named_and_nothing_is_left(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(decoded, "_write_base", full)
    with pytest.raises(InputError, match=r"cache: no space left on the disk \(0\.0 GB needed\)"):
        load(root)
    assert {file.suffix for file in (root.parent / "cache").iterdir()} == {".lock", ".json"}


def test_a_cache_that_cannot_be_written_is_named(root: Path) -> None:
    (root.parent / "file").write_text("")
    with pytest.raises(InputError, match="cannot keep decoded images"):
        load(root, cache=root.parent / "file")


_LOAD = """
import os
import signal
import sys
from pathlib import Path
# Whatever started the tests, a shell in the background perhaps, may have had it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from rcopt.data import decoded as data
from tests.support.datasets import load_pictures
if len(sys.argv) > 3:
    import time
    plain = data.decode
    def slow(*a, **options):
        os.write(1, b"decoding\\n")  # at once, for two threads decode
        time.sleep(0.2)
        return plain(*a, **options)
    data.decode = slow
    data.CHUNK = 3
d = load_pictures(Path(sys.argv[1]), Path(sys.argv[2]))
print(d.digest)
"""


def started(root: Path, *extra: str) -> subprocess.Popen[str]:
    command: Sequence[str] = [sys.executable, "-c", _LOAD, str(root), str(root.parent / "cache")]
    return subprocess.Popen(
        [*command, *extra], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_decoding_goes_on(
    root: Path, sent: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = started(root, "slow")
    assert process.stdout is not None
    for _ in range(9):  # two chunks of three are done
        assert process.stdout.readline() == "decoding\n"
    process.send_signal(sent)
    process.communicate(timeout=60)
    cache = root.parent / "cache"
    assert not list(cache.glob("*/about.json"))
    calls = counted(monkeypatch)
    assert load(root).digest == load(root, cache=root.parent / "other").digest
    assert 20 < len(calls) <= 20 + 14
    assert not list(cache.glob("*.part"))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is decoded from now on."""
    calls: list[object] = []

    def watched(file: Path, *rest: Any, **options: Any) -> Any:
        calls.append(file)
        return decode(file, *rest, **options)

    monkeypatch.setattr(decoded, "decode", watched)
    return calls


@pytest.mark.parametrize("damaged", ["base.npy", "done.jsonl"])
def test_what_is_damaged_of_an_interrupted_decoding_is_done_again(
    root: Path, damaged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(BaseException):
        pass

    def stop(done: int, total: int) -> None:
        if done >= 12:
            raise Stopped

    monkeypatch.setattr(decoded, "CHUNK", 4)
    cache = root.parent / "cache"
    settings = DataSettings(source="folder", root=str(root))
    with pytest.raises(Stopped):
        load_data(settings, root=root, base_side=16, seed=0, cache=cache, progress=stop)
    (part,) = cache.glob("*.part")
    content = bytearray((part / damaged).read_bytes())
    content[-3] ^= 1
    (part / damaged).write_bytes(content)
    calls = counted(monkeypatch)
    told: list[int] = []
    found = load_data(
        settings,
        root=root,
        base_side=16,
        seed=0,
        cache=cache,
        progress=lambda n, _: told.append(n),
    )
    assert (len(calls), told) == (12, [8, 12, 16, 20])
    assert found.digest == load(root, cache=root.parent / "other").digest


def test_pipes_and_devices_are_named_at_every_look(root: Path) -> None:
    os.mkfifo(root / "train/cat/odd.png")
    for _ in range(2):
        with pytest.raises(InputError, match="not an ordinary file"):
            load(root)


def test_scaled_decoding_is_near_the_full_one_and_kept_apart(root: Path) -> None:
    smooth = Image.effect_noise((40, 30), 60).resize((800, 600), Image.Resampling.BICUBIC)
    for number in range(2):
        smooth.rotate(90 * number).save(root / "train" / "cat" / f"large{number}.jpg", quality=90)
    full, scaled = load(root), load(root, scaled_jpeg=True)
    assert full.digest != scaled.digest
    off = np.abs(full.base.astype(int) - scaled.base)
    large = ["large" in name for name in full.images]
    assert not off[np.logical_not(large)].any()
    # Noise as fine as the base's pixels, which photographs hardly have.
    assert 0 < off[large].mean() < 6
    assert off.max() < 32


@pytest.mark.slow
def test_processes_that_decode_at_once_agree(root: Path) -> None:
    processes = [started(root) for _ in range(3)]
    said = {process.communicate(timeout=100)[0] for process in processes}
    assert said == {load(root).digest + "\n"}


def test_digits_are_cut_stratified_and_seeded() -> None:
    digits = load(None, base_side=32)
    assert digits.base.shape == (1797, 32, 32, 3)
    assert not digits.base.flags.writeable
    assert {name: len(i) for name, i in digits.splits.items()} == {
        "train": 1078,
        "validation": 359,
        "calibration": 0,
        "test": 360,
    }
    per_class = np.bincount(digits.labels[digits.splits["train"]]) / np.bincount(digits.labels)
    assert np.abs(per_class - 0.6).max() < 0.01
    assert digits.digest == load(None, base_side=32).digest
    assert digits.digest != load(None, base_side=32, seed=1).digest
    assert all(digits.images[i].startswith("train/") for i in digits.splits["train"])
    assert all(digits.images[i].startswith("val/") for i in digits.splits["test"])


def test_digits_look_like_the_scans() -> None:
    from sklearn.datasets import load_digits

    base = load(None, base_side=32).base
    assert (base[..., 0] == base[..., 2]).all()
    coarse = base[..., 0].reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))
    flat, scans = coarse.ravel(), load_digits().images.ravel()
    assert np.corrcoef(flat, scans)[0, 1] > 0.95


def fake_imagenette(root: Path, made: list[Path]) -> type:
    class Imagenette:
        def __init__(self, folder: Path, *, split: str, size: str, download: bool) -> None:
            assert (split, size, download) == ("train", "320px", True)
            made.append(folder)
            target = folder / "imagenette2-320"
            target.mkdir()
            for part in ("train", "val"):
                (root / part).rename(target / part)

    return Imagenette


@pytest.mark.parametrize("place", ["imagenette2-320", "images"])
def test_imagenette_is_downloaded_where_it_is_missing(
    root: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    datasets = import_torchvision("torchvision.datasets")
    for part in ("train", "val"):
        (root / part / "cat").rename(root / part / "n02979186")
    made: list[Path] = []
    monkeypatch.setattr(datasets, "Imagenette", fake_imagenette(root, made))
    target = root.parent / "data" / place
    cache = root.parent / "cache"
    loaded = load(target, source="imagenette", cache=cache)
    assert loaded.classes == ("dog", "cassette player")
    assert load(target, source="imagenette", cache=cache).digest == loaded.digest
    assert len(made) == 1
    assert not list((root.parent / "data").rglob("*.part"))


def test_a_failed_download_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = import_torchvision("torchvision.datasets")

    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "Imagenette", fail)
    with pytest.raises(WorkError, match=r"cannot download Imagenette \(no route to host\)"):
        load(tmp_path / "imagenette2-320", source="imagenette", cache=tmp_path / "cache")
    assert not [f for f in tmp_path.iterdir() if not f.name.endswith(".lock")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "web"}, "expected one of predictions, digits, folder, imagenette"),
        ({"source": "folder"}, 'root is needed with source = "folder"'),
        ({"validation": 0.0}, "validation and test must be above 0"),
        ({"test": 0.0}, "validation and test must be above 0"),
        ({"calibration": -0.1}, "greater than or equal to 0"),
        ({"validation": 0.8}, "must not exceed 1"),
        ({"validation": float("nan")}, "less than or equal to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataSettings(**settings)
