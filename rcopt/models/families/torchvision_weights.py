"""torchvision's public weights."""

from collections.abc import Mapping

from torch import Tensor

from rcopt.compat import import_torchvision
from rcopt.models.families.base import Pretrained


def imagenet_weights(model: str) -> Pretrained:
    """Return the first ImageNet weights that torchvision has of one of its models."""

    def load() -> Mapping[str, Tensor]:
        models = import_torchvision("torchvision.models")
        weights = models.get_model_weights(model)["IMAGENET1K_V1"]
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
        return state

    return Pretrained(f"torchvision's IMAGENET1K_V1 of {model}", load)
