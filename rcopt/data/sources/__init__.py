"""Where images come from: one module a source, found by its name.

A module here is a source: ``NEEDS_ROOT`` says whether ``data.root`` must name a folder, and
``load(request)`` returns the pictures. They may come from files (`rcopt.data.decoded`) or from
anywhere else, as an array.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol

from rcopt.data.dataset import Pictures, Request

#: The sources there are, by name.
NAMES: tuple[str, ...] = tuple(sorted(module.name for module in iter_modules(__path__)))


class Source(Protocol):
    """What a module of this folder offers."""

    NEEDS_ROOT: bool

    def load(self, request: Request) -> Pictures:
        """Return the pictures, decoded, and which of them are held out."""


def source(name: str) -> Source:
    """Return the source of a name.

    Raises:
        ValueError: If there is none.
    """
    if name not in NAMES:
        raise ValueError(f"source must be one of {', '.join(NAMES)}, got {name!r}")
    module: Source = import_module(f"{__name__}.{name}")
    return module
