"""Data sets: pictures decoded once into one array, and the splits they are used in."""

import errno
import hashlib
import json
import logging
import math
import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch.nn import functional

from rcopt.errors import DAMAGE, InputError, WorkError
from rcopt.data.images import decode
from rcopt.core.predictions import Split
from rcopt.compat import import_torchvision

Source = Literal["digits", "imagenette", "folder"]
Progress = Callable[[int, int], None]

#: Readable names of Imagenette's classes.
IMAGENETTE_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
#: Share of the digits that is trained on; the others are held out.
DIGITS_TRAIN = 0.6

# Part of the cache's key: raise it when `rcopt.images.decode` gives other pixels.
_DECODING = 1
_CHUNK = 512


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
    """

    name: str
    classes: tuple[str, ...]
    base: NDArray[np.uint8]
    labels: NDArray[np.int64]
    images: tuple[str, ...]
    splits: Mapping[Split, NDArray[np.int64]]
    digest: str
    split_digest: str

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
    _check_shares(shares)
    if base_side < 1:
        raise InputError(f"[data] base side must be positive, got {base_side}")
    if source == "digits":
        pictures = _digits(base_side, seed)
    elif source in ("folder", "imagenette"):
        if root is None:
            raise InputError(f"[data] root is missing; source = {source!r} needs a folder")
        root = root if source == "folder" else _imagenette(root)
        pictures = _folder(root, base_side, cache, progress=progress)
    else:
        raise InputError(
            f"[data] source must be digits, imagenette or folder here, got {source!r}"
        )
    splits = _splits(pictures, shares, seed)
    return Dataset(
        name=source,
        classes=pictures.classes,
        base=pictures.base,
        labels=pictures.labels,
        images=pictures.images,
        splits=splits,
        digest=_digest(
            list(pictures.classes),
            list(pictures.images),
            pictures.labels.tolist(),
            pictures.pixel_digest,
            base_side,
        ),
        split_digest=_digest({name: indices.tolist() for name, indices in splits.items()}),
    )


@dataclass(frozen=True, eq=False)
class _Pictures:
    classes: tuple[str, ...]
    base: NDArray[np.uint8]
    labels: NDArray[np.int64]
    images: tuple[str, ...]
    held_out: NDArray[np.bool_]
    pixel_digest: str


def _check_shares(shares: Mapping[Split, float]) -> None:
    for name, share in shares.items():
        least = "at least 0" if name == "calibration" else "above 0"
        if not (0 <= share <= 1) or (share == 0 and name != "calibration"):
            raise InputError(f"[data] {name} must be {least} and at most 1, got {share}")
    total = math.fsum(shares.values())
    if total > 1 + 1e-9:
        raise InputError(
            f"[data] validation + calibration + test must be at most 1, got {total:g}; "
            "make one smaller, or the splits would overlap"
        )


def _splits(
    pictures: _Pictures, shares: Mapping[Split, float], seed: int
) -> dict[Split, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    parts: dict[Split, list[NDArray[np.int64]]] = {name: [] for name in shares}
    for label, class_name in enumerate(pictures.classes):
        held_out = np.flatnonzero(pictures.held_out & (pictures.labels == label))
        dealt = rng.permutation(held_out)
        # Ends are rounded, not sizes: shares that sum to 1 then use every picture.
        ends = np.cumsum(list(shares.values())) * len(dealt)
        start = 0
        for (name, share), end in zip(shares.items(), np.rint(ends).astype(int), strict=True):
            if share > 0 and end <= start:
                raise InputError(
                    f"[data] {name} = {share:g} leaves class {class_name!r} without an image "
                    f"(it has {len(dealt)} held out); raise the share or add images"
                )
            parts[name].append(dealt[start:end])
            start = end
    splits: dict[Split, NDArray[np.int64]] = {"train": np.flatnonzero(~pictures.held_out)}
    splits |= {name: np.sort(np.concatenate(chosen)) for name, chosen in parts.items()}
    for indices in splits.values():
        indices.setflags(write=False)
    return splits


def _digits(side: int, seed: int) -> _Pictures:
    from sklearn.datasets import load_digits

    scans = load_digits()
    grey = torch.from_numpy(np.rint(scans.images * (255 / 16)).astype(np.uint8))[:, None]
    enlarged = functional.interpolate(grey.float(), (side, side), mode="bilinear", antialias=True)
    pixels = enlarged.round().to(torch.uint8).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
    base = pixels.contiguous().numpy()
    base.setflags(write=False)
    labels = scans.target.astype(np.int64)
    held_out = np.ones(len(labels), dtype=np.bool_)
    rng = np.random.default_rng(seed)
    for label in range(10):
        members = rng.permutation(np.flatnonzero(labels == label))
        held_out[members[: round(DIGITS_TRAIN * len(members))]] = False
    images = tuple(
        f"{'val' if out else 'train'}/{label}/{number:04d}"
        for number, (label, out) in enumerate(zip(labels, held_out, strict=True))
    )
    classes = tuple(str(digit) for digit in range(10))
    return _Pictures(
        classes, base, labels, images, held_out, hashlib.sha256(base.tobytes()).hexdigest()
    )


def _imagenette(root: Path) -> Path:
    """Return the folder that holds train and val, downloading it if there is none."""
    archive = "imagenette2-320"
    folder = root if root.name == archive or (root / "train").is_dir() else root / archive
    if folder.is_dir():
        return folder
    part = folder.with_name(f".{folder.name}.part")
    datasets = import_torchvision("torchvision.datasets")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir():
                return folder
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            datasets.Imagenette(part, split="train", size="320px", download=True)
            (part / archive).rename(folder)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise _no_space(folder, None) from None
        raise WorkError(
            f"cannot download Imagenette ({error}); unpack imagenette2-320.tgz of "
            f"https://github.com/fastai/imagenette as {folder}"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _folder(root: Path, side: int, cache: Path, *, progress: Progress | None) -> _Pictures:
    folders = _class_folders(root)
    files, labels, held_out = _list_files(root, folders)
    base, pixel_digest = _decoded(root, files, side, cache, progress=progress)
    return _Pictures(
        classes=tuple(IMAGENETTE_CLASSES.get(folder, folder) for folder in folders),
        base=base,
        labels=np.array(labels, dtype=np.int64),
        images=tuple(files),
        held_out=np.array(held_out, dtype=np.bool_),
        pixel_digest=pixel_digest,
    )


def _class_folders(root: Path) -> list[str]:
    """Return the class folders' names, the same in train and val."""
    if not root.is_dir():
        raise InputError(f"[data] root: no folder {root}; expected ROOT/{{train,val}}/CLASS/IMAGE")
    found: dict[str, list[str]] = {}
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise InputError(
                f"[data] root: {root} has no folder {part!r}; "
                "expected ROOT/{train,val}/CLASS/IMAGE"
            )
        found[part] = sorted(
            entry.name
            for entry in (root / part).iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        )
    for one, other in (("train", "val"), ("val", "train")):
        if lonely := sorted(set(found[one]) - set(found[other])):
            raise InputError(
                f"[data] root: class {lonely[0]!r} is in {root / one} but not in "
                f"{root / other}; both must have the same classes"
            )
    if len(found["train"]) < 2:
        raise InputError(
            f"[data] root: {root / 'train'} has {len(found['train'])} class folders, "
            "at least 2 are needed"
        )
    return found["train"]


