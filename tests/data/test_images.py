import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from rcopt.data import images
from rcopt.data.images import decode, normalize, stage_input
from rcopt.data.preprocessing import IMAGENET
from rcopt.errors import InputError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def gradient(width: int, height: int) -> NDArray[np.uint8]:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x % 256, y % 256, (x + y) % 256], axis=2).astype(np.uint8)


def test_decode_crops_the_centre_and_keeps_pixels_when_the_short_side_fits() -> None:
    pixels = gradient(50, 32)
    base = decode(encoded(Image.fromarray(pixels)), 32, "a")
    assert base.dtype == np.uint8
    np.testing.assert_array_equal(base, pixels[:, 9:41])


def test_decode_shrinks_with_antialiasing() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    base = decode(encoded(Image.fromarray(stripes)), 8, "a")
    assert np.abs(base.astype(int) - 127).max() < 20


def test_decode_enlarges_small_pictures() -> None:
    assert decode(encoded(Image.new("RGB", (3, 5), "red")), 32, "a").shape == (32, 32, 3)


def test_decode_reads_paths_and_any_bytes(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(gradient(20, 20)))
    (tmp_path / "a.png").write_bytes(content)
    expected = decode(tmp_path / "a.png", 16, "a")
    for same in (content, bytearray(content), memoryview(content)):
        np.testing.assert_array_equal(decode(same, 16, "a"), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"])
def test_decode_reads_common_formats(kind: str) -> None:
    base = decode(encoded(Image.new("RGB", (32, 32), (200, 100, 50)), kind), 32, "a")
    assert np.abs(base.astype(int) - [200, 100, 50]).max() <= 8


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("LA", (77, 255), (77, 77, 77)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
    ],
)
def test_decode_turns_modes_into_rgb_on_white(
    mode: str, colour: int | tuple[int, ...], expected: tuple[int, int, int]
) -> None:
    base = decode(encoded(Image.new(mode, (8, 8), colour)), 8, "a")
    np.testing.assert_allclose(base[4, 4], expected, atol=1)


def test_decode_reads_cmyk() -> None:
    base = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), 16, "a")
    assert base[8, 8, 0] > 200
    assert base[8, 8, 1:].max() < 60


def test_decode_reads_palettes_with_transparency() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    opaque = decode(encoded(image), 8, "a")
    assert tuple(opaque[0, 0]) == (255, 0, 0)
    assert tuple(decode(encoded(image, transparency=1), 8, "a")[0, 0]) == (255, 255, 255)
    assert tuple(decode(encoded(image, transparency=b"\x00\x80"), 8, "a")[0, 0]) != (255, 0, 0)


def test_decode_keeps_the_upper_byte_of_16_bit_samples() -> None:
    levels = np.full((8, 8), 200 * 256 + 99, np.uint16)
    assert (decode(encoded(Image.fromarray(levels)), 8, "a") == 200).all()


