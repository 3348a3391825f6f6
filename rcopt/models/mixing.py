"""Images and labels blended with others of their batch: mixup and cutmix."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from rcopt.compat import import_torchvision
from rcopt.models.recipe import Recipe

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def make_mixing(recipe: Recipe, n_classes: int) -> Mixing | None:
    """Return what a recipe does to batches of images (B, 3, H, W) and labels (B,), if anything.

    It gives images of the same shape and a share of each class for each of them, (B, C), and
    draws from torch's global random state.

    Args:
        recipe: Says how much of what.
        n_classes: C.
    """
    if not recipe.mixup and not recipe.cutmix:
        return None
    import_torchvision()
    from torchvision.transforms import v2

    kinds = ((v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix))
    ways = [kind(alpha=float(alpha), num_classes=n_classes) for kind, alpha in kinds if alpha]

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if torch.rand(()) >= recipe.mix_share:
            return images, functional.one_hot(labels, n_classes).float()
        way = ways[int(torch.randint(len(ways), ()))]
        mixed, shares = way(images, labels)
        return mixed.contiguous(memory_format=torch.channels_last), shares

    return mix
