"""A data set in memory: base images, labels, splits."""

import hashlib
import json
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rcopt.core.predictions import Split

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures at one base resolution, with their classes and splits.

    Attributes:
        name: Of the source.
        classes: C readable names; labels index them.
        base: (N, S, S, 3) uint8, read only, memory-mapped where it comes from files.
        labels: (N,) int64.
        images: N names such as ``val/church/17.JPEG``.
        splits: Rising indices of the images of each split; disjoint.
        digest: Hex digest of classes, names, labels, pixels and S.
        split_digest: Hex digest of the splits.
        levels: Range of the samples of pictures of more than 8 bits, as `decode` takes it;
            None where there are none.
        notes: What a person should know: what was left out, what was assumed.
    """

    name: str
    classes: tuple[str, ...]
    base: NDArray[np.uint8]
    labels: NDArray[np.int64]
    images: tuple[str, ...]
    splits: Mapping[Split, NDArray[np.int64]]
    digest: str
    split_digest: str
    levels: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def base_side(self) -> int:
        """S, the side of the base images in pixels."""
        return int(self.base.shape[1])


def release(base: NDArray[np.uint8]) -> None:
    """Let go of what reading mapped pictures has left in this process's memory.

    They stay in the system's cache of files for as long as it has room, so that reading them
    again costs next to nothing. Without this, an epoch would leave the whole data set in the
    process. Arrays that are not mapped, and systems that cannot do it, are left alone.

    Args:
        base: Of a `Dataset`.
    """
    mapped = base.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Request:
    """What a source is asked for.

    Attributes:
        root: Folder of the pictures; None where none was given.
        side: Side in pixels of the base images.
        seed: Of whatever is drawn at random.
        cache: Folder for decoded pictures.
        held_out: Share held out of a source that has no parts of its own.
        skip_bad: Whether pictures that cannot be read are left out instead of refused.
        scaled_jpeg: Whether large JPEG files are decoded at a fraction of their size.
        progress: Called with the number of pictures decoded and to decode; at first with the
            number that an interrupted decoding left.
    """

    root: Path | None
    side: int
    seed: int
    cache: Path
    held_out: float = 0.3
    skip_bad: bool = False
    scaled_jpeg: bool = False
    progress: Progress | None = None


@dataclass(frozen=True, eq=False)
class Pictures:
    """What a source found.

    Attributes:
        classes: C readable names.
        base: (N, S, S, 3) uint8.
        labels: (N,) int64.
        images: N names.
        part: (N,) what each picture is for: ``"train"``, ``"held_out"`` (to be dealt out), or a
            split of its own, ``"validation"`` (dealt to validation and calibration) or
            ``"test"``.
        pixel_digest: Hex digest of the pixels.
        row_digests: (N,) bytes, equal for equal pictures, empty for those of one colour; None
            where the source is known to hold no picture twice.
        levels: As in `Dataset`.
        notes: As in `Dataset`.
    """

    classes: tuple[str, ...]
    base: NDArray[np.uint8]
    labels: NDArray[np.int64]
    images: tuple[str, ...]
    part: NDArray[np.str_]
    pixel_digest: str
    row_digests: NDArray[np.bytes_] | None = None
    levels: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def parts_digest(*parts: object) -> str:
    """Return the SHA-256 of values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
