"""Data sets: pictures decoded once into one array, and the splits they are used in."""

from pathlib import Path

from rcopt.core.predictions import Split
from rcopt.data.dataset import Dataset, Progress, Request, parts_digest
from rcopt.data.sources import source as source_of
from rcopt.data.splits import check_shares, deal_out
from rcopt.errors import InputError


def load_data(
    source: str,
    *,
    root: Path | None,
    base_side: int,
    validation: float,
    calibration: float,
    test: float,
    seed: int,
    cache: Path,
    held_out: float = 0.3,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Load a data set, decoding its pictures the first time.

    The training pictures are trained on. The held-out ones are dealt out to validation,
    calibration and test by class; where a source has a test part of its own, that is the test
    split, and the rest is dealt out in the ratio of the other two. Decoded pictures are kept
    under ``cache``, found again by the content of the files; several processes may do this at
    once.

    Args:
        source: A name of `rcopt.data.sources`.
        root: Folder of the pictures; not used for ``digits``.
        base_side: Side in pixels that pictures are decoded to; the largest resolution used.
        validation: Share of the held-out pictures of each class, above 0.
        calibration: Likewise; may be 0.
        test: Likewise, above 0. The shares sum to at most 1.
        seed: Of the dealing out (and of the digits' training split).
        cache: Folder for decoded pictures.
        held_out: Share held out of each class where a folder has no parts.
        skip_bad: Leave out pictures that cannot be read, and note it, instead of refusing.
        progress: Called with the number of pictures decoded and to decode.

    Raises:
        InputError: On missing folders, empty classes, unreadable pictures, shares that leave a
            class without a picture in some split, a full disk.
        WorkError: If Imagenette cannot be downloaded.
    """
    shares: dict[Split, float] = {
        "validation": validation,
        "calibration": calibration,
        "test": test,
    }
    check_shares(shares)
    if base_side < 1:
        raise InputError(f"[data] base side must be positive, got {base_side}")
    try:
        module = source_of(source)
    except ValueError as error:
        raise InputError(f"[data] {error}") from error
    pictures = module.load(Request(root, base_side, seed, cache, held_out, skip_bad, progress))
    splits = deal_out(pictures, shares, seed)
    return Dataset(
        name=source,
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
        notes=pictures.notes,
    )
