"""A first look at a folder of pictures: how many, of what, how large; nothing is decoded."""

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from rcopt.data.sources.folder import listed
from rcopt.errors import InputError

#: Pictures whose size is read.
SAMPLE = 200


@dataclass(frozen=True)
class Survey:
    """What lies in a folder of pictures.

    Attributes:
        classes: Their names.
        sizes: Pictures of each part: ``train``, ``held_out``, ``validation``, ``test``, or
            ``all`` where there are no parts.
        smallest: The class with the fewest pictures to train on, and how many it has.
        short_side: Median of the shorter side in pixels, over `SAMPLE` pictures.
        notes: What loading it would tell.
    """

    classes: tuple[str, ...]
    sizes: Mapping[str, int]
    smallest: tuple[str, int]
    short_side: int
    notes: tuple[str, ...]


def survey(root: Path) -> Survey:
    """Look at a folder of pictures, laid out as `rcopt.data.sources.folder` reads it.

    Raises:
        InputError: If it is laid out otherwise, or none of the pictures tried can be opened.
    """
    found = listed(root)
    training = [
        label
        for label, part in zip(found.labels, found.part_of, strict=True)
        if part in ("train", "all")
    ]
    label, count = min(Counter(training).items(), key=lambda item: (item[1], item[0]))
    files = found.files[:: max(1, len(found.files) // SAMPLE)][:SAMPLE]
    sides = [side for file in files if (side := _short_side(root / file)) is not None]
    if not sides:
        raise InputError(
            f"{root}: none of {len(files)} files tried is a picture that Pillow can open, such as "
            f"{files[0]}"
        )
    return Survey(
        classes=found.classes,
        sizes=Counter(found.part_of),
        smallest=(found.classes[label], count),
        short_side=round(statistics.median(sides)),
        notes=tuple(found.notes),
    )


def _short_side(file: Path) -> int | None:
    try:
        with Image.open(file) as image:
            return min(image.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
