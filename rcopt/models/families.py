"""Backbones by name: which there are, their order by depth, how each is built."""

import difflib
import math
import re
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from rcopt.compat import import_torchvision
from rcopt.errors import InputError

#: Names of the fixed backbones; ``mobilenet_v2-W`` takes any width W besides.
NAMES = (
    *(f"resnet{depth}{stem}" for stem in ("", "-s2", "-s1") for depth in (18, 34, 50, 101, 152)),
    *(f"mobilenet_v2{width}" for width in ("", "-0.25", "-0.5", "-0.75", "-1.4")),
)


_RESNET_GMACS = {18: 1.82, 34: 3.68, 50: 4.13, 101: 7.86, 152: 11.60}


_STEM_AREA = {4: 1, 2: 4, 1: 16}


@dataclass(frozen=True)
class Backbone:
    """What a backbone's name says.

    Attributes:
        name: Canonical name.
        family: ``resnet``, ``resnet-s2``, ``resnet-s1`` or ``mobilenet_v2``.
        size: Depth (number of layers) of a ResNet, width multiplier of a MobileNetV2.
        stem: Factor by which the stem reduces the side: 4 for the stock ResNet, 2 (``-s2``:
            7x7 convolution of stride 2, no max-pool, 4 x the MACs), 1 (``-s1``: 3x3 of stride
            1, no max-pool, about 15 x the MACs); 2 for MobileNetV2.
    """

    name: str
    family: str
    size: float
    stem: int

    @property
    def short_name(self) -> str:
        """``r34`` for ``resnet34``, ``mnv2-0.5`` for ``mobilenet_v2-0.5``."""
        return self.name.replace("resnet", "r").replace("mobilenet_v2", "mnv2")

    @property
    def approximate_gmacs(self) -> float:
        """Rough cost at 224 pixels; only for putting names in order."""
        if self.family == "mobilenet_v2":
            return 0.32 * math.pow(self.size, 1.8)
        return _RESNET_GMACS[int(self.size)] * _STEM_AREA[self.stem]


def parse(name: str) -> Backbone:
    """Return what a backbone's name says.

    Raises:
        InputError: If there is no such backbone; names the nearest known one.
    """
    if found := re.fullmatch(r"resnet(18|34|50|101|152)(?:-s([12]))?", name):
        depth, stem = found.groups()
        return Backbone(name, f"resnet-s{stem}" if stem else "resnet", int(depth), int(stem or 4))
    if found := re.fullmatch(r"mobilenet_v2(?:-(\d+(?:\.\d+)?))?", name):
        width = float(found[1] or 1)
        if 0.05 <= width <= 8:
            return Backbone(
                "mobilenet_v2" + f"-{width:g}" * (width != 1), "mobilenet_v2", width, 2
            )
        raise InputError(f"unknown backbone {name!r}: the width must lie in 0.05..8")
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(
        f"unknown backbone {name!r}; {hint}known: resnet18, 34, 50, 101, 152, each also with "
        "-s2 or -s1, and mobilenet_v2-WIDTH"
    )


def short_name(name: str) -> str:
    """Return the name for tables and run names, such as ``r34``.

    Example:
        >>> short_name("resnet34"), short_name("mobilenet_v2-0.5")
        ('r34', 'mnv2-0.5')
    """
    return parse(name).short_name


def by_depth(names: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Return the names from shallow to deep.

    Within a family the order is by depth or width; families are put in between by their cost
    at 224 pixels.
    """
    return tuple(sorted(names, key=lambda name: (parse(name).approximate_gmacs, name)))


class Head(nn.Linear):
    """A linear layer that works in float32 under autocast."""

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N, classes) of features (N, F)."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


def construct(backbone: Backbone, n_classes: int) -> nn.Module:
    """Return the network that a backbone names, untrained."""
    models = import_torchvision("torchvision.models")
    if backbone.family == "mobilenet_v2":
        model = models.mobilenet_v2(width_mult=backbone.size)
        model.classifier[1] = Head(model.last_channel, n_classes)
        nn.init.normal_(model.classifier[1].weight, 0, 0.01)
        nn.init.zeros_(model.classifier[1].bias)
        return cast(nn.Module, model)
    model = getattr(models, f"resnet{backbone.size:g}")(zero_init_residual=True)
    if backbone.stem != 4:
        model.maxpool = nn.Identity()
    if backbone.stem == 1:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.fc = Head(model.fc.in_features, n_classes)
    return cast(nn.Module, model)