def test_decode_scales_deep_samples_by_the_levels_given() -> None:
    samples = np.array([[-5.0, 300.0], [np.nan, 100.0]], np.float32)
    base = decode(encoded(Image.fromarray(samples), "TIFF"), 2, "a", (0.0, 200.0))
    np.testing.assert_array_equal(base[..., 0], [[0, 255], [0, 127]])


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[0.0, 0.5], [0.25, 1.0]], np.float32), [[0, 128], [64, 255]]),
        (np.array([[0.0, 128.0], [64.0, 255.0]], np.float32), [[0, 128], [64, 255]]),
        (np.array([[-1.0, 0.0], [0.5, 1.0]], np.float32), [[0, 128], [191, 255]]),
        (np.array([[0, 2048], [1024, 4095]], np.uint16), [[0, 128], [64, 255]]),
        (np.array([[0, 32768], [16384, 65535]], np.uint16), [[0, 128], [64, 255]]),
        (np.array([[0, 600], [300, 1000]], np.int32), [[0, 150], [75, 249]]),
        (np.array([[-100, 0], [50, 100]], np.int32), [[0, 128], [191, 255]]),
    ],
    ids=["0..1", "0..255", "-1..1", "12 bits", "16 bits", "10 bits", "signed"],
)
def test_without_levels_deep_samples_are_scaled_by_their_own_range(
    samples: np.ndarray, expected: list[list[int]]
) -> None:
    base = decode(encoded(Image.fromarray(samples), "TIFF"), 2, "a")
    assert np.abs(base[..., 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_applies_exif_orientation(orientation: int) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8, :8] = (255, 0, 0)
    turn = {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: lambda p: np.swapaxes(p, 0, 1),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(np.swapaxes(p, 0, 1), 2),
        8: lambda p: np.rot90(p, 3),
    }[orientation]
    stored = Image.fromarray(np.ascontiguousarray(turn(pixels)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(encoded(stored, exif=exif), 16, "a"), pixels)


def test_decode_ignores_a_damaged_exif_block() -> None:
    image = Image.new("RGB", (8, 8), "red")
    content = encoded(image, "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xffgarbage")
    assert decode(content, 8, "a")[4, 4, 0] > 200


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_decode_names_a_truncated_image(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    with pytest.raises(InputError, match=r"^holiday\.x: (damaged or truncated|not an image)"):
        decode(content[: len(content) * 2 // 3], 32, "holiday.x")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "BLP"])
def test_decode_of_damaged_bytes_gives_pixels_or_a_one_line_error(kind: str) -> None:
    if kind not in Image.registered_extensions().values():
        pytest.skip(f"this Pillow has no {kind}")
    rng = np.random.default_rng(7)
    noise = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    sound = encoded(noise.quantize() if kind == "BLP" else noise, kind)
    refused = 0
    for _ in range(60):
        damaged = bytearray(sound)
        for place in rng.integers(0, len(damaged), 4) % rng.choice([64, 10**6], 4):
            damaged[place] = rng.integers(0, 256)
        try:
            assert decode(bytes(damaged), 8, "x").shape == (8, 8, 3)
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_decode_names_what_is_not_an_image(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^notes\.txt: (not an image|damaged)") as caught:
        decode(content, 32, "notes.txt")
    assert "\n" not in str(caught.value)


def test_decode_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        decode(tmp_path / "none.png", 32, "none.png")


def test_decode_does_not_run_ghostscript() -> None:
    content = encoded(Image.new("RGB", (8, 8)), "EPS")
    with pytest.raises(InputError, match="not an image"):
        decode(content, 8, "a.eps")


@pytest.mark.parametrize("side", [8_001, 30_000])
def test_decode_refuses_huge_images_unread(side: int) -> None:
    small = bytearray(encoded(Image.new("L", (8, 8))))
    struct.pack_into(">II", small, 16, side, side)
    struct.pack_into(">I", small, 29, zlib.crc32(bytes(small[12:29])))
    with pytest.raises(InputError, match="too large"):
        decode(bytes(small), 32, "bomb.png")


def test_decode_in_threads_leaves_the_warning_filters_as_they_were() -> None:
    before = list(warnings.filters)
    content = encoded(Image.fromarray(gradient(300, 300)))
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: decode(content, 16, "a"), range(64)))
    assert len(done) == 64
    assert list(warnings.filters) == before
    assert images._inside == 0


def test_stage_input_is_near_the_float_resize() -> None:
    base = torch.from_numpy(gradient(96, 96))[None]
    got = stage_input(base, 32)
    resized = torch.nn.functional.interpolate(
        base.permute(0, 3, 1, 2).float(), (32, 32), mode="bilinear", antialias=True
    )
    assert got.shape == (1, 3, 32, 32)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert (got - normalize(resized)).abs().max() < 1.0 / 57


@pytest.mark.parametrize("resolution", [32, 48, 64])
def test_stage_input_does_not_depend_on_the_batch(resolution: int) -> None:
    rng = np.random.default_rng(1)
    base = torch.from_numpy(rng.integers(0, 256, (7, 48, 48, 3), dtype=np.uint8))
    together = stage_input(base, resolution)
    for number in range(7):
        alone = stage_input(base[number : number + 1], resolution)
        assert torch.equal(alone[0], together[number])


def test_stage_input_only_normalizes_at_the_base_resolution() -> None:
    base = torch.from_numpy(gradient(16, 16))[None]
    mean, std = torch.tensor(IMAGENET.mean), torch.tensor(IMAGENET.std)
    expected = ((base.float() - mean) / std).permute(0, 3, 1, 2)
    assert torch.equal(stage_input(base, 16), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalizing_leaves_its_input_as_it_was(dtype: torch.dtype) -> None:
    pixels = torch.from_numpy(gradient(16, 16))[None].permute(0, 3, 1, 2).to(dtype)
    before = pixels.clone()
    assert not torch.equal(normalize(pixels), before)
    assert torch.equal(pixels, before)


def test_stage_input_takes_an_empty_batch() -> None:
    assert stage_input(torch.empty((0, 8, 8, 3), dtype=torch.uint8), 4).shape == (0, 3, 4, 4)


def test_stage_input_refuses_other_tensors() -> None:
    with pytest.raises(ValueError, match="base must be uint8"):
        stage_input(torch.zeros(1, 8, 8, 3), 4)
    with pytest.raises(ValueError, match="base must be uint8"):
        stage_input(torch.zeros((1, 3, 8, 8), dtype=torch.uint8), 4)
