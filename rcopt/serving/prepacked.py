"""Networks made ready to predict: what each call would repeat about the weights is done once.

On the CPU every call of a convolution rounds the weights (autocast) and lays them out anew in the
order that oneDNN's kernel wants. With few images that takes longer than the convolution: a
cascade's later stages, and whatever answers single images, suffer most.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rcopt.models.recipe import Precision


def prepared(model: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """Return a copy of a model that predicts the same, bit for bit but where noted.

    Args:
        model: Stays as it is.
        precision: ``"float32"`` or ``"bfloat16"``; the copy predicts in no other.
        device: Where the copy is put, to stay there.

    Returns:
        The copy in evaluation mode. On the CPU in float32 PyTorch has another kernel for single
        small images, whose sums are rounded otherwise (differences of 1e-7 and the like).
    """
    copied = copy.deepcopy(model).to(device).eval()
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    packs = device.type == "cpu" and _has_onednn()
    for module in list(copied.modules()):
        for name, child in list(module.named_children()):
            if not isinstance(child, nn.Conv2d):
                continue
            if packs and child.padding_mode == "zeros" and not isinstance(child.padding, str):
                setattr(module, name, _PackedConvolution(child, dtype))
            else:
                child.weight.data = child.weight.data.to(dtype)
    return copied


class _PackedConvolution(nn.Module):
    """A convolution with its weights in oneDNN's order; what torch's compiler makes of one."""

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        shape: Any = (
            list(convolution.padding),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        weight = convolution.weight.detach().to(dtype)
        bias = convolution.bias
        self._shape, self._dtype = shape, dtype
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *shape, None)
        self._bias = None if bias is None else bias.detach().to(dtype)

    def __deepcopy__(self, memo: object) -> "_PackedConvolution":
        return self  # nothing in it ever changes, and torch cannot copy such weights

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            inputs.to(self._dtype), self._weight, self._bias, *self._shape, "none", [], ""
        )
        return result


def _has_onednn() -> bool:
    here: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return here and all(
        hasattr(torch.ops.mkldnn, name)
        for name in ("_reorder_convolution_weight", "_convolution_pointwise")
    )
