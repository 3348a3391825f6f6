"""Decode pictures once and keep them."""

import errno
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from rcopt.data.dataset import Progress, parts_digest
from rcopt.data.images import decode
from rcopt.errors import DAMAGE, InputError, WorkError, no_space

# Part of the cache's key: raise it when `rcopt.images.decode` gives other pixels.
_DECODING = 1


_CHUNK = 512


def decoded(
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
    key = parts_digest(_DECODING, side, listing)[:32]
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
            raise no_space(cache, math.prod(shape)) from None
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
