"""The range of samples of more than 8 bits: one for a whole data set."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

import numpy as np
from PIL import Image

#: What is black and what is white among the samples of deep pictures.
Levels = tuple[float, float]

#: Whole samples are taken to have one of these numbers of bits, as sensors and formats do.
_BITS = (8, 10, 12, 14, 16)

#: Fractions below this are meant to lie in 0..1, though resampling may overshoot.
_UNIT_FLOATS = 16


def is_deep(image: Image.Image) -> bool:
    """Return whether a picture has samples of more than 8 bits that Pillow keeps."""
    return image.mode == "F" or image.mode.startswith("I")


def levels_of(files: Sequence[Path]) -> tuple[Levels | None, tuple[str, ...]]:
    """Return the range of the samples of all deep pictures, and what to tell about it.

    Modes say little: floats are in 0..1 or in anything, 16 bits may hold 12. So the data set's
    own range decides, the same for every picture: for fractions from 0 to 1, or to the largest
    sample where resampling overshot; for whole numbers and larger floats from 0 to the largest
    value of the fewest usual bits (8, 10, 12, 14, 16) that hold all samples; from the smallest
    to the largest sample otherwise.

    Args:
        files: Of the data set; those that cannot be read are left to decoding.
    """
    with ThreadPoolExecutor(max_workers=min(16, cpu_count() or 1)) as pool:
        ranges = [found for found in pool.map(_range, files) if found is not None]
    if not ranges:
        return None, ()
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    whole = all(r[2] for r in ranges)
    levels = settle(low, high, whole=whole)
    text = (
        f"{len(ranges)} pictures have samples of more than 8 bits, from {low:g} to {high:g}: "
        f"{levels[0]:g} is taken as black and {levels[1]:g} as white"
    )
    return levels, (text,)


def settle(low: float, high: float, *, whole: bool) -> Levels:
    """Return black and white for samples between two values.

    Args:
        low: Smallest sample of the data set.
        high: Largest one.
        whole: Whether all are whole numbers.

    Example:
        >>> settle(0, 4000, whole=True), settle(0.1, 0.9, whole=False)
        ((0.0, 4095.0), (0.0, 1.0))
    """
    if low < 0:
        return float(low), float(high)
    if high < _UNIT_FLOATS and not whole:
        return 0.0, max(1.0, float(high))
    for bits in _BITS:
        if high <= 2**bits - 1:
            return 0.0, float(2**bits - 1)
    return 0.0, float(high)


def _range(file: Path) -> tuple[float, float, bool] | None:
    # JPEG files have 8 bits, and are most of what there is.
    if file.suffix.lower() in (".jpg", ".jpeg") or not file.is_file():
        return None
    try:
        with warnings.catch_warnings(), Image.open(file) as image:
            if not is_deep(image):
                return None
            samples = np.asarray(image)
    except Exception:  # Pillow raises anything on damaged files; decoding names them
        return None
    finite = samples[np.isfinite(samples)]
    if not finite.size:
        return None
    whole = bool((finite == np.rint(finite)).all())
    return float(finite.min()), float(finite.max()), whole
