"""The state of an unfinished training: written whole or not at all, never trusted blindly."""

import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rcopt.files import tensors_digest
from rcopt.models.averaging import MovingAverage

_AVERAGE = "average."

#: SGD's momentum has its own prefix; what other optimizers keep is ``optimizer.KEY.NAME``.
_PREFIXES = {"momentum_buffer": "momentum."}


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    epoch: int,
    belongs_to: str,
    average: MovingAverage | None = None,
) -> None:
    """Write the state after an epoch, beside and then renamed.

    Args:
        path: File to write or replace; its folder exists.
        model: Its parameters and buffers are kept.
        optimizer: Its state is kept.
        epoch: Number of finished epochs.
        belongs_to: What the training is of; `load_checkpoint` takes no other one's state.
        average: Of the weights, if one is kept.
    """
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                state[_prefix(key) + name] = value
    if average is not None:
        state |= {_AVERAGE + name: tensor for name, tensor in average.state.items()}
    metadata = {"epoch": str(epoch), "belongs_to": belongs_to}
    write_tensors(path, state, metadata | {"sha256": _digest(state, metadata)})


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    belongs_to: str,
    average: MovingAverage | None = None,
) -> int:
    """Put a state back, if there is a sound one.

    A file that is damaged or belongs to another training is told to the library's logger and
    set aside under the name ``*.damaged``.

    Returns:
        Number of finished epochs; 0 if there was nothing to continue, and then model and
        optimizer are as they were.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        epoch = int(metadata["epoch"])
        if epoch < 1 or metadata["belongs_to"] != belongs_to:
            raise ValueError("of another training")
        stated = metadata.pop("sha256")
        if _digest(tensors, metadata) != stated:
            raise ValueError("its sha256 is another")
        _restore(model, optimizer, average, tensors)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        aside = path.with_name(path.name + ".damaged")
        path.replace(aside)
        logging.getLogger("rcopt.checkpoints").warning(
            "%s: not a sound checkpoint of this training (%s); set aside as %s, the training "
            "starts over",
            path,
            " ".join(str(error).split())[:200],
            aside.name,
        )
        return 0
    return epoch


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically: readers see the old file or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        plain: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, tensor in tensors.items():
            whole = tensor.detach().cpu().contiguous()
            # The format has no two names for one tensor, as layers that share weights have.
            plain[name] = whole.clone() if whole.data_ptr() in seen else whole
            seen.add(whole.data_ptr())
        save_file(plain, part, metadata)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    # As bytes, because numpy does not know every type that torch has.
    plain = {
        f"{name} {tensor.dtype} {tuple(tensor.shape)}": tensor.detach()
        .cpu()
        .contiguous()
        .reshape(-1)
        .view(torch.uint8)
        .numpy()
        for name, tensor in tensors.items()
    }
    return tensors_digest(plain, repr(sorted(metadata.items())))


def _restore(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    tensors: dict[str, Tensor],
) -> None:
    own = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        own |= {_AVERAGE + name: tensor for name, tensor in average.state.items()}
    parameters = dict(model.named_parameters())
    expected = {name: tensor.shape for name, tensor in own.items()}
    found = {name: tensor.shape for name, tensor in tensors.items() if name in expected}
    state: dict[str, dict[str, Tensor]] = {}
    for name in tensors.keys() - expected.keys():
        key, parameter = _split(name)
        if parameter not in parameters:
            raise ValueError("of another model")
        state.setdefault(parameter, {})[key] = tensors[name]
    for parameter, values in state.items():
        shapes = {value.shape for value in values.values() if value.ndim}
        if shapes - {parameters[parameter].shape}:
            raise ValueError("of another model")
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    if found != expected or state.keys() != trained:
        raise ValueError("of another model")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    for name, values in state.items():
        for key, value in values.items():
            like = parameters[name] if value.ndim else value.to(parameters[name].device)
            restored = torch.empty_like(like).copy_(value).detach()
            optimizer.state[parameters[name]][key] = restored


def _prefix(key: str) -> str:
    return _PREFIXES.get(key, f"optimizer.{key}.")


def _split(name: str) -> tuple[str, str]:
    """Return the optimizer's key and the parameter's name that a tensor is called after."""
    for key, prefix in _PREFIXES.items():
        if name.startswith(prefix):
            return key, name.removeprefix(prefix)
    kind, key, parameter = (*name.split(".", 2), "", "")[:3]
    if kind != "optimizer":
        raise ValueError("of another model")
    return key, parameter
