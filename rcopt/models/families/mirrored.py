"""Any other backbone, asked twice: ``NAME-mirrored`` answers with an image and its mirror image.

The answer is the mean of both logits, for twice the FLOPs; training sees each image once, as
without it. Worth its cost where the next larger network costs more than twice as much: half a
point to one on small images (airbench94, KellerJordan, commit f1c599c).
"""

from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from rcopt.models.families.base import Backbone, Family

_SUFFIX = "-mirrored"


class _Twice(nn.Module):
    """What makes a network answer with two looks; to be mixed into the network's class."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        logits: Tensor = super().forward(images)
        if self.training:
            return logits
        mirrored: Tensor = super().forward(images.flip(3))
        return (logits + mirrored) / 2


def _parse(name: str) -> Backbone | None:
    if not name.endswith(_SUFFIX) or name.endswith(2 * _SUFFIX):
        return None
    # All families are known only once this module is one of them.
    from rcopt.models.families import parse

    once = parse(name.removesuffix(_SUFFIX))
    return replace(once, name=once.name + _SUFFIX, construct=partial(_construct, once))


def _construct(once: Backbone, n_classes: int, resolution: int) -> nn.Module:
    model = once.construct(n_classes, resolution)
    model.__class__ = _twice(type(model))  # it holds the same, and answers otherwise
    return model


def _twice(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Mirrored{kind.__name__}", (_Twice, kind), {})


FAMILY = Family("NAME-mirrored", lambda: (), _parse)