def _list_files(root: Path, folders: Sequence[str]) -> tuple[list[str], list[int], list[bool]]:
    files: list[str] = []
    labels: list[int] = []
    held_out: list[bool] = []
    for part in ("train", "val"):
        for label, folder in enumerate(folders):
            names = sorted(_walk(root / part / folder, f"{part}/{folder}"))
            if not names:
                raise InputError(
                    f"[data] root: class folder {root / part / folder} is empty; add images or "
                    "remove the class from both train and val"
                )
            files += names
            labels += [label] * len(names)
            held_out += [part == "val"] * len(names)
    return files, labels, held_out


def _walk(folder: Path, name: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:
        raise InputError(
            f"[data] root: {folder} is a link to a folder that it lies in; remove the link"
        )
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
        for entry in shown:
            if entry.is_dir():
                yield from _walk(folder / entry.name, f"{name}/{entry.name}", (*above, real))
            else:
                yield f"{name}/{entry.name}"
    except OSError as error:
        raise InputError(
            f"[data] root: {error.filename or folder} cannot be read ({error.strerror})"
        ) from None


def _decoded(
    root: Path, files: Sequence[str], side: int, cache: Path, *, progress: Progress | None
) -> tuple[NDArray[np.uint8], str]:
    """Return the decoded pictures, from the cache if they are there, and their digest."""
    try:
        stats = [os.stat(root / file) for file in files]
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); remove it or replace it"
        ) from None
    listing = [
        [name, stat.st_size, stat.st_mtime_ns] for name, stat in zip(files, stats, strict=True)
    ]
    key = _digest(_DECODING, side, listing)[:32]
    folder = cache / key
    shape = (len(files), side, side, 3)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{key}.lock"):
            kept = _open_cached(folder, shape)
            if kept is None:
                if folder.exists():
                    logging.getLogger("rcopt.data.loading").warning(
                        "%s: damaged decoded images; they are decoded again", folder
                    )
                _decode_all(root, files, side, folder, progress=progress)
                kept = _open_cached(folder, shape)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(cache, math.prod(shape)) from None
        raise InputError(f"{cache}: cannot keep decoded images ({error})") from None
    if kept is None:
        raise WorkError(f"{folder}: decoded images cannot be read back; check the disk")
    return kept


