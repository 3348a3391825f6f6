"""Small image folders with something to learn in them, in the formats people have.

Three classes of bright shapes on dark ground: discs, squares and bars. Shape and tint agree, so
a few epochs of a small network are above chance.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("bar", "disc", "square")

_TINTS = {"bar": (60, 90, 250), "disc": (250, 80, 60), "square": (70, 240, 80)}
_EXIF_ORIENTATION = 0x0112


def make_images(
    root: Path, *, train: int = 8, held_out: int = 8, side: int = 24, seed: int = 0
) -> Path:
    """Write ROOT/{train,val}/CLASS/IMAGE, every format of `FORMATS` in turn; return ROOT."""
    rng = np.random.default_rng(seed)
    writers = list(FORMATS.values())
    for part, count in (("train", train), ("val", held_out)):
        for name in CLASSES:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                writers[number % len(writers)](draw(name, side, rng), folder / f"{number}")
    return root


def draw(name: str, side: int, rng: np.random.Generator) -> Image.Image:
    """One picture of a class, a little wider than high."""
    ground = tuple(int(v) for v in rng.integers(0, 60, 3))
    image = Image.new("RGB", (side + 4, side), ground)
    tint = tuple(int(np.clip(v + rng.integers(-30, 30), 0, 255)) for v in _TINTS[name])
    x, y = (int(v) for v in rng.integers(2, side // 3, 2))
    size = side // 2
    pen = ImageDraw.Draw(image)
    if name == "disc":
        pen.ellipse((x, y, x + size, y + size), fill=tint)
    elif name == "square":
        pen.rectangle((x, y, x + size, y + size), fill=tint)
    else:
        pen.line((0, y, side + 4, y + size), fill=tint, width=max(2, side // 6))
    return image


def _plain_png(image: Image.Image, path: Path) -> None:
    image.save(path.with_suffix(".png"))


def _jpeg(image: Image.Image, path: Path) -> None:
    image.save(path.with_suffix(".JPEG"), quality=95)


def _grey(image: Image.Image, path: Path) -> None:
    image.convert("L").save(path.with_suffix(".png"))


def _cmyk(image: Image.Image, path: Path) -> None:
    image.convert("CMYK").save(path.with_suffix(".jpg"), quality=95)


def _alpha(image: Image.Image, path: Path) -> None:
    see_through = image.convert("RGBA")
    see_through.putalpha(230)
    see_through.save(path.with_suffix(".png"))


def _turned(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(
        path.with_suffix(".jpg"), quality=95, exif=exif
    )


def _palette(image: Image.Image, path: Path) -> None:
    image.convert("P").save(path.with_suffix(".gif"))


FORMATS: dict[str, Callable[[Image.Image, Path], None]] = {
    "png": _plain_png,
    "jpeg": _jpeg,
    "grey": _grey,
    "cmyk": _cmyk,
    "alpha": _alpha,
    "turned": _turned,
    "palette": _palette,
}
