"""Which files hold the same: digests of their content, read again only where they changed."""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rcopt.errors import InputError

#: A file changed less than so many nanoseconds before it was read may change again unseen.
_RACY = 2_000_000_000


def stamp(path: Path) -> list[int]:
    """Return what changes when a file is written or replaced.

    Size and modification time can be the same for other content, after an archive was unpacked
    that sets one time for all; the time of the last status change and the inode cannot be set.
    """
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def content_digests(root: Path, files: Sequence[str], cache: Path) -> list[str]:
    """Return the SHA-256 of each file's content.

    A file is read when it is new or its stamp differs from the one it had when it was last
    read; what is known is kept in the cache, for each root. On systems other than POSIX every
    file is read, for there the time of a status change is that of its creation.

    Raises:
        InputError: If a file cannot be read.
    """
    place = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]
    index = cache / f"content-{place}.json"
    known = _read(index) if os.name == "posix" else {}
    now = time.time_ns()
    try:
        stamps = [stamp(root / file) for file in files]
        names = [os.fsencode(file).decode("utf-8", "backslashreplace") for file in files]
        fresh = [
            number
            for number, (name, seen) in enumerate(zip(names, stamps, strict=True))
            if known.get(name, [None])[:-1] != seen
        ]
        with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
            read = pool.map(lambda number: _digest(root / files[number]), fresh)
            digests = dict(zip(fresh, read, strict=True))
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); remove it or replace it"
        ) from error
    # What is no ordinary file has the digest "", which is one all the same.
    result = [
        digests[number] if number in digests else str(known[name][-1])
        for number, name in enumerate(names)
    ]
    if fresh:
        settled = {
            name: [*seen, digest]
            for name, seen, digest in zip(names, stamps, result, strict=True)
            if max(seen[1], seen[2]) < now - _RACY
        }
        part = index.with_name(f"{index.name}.{secrets.token_hex(4)}.part")
        part.write_text(json.dumps(settled))
        part.replace(index)
    return result


def _digest(path: Path) -> str:
    if not path.is_file():
        # Opening a pipe would wait for ever; decoding says what it is.
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(index: Path) -> dict[str, list[object]]:
    try:
        known = json.loads(index.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
