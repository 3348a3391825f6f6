"""Weights that training starts from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rcopt.errors import InputError, WorkError
from rcopt.files import file_digest
from rcopt.models.families.base import Backbone, head_weights

#: What a folder is searched for, in this order; Hugging Face's names.
_FILES = ("model.safetensors", "pytorch_model.bin")
#: Where training programs keep the weights in their checkpoints.
_WRAPPERS = ("state_dict", "model", "model_state_dict")
#: What wrappers around a network put before its weights' names.
_PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """Weights that a training starts from, and what is known of where they come from.

    Attributes:
        state: By name.
        given: ``"pretrained"`` or the file, as messages name it.
        source: Where they come from, as a person would say it.
        sha256: Of the file; of public weights, of their tensors as they were loaded.
        images: What they were trained on.
        licence: What they may be used for.
    """

    state: Mapping[str, Tensor]
    given: str | Path
    source: str
    sha256: str
    images: str = "not known to rcopt"
    licence: str = "not known to rcopt"


def open_initial(
    backbone: Backbone, weights: str | Path, resolution: int
) -> InitialWeights | None:
    """Read or download what ``weights`` says; None for ``"none"``.

    Raises:
        InputError: On weights that do not exist or cannot be read.
        WorkError: If public weights cannot be downloaded.
    """
    if weights == "none":
        return None
    if weights == "pretrained":
        state = public_state(backbone, resolution)
        public = backbone.pretrained
        assert public is not None, "or there were no state"
        return InitialWeights(
            state, weights, public.source, _digest(state), public.images, public.licence
        )
    path = weights_file(Path(weights))
    return InitialWeights(read_state(path), weights, f"file {path.name}", file_digest(path))


def _digest(state: Mapping[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        # As bytes: numpy does not know every type that torch has.
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def weights_file(path: Path) -> Path:
    """Return the file that a path of weights means: itself, or the one in a folder.

    Raises:
        InputError: If there is none.
    """
    if path.is_dir():
        for name in _FILES:
            if (path / name).is_file():
                return path / name
        raise InputError(f"weights: the folder {path} holds neither {' nor '.join(_FILES)}")
    if not path.is_file():
        raise InputError(
            f"weights: no file {path}; give 'none', 'pretrained' or the path of a weights file"
        )
    return path


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Read the weights in a file or folder; nothing in it is executed.

    Raises:
        InputError: If they cannot be read, or it holds anything else.
    """
    path = weights_file(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # what torch.load raises on damaged files has no common class
        raise _unreadable(path, error) from error
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"weights: {path} must hold a state dict of tensors alone")
    tensors: dict[str, Tensor] = state
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"weights: {path} is not a readable weights file ({reason})")


def public_state(backbone: Backbone, resolution: int) -> Mapping[str, Tensor]:
    """Download a backbone's public weights, or find them where they were downloaded to.

    Raises:
        InputError: If there are none.
        WorkError: If they cannot be downloaded.
    """
    public = backbone.pretrained
    if public is None:
        raise InputError(
            f"weights = 'pretrained': there are none for {backbone.name}; use 'none' or a file"
        )
    try:
        return public.load(resolution)
    except (OSError, RuntimeError, ValueError) as error:
        raise WorkError(
            f"weights = 'pretrained': cannot download {public.source} "
            f"({' '.join(str(error).split())[:300]}); download them elsewhere and give the file's "
            "path"
        ) from error


def load_initial(
    model: nn.Module, initial: InitialWeights, backbone: Backbone, resolution: int
) -> None:
    """Put weights into a network: all but a head for other classes, and of public ones any.

    Raises:
        InputError: If they are of another network.
    """
    own = model.state_dict()
    state, weights = initial.state, initial.given
    head = head_weights(backbone, resolution)
    public = weights == "pretrained"
    state = {n: t for n, t in state.items() if not n.startswith(backbone.ignored or ("\0",))}
    if backbone.adapt is not None and not _fits(state, own, head):
        state = _adapted(state, model, backbone, weights)
    fresh = {
        name
        for name in own
        if (name in head and (public or name not in state or state[name].shape != own[name].shape))
        or (public and name.startswith(backbone.renewed or ("\0",)))
    }
    fitting = {name: tensor for name, tensor in state.items() if name not in fresh}
    if not _fits(fitting, own, fresh):
        raise InputError(_misfit(fitting, own, fresh, backbone, weights))
    try:
        model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise InputError(
            f"weights: {weights} cannot be copied into {backbone.name} "
            f"({' '.join(str(error).split())[:200]})"
        ) from error


def _adapted(
    state: Mapping[str, Tensor], model: nn.Module, backbone: Backbone, weights: str | Path
) -> Mapping[str, Tensor]:
    assert backbone.adapt is not None
    try:
        return backbone.adapt(state, model)
    except Exception as error:  # written for weights of this network, and these are of another
        raise InputError(
            f"weights: {weights} does not fit {backbone.name} "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); give the weights of "
            "the same backbone"
        ) from error


def _missing(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], free: frozenset[str] | set[str]
) -> list[str]:
    counters = "num_batches_tracked"
    return [n for n in own if n not in state and n not in free and not n.endswith(counters)]


def _wrong(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], free: frozenset[str] | set[str]
) -> list[str]:
    return [
        name
        for name, tensor in state.items()
        if name not in free and (name not in own or own[name].shape != tensor.shape)
    ]


def _fits(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], free: frozenset[str] | set[str]
) -> bool:
    return not _missing(state, own, free) and not _wrong(state, own, free)


def _misfit(
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    free: set[str],
    backbone: Backbone,
    weights: str | Path,
) -> str:
    missing, wrong = _missing(state, own, free), _wrong(state, own, free)
    first = sorted(missing or wrong)[0]
    here, there = own.get(first), state.get(first)
    if here is not None and there is not None:
        what = f"{first!r} has shape {tuple(there.shape)} there and {tuple(here.shape)} here"
    else:
        what = f"first at {first!r}, which is not {'there' if there is None else 'here'}"
    fitting = len(state) - len(wrong)
    return (
        f"weights: {weights} does not fit {backbone.name} ({what}; {fitting} of its "
        f"{len(state)} tensors fit); give the weights of the same backbone"
    )
