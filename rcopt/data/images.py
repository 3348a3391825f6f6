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

from rcopt.data.levels import Levels, is_deep, settle
from rcopt.data.preprocessing import IMAGENET, Preprocessing
from rcopt.errors import InputError

#: Refuse larger images unread; below Pillow's own limit of 89 million pixels.
MAX_PIXELS = 64_000_000

# EPS is left out because Pillow hands it to Ghostscript, an outside program, to be executed.
_REFUSED_FORMATS = frozenset({"EPS"})

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = frozenset({b"iCCP", b"tEXt", b"zTXt", b"iTXt"})


def decode(
    file: Path | bytes | bytearray | memoryview,
    side: int,
    name: str,
    levels: Levels | None = None,
    *,
    scaled: bool = False,
) -> NDArray[np.uint8]:
    """Decode a picture into a square RGB base image.

    EXIF orientation is applied, of an animation the first frame is taken, transparency is laid
    on white. Samples of more than 8 bits are scaled by ``levels``. The largest centred square
    is resized to ``side`` with an antialiased bilinear filter; a short side that already equals
    ``side`` is only cropped, so such pixels stay as they are.

    Args:
        file: A path, or the content of a file.
        side: Side of the result in pixels.
        name: What to call the picture in errors.
        levels: What is black and what is white among samples of more than 8 bits; None takes
            the range of the picture's own (see `rcopt.data.levels.settle`).
        scaled: Let the JPEG decoder shrink large pictures by 2, 4 or 8 to at least twice
            ``side`` before the resize: faster, and nearly the same pixels.

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
            if scaled:
                image.draft(None, (2 * side, 2 * side))
            image.load()
            return np.array(_square(_to_rgb(_upright(image), levels), side))
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name}: not an image that can be read; remove the file or replace it"
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, "far more pixels") from error
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file; check the path") from error
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        bare = _without_metadata(file)
        if bare is not None:
            return decode(bare, side, name, levels, scaled=scaled)
        raise InputError(
            f"{name}: damaged or truncated image ({_one_line(error)}); replace the file"
        ) from error


def stage_input(base: Tensor, resolution: int, preprocessing: Preprocessing = IMAGENET) -> Tensor:
    """Make a stage's input from base images.

    An antialiased resize, rounded to whole grey levels, then normalization. Each image is
    treated alone: neither batch size nor neighbours change its pixels. The CPU's integer kernel
    and the float one elsewhere differ by at most one grey level.

    Args:
        base: (B, S, S, 3) uint8, B may be 0.
        resolution: Side of the input in pixels.
        preprocessing: What the stage's network wants.

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
        mode = preprocessing.interpolation
        if base.device.type == "cpu":
            pixels = functional.interpolate(pixels, size, mode=mode, antialias=True)
        else:
            resized = functional.interpolate(pixels.float(), size, mode=mode, antialias=True)
            pixels = resized.round().clamp(0, 255)
    elif not len(base):
        pixels = pixels.new_empty((0, 3, *size))
    return normalize(pixels, preprocessing)


def normalize(pixels: Tensor, preprocessing: Preprocessing = IMAGENET) -> Tensor:
    """Return (B, 3, H, W) pixel values in 0..255 as float32 with mean 0 and deviation 1."""
    mean, std = _constants(preprocessing, pixels.device)
    # In place on a copy: fresh memory for each step costs more than the arithmetic.
    scaled = pixels.to(torch.float32, copy=True).sub_(mean).div_(std)
    return scaled.contiguous(memory_format=torch.channels_last)


@cache
def _constants(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and deviation on a device: copied there once, for each copy waits for it."""
    mean = torch.tensor(preprocessing.mean, device=device).view(3, 1, 1)
    return mean, torch.tensor(preprocessing.std, device=device).view(3, 1, 1)


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in _REFUSED_FORMATS]


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError):
        return image  # a damaged EXIF block says nothing about the pixels


def _to_rgb(image: Image.Image, levels: Levels | None) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    if is_deep(image):
        samples = np.nan_to_num(
            np.asarray(image).astype(np.float64), posinf=np.inf, neginf=-np.inf
        )
        if levels is None:
            whole = bool((samples == np.rint(samples)).all())
            levels = settle(float(samples.min()), float(samples.max()), whole=whole)
        black, white_level = levels
        scaled = (samples - black) * (255 / max(white_level - black, 1e-300))
        return Image.fromarray(np.rint(scaled.clip(0, 255)).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _without_metadata(file: Path | bytes | bytearray | memoryview) -> bytes | None:
    """Return a PNG without its texts and colour profile, which may be larger than Pillow takes.

    None for other files, and where nothing is left out.
    """
    content = file.read_bytes() if isinstance(file, Path) else bytes(file)
    if not content.startswith(_PNG):
        return None
    kept, at = [_PNG], len(_PNG)
    left_out = False
    while at + 12 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        end = at + 12 + length
        if kind in _PNG_METADATA:
            left_out = True
        else:
            kept.append(content[at:end])
        at = end
    return b"".join(kept) if left_out else None


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
