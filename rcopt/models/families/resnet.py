"""ResNets with three stems.

The stock stem reduces the side by 4; ``-s2`` by 2 (7x7 convolution of stride 2, no max-pool, 4
times the MACs); ``-s1`` by nothing (3x3 of stride 1, no max-pool, about 15 times the MACs).
"""

import re
from functools import partial
from typing import cast

from torch import nn

from rcopt.compat import import_torchvision
from rcopt.models.families.base import Backbone, Family, Head
from rcopt.models.families.torchvision import imagenet_weights

_DEPTHS = (18, 34, 50, 101, 152)


def _parse(name: str) -> Backbone | None:
    found = re.fullmatch(rf"(resnet(?:{'|'.join(map(str, _DEPTHS))}))(?:-s([12]))?", name)
    if found is None:
        return None
    stock, stem = found[1], int(found[2] or 4)
    return Backbone(
        name,
        partial(_construct, stock, stem),
        bare=True,
        pretrained=imagenet_weights(stock),
        renewed=("conv1.",) if stem == 1 else (),
    )


def _construct(stock: str, stem: int, n_classes: int, resolution: int) -> nn.Module:
    # The last normalization of each residual block starts at zero (Goyal et al. 2017,
    # arXiv:1706.02677, section 5.1).
    model = getattr(import_torchvision("torchvision.models"), stock)(zero_init_residual=True)
    if stem != 4:
        model.maxpool = nn.Identity()
    if stem == 1:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.fc = Head(model.fc.in_features, n_classes)
    return cast(nn.Module, model)


_NAMES = tuple(f"resnet{depth}{stem}" for stem in ("", "-s2", "-s1") for depth in _DEPTHS)

FAMILY = Family("resnet18, 34, 50, 101, 152, each also with -s2 or -s1", lambda: _NAMES, _parse)
