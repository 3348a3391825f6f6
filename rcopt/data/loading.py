"""Data sets: pictures decoded once into one array, and the splits they are used in."""

from pathlib import Path
from typing import Literal

from rcopt.core.predictions import Split
from rcopt.data.dataset import Dataset, Progress, parts_digest
from rcopt.data.digits import digits
from rcopt.data.folder import folder_pictures
from rcopt.data.imagenette import imagenette_root
from rcopt.data.splits import check_shares, held_out_splits
from rcopt.errors import InputError

Source = Literal["digits", "imagenette", "folder"]


def load_data(
    source: Source,
    *,
    root: Path | None,
    base_side: int,
    validation: float,
    calibration: float,
    test: float,
    seed: int,
    cache: Path,
    progress: Progress | None = None,
) -> Dataset:
    """Load a data set, decoding its pictures the first time.

    The pictures under ``train`` are trained on. The held-out ones (``val``) are dealt out to
    validation, calibration and test by class. Decoded pictures are kept under ``cache``, found
    again by names, sizes and times of the files; several processes may do this at once.

    Args:
        source: ``"folder"``: ROOT/{train,val}/CLASS/IMAGE in any format Pillow reads, hidden
            files left out; ``"imagenette"``: the same, downloaded where it is missing;
            ``"digits"``: scikit-learn's 1,797 scans of 8x8, enlarged.
        root: Folder of the pictures; not used for ``digits``.
        base_side: Side in pixels that pictures are decoded to; the largest resolution used.
        validation: Share of the held-out pictures of each class, above 0.
        calibration: Likewise; may be 0.
        test: Likewise, above 0. The shares sum to at most 1.
        seed: Of the dealing out (and of the digits' training split).
        cache: Folder for decoded pictures.
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
    if source == "digits":
        pictures = digits(base_side, seed)
    elif source in ("folder", "imagenette"):
        if root is None:
            raise InputError(f"[data] root is missing; source = {source!r} needs a folder")
        root = root if source == "folder" else imagenette_root(root)
        pictures = folder_pictures(root, base_side, cache, progress=progress)
    else:
        raise InputError(
            f"[data] source must be digits, imagenette or folder here, got {source!r}"
        )
    splits = held_out_splits(pictures, shares, seed)
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
    )
