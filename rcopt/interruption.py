"""Whether a signal asked this process to stop, for when the exception it raised got lost.

A signal's handler raises KeyboardInterrupt in whatever runs at that moment. Libraries turn it into
errors of their own (numpy does in a comparison) or swallow it (where Python can only report an
exception, as in callbacks), so that a command would go on, or count it as a failure.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_asked = threading.Event()


def ask() -> None:
    """Note that this process was asked to stop."""
    _asked.set()


def forget() -> None:
    """Begin anew, for a new command."""
    _asked.clear()


def asked() -> bool:
    """Return whether this process was asked to stop."""
    return _asked.is_set()


def check() -> None:
    """Raise KeyboardInterrupt if this process was asked to stop; for loops that go on."""
    if asked():
        raise KeyboardInterrupt


@contextmanager
def insisted() -> Iterator[None]:
    """Turn whatever fails after this process was asked to stop into KeyboardInterrupt."""
    try:
        yield
    except Exception as error:
        if asked():
            raise KeyboardInterrupt from error
        raise
