"""Recipes by name, which a study file starts from.

A recipe's name is stored with the studies that use it, so what it stands for does not change:
better settings get another name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

RecipeName = Literal["plain", "fast", "half", "long", "finetune"]


@dataclass(frozen=True)
class NamedRecipe:
    """Settings that belong together.

    Attributes:
        settings: Where `rcopt.models.recipe.Recipe` differs from its defaults.
        what_for: When to take it, and where it comes from.
    """

    settings: Mapping[str, Any]
    what_for: str


_MUON: Mapping[str, Any] = {
    "batch_size": 128,
    "optimizer": "muon",
    "lr": 0.05,
    "filter_lr": 0.05,
    "momentum": 0.6,
    "label_smoothing": 0.2,
    "schedule": "onecycle",
}

RECIPES: Mapping[RecipeName, NamedRecipe] = {
    "plain": NamedRecipe(
        {}, "every setting's default, and that of stages without weights to start from"
    ),
    "fast": NamedRecipe(
        {**_MUON, "epochs": 40, "crop_area": 0.5},
        "small images from scratch in few epochs, for the compact family (airbench94, "
        "KellerJordan, commit f1c599c, with the crops of torchvision's references)",
    ),
    "half": NamedRecipe(
        {**_MUON, "epochs": 50, "crop": "plain", "crop_side": 0.5, "shift": 1 / 32},
        "from scratch on plain crops of half the side, a quarter of the computation, for the "
        "compact family (hlb-imagenette, LouisCaubet, commit 0c904b3, with Muon)",
    ),
    "long": NamedRecipe(
        {
            "epochs": 80,
            "batch_size": 128,
            "lr": 0.1,
            "weight_decay": 2e-3,
            "progressive": 0.5,
            "cutmix": 1.0,
            "mix_share": 0.5,
            "ema": 0.999,
        },
        "large networks from scratch, which few epochs leave unfinished (of the ingredients of "
        "Wightman et al. 2021, arXiv:2110.00476)",
    ),
    "finetune": NamedRecipe(
        {
            "epochs": 4,
            "batch_size": 64,
            "optimizer": "adamw",
            "lr": 1e-3,
            "head_lr": 2.0,
            "weight_decay": 0.05,
            "schedule": "onecycle",
            "crop_area": 0.5,
            "ema": 0.98,
        },
        "from trained weights, where it is the default: small steps, larger ones of the new last "
        "layer (Howard and Ruder 2018, arXiv:1801.06146, section 3.2), averaged weights",
    ),
}


def start(name: RecipeName | None, weights: str) -> Mapping[str, Any]:
    """Return the settings that a recipe starts from.

    Args:
        name: As the study file says; None leaves it to the weights.
        weights: What training starts from, ``"none"`` or anything else.
    """
    if name is None:
        name = "plain" if weights == "none" else "finetune"
    return RECIPES[name].settings
