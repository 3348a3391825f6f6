"""Count multiply-accumulates."""

import contextlib
import copy
import io
import math
from dataclasses import dataclass

import torch
from torch import nn

from rcopt.compat import import_torchvision
from rcopt.errors import WorkError


@dataclass(frozen=True)
class Cost:
    """What one forward pass of one image costs.

    Attributes:
        macs: Multiply-accumulates as ptflops' ``pytorch`` backend counts them: convolutions,
            linear layers, and one per element of normalizations, activations and pooling.
        parameters: Number of parameters.
    """

    macs: int
    parameters: int


def count_macs(model: nn.Module, resolution: int, *, backend: str = "pytorch") -> Cost:
    """Measure the cost of one forward pass with ptflops.

    ptflops patches torch's functions while it counts: not for use in parallel threads.

    Args:
        model: Counted as a copy in evaluation mode; it stays as it is.
        resolution: Side of the input in pixels.
        backend: ptflops' ``"pytorch"`` (see `Cost`) or ``"aten"`` (convolutions and matrix
            products alone).

    Raises:
        WorkError: If ptflops cannot count the model.
    """
    import_torchvision()  # which ptflops imports
    from ptflops import get_model_complexity_info

    copied = copy.deepcopy(model).to("cpu", torch.float32).eval()
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), torch.no_grad():
            macs, _ = get_model_complexity_info(
                copied,
                (3, resolution, resolution),
                as_strings=False,
                print_per_layer_stat=False,
                backend=backend,
                ost=said,
            )
    except Exception as error:
        raise WorkError(f"ptflops could not count MACs at {resolution} px: {error}") from error
    if not isinstance(macs, int | float) or not math.isfinite(macs) or macs <= 0:
        reason = " ".join(said.getvalue().split())[:300]
        raise WorkError(f"ptflops counted {macs!r} MACs at {resolution} px: {reason}")
    return Cost(int(macs), sum(parameter.numel() for parameter in model.parameters()))
