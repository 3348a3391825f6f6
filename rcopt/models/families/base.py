"""What a family of backbones declares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class Construct(Protocol):
    """Makes the network that a backbone's name stands for, untrained."""

    def __call__(self, n_classes: int, resolution: int) -> nn.Module:
        """Return a network for images (B, 3, resolution, resolution) that answers logits."""


@dataclass(frozen=True, eq=False)
class Pretrained:
    """Public weights of a backbone.

    Attributes:
        source: Where they come from, as a person would say it.
        load: Reads or downloads them; its `OSError`, `RuntimeError` and `ValueError` are told
            as a failed download.
    """

    source: str
    load: Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Backbone:
    """What a backbone's name stands for.

    Attributes:
        name: Canonical name.
        construct: Makes the network.
        pretrained: Public weights that fit it; None if there are none.
        renewed: Beginnings of the names of weights, beside the head's, that start anew although
            ``pretrained`` holds them, for they have another shape there.
    """

    name: str
    construct: Construct
    pretrained: Pretrained | None = None
    renewed: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Family:
    """Backbones of one kind: all that rcopt knows of them.

    Attributes:
        known: The names it understands, in words.
        names: Names to suggest where an unknown one is near.
        parse: Returns what a name stands for, or None if it is of another family. Raises
            `rcopt.errors.InputError` on a name of this family that cannot be built.
    """

    known: str
    names: tuple[str, ...]
    parse: Callable[[str], Backbone | None]


class Head(nn.Linear):
    """A linear layer that works in float32 under autocast.

    Confidences are then not rounded to bfloat16's 8 bits.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N, classes) of features (N, F)."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


def head_weights(backbone: Backbone, resolution: int) -> frozenset[str]:
    """Return the names of the weights whose shape follows from the number of classes."""
    with torch.device("meta"):
        two, three = (backbone.construct(n, resolution).state_dict() for n in (2, 3))
    return frozenset(name for name in two if two[name].shape != three[name].shape)
