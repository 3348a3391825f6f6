"""Networks by name, with a new head and the weights to start from."""

from pathlib import Path

import torch
from torch import nn

from rcopt.models.families import parse
from rcopt.models.initial_weights import initial_state, load_initial


def build(
    name: str,
    n_classes: int,
    resolution: int = 224,
    *,
    weights: str | Path = "none",
    seed: int = 0,
) -> nn.Module:
    """Build a backbone with a new head, channels last in memory.

    Args:
        name: See `rcopt.models.families.parse`.
        n_classes: Size of the head, at least 2.
        resolution: Side of the images it is for; only some networks depend on it.
        weights: ``"none"``; ``"pretrained"``: public ones but for the head; or a safetensors or
            ``torch.save`` file of weights, of which the head is kept if it has ``n_classes``.
        seed: Of the initial weights; the global random state is left alone.

    Raises:
        InputError: On an unknown name, or weights that do not exist or do not fit.
        WorkError: If pretrained weights cannot be downloaded.
    """
    backbone = parse(name)
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes}")
    state = initial_state(backbone, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = backbone.construct(n_classes, resolution)
    if state is not None:
        load_initial(model, state, backbone, resolution, weights)
    return channels_last(model)


def skeleton(name: str, n_classes: int, resolution: int) -> nn.Module:
    """Return a backbone whose weights are undefined, to load a complete state dict into.

    It saves drawing initial weights. Load by copying, not by ``assign=True``: tensors read
    from a file need not lie at the addresses that the fast kernels want, and other kernels
    round otherwise.

    Raises:
        InputError: On an unknown name.
    """
    with torch.device("meta"):
        model = parse(name).construct(n_classes, resolution)
    return channels_last(model.to_empty(device="cpu"))


def channels_last(model: nn.Module) -> nn.Module:
    """Lay a model's convolution weights out channels last, in place, and return it."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model
