"""Keep freed memory in the process while it trains."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt(3), and what glibc has for them until somebody asks for something else.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65_536}
_KEEP = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0}


@contextmanager
def memory_kept() -> Iterator[None]:
    """Let the C library reuse freed memory inside, and give it back to the system on leaving.

    Each step of a training asks for the same large tensors as the one before. glibc maps such
    blocks one by one and unmaps them when they are freed, so that the system has to find and to
    clear every page anew at every step. Concerns the whole process. Does nothing where the C
    library is not glibc, or where the environment already tells it what to do.
    """
    library = _glibc()
    if library is None:
        yield
        return
    for parameter, value in _KEEP.items():
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _DEFAULTS.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc and nobody has configured its allocator."""
    if sys.platform != "linux":
        return None
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
