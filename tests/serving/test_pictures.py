import base64
import struct
import zlib
from pathlib import Path

import pytest

from rcopt.errors import InputError
from rcopt.serving.bundle import LoadedCascade, open_cascade, save_cascade
from rcopt.serving.pictures import Answer, answer_rows, predict_files
from tests.support.packaging_helpers import base_images, make_package, picture, save_stage_weights


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedCascade:
    folder = tmp_path_factory.mktemp("served")
    save_cascade(folder / "cascade", make_package(), save_stage_weights(folder))
    return open_cascade(folder / "cascade")


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def huge_png() -> bytes:
    """Return a 100-megapixel picture in some hundred bytes of header."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


BAD_ROWS = {
    "": "empty",
    "   ": "empty",
    "!!!": "not base64",
    "AAA": "not base64",
    "ümlaut": "not base64",
    encoded(b"hello, I am text"): "not an image",
    encoded(picture(1)[:200]): "damaged or truncated",
    encoded(huge_png()): "too large",
}


def test_rows_get_the_answers_of_the_executor(loaded: LoadedCascade) -> None:
    answers = answer_rows(loaded, [encoded(picture(i)) for i in range(70)])
    output = loaded.executor(base_images(70))
    assert [a.class_name for a in answers] == [loaded.classes[c] for c in output.classes]
    assert [a.stage for a in answers] == output.stages.tolist()
    assert {a.stage for a in answers} == {0, 1}
    assert {(a.stage, a.stage_name, a.flops) for a in answers} == {
        (0, "mobilenet_v2-0.1@32", 1e6),
        (1, "mobilenet_v2-0.2@48", 6e6),
    }
    assert [a.probability for a in answers] == pytest.approx(
        output.probabilities.amax(dim=1).tolist(), abs=1e-4
    )


@pytest.mark.parametrize(
    "row", [*BAD_ROWS, None, 7, 1.5, float("nan")], ids=lambda r: repr(r)[:12]
)
def test_a_bad_row_gets_an_error_and_spoils_no_other(loaded: LoadedCascade, row: object) -> None:
    good = encoded(picture(3))
    before, bad, after = answer_rows(loaded, [good, row, good])
    expected = BAD_ROWS[row] if isinstance(row, str) else "empty"
    assert bad == Answer("row 1", error=bad.error)
    assert str(bad.error).startswith("row 1: ")
    assert expected in str(bad.error)
    assert before.error is None
    assert before.class_name == after.class_name


def test_base64_broken_into_lines_is_read(loaded: LoadedCascade) -> None:
    content = picture(4)
    broken, whole = answer_rows(loaded, [base64.encodebytes(content).decode(), encoded(content)])
    assert broken.error is None
    assert broken.probability == whole.probability


def test_no_rows_give_no_answers(loaded: LoadedCascade) -> None:
    assert answer_rows(loaded, []) == []


def test_files_and_folders_are_answered_in_order(loaded: LoadedCascade, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    files = [tmp_path / "in" / name for name in ("a.png", "b.JPG", "deep/c.webp")]
    for i, file in enumerate(files):
        kind = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[file.suffix.lower()]
        file.write_bytes(picture(i, kind=kind))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    single = tmp_path / "single"  # a picture without a suffix, named itself
    single.write_bytes(picture(9))
    answers = list(predict_files(loaded, [single, tmp_path / "in"], batch_size=2))
    assert [a.file for a in answers] == [str(f) for f in (single, *files)]
    assert [a.error for a in answers] == [None] * 4


def test_files_and_rows_of_one_content_get_one_answer(
    loaded: LoadedCascade, tmp_path: Path
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(picture(5, kind="JPEG"))
    (file,) = predict_files(loaded, [path])
    (row,) = answer_rows(loaded, [encoded(path.read_bytes())])
    assert file.to_dict() | {"file": ""} == row.to_dict() | {"file": ""}


def test_files_that_cannot_be_read_get_an_error(loaded: LoadedCascade, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(picture(0))
    bad.write_bytes(b"")
    answers = list(predict_files(loaded, [bad, good, tmp_path / "gone.png"]))
    assert [a.error is None for a in answers] == [False, True, False]
    assert "bad.png: not an image" in str(answers[0].error)
    assert "gone.png: no such file" in str(answers[2].error)


def test_a_folder_without_pictures_is_refused(loaded: LoadedCascade, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures in this folder"):
        predict_files(loaded, [tmp_path])


def test_memory_is_bounded_by_the_batch(loaded: LoadedCascade, tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    answers = predict_files(loaded, [tmp_path], batch_size=2)
    next(answers)
    (tmp_path / "4.png").unlink()  # not read yet
    assert [a.error is None for a in answers] == [True, True, True, False]
