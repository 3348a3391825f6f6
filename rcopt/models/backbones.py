"""Networks by name, with a new head and the weights to start from."""

from pathlib import Path

import torch
from torch import nn

from rcopt.data.preprocessing import IMAGENET, Preprocessing
from rcopt.models.families import parse
from rcopt.models.families.base import outline
from rcopt.models.initial_weights import InitialWeights, load_initial, open_initial


def build(
    name: str,
    n_classes: int,
    resolution: int = 224,
    *,
    weights: str | Path | InitialWeights = "none",
    seed: int = 0,
    preprocessing: Preprocessing | None = None,
) -> nn.Module:
    """Build a backbone with a new head, channels last in memory.

    Args:
        name: See `rcopt.models.families.parse`.
        n_classes: Size of the head, at least 2.
        resolution: Side of the images it is for; only some networks depend on it.
        weights: ``"none"``; ``"pretrained"``: public ones but for the head; or a safetensors or
            ``torch.save`` file of weights, of which the head is kept if it has ``n_classes``; or
            any of them as `rcopt.models.initial_weights.open_initial` read it.
        seed: Of the initial weights; the global random state is left alone.
        preprocessing: Of its images; by default what the backbone is known to want.

    Raises:
        InputError: On an unknown name, or weights that do not exist or do not fit.
        WorkError: If pretrained weights cannot be downloaded.
    """
    backbone = parse(name)
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes}")
    initial = (
        weights
        if isinstance(weights, InitialWeights)
        else open_initial(backbone, weights, resolution)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = backbone.construct(n_classes, resolution)
    if initial is not None:
        load_initial(model, initial, backbone, resolution)
    return _finished(model, preprocessing or backbone.preprocessing)


def skeleton(
    name: str, n_classes: int, resolution: int, preprocessing: Preprocessing
) -> nn.Module:
    """Return a backbone whose weights are undefined, to load a complete state dict into.

    Where the backbone allows it, no initial weights are drawn. Load by copying, not by
    ``assign=True``: tensors read from a file need not lie at the addresses that the fast kernels
    want, and other kernels round otherwise.

    Raises:
        InputError: On an unknown name.
    """
    backbone = parse(name)
    if backbone.bare:
        model = outline(backbone, n_classes, resolution).to_empty(device="cpu")
    else:
        with torch.random.fork_rng(devices=[]):
            model = backbone.construct(n_classes, resolution)
    return _finished(model, preprocessing)


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """Return what a network's images are to be like: `IMAGENET` unless `build` said otherwise."""
    stated = getattr(model, "preprocessing", IMAGENET)
    return stated if isinstance(stated, Preprocessing) else IMAGENET


def _finished(model: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    # Part of the network from here on: copies have it too.
    vars(model)["preprocessing"] = preprocessing
    return channels_last(model)


def channels_last(model: nn.Module) -> nn.Module:
    """Lay a model's convolution weights out channels last, in place, and return it."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model
