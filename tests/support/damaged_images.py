"""Damaged and odd pictures, made from a seed; see `tests/damage.py` for how to repeat one."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from numpy.random import default_rng
from PIL import Image

from tests.support.damage import damage_bytes
from tests.support.generated_images import CLASSES, draw

Place = Callable[[random.Random, Path], Path]

_ORIENTATION = 0x0112


def place_damaged(rng: random.Random, folder: Path, stem: str) -> Path:
    """Put one damaged or odd picture into a folder; return its path."""
    return rng.choice(PLACES)(rng, folder / stem)


def _picture(rng: random.Random) -> Image.Image:
    return draw(rng.choice(CLASSES), 24, default_rng(rng.randrange(2**31)))


def _encoded(rng: random.Random) -> tuple[bytes, str]:
    kind = rng.choice(
        ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "TGA", "JPEG2000")
    )
    buffer = io.BytesIO()
    picture = _picture(rng)
    picture.save(buffer, kind)
    return buffer.getvalue(), f".{kind.lower()}"


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --- files that are broken ---


def _broken(rng: random.Random, path: Path) -> Path:
    content, suffix = _encoded(rng)
    return _write(path.with_suffix(suffix), damage_bytes(rng, content))


def _cut_short(rng: random.Random, path: Path) -> Path:
    content, suffix = _encoded(rng)
    return _write(path.with_suffix(suffix), content[: rng.randrange(len(content))])


def _no_bytes(rng: random.Random, path: Path) -> Path:
    return _write(path.with_suffix(rng.choice((".png", ".jpg", ".gif", ""))), b"")


def _no_image(rng: random.Random, path: Path) -> Path:
    content = rng.choice(
        (
            b"these are no pixels",
            b"%PDF-1.4\n%%EOF",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
            b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
            b"PK\x03\x04" + b"\0" * 30,
            b"\x80\x04\x95\x05\0\0\0\0\0\0\0K\x01.",
            rng.randbytes(500),
        )
    )
    return _write(path.with_suffix(rng.choice((".png", ".jpg", ".eps", ".txt"))), content)


def _wrong_suffix(rng: random.Random, path: Path) -> Path:
    content, _ = _encoded(rng)
    return _write(path.with_suffix(rng.choice((".png", ".jpg", ".txt", ".mp4", ""))), content)


# --- bombs: small files that claim or unpack to far too much ---


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        crc = zlib.crc32(name + content)
        body += struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)
    return body


def _bomb(rng: random.Random, path: Path) -> Path:
    side = rng.choice((8_001, 20_000, 60_000, 2**31 - 1))
    if rng.random() < 0.3:  # a text chunk that unpacks to 50 MB
        text = b"note\0\0" + zlib.compress(b"\0" * 50_000_000, 9)
        return _write(path.with_suffix(".png"), _png(8, 8, (b"zTXt", text)))
    if rng.random() < 0.5:
        pixels = zlib.compress(b"\0" * 1000)
        return _write(path.with_suffix(".png"), _png(side, side, (b"IDAT", pixels)))
    if rng.random() < 0.5:
        head = struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54)
        info = struct.pack("<IiiHHIIiiII", 40, side, -side, 1, 24, 0, 0, 0, 0, 0, 0)
        return _write(path.with_suffix(".bmp"), head + info)
    frame = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + b"\0" * 6
    frame += b"," + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\0\x02\x02L\x01\0;"
    return _write(path.with_suffix(".gif"), frame)


# --- sound pictures of unusual kinds ---


def _animated(rng: random.Random, path: Path) -> Path:
    frames = [_picture(rng) for _ in range(3)]
    path = path.with_suffix(rng.choice((".gif", ".webp", ".png")))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    return path


def _cmyk(rng: random.Random, path: Path) -> Path:
    path = path.with_suffix(rng.choice((".jpg", ".tiff")))
    _picture(rng).convert("CMYK").save(path)
    return path


def _deep(rng: random.Random, path: Path) -> Path:
    mode = rng.choice(("I;16", "I", "F"))
    path = path.with_suffix(".tiff" if mode != "I;16" else rng.choice((".png", ".tiff")))
    grey = _picture(rng).convert("L")
    image = grey.convert("I").point(lambda v: v * 257) if mode != "F" else grey.convert("F")
    image.convert(mode).save(path)
    return path


def _see_through(rng: random.Random, path: Path) -> Path:
    path = path.with_suffix(rng.choice((".png", ".gif")))
    rng_transparency: int | bytes = rng.randrange(256)
    if path.suffix == ".png" and rng.random() < 0.5:
        rng_transparency = bytes(rng.randrange(256) for _ in range(rng.choice((1, 100, 256))))
    _picture(rng).convert("P").save(path, transparency=rng_transparency)
    return path


def _exif(rng: random.Random, path: Path) -> Path:
    path = path.with_suffix(".jpg")
    if rng.random() < 0.5:
        exif = Image.Exif()
        exif[_ORIENTATION] = rng.choice((0, 1, 6, 8, 9, 255))
        _picture(rng).save(path, exif=exif)
    else:
        rubbish = b"Exif\0\0" + rng.choice((b"", b"II*\0\xff\xff\xff\xff", rng.randbytes(60)))
        _picture(rng).save(path, exif=rubbish)
    return path


def _extreme_shape(rng: random.Random, path: Path) -> Path:
    size = rng.choice(((1, 1), (1, 5000), (5000, 1), (2, 3)))
    path = path.with_suffix(rng.choice((".png", ".bmp", ".gif")))
    Image.new(rng.choice(("1", "L", "RGB", "P")), size).save(path)
    return path


# --- what is no ordinary file at all ---


def _folder_of_that_name(rng: random.Random, path: Path) -> Path:
    path = path.with_suffix(".png")
    path.mkdir()
    if rng.random() < 0.5:
        _picture(rng).save(path / "inside.png")
    return path


def _link(rng: random.Random, path: Path) -> Path:
    path = path.with_suffix(".png")
    path.symlink_to(
        rng.choice((path.name, "nowhere.png", "/dev/zero", "/dev/null", "/proc/self/mem"))
    )
    return path


def _linked_folder(rng: random.Random, path: Path) -> Path:
    path = path.with_suffix("")
    path.symlink_to(rng.choice((".", "..", "../..")), target_is_directory=True)
    other = path.with_name(path.name + "-too")
    other.symlink_to(".", target_is_directory=True)
    return path


def _pipe(rng: random.Random, path: Path) -> Path:
    path = path.with_suffix(".png")
    os.mkfifo(path)
    return path


def _unreadable(rng: random.Random, path: Path) -> Path:
    path = path.with_suffix(".png")
    _picture(rng).save(path)
    path.chmod(0)
    return path


def _odd_name(rng: random.Random, path: Path) -> Path:
    name = rng.choice(
        (b"\xff\xfe", b"a\nb", b"\x1b[31m", "名前😀".encode(), b" ", b"-x", b"%s", b"a" * 240)
    )
    odd = Path(os.fsdecode(os.fsencode(path.parent) + b"/" + name + b".png"))
    _picture(rng).save(odd)
    return odd


PLACES: tuple[Place, ...] = (
    _broken,
    _broken,
    _broken,
    _cut_short,
    _cut_short,
    _no_bytes,
    _no_image,
    _wrong_suffix,
    _bomb,
    _animated,
    _cmyk,
    _deep,
    _see_through,
    _exif,
    _extreme_shape,
    _folder_of_that_name,
    _link,
    _linked_folder,
    _pipe,
    _unreadable,
    _odd_name,
)
