"""Weights that training starts from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rcopt.errors import InputError, WorkError
from rcopt.models.families.base import Backbone, head_weights


def initial_state(backbone: Backbone, weights: str | Path) -> Mapping[str, Tensor] | None:
    """Return the weights that a setting names; None where training starts from random ones.

    Raises:
        InputError: If they do not exist or cannot be read.
        WorkError: If they cannot be downloaded.
    """
    if weights == "none":
        return None
    if weights == "pretrained":
        return _public(backbone)
    return _read(Path(weights))


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(
            f"weights: no file {path}; give 'none', 'pretrained' or the path of a weights file"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # what torch.load raises on damaged files has no common class
        raise _unreadable(path, error) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"weights: {path} must hold a state dict of tensors alone")
    return state


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"weights: {path} is not a readable weights file ({reason})")


def _public(backbone: Backbone) -> Mapping[str, Tensor]:
    if backbone.pretrained is None:
        raise InputError(
            f"weights = 'pretrained': there are none for {backbone.name}; use 'none' or a file"
        )
    try:
        return backbone.pretrained.load()
    except (OSError, RuntimeError, ValueError) as error:
        raise WorkError(
            f"weights = 'pretrained': cannot download {backbone.pretrained.source} ({error}); "
            "download them elsewhere and give the file's path"
        ) from error


def load_initial(
    model: nn.Module,
    state: Mapping[str, Tensor],
    backbone: Backbone,
    resolution: int,
    weights: str | Path,
) -> None:
    """Put weights into a network: all but a head for other classes, and of public ones any.

    Raises:
        InputError: If they are of another network.
    """
    own = model.state_dict()
    head = head_weights(backbone, resolution)
    public = weights == "pretrained"
    fresh = {
        name
        for name in own
        if (name in head and (public or name not in state or state[name].shape != own[name].shape))
        or (public and name.startswith(backbone.renewed or ("\0",)))
    }
    fitting = {name: tensor for name, tensor in state.items() if name not in fresh}
    missing = {n for n in own if n not in fitting and not n.endswith("num_batches_tracked")}
    wrong = [n for n, t in fitting.items() if n not in own or own[n].shape != t.shape]
    if (missing - fresh) or wrong:
        first = sorted((missing - fresh) or wrong)[0]
        raise InputError(
            f"weights: {weights} does not fit {backbone.name} (first at {first!r}); give the "
            "weights of the same backbone"
        )
    try:
        model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise InputError(
            f"weights: {weights} cannot be copied into {backbone.name} "
            f"({' '.join(str(error).split())[:200]})"
        ) from error
