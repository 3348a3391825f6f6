"""Small pictures of a data set's images."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


def thumbnails(
    images: Sequence[str], base: NDArray[np.uint8], side: int = 104
) -> Callable[[str], bytes | None]:
    """Return a function from an image's name to its picture as a JPEG file.

    Args:
        images: N names.
        base: (N, S, S, 3) pixels in the same order; only rows asked for are read.
        side: Of the picture in pixels; smaller images keep their pixels, enlarged unsmoothed.
    """
    from PIL import Image

    rows = {name: row for row, name in enumerate(images)}

    def picture(name: str) -> bytes | None:
        row = rows.get(name)
        if row is None:
            return None
        pixels = Image.fromarray(np.ascontiguousarray(base[row]))
        enlarged = pixels.width < side
        method = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
        buffer = io.BytesIO()
        pixels.resize((side, side), method).save(buffer, format="JPEG", quality=82)
        return buffer.getvalue()

    return picture
