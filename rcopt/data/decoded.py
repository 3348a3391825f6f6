"""Decode pictures once and keep them, found again by their content."""

import errno
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from rcopt.data.content import content_digests, stamp
from rcopt.data.dataset import Request, parts_digest
from rcopt.data.images import decode
from rcopt.data.levels import Levels, levels_of
from rcopt.errors import InputError, WorkError, no_space
from rcopt.files import sealed, unsealed

# Part of the cache's key: raise it when `rcopt.data.images.decode` gives other pixels.
_DECODING = 2

_CHUNK = 512

#: Pictures are of one colour where this share of all samples lies within three grey levels;
#: not all of them, for a hot pixel would hide that the others are black.
_ONE_COLOUR = 0.998


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pictures, decoded.

    Attributes:
        base: (N, S, S, 3) uint8, memory-mapped.
        pixel_digest: SHA-256 of ``base``.
        row_digests: (N,) bytes, equal for equal pictures; empty for those of one colour.
        bad: Why each picture is left out that cannot be read, by file.
        levels: Range of the samples of pictures of more than 8 bits.
        notes: What was assumed.
    """

    base: NDArray[np.uint8]
    pixel_digest: str
    row_digests: NDArray[np.bytes_]
    bad: Mapping[str, str]
    levels: Levels | None
    notes: tuple[str, ...]


def decoded(root: Path, files: Sequence[str], request: Request) -> Decoded:
    """Return the decoded pictures, from the cache if they are there.

    Args:
        root: Folder that the files are relative to.
        files: In the order of the rows.
        request: Side, cache, what to do about bad pictures.

    Raises:
        InputError: Naming the pictures that cannot be read, all at once, if they are not to be
            skipped; or if all pictures look the same.
    """
    cache, side = request.cache, request.side
    try:
        cache.mkdir(parents=True, exist_ok=True)
        names = [os.fsencode(file).decode("utf-8", "backslashreplace") for file in files]
        contents = content_digests(root, files, cache)
        key = parts_digest(_DECODING, side, list(zip(names, contents, strict=True)))[:32]
        folder = cache / key
        with FileLock(cache / f"{key}.lock"):
            kept = _open_cached(folder)
            if kept is None:
                if folder.exists():
                    logging.getLogger("rcopt.data").warning(
                        "%s: damaged decoded images; they are decoded again", folder
                    )
                _decode_all(root, files, folder, request)
                kept = _open_cached(folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise no_space(cache, math.prod((len(files), side, side, 3))) from error
        raise InputError(f"{cache}: cannot keep decoded images ({error})") from error
    if kept is None:
        raise WorkError(f"{folder}: decoded images cannot be read back; check the disk")
    bad = {files[int(row)]: why for row, why in kept.bad.items()}
    if bad and not request.skip_bad:
        shutil.rmtree(folder, ignore_errors=True)
        raise _unreadable(bad, len(files))
    return replace(kept, bad=bad)


def _unreadable(bad: Mapping[str, str], total: int) -> InputError:
    if len(bad) == 1:
        return InputError(next(iter(bad.values())))
    shown = "; ".join(list(bad.values())[:10])
    more = f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
    return InputError(
        f"{len(bad)} of {total} pictures cannot be read: {shown}{more}; replace or remove them, "
        "or set data.skip_bad = true to go on without them"
    )


def _open_cached(folder: Path) -> Decoded | None:
    """Return what is kept if it is complete and belongs together."""
    try:
        about = unsealed(json.loads((folder / "about.json").read_bytes()))
        base = np.load(folder / "base.npy", mmap_mode="r", allow_pickle=False)
        rows = np.load(folder / "rows.npy", allow_pickle=False)
        if list(base.shape) != about["shape"] or base.dtype != np.uint8 or rows.dtype.kind != "S":
            return None
        if hashlib.sha256(rows.tobytes()).hexdigest() != about["rows_digest"]:
            return None
        if not _verified(folder / "base.npy", base.offset, about["pixel_digest"]):
            return None
    except (OSError, EOFError, ValueError):
        return None
    # The digest holds, so this is what `_decode_all` wrote.
    levels = about["levels"]
    return Decoded(
        base=base,
        pixel_digest=about["pixel_digest"],
        row_digests=rows,
        bad=about["bad"],
        levels=None if levels is None else (levels[0], levels[1]),
        notes=tuple(about["notes"]),
    )


def _verified(file: Path, offset: int, expected: str) -> bool:
    """Return whether the pixels have their digest.

    They are read whole at first and again whenever the file was touched: 193 GB of ImageNet
    at each command would take minutes.
    """
    seen = file.with_name("verified.json")
    now = [*stamp(file), expected]
    try:
        if json.loads(seen.read_bytes()) == now:
            return True
    except (OSError, ValueError):
        pass
    # Read, not mapped: pages that were looked at count as this process's memory.
    with open(file, "rb") as content:
        content.seek(offset)
        if hashlib.file_digest(content, "sha256").hexdigest() != expected:
            return False
    seen.write_text(json.dumps(now))
    return True


def _decode_all(root: Path, files: Sequence[str], folder: Path, request: Request) -> None:
    """Decode into a folder beside and publish it by renaming; the caller holds the lock."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    part.mkdir()
    try:
        levels, notes = levels_of([root / file for file in files])
        with open(part / "base.npy", "wb") as file:
            digest, rows, bad, counts = _write_base(file, root, files, levels, request)
        if request.skip_bad or not bad:
            _refuse_one_colour(root, counts)
        np.save(part / "rows.npy", np.array(rows, dtype="S32"), allow_pickle=False)
        kept = np.array(rows, dtype="S32").tobytes()
        about = {
            "shape": [len(rows), request.side, request.side, 3],
            "pixel_digest": digest,
            "rows_digest": hashlib.sha256(kept).hexdigest(),
            "bad": bad,
            "levels": levels,
            "notes": notes,
        }
        (part / "about.json").write_text(json.dumps(sealed(about)))
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_base(
    file: IO[bytes],
    root: Path,
    files: Sequence[str],
    levels: Levels | None,
    request: Request,
) -> tuple[str, list[bytes], dict[str, str], NDArray[np.int64]]:
    """Write the pictures in order; written, not mapped: a full disk is then an error."""
    side = request.side
    _write_header(file, len(files), side)
    digest = hashlib.sha256()
    rows: list[bytes] = []
    bad: dict[str, str] = {}
    counts = np.zeros(256, dtype=np.int64)
    for number, image in enumerate(_images(root, files, levels, request)):
        if isinstance(image, str):
            bad[str(number)] = image
            continue
        file.write(image.data)
        digest.update(image.data)
        # Every seventh sample will do, and goes through the channels in turn.
        counts += np.bincount(image.reshape(-1)[::7], minlength=256)
        plain = image.min() == image.max()
        rows.append(b"" if plain else hashlib.sha256(image.data).hexdigest()[:32].encode())
    if bad:
        file.seek(0)
        _write_header(file, len(rows), side)
    return digest.hexdigest(), rows, bad, counts


