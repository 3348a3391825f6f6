"""Count multiply-accumulates, twice: by ptflops and by torch itself."""

import contextlib
import copy
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rcopt.compat import import_torchvision
from rcopt.errors import WorkError
from rcopt.models.operations import Operations

#: Relative difference between the two counts beyond which it is explained.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Cost:
    """What one forward pass of one image costs.

    Attributes:
        macs: Multiply-accumulates: as ptflops' ``pytorch`` backend counts them, which are those
            of convolutions and linear layers, and one per element of normalizations, activations
            and pooling; but as torch counts them where ptflops overlooks more than `TOLERANCE`
            of those, as it does in many networks with attention.
        parameters: Number of parameters.
        ptflops: ptflops' count.
        torch: That of torch's ``FlopCounterMode``: convolutions and matrix products alone.
        differences: Why the two differ by more than `TOLERANCE`, and what neither counts; names
            operations.
        overlooked: Those of the differences that are no mere normalizations and activations.
    """

    macs: int
    parameters: int
    ptflops: int = field(default=0, compare=False)
    torch: int = field(default=0, compare=False)
    differences: tuple[str, ...] = field(default=(), compare=False)
    overlooked: tuple[str, ...] = field(default=(), compare=False)


def count_macs(model: nn.Module, resolution: int) -> Cost:
    """Measure the cost of one forward pass.

    ptflops patches torch's functions while it counts: not for use in parallel threads.

    Args:
        model: Counted as a copy in evaluation mode; it stays as it is.
        resolution: Side of the input in pixels.

    Raises:
        WorkError: If the model cannot be counted.
    """
    # Torch's counter fails on layers that are given a weight that wants a gradient.
    copied = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
    by_ptflops = _by_ptflops(copied, resolution)
    by_torch, products, others = _by_torch(copied, resolution)
    extra, overlooked = _explained(by_ptflops, by_torch, products, others)
    return Cost(
        macs=by_torch if by_ptflops < (1 - TOLERANCE) * by_torch else by_ptflops,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        ptflops=by_ptflops,
        torch=by_torch,
        differences=(*extra, *overlooked),
        overlooked=overlooked,
    )


def _by_ptflops(model: nn.Module, resolution: int) -> int:
    import_torchvision()  # which ptflops imports
    from ptflops import get_model_complexity_info

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), torch.no_grad():
            macs, _ = get_model_complexity_info(
                model,
                (3, resolution, resolution),
                as_strings=False,
                print_per_layer_stat=False,
                backend="pytorch",
                ost=said,
            )
    except Exception as error:
        raise WorkError(f"ptflops could not count MACs at {resolution} px: {error}") from error
    if not isinstance(macs, int | float) or not math.isfinite(macs) or macs <= 0:
        reason = " ".join(said.getvalue().split())[:300]
        raise WorkError(f"ptflops counted {macs!r} MACs at {resolution} px: {reason}")
    return int(macs)


def _by_torch(
    model: nn.Module, resolution: int
) -> tuple[int, Mapping[str, int], Mapping[str, int]]:
    """Return torch's count, that of each operation, and the elements of all other operations."""
    counter, log = FlopCounterMode(display=False), _Log()
    with torch.no_grad(), _attention_in_parts(), counter, Operations(log.saw):
        model(torch.zeros(1, 3, resolution, resolution))
    products = {str(op).split(".")[-1]: n // 2 for op, n in counter.flop_counts["Global"].items()}
    others = {name: n for name, n in log.elements.items() if name not in products}
    return counter.get_total_flops() // 2, products, others


@contextlib.contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Let attention be computed by matrix products, which are counted, inside."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Log:
    """Counts the elements that operations work on, but for those that only move values."""

    def __init__(self) -> None:
        self.elements: Counter[str] = Counter()

    def saw(self, name: str, is_view: bool, args: Any, result: Any) -> None:
        first = result[0] if isinstance(result, tuple) else result
        if isinstance(first, Tensor) and not is_view and name not in _MOVES:
            self.elements[name] += max(first.numel(), *map(_size, args[:1]))


def _size(value: object) -> int:
    return value.numel() if isinstance(value, Tensor) else 0


_MOVES_WORDS = """
    cat stack clone copy to_copy _to_copy contiguous empty empty_like new_empty zeros zeros_like
    new_zeros ones ones_like new_ones full full_like new_full fill zero arange linspace index
    index_put index_select gather embedding constant_pad_nd reflection_pad2d replication_pad2d
    roll flip repeat _unsafe_view _reshape_copy view reshape as_strided select_scatter
    slice_scatter scatter detach lift_fresh lift_fresh_copy pixel_shuffle pixel_unshuffle
    channel_shuffle native_channel_shuffle split split_with_sizes unbind alias scalar_tensor eye
    tril triu native_dropout dropout bernoulli im2col col2im unfold meshgrid _local_scalar_dense
    is_same_size
"""
_MOVES = frozenset(_MOVES_WORDS.split())
#: What costs about one operation an element, which one counter or neither takes in.
_LIGHT = {
    "normalizations": "native_batch_norm _native_batch_norm_legit_no_training native_layer_norm "
    "_native_batch_norm_legit native_group_norm batch_norm cudnn_batch_norm var_mean "
    "linalg_vector_norm",
    "activations": "relu hardtanh silu gelu hardswish hardsigmoid sigmoid tanh leaky_relu elu "
    "prelu mish softplus clamp clamp_min erf exp",
    "softmax": "_softmax _log_softmax _safe_softmax",
    "pooling": "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d mean "
    "sum amax max",
    "sums and products of elements": "add sub mul div rsub addcmul lerp neg pow rsqrt sqrt "
    "reciprocal where masked_fill eq ne lt gt le ge logical_not floor abs sin cos all any",
    "resizing": "upsample_bilinear2d upsample_nearest2d upsample_bicubic2d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa",
}
_KIND = {name: kind for kind, names in _LIGHT.items() for name in names.split()}


def _explained(
    by_ptflops: int, by_torch: int, products: Mapping[str, int], others: Mapping[str, int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return in words what ptflops counts beyond torch, and what one or both overlook."""
    beyond = by_ptflops / max(by_torch, 1) - 1
    light: Counter[str] = Counter()
    for name, elements in others.items():
        if name in _KIND:
            light[_KIND[name]] += elements
    extra: tuple[str, ...] = ()
    overlooked = []
    if beyond > TOLERANCE:
        most = " and ".join(kind for kind, _ in light.most_common(2)) or "other operations"
        extra = (
            "ptflops counts more than torch, which counts convolutions and matrix products "
            f"alone: mostly {most}",
        )
    elif beyond < -TOLERANCE:
        named = [name for name in products if name != "convolution"] or list(products)
        overlooked.append(
            f"ptflops overlooks some of {', '.join(sorted(named))} (attention, or a layer of the "
            "network's own), so torch's count is taken"
        )
    unknown = sorted(name for name in others if name not in _KIND)
    if unknown:
        overlooked.append(f"not counted by torch, and maybe by neither: {', '.join(unknown)}")
    return extra, tuple(overlooked)
