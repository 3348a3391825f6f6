"""The one decoding and the one resize that training, prediction and serving share."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from rcopt.errors import InputError

#: Refuse larger images unread; below Pillow's own limit of 89 million pixels.
MAX_PIXELS = 64_000_000
#: Channel statistics of ImageNet in units of 0..255, as torchvision's weights expect them.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

# EPS is left out because Pillow hands it to Ghostscript, an outside program, to be executed.
_REFUSED_FORMATS = frozenset({"EPS"})


def decode(file: Path | bytes | bytearray | memoryview, side: int, name: str) -> NDArray[np.uint8]:
    """Decode a picture into a square RGB base image.

    EXIF orientation is applied, of an animation the first frame is taken, transparency is laid
    on white, 16-bit samples lose their lower byte. The largest centred square is resized to
    ``side`` with an antialiased bilinear filter; a short side that already equals ``side`` is
    only cropped, so such pixels stay as they are.

    Args:
        file: A path, or the content of a file.
        side: Side of the result in pixels.
        name: What to call the picture in errors.

    Returns:
        (side, side, 3) uint8.

    Raises:
        InputError: If it is not an image, is damaged or truncated, or is larger than
            `MAX_PIXELS`.
    """
    try:
        if isinstance(file, Path) and file.exists() and not file.is_file():
            # Opening a pipe would wait for ever.
            raise InputError(
                f"{name}: not an ordinary file but a folder, a pipe or a device; remove it"
            )
        # Opened here, for Pillow leaves the file of some damaged pictures open.
        opened = file.open("rb") if isinstance(file, Path) else io.BytesIO(file)
        with _quiet_pillow(), opened, Image.open(opened, formats=_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(name, f"{image.width} x {image.height} pixels")
            image.load()
            return np.array(_square(_to_rgb(_upright(image)), side))
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: not an image that can be read; remove the file or replace it"
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(name, "far more pixels") from None
    except FileNotFoundError:
        raise InputError(f"{name}: no such file; check the path") from None
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise InputError(
            f"{name}: damaged or truncated image ({_one_line(error)}); replace the file"
        ) from None


def stage_input(base: Tensor, resolution: int) -> Tensor:
    """Make a stage's input from base images.

    An antialiased bilinear resize, rounded to whole grey levels, then `MEAN` and `STD`. Each
    image is treated alone: neither batch size nor neighbours change its pixels. The CPU's
    integer kernel and the float one elsewhere differ by at most one grey level.

    Args:
        base: (B, S, S, 3) uint8, B may be 0.
        resolution: Side of the input in pixels.

    Returns:
        (B, 3, resolution, resolution) float32, channels last in memory.

    Raises:
        ValueError: If ``base`` has another type or shape.
    """
    if base.dtype != torch.uint8 or base.ndim != 4 or base.shape[3] != 3:
        raise ValueError(
            f"base must be uint8 of shape (B, S, S, 3), got {base.dtype} {tuple(base.shape)}"
        )
    pixels = base.permute(0, 3, 1, 2)
    size = (resolution, resolution)
    if pixels.shape[2:] != size and len(base):
        if base.device.type == "cpu":
            pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        else:
            resized = functional.interpolate(pixels.float(), size, mode="bilinear", antialias=True)
            pixels = resized.round().clamp(0, 255)
    elif not len(base):
        pixels = pixels.new_empty((0, 3, *size))
    return normalize(pixels)


def normalize(pixels: Tensor) -> Tensor:
    """Return (B, 3, H, W) pixel values in 0..255 as float32 with `MEAN` 0 and `STD` 1."""
    mean, std = _constants(pixels.device)
    # In place on a copy: fresh memory for each step costs more than the arithmetic.
    scaled = pixels.to(torch.float32, copy=True).sub_(mean).div_(std)
    return scaled.contiguous(memory_format=torch.channels_last)


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return `MEAN` and `STD` on a device: copied there once, for each copy waits for it."""
    mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
    return mean, torch.tensor(STD, device=device).view(3, 1, 1)


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in _REFUSED_FORMATS]


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError):
        return image  # a damaged EXIF block says nothing about the pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        levels = np.nan_to_num(np.asarray(image)).clip(0, 255)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, side: int) -> Image.Image:
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    box = (left, top, left + short, top + short)
    if short == side:
        return image.crop(box)
    return image.resize((side, side), Image.Resampling.BILINEAR, box=box)


def _too_large(name: str, size: str) -> InputError:
    return InputError(
        f"{name}: image too large ({size}, at most {MAX_PIXELS:,} allowed); shrink it first"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# warnings.catch_warnings is not safe in threads before Python 3.14: two threads that leave in
# another order than they entered restore the wrong filters. So the first thread in sets the
# filters and the last one out restores them.
_lock = threading.Lock()
_inside = 0
_guard = ExitStack()


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    global _inside
    with _lock:
        if _inside == 0:
            _guard.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _guard.close()