def _refuse_one_colour(root: Path, counts: NDArray[np.int64]) -> None:
    """Refuse pictures whose grey levels, counted over the data set, hardly differ."""
    within = np.convolve(counts, np.ones(3, dtype=np.int64), "valid")
    lowest = int(within.argmax())
    if counts.sum() and within[lowest] >= _ONE_COLOUR * counts.sum():
        raise InputError(
            f"{root}: all pictures are of one colour once decoded (grey levels {lowest} to "
            f"{lowest + 2}); if their samples have an unusual range, convert them to 8 bits"
        )


def _write_header(file: IO[bytes], count: int, side: int) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
        "fortran_order": False,
        "shape": (count, side, side, 3),
    }
    np.lib.format.write_array_header_1_0(file, header)


def _images(
    root: Path, files: Sequence[str], levels: Levels | None, request: Request
) -> Iterator[NDArray[np.uint8] | str]:
    """Yield each picture, or why it cannot be read."""

    def one(name: str) -> NDArray[np.uint8] | str:
        try:
            return decode(root / name, request.side, str(root / name), levels)
        except InputError as error:
            return str(error)

    pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
    try:
        # In chunks, or the decoders would run ahead of a slow disk and fill the memory.
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            yield from pool.map(one, chunk)
            if request.progress is not None:
                request.progress(min(start + _CHUNK, len(files)), len(files))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
