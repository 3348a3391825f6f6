"""What a family of backbones declares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from rcopt.data.preprocessing import IMAGENET, Preprocessing


class Construct(Protocol):
    """Makes the network that a backbone's name stands for, untrained."""

    def __call__(self, n_classes: int, resolution: int) -> nn.Module:
        """Return a network for images (B, 3, resolution, resolution) that answers logits."""


@dataclass(frozen=True, eq=False)
class Pretrained:
    """Public weights of a backbone.

    Attributes:
        source: Where they come from, as a person would say it.
        load: Reads or downloads them for images of a side in pixels; its `OSError`,
            `RuntimeError` and `ValueError` are told as a failed download.
        images: What they were trained on, as far as is known.
        licence: Likewise.
    """

    source: str
    load: Callable[[int], Mapping[str, Tensor]]
    images: str
    licence: str


@dataclass(frozen=True, eq=False)
class Backbone:
    """What a backbone's name stands for.

    Attributes:
        name: Canonical name.
        construct: Makes the network.
        preprocessing: What it wants its images to be like.
        pretrained: Public weights that fit it; None if there are none.
        renewed: Beginnings of the names of weights, beside the head's, that start anew although
            ``pretrained`` holds them, for they have another shape there.
        ignored: Beginnings of the names of weights that files may hold and nobody needs.
        adapt: Renames or resizes the weights of a file to fit a network of this kind.
        bare: Whether its state dict is all that it holds, so that it can be made without values
            and then loaded.
        version: Anything else that the trained weights depend on beside the name.
    """

    name: str
    construct: Construct
    preprocessing: Preprocessing = IMAGENET
    pretrained: Pretrained | None = None
    renewed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    adapt: Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]] | None = None
    bare: bool = False
    version: str = ""


@dataclass(frozen=True, eq=False)
class Family:
    """Backbones of one kind: all that rcopt knows of them.

    Attributes:
        known: The names it understands, in words.
        names: Gives the names to suggest where an unknown one is near.
        parse: Returns what a name stands for, or None if it is of another family. Raises
            `rcopt.errors.InputError` on a name of this family that cannot be built.
    """

    known: str
    names: Callable[[], tuple[str, ...]]
    parse: Callable[[str], Backbone | None]


class Head(nn.Linear):
    """A linear layer that works in float32 under autocast.

    Confidences are then not rounded to bfloat16's 8 bits.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N, classes) of features (N, F)."""
        if features.is_meta:
            return super().forward(features)
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


def float_head(model: nn.Module) -> nn.Module:
    """Let a network's last linear layer be a `Head`, in place, and return the network."""
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if linear and type(linear[-1]) is nn.Linear:
        linear[-1].__class__ = Head  # it holds the same, and works otherwise
    return model


def head_weights(backbone: Backbone, resolution: int) -> frozenset[str]:
    """Return the names of the weights whose shape follows from the number of classes."""
    two, three = (outline(backbone, n, resolution).state_dict() for n in (2, 3))
    return frozenset(name for name in two if two[name].shape != three[name].shape)


def outline(backbone: Backbone, n_classes: int, resolution: int) -> nn.Module:
    """Return a backbone's network without values, on the meta device."""
    try:
        with torch.device("meta"):
            return backbone.construct(n_classes, resolution)
    except (NotImplementedError, RuntimeError):  # some compute with values while they are made
        with torch.random.fork_rng(devices=[]):
            return backbone.construct(n_classes, resolution).to("meta")
