"""Backbones by name. Each module here that declares a ``FAMILY`` is one family."""

import difflib
from importlib import import_module
from pkgutil import iter_modules

from rcopt.errors import InputError
from rcopt.models.families.base import Backbone, Family


def _declared() -> tuple[Family, ...]:
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    declared = (getattr(module, "FAMILY", None) for module in modules)
    return tuple(family for family in declared if isinstance(family, Family))


#: Every family; a name belongs to one at most.
FAMILIES = _declared()


def parse(name: str) -> Backbone:
    """Return what a backbone's name stands for.

    Raises:
        InputError: If there is no such backbone; names the nearest known one.
    """
    for family in FAMILIES:
        if (backbone := family.parse(name)) is not None:
            return backbone
    known = [candidate for family in FAMILIES for candidate in family.names()]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    every = ", ".join(family.known for family in FAMILIES)
    raise InputError(f"unknown backbone {name!r}; {hint}known: {every}")
