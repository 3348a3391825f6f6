"""MobileNetV2 of any width."""

import re
from functools import partial
from typing import cast

from torch import nn

from rcopt.compat import import_torchvision
from rcopt.errors import InputError
from rcopt.models.families.base import Backbone, Family, Head
from rcopt.models.families.torchvision import imagenet_weights


def _parse(name: str) -> Backbone | None:
    found = re.fullmatch(r"mobilenet_v2(?:-(\d+(?:\.\d+)?))?", name)
    if found is None:
        return None
    width = float(found[1] or 1)
    if not 0.05 <= width <= 8:
        raise InputError(f"unknown backbone {name!r}: the width must lie in 0.05..8")
    return Backbone(
        "mobilenet_v2" + f"-{width:g}" * (width != 1),
        partial(_construct, width),
        bare=True,
        pretrained=imagenet_weights("mobilenet_v2") if width == 1 else None,
    )


def _construct(width: float, n_classes: int, resolution: int) -> nn.Module:
    model = import_torchvision("torchvision.models").mobilenet_v2(width_mult=width)
    model.classifier[1] = Head(model.last_channel, n_classes)
    nn.init.normal_(model.classifier[1].weight, 0, 0.01)
    nn.init.zeros_(model.classifier[1].bias)
    return cast(nn.Module, model)


_NAMES = tuple(f"mobilenet_v2{width}" for width in ("", "-0.25", "-0.5", "-0.75", "-1.4"))

FAMILY = Family("mobilenet_v2-WIDTH", lambda: _NAMES, _parse)
