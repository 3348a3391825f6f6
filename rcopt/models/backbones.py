"""Backbones by name: build them, order them by depth, count what they cost."""

from pathlib import Path

import torch
from torch import nn

from rcopt.models.families import construct, parse
from rcopt.models.initial_weights import initial_state, load_initial


def build(name: str, n_classes: int, *, weights: str | Path = "none", seed: int = 0) -> nn.Module:
    """Build a backbone with a new head, channels last in memory.

    The last normalization of each residual block starts at zero (Goyal et al. 2017,
    arXiv:1706.02677, section 5.1). The head works in float32 under autocast too, so that
    confidences are not rounded to bfloat16's 8 bits.

    Args:
        name: See `parse`.
        n_classes: Size of the head, at least 2.
        weights: ``"none"``; ``"pretrained"``: torchvision's IMAGENET1K_V1 but for the head (and
            the first convolution of ``-s1``); or a safetensors or ``torch.save`` file of
            weights, of which the head is kept if it has ``n_classes``.
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
        model = construct(backbone, n_classes)
    if state is not None:
        load_initial(model, state, backbone, weights)
    return channels_last(model)


def skeleton(name: str, n_classes: int) -> nn.Module:
    """Return a backbone whose weights are undefined, to load a complete state dict into.

    It saves drawing initial weights. Load by copying, not by ``assign=True``: tensors read
    from a file need not lie at the addresses that the fast kernels want, and other kernels
    round otherwise.

    Raises:
        InputError: On an unknown name.
    """
    with torch.device("meta"):
        model = construct(parse(name), n_classes)
    return channels_last(model.to_empty(device="cpu"))


def channels_last(model: nn.Module) -> nn.Module:
    """Lay a model's convolution weights out channels last, in place, and return it."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model
