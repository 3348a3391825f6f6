"""Which number format a network computes in."""

from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import nn

from rcopt.models.recipe import Precision

#: What a network computes in, ``auto`` settled.
NumberFormat = Literal["float32", "bfloat16"]

#: Below this side depthwise convolutions are trained in float32 on CPUs. MobileNetV2 in bfloat16
#: trains 0.5 times as many images a second as in float32 at 32 pixels, 0.8 at 64, 1.05 at 96,
#: 1.2 at 128, 1.6 at 160 (AMD EPYC with AVX512-BF16, one thread, torch 2.13).
_SMALL = 96


def resolve_precision(
    precision: Precision,
    model: nn.Module,
    device: str | torch.device,
    *,
    training_side: int | None = None,
) -> NumberFormat:
    """Settle what ``"auto"`` means for a model on a device.

    bfloat16 (autocast: weights, norms' statistics, head and loss stay float32) where the
    hardware computes in it: CUDA devices and CPUs that have the instructions. There ResNets are
    1.6 to 1.9 times as fast, MobileNets predict 1.2 to 2.2 times as fast. But gradients of
    depthwise convolutions of small images take up to twice as long in it, so that those are
    trained in float32.

    Args:
        precision: Returned unless it is ``"auto"``.
        model: Looked at for depthwise convolutions.
        device: Where the model is to work.
        training_side: Side of the images that it is to be trained with; None if it predicts.
    """
    if precision != "auto":
        return precision
    kind = torch.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if kind != "cpu" or not cpu_has_bfloat16():
        return "float32"
    small = training_side is not None and training_side < _SMALL
    return "float32" if small and _has_depthwise(model) else "bfloat16"


def autocast(device: torch.device, number_format: NumberFormat) -> AbstractContextManager[object]:
    """Return the context in which a network computes in a number format."""
    return torch.autocast(device.type, torch.bfloat16, enabled=number_format == "bfloat16")


def cpu_has_bfloat16() -> bool:
    """Return whether this machine's processor computes in bfloat16."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported is not None and supported())


def _has_depthwise(model: nn.Module) -> bool:
    return any(
        isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
        for layer in model.modules()
    )
