"""Decode pictures once and keep them, found again by their content."""

import errno
import hashlib
import io
import json
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

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
_DECODING = 3

#: What an unfinished decoding has done.
JOURNAL = "done.jsonl"

#: Pictures between two entries of the journal of an unfinished decoding.
CHUNK = 512

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
        how = [_DECODING, side, request.scaled_jpeg]
        key = parts_digest(how, list(zip(names, contents, strict=True)))[:32]
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
        if not (isinstance(base, np.memmap) and isinstance(rows, np.ndarray)):
            return None  # Something else under their names.
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
    """Decode into a folder beside and publish it by renaming; the caller holds the lock.

    What an interrupted decoding left there is taken over; what fails for good is removed.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    part.mkdir(exist_ok=True)
    try:
        levels, notes = levels_of([root / file for file in files])
        written = _write_base(part, root, files, levels, request)
        if request.skip_bad or not written.bad:
            _refuse_one_colour(root, written.counts)
        rows = np.array(written.rows, dtype="S32")
        np.save(part / "rows.npy", rows, allow_pickle=False)
        about = {
            "shape": [len(rows), request.side, request.side, 3],
            "pixel_digest": written.digest.hexdigest(),
            "rows_digest": hashlib.sha256(rows.tobytes()).hexdigest(),
            "bad": written.bad,
            "levels": levels,
            "notes": notes,
        }
        (part / "about.json").write_text(json.dumps(sealed(about)))
        (part / JOURNAL).unlink()
        part.rename(folder)
    except Exception:
        shutil.rmtree(part, ignore_errors=True)
        raise


@dataclass
class _Written:
    """What is known of the pictures written so far, in order."""

    done: int = 0
    rows: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    digest: Any = field(default_factory=hashlib.sha256)

    def take(self, entry: Mapping[str, Any], pixels: bytes) -> None:
        """Add what the journal says of a chunk, and its pixels."""
        self.done = entry["done"]
        self.rows += entry["rows"]
        self.bad |= entry["bad"]
        self.counts += np.array(entry["counts"], dtype=np.int64)
        self.digest.update(pixels)


def _write_base(
    part: Path, root: Path, files: Sequence[str], levels: Levels | None, request: Request
) -> _Written:
    """Write the pictures in order, chunk by chunk, each with an entry of the journal.

    They are written, not mapped: a full disk is then an error.
    """
    side = request.side
    with open(part / "base.npy", "a+b") as base, open(part / JOURNAL, "a+b") as journal:
        written = _resumed(base, journal, len(files), side)
        pool = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
        try:
            if request.progress is not None:
                request.progress(written.done, len(files))
            # In chunks, or the decoders would run ahead of a slow disk and fill the memory.
            for start in range(written.done, len(files), CHUNK):
                chunk = files[start : start + CHUNK]
                entry: dict[str, Any] = {"done": start + len(chunk), "rows": [], "bad": {}}
                counts = np.zeros(256, dtype=np.int64)
                pixels = []
                found = pool.map(lambda name: _decoded_one(root / name, levels, request), chunk)
                for number, image in enumerate(found, start):
                    if isinstance(image, str):
                        entry["bad"][str(number)] = image
                        continue
                    pixels.append(image.tobytes())
                    # Every seventh sample will do, and goes through the channels in turn.
                    counts += np.bincount(image.reshape(-1)[::7], minlength=256)
                    plain = image.min() == image.max()
                    entry["rows"].append(
                        "" if plain else hashlib.sha256(image.data).hexdigest()[:32]
                    )
                content = b"".join(pixels)
                entry |= {"counts": counts.tolist(), "pixels": hashlib.sha256(content).hexdigest()}
                base.write(content)
                base.flush()
                journal.write(json.dumps(sealed(entry)).encode() + b"\n")
                journal.flush()
                written.take(entry, content)
                if request.progress is not None:
                    request.progress(written.done, len(files))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if written.bad:
        with open(part / "base.npy", "r+b") as base:
            _write_header(base, len(written.rows), side)
    return written


def _resumed(base: IO[bytes], journal: IO[bytes], count: int, side: int) -> _Written:
    """Return what an interrupted decoding left whole, with both files cut to that."""
    written = _Written()
    header = io.BytesIO()
    _write_header(header, count, side)
    base.seek(0)
    journal.seek(0)
    begun = base.read(len(header.getvalue())) == header.getvalue()
    end, kept = len(header.getvalue()), 0
    for line in journal if begun else ():
        try:
            entry = unsealed(json.loads(line))
        except ValueError:
            break
        pixels = base.read(len(entry["rows"]) * side * side * 3)
        if hashlib.sha256(pixels).hexdigest() != entry["pixels"]:
            break
        written.take(entry, pixels)
        end, kept = end + len(pixels), kept + len(line)
    base.truncate(end if begun else 0)
    journal.truncate(kept)
    if not begun:
        base.write(header.getvalue())
    return written


def _decoded_one(file: Path, levels: Levels | None, request: Request) -> NDArray[np.uint8] | str:
    """Return a picture, or why it cannot be read."""
    try:
        return decode(file, request.side, str(file), levels, scaled=request.scaled_jpeg)
    except InputError as error:
        return str(error)


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
