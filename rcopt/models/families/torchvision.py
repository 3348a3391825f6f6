"""Every classification network of torchvision, by torchvision's name."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, cast

from torch import Tensor, nn

from rcopt.compat import import_torchvision
from rcopt.data.preprocessing import Preprocessing
from rcopt.models.families.base import Backbone, Family, Pretrained, float_head

#: Families of their own, which offer more than torchvision does.
_ELSEWHERE = {"mobilenet_v2", *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152))}
#: Networks with a second head that only helps training; rcopt trains one.
_AUXILIARY = {"googlenet", "inception_v3"}


@cache
def _names() -> tuple[str, ...]:
    models = import_torchvision("torchvision.models")
    return tuple(name for name in models.list_models(module=models) if name not in _ELSEWHERE)


def _parse(name: str) -> Backbone | None:
    if name not in _names():
        return None
    return Backbone(
        name,
        partial(_construct, name),
        preprocessing=_preprocessing(name),
        pretrained=imagenet_weights(name, _weights(name).name),
        ignored=("aux1.", "aux2.", "AuxLogits."),
        adapt=_adapt if name.startswith("vit_") else None,
    )


def _construct(name: str, n_classes: int, resolution: int) -> nn.Module:
    options: dict[str, Any] = {}
    if name in _AUXILIARY:
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": resolution}
    elif name.startswith("maxvit_"):
        options = {"input_size": (resolution, resolution)}
    models = import_torchvision("torchvision.models")
    return float_head(models.get_model(name, weights=None, num_classes=n_classes, **options))


def _preprocessing(name: str) -> Preprocessing:
    stated = _weights(name).transforms()
    if name in _AUXILIARY:
        # Their public weights re-normalize what others get to the range -1..1.
        half = (0.5, 0.5, 0.5)
        return Preprocessing.of_unit(half, half)
    return Preprocessing.of_unit(
        tuple(stated.mean),
        tuple(stated.std),
        "bicubic" if stated.interpolation.value == "bicubic" else "bilinear",
    )


def _adapt(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """Resize the position embedding of a vision transformer to another number of patches."""
    resize = import_torchvision("torchvision.models.vision_transformer").interpolate_embeddings
    side, patch = cast(int, model.image_size), cast(int, model.patch_size)
    # It resizes in the state's dictionary itself.
    resized: Mapping[str, Tensor] = resize(side, patch, dict(state))
    return resized


def _weights(name: str) -> Any:
    every = import_torchvision("torchvision.models").get_model_weights(name)
    return every["IMAGENET1K_V1"] if "IMAGENET1K_V1" in every.__members__ else every.DEFAULT


def imagenet_weights(name: str, label: str = "IMAGENET1K_V1") -> Pretrained:
    """Return torchvision's weights of a label of one of its networks."""

    def load(resolution: int) -> Mapping[str, Tensor]:
        weights = import_torchvision("torchvision.models").get_model_weights(name)
        state: Mapping[str, Tensor] = weights[label].get_state_dict(
            progress=False, check_hash=True
        )
        return state

    return Pretrained(
        source=f"torchvision {label} of {name}",
        load=load,
        images="ImageNet-1k" if label.startswith("IMAGENET") else "see torchvision's page",
        licence="not stated by torchvision (the code is BSD-3-Clause)",
    )


FAMILY = Family(
    known="every other classification network of torchvision", names=_names, parse=_parse
)
