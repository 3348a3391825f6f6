"""A claim: who may work on what, and when one stops being sure of it."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from rcopt.errors import WorkError

#: Raises `ClaimLost` when the claim may have passed to another worker.
Alive = Callable[[], None]


class ClaimLost(WorkError):  # noqa: N818 - a state of the claim, not only an error
    """The claim may have passed to another worker, so nothing may be published under it."""


@dataclass(frozen=True)
class Holder:
    """Who holds a claim.

    Attributes:
        key: What is claimed.
        owner: ``host:pid`` of the process that holds it.
        since: When it was claimed (UTC; the server's clock, if there is a server).
    """

    key: str
    owner: str
    since: datetime


class Claims(Protocol):
    """Exclusive claims on keys, among all workers that share one store."""

    def claim(self, key: str) -> AbstractContextManager[Alive | None]:
        """Hold a key inside the block, if nobody else holds it.

        Args:
            key: Letters, digits and ``. _ @ : / -``, at most 200 of them, no dot in front.

        Returns:
            A context manager that yields None if somebody else holds the key, and otherwise a
            function to be called while working and before publishing: it raises `ClaimLost`
            when the claim may be ours no longer.

        Raises:
            ValueError: If the key has other characters.
            UnreachableError: If the store does not answer; worth another attempt.
            WorkError: If the claim cannot be kept, as on a full disk.
        """
        ...

    def held(self) -> list[Holder]:
        """Return who holds what now, sorted by key."""
        ...


def check_name(argument: str, value: str) -> str:
    """Return a key that every kind of claim can hold, or raise ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9_@-][A-Za-z0-9._@:/-]{0,199}", value):
        raise ValueError(
            f"{argument} must be at most 200 letters, digits and . _ @ : / -, with no dot first, "
            f"got {value!r}"
        )
    return value
