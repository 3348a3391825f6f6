"""Backbones by name: build them, order them by depth, count what they cost."""

import contextlib
import copy
import difflib
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rcopt.compat import import_torchvision
from rcopt.errors import InputError, WorkError

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


def build(name: str, n_classes: int, *, weights: str | Path = "none", seed: int = 0) -> nn.Module:
    """Build a backbone with a new head, channels last in memory.

    The last normalization of each residual block starts at zero (Goyal et al. 2017,
    arXiv:1706.02677, section 5.1). The head works in float32 under autocast too, so that
    confidences are not rounded to bfloat16's 8 bits.

    Args:
        name: See `parse`.
        n_classes: Size of the head, at least 2.
        weights: ``"none"``; ``"pretrained"``: torchvision's IMAGENET1K_V1 but for the head (and
            the first convolution of ``-s1``); or a safetensors or ``torch.save`` file of
            weights, of which the head is kept if it has ``n_classes``.
        seed: Of the initial weights; the global random state is left alone.

    Raises:
        InputError: On an unknown name, or weights that do not exist or do not fit.
        WorkError: If pretrained weights cannot be downloaded.
    """
    backbone = parse(name)
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes}")
    state = _initial_state(backbone, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _construct(backbone, n_classes)
    if state is not None:
        _load_initial(model, state, backbone, weights)
    return channels_last(model)


def skeleton(name: str, n_classes: int) -> nn.Module:
    """Return a backbone whose weights are undefined, to load a complete state dict into.

    It saves drawing initial weights. Load by copying, not by ``assign=True``: tensors read
    from a file need not lie at the addresses that the fast kernels want, and other kernels
    round otherwise.

    Raises:
        InputError: On an unknown name.
    """
    with torch.device("meta"):
        model = _construct(parse(name), n_classes)
    return channels_last(model.to_empty(device="cpu"))


def channels_last(model: nn.Module) -> nn.Module:
    """Lay a model's convolution weights out channels last, in place, and return it."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


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


class _Head(nn.Linear):
    """A linear layer that works in float32 under autocast."""

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


def _construct(backbone: Backbone, n_classes: int) -> nn.Module:
    models = import_torchvision("torchvision.models")
    if backbone.family == "mobilenet_v2":
        model = models.mobilenet_v2(width_mult=backbone.size)
        model.classifier[1] = _Head(model.last_channel, n_classes)
        nn.init.normal_(model.classifier[1].weight, 0, 0.01)
        nn.init.zeros_(model.classifier[1].bias)
        return cast(nn.Module, model)
    model = getattr(models, f"resnet{backbone.size:g}")(zero_init_residual=True)
    if backbone.stem != 4:
        model.maxpool = nn.Identity()
    if backbone.stem == 1:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.fc = _Head(model.fc.in_features, n_classes)
    return cast(nn.Module, model)


def _initial_state(backbone: Backbone, weights: str | Path) -> dict[str, Tensor] | None:
    if weights == "none":
        return None
    if weights == "pretrained":
        return _download(backbone)
    path = Path(weights)
    if not path.is_file():
        raise InputError(
            f"weights: no file {path}; give 'none', 'pretrained' or the path of a weights file"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise _damaged(path, error) from None
    except Exception as error:  # the unpickling errors of weights_only have no common class
        raise _damaged(path, error) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"weights: {path} must hold a state dict of tensors alone")
    return state


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"weights: {path} is not a readable weights file ({reason})")


def _download(backbone: Backbone) -> dict[str, Tensor]:
    if backbone.family == "mobilenet_v2" and backbone.size != 1:
        raise InputError(
            f"weights = 'pretrained': torchvision has none for {backbone.name}, only for "
            "mobilenet_v2; use 'none' or a file"
        )
    models = import_torchvision("torchvision.models")
    stock = backbone.name.split("-")[0]
    weights = models.get_model_weights(stock)["IMAGENET1K_V1"]
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise WorkError(
            f"weights = 'pretrained': cannot download {weights.url} ({error}); download it "
            "elsewhere and give the file's path"
        ) from None
    return {name: tensor for name, tensor in state.items() if not name.startswith(_HEADS)}


_HEADS = ("fc.", "classifier.1.")


def _load_initial(
    model: nn.Module, state: dict[str, Tensor], backbone: Backbone, weights: str | Path
) -> None:
    own = model.state_dict()
    new_stem = weights == "pretrained" and backbone.stem == 1
    fitting = {
        name: tensor
        for name, tensor in state.items()
        if not (name.startswith(_HEADS) and name in own and own[name].shape != tensor.shape)
        and not (new_stem and name == "conv1.weight")
    }
    missing = {n for n in own if n not in fitting and not n.endswith("num_batches_tracked")}
    missing -= {n for n in missing if n.startswith(_HEADS) or (new_stem and n == "conv1.weight")}
    wrong = [n for n, t in fitting.items() if n not in own or own[n].shape != t.shape]
    if missing or wrong:
        first = sorted(missing or wrong)[0]
        raise InputError(
            f"weights: {weights} does not fit {backbone.name} (first at {first!r}); give the "
            "weights of the same backbone"
        )
    try:
        model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise InputError(
            f"weights: {weights} cannot be copied into {backbone.name} "
            f"({' '.join(str(error).split())[:200]})"
        ) from None
