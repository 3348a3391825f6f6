"""How much of the image each layer sees (Richter et al. 2021, arXiv:2106.12307).

A layer whose input sees the whole image already cannot join anything from further away: it adds
cost and little else. What is followed are the kernels and strides of convolutions and pooling,
along the path that sees most; residual connections carry smaller views past a layer, so that
what such a layer adds is not nothing. Gates and attention see all by design and are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from rcopt.models.operations import Operations


@dataclass(frozen=True)
class SeenLayer:
    """A convolution over a map of features.

    Attributes:
        name: Of its weight, without ``.weight``.
        field: Side in pixels of what one position of its input sees.
        macs: Its multiply-accumulates at the side that was traced.
    """

    name: str
    field: int
    macs: int


@dataclass(frozen=True)
class ReceptiveField:
    """The convolutions of a network, in the order in which they run.

    Attributes:
        layers: Only those that see a part of the image that kernels and strides limit.
    """

    layers: tuple[SeenLayer, ...]

    def beyond(self, side: int) -> tuple[SeenLayer, ...]:
        """Return the layers whose input sees all of an image of a side already."""
        return tuple(layer for layer in self.layers if layer.field >= side)

    def share_beyond(self, side: int) -> float:
        """Return those layers' share of the multiply-accumulates of all layers."""
        total = sum(layer.macs for layer in self.layers)
        return sum(layer.macs for layer in self.beyond(side)) / total if total else 0.0

    def suited_from(self, share: float) -> int:
        """Return the smallest side at which at most a share of the MACs lies beyond."""
        sides = sorted({layer.field + 1 for layer in self.layers} | {1})
        return next(side for side in sides if self.share_beyond(side) <= share)


def trace(model: nn.Module, resolution: int) -> ReceptiveField:
    """Run a network once on an empty image and follow what each layer sees.

    Args:
        model: In evaluation mode, on the CPU.
        resolution: Side in pixels; what is seen does not depend on it, MACs do.
    """
    tracer = _Tracer({id(p): n.removesuffix(".weight") for n, p in model.named_parameters()})
    image = torch.zeros(1, 3, resolution, resolution)
    tracer.seen[image] = (1, 1)
    with torch.no_grad(), Operations(tracer.saw):
        model(image)
    return ReceptiveField(tuple(tracer.layers))


class _Tracer:
    """Keeps, for each tensor, the side of what a position sees, and the pixels between two."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names, self.layers = names, list[SeenLayer]()
        self.seen: Any = WeakTensorKeyDictionary()

    def saw(self, name: str, is_view: bool, args: Any, result: Any) -> None:
        outputs = [value for value in _flat((result,)) if isinstance(value, Tensor)]
        known = [self.seen[t] for t in _flat(args) if isinstance(t, Tensor) and t in self.seen]
        if not known or not outputs or name in _GLOBAL:
            return
        field, jump = max(known)
        if name == "convolution":
            weight, out = args[1], outputs[0]
            macs = out.numel() * weight[0].numel()
            self.layers.append(SeenLayer(self.names.get(id(weight), ""), field, macs))
        if name in _WINDOWS:
            kernel, stride, dilation = _WINDOWS[name](args)
            field, jump = field + dilation * (kernel - 1) * jump, jump * stride
        for output in outputs:
            # A map of one position that was pooled from more sees all: it is not followed.
            if output.ndim != 4 or max(output.shape[2:]) > 1 or max(args[0].shape[2:]) == 1:
                self.seen[output] = (field, jump)


def _flat(values: Any) -> list[Any]:
    found = []
    for value in values:
        found += _flat(value) if isinstance(value, list | tuple) else [value]
    return found


def _side(value: Any, otherwise: int = 1) -> int:
    return max(value) if isinstance(value, list | tuple) and value else value or otherwise


def _pooling(args: Any) -> tuple[int, int, int]:
    kernel = _side(args[1])
    return kernel, _side(args[2] if len(args) > 2 else None, kernel), 1


_WINDOWS: Mapping[str, Any] = {
    "convolution": lambda args: (max(args[1].shape[2:]), _side(args[3]), _side(args[5])),
    "max_pool2d_with_indices": _pooling,
    "avg_pool2d": _pooling,
}
#: What makes every position see all.
_GLOBAL = {"bmm", "baddbmm", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "mean"} | {
    f"_scaled_dot_product_{kind}"
    for kind in ("flash_attention_for_cpu", "fused_attention_overrideable", "attention_math")
}