def _open_cached(folder: Path, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], str] | None:
    """Return base and pixel digest if they are complete and belong together."""
    try:
        about = json.loads((folder / "about.json").read_text())
        base = np.load(folder / "base.npy", mmap_mode="r", allow_pickle=False)
        if about["shape"] != list(shape) or base.shape != shape or base.dtype != np.uint8:
            return None
        # Read, not mapped: pages that were looked at count as this process's memory.
        with open(folder / "base.npy", "rb") as file:
            file.seek(base.offset)
            if hashlib.file_digest(file, "sha256").hexdigest() != about["pixel_digest"]:
                return None
        return base, str(about["pixel_digest"])
    except (OSError, EOFError, *DAMAGE):
        return None


def _decode_all(
    root: Path, files: Sequence[str], side: int, folder: Path, *, progress: Progress | None
) -> None:
    """Decode into a folder beside and publish it by renaming; the caller holds the lock."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    part.mkdir()
    try:
        with open(part / "base.npy", "wb") as file:
            pixel_digest = _write_base(file, root, files, side, progress=progress)
        about = {"shape": [len(files), side, side, 3], "pixel_digest": pixel_digest}
        (part / "about.json").write_text(json.dumps(about))
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_base(
    file: IO[bytes], root: Path, files: Sequence[str], side: int, *, progress: Progress | None
) -> str:
    """Write the pictures in order; written, not mapped: a full disk is then an error."""
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
        "fortran_order": False,
        "shape": (len(files), side, side, 3),
    }
    np.lib.format.write_array_header_1_0(file, header)
    digest = hashlib.sha256()
    pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
    try:
        # In chunks, or the decoders would run ahead of a slow disk and fill the memory.
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            for image in pool.map(lambda name: decode(root / name, side, str(root / name)), chunk):
                file.write(image.data)
                digest.update(image.data)
            if progress is not None:
                progress(min(start + _CHUNK, len(files)), len(files))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return digest.hexdigest()


def _no_space(place: Path, needed: int | None) -> InputError:
    size = f" ({needed / 1e9:.1f} GB needed)" if needed else ""
    return InputError(f"{place}: no space left on the disk{size}; free some or use another place")


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
