"""Every network of timm, as ``timm/NAME`` or ``timm/NAME.TAG``; needs ``rcopt[timm]``."""

import difflib
import importlib
import sys
import warnings
from collections.abc import Mapping
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, cast

from torch import Tensor, nn

from rcopt.compat import import_torchvision
from rcopt.data.preprocessing import Preprocessing
from rcopt.errors import InputError
from rcopt.models.families.base import Backbone, Family, Pretrained, float_head

_PREFIX = "timm/"


@cache
def _timm() -> Any:
    import_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("timm")


def _names() -> tuple[str, ...]:
    if find_spec("timm") is None:
        return ()
    return tuple(_PREFIX + name for name in _timm().list_models())


def _parse(name: str) -> Backbone | None:
    if not name.startswith(_PREFIX):
        return None
    if find_spec("timm") is None:
        raise InputError(f"{name!r} needs timm, which is not installed: pip install 'rcopt[timm]'")
    own = name.removeprefix(_PREFIX)
    timm = _timm()
    if not timm.is_model(own):
        near = difflib.get_close_matches(own, timm.list_models(), n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(repr(_PREFIX + n) for n in near)}?" if near else ""
        raise InputError(f"unknown backbone {name!r}: timm {timm.__version__} has none{hint}")
    try:
        config = timm.get_pretrained_cfg(own, allow_unregistered=False)
    except RuntimeError as error:
        raise InputError(f"unknown backbone {name!r}: {error}") from error
    return Backbone(
        name,
        partial(_construct, own),
        preprocessing=Preprocessing.of_unit(
            tuple(config.mean),
            tuple(config.std),
            "bicubic" if config.interpolation == "bicubic" else "bilinear",
        ),
        pretrained=_pretrained(own, config),
        adapt=_adapt,
    )


def _construct(own: str, n_classes: int, resolution: int, **options: Any) -> nn.Module:
    timm = _timm()
    # Networks with a fixed input size take another one as an argument, or not at all.
    sized = {"img_size": resolution} if timm.get_pretrained_cfg(own).fixed_input_size else {}
    for given in (sized, {}):
        try:
            model = timm.create_model(own, num_classes=n_classes, **given, **options)
        except TypeError:
            if not given:
                raise
        else:
            return float_head(cast(nn.Module, model))
    raise AssertionError("unreachable")


def _adapt(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """Let timm's filter of the network's kind rename and resize weights, where it has one."""
    own = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return state if own is None else cast(Mapping[str, Tensor], own(dict(state), model))


def _pretrained(own: str, config: Any) -> Pretrained | None:
    if not config.has_weights:
        return None

    def load(resolution: int) -> Mapping[str, Tensor]:
        return _construct(own, 0, resolution, pretrained=True).state_dict()

    return Pretrained(
        source=f"timm {config.architecture}.{config.tag} ({config.hf_hub_id or config.url})",
        load=load,
        images=_images(str(config.tag)),
        licence=config.license or "not stated",
    )


def _images(tag: str) -> str:
    known = {"in1k": "ImageNet-1k", "in21k": "ImageNet-21k", "in22k": "ImageNet-22k"}
    found = [text for key, text in known.items() if key in tag.split("_") or tag.endswith(key)]
    return " and ".join(found) or f"what timm's tag {tag!r} says"


FAMILY = Family("timm/NAME for every network of timm", _names, _parse)
