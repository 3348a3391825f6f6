"""A user's own network: ``module:function``, called as ``function(num_classes)``.

Naming code is running it, so a name is imported only where somebody who may run code here has
said so: by a study file that is run (see `allow`), or by the environment variable
``RCOPT_OWN_BACKBONES``. Names in stored weights, bundles and registered models are never enough.
"""

import hashlib
import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterable
from functools import partial

from torch import nn

from rcopt.errors import InputError
from rcopt.models.families.base import Backbone, Family, float_head

#: Names of files and of claims, which a stage's name is part of, are not longer than about 250.
_LONGEST = 150
VARIABLE = "RCOPT_OWN_BACKBONES"
_allowed: set[str] = set()


def allow(names: Iterable[str]) -> None:
    """Allow own networks to be imported by this process; other names are ignored."""
    _allowed.update(name for name in names if _spelled(name))


def _parse(name: str) -> Backbone | None:
    if not _spelled(name):
        return None
    stated = os.environ.get(VARIABLE, "").split(",")
    if name not in _allowed and name not in stated:
        raise InputError(
            f"{name} is code of somebody's own, which stored files never run; if it is yours, "
            f"set {VARIABLE}={name}"
        )
    function = _imported(name)
    return Backbone(name, partial(_construct, name, function), version=_source_digest(function))


def _spelled(name: str) -> bool:
    found = re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name, re.ASCII)
    return found is not None and len(name) <= _LONGEST


def _imported(name: str) -> Callable[[int], object]:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{name}: there is no module {error.name!r} here; install its package, or name its "
            "folder in PYTHONPATH"
        ) from error
    except Exception as error:  # somebody else's code raises anything
        raise InputError(f"{name}: cannot be imported ({_reason(error)})") from error
    if not callable(found):
        raise InputError(f"{name}: not a function")
    return found  # type: ignore[no-any-return]


def _construct(
    name: str, function: Callable[[int], object], n_classes: int, resolution: int
) -> nn.Module:
    try:
        model = function(n_classes)
    except Exception as error:  # somebody else's code raises anything
        raise InputError(f"{name}({n_classes}) failed: {_reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{name}({n_classes}) gave a {type(model).__name__}, not a network")
    return float_head(model)


def _source_digest(function: Callable[[int], object]) -> str:
    """Return a digest of the function's module: an edited network is another network."""
    try:
        source = inspect.getsource(inspect.getmodule(function) or function)
    except (OSError, TypeError):
        return "unknown source"
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


FAMILY = Family("MODULE:FUNCTION of your own", lambda: (), _parse)
