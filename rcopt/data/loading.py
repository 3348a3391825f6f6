"""Data sets: pictures decoded once into one array, and the splits they are used in."""

from pathlib import Path

from rcopt.data.dataset import Dataset, Progress, Request, parts_digest
from rcopt.data.leaks import leaks
from rcopt.data.settings import DataSettings
from rcopt.data.sources import source as source_of
from rcopt.data.splits import deal_out
from rcopt.errors import InputError


def load_data(
    settings: DataSettings,
    *,
    root: Path | None,
    base_side: int,
    seed: int,
    cache: Path,
    progress: Progress | None = None,
) -> Dataset:
    """Load a data set, decoding its pictures the first time.

    The training pictures are trained on. The held-out ones are dealt out to validation,
    calibration and test by class; where a source has a test part of its own, that is the test
    split, and the rest is dealt out in the ratio of the other two. Decoded pictures are kept
    under ``cache``, found again by the content of the files; several processes may do this at
    once.

    Args:
        settings: The source, the shares, and what to do about pictures that cannot be read.
        root: Folder of the pictures (``settings.root`` as the caller resolves it); None where
            the source needs none.
        base_side: Side in pixels that pictures are decoded to; the largest resolution used.
        seed: Of the dealing out (and of the digits' training split).
        cache: Folder for decoded pictures.
        progress: Called with the number of pictures decoded and to decode; at first with the
            number that an interrupted decoding left.

    Raises:
        InputError: On missing folders, empty classes, unreadable pictures, shares that leave a
            class without a picture in some split, a full disk.
        WorkError: If Imagenette cannot be downloaded.
    """
    if base_side < 1:
        raise InputError(f"[data] base side must be positive, got {base_side}")
    request = Request(
        root,
        base_side,
        seed,
        cache,
        settings.held_out,
        settings.skip_bad,
        settings.scaled_jpeg,
        progress,
    )
    pictures = source_of(settings.source).load(request)
    splits = deal_out(pictures, settings, seed)
    notes = pictures.notes
    if pictures.row_digests is not None:
        notes += leaks(pictures.row_digests, pictures.labels, pictures.images, splits)
    return Dataset(
        name=settings.source,
        classes=pictures.classes,
        base=pictures.base,
        labels=pictures.labels,
        images=pictures.images,
        splits=splits,
        digest=parts_digest(
            list(pictures.classes),
            list(pictures.images),
            pictures.labels.tolist(),
            pictures.pixel_digest,
            base_side,
        ),
        split_digest=parts_digest({name: indices.tolist() for name, indices in splits.items()}),
        levels=pictures.levels,
        notes=notes,
    )
