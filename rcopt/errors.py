"""The two ways a command ends badly, each with its exit code."""

from pathlib import Path


class InputError(Exception):
    """What the user gave is wrong; one line says what, where, what was expected, how to mend it.

    The command line prints the line and exits with code 2.
    """


class DamagedError(InputError):
    """A stored file is there and can be read, and is not what was stored."""


class AbsentError(InputError):
    """A stored file is no longer where it was put, though its place is there."""


class UnseenError(InputError):
    """The place of stored files cannot be seen or read from here; they may well be sound."""


class WorkError(Exception):
    """The input was fine but the work failed; the command line exits with code 1."""


class UnreachableError(WorkError):
    """A server does not answer, or not as it should; the same call may succeed later."""


class RefusedError(WorkError):
    """A store does not take what it is given, and would not take it again either."""


class OutageError(WorkError):
    """A server stayed away for longer than one may wait for it."""


def no_space(place: Path, needed: int | None) -> InputError:
    """Return the error of a disk that is full; ``needed`` in bytes."""
    size = f" ({needed / 1e9:.1f} GB needed)" if needed else ""
    return InputError(f"{place}: no space left on the disk{size}; free some or use another place")
