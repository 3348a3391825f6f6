"""How learning rate and image size go over the course of a training."""

import math

from rcopt.models.recipe import Recipe

#: Share of the epochs after which a progressive training has reached its resolution.
_GROWTH = 0.75


def learning_rate(recipe: Recipe, done: float, highest: float) -> float:
    """Return the learning rate at a moment of a training.

    Args:
        recipe: Says schedule and warm-up.
        done: Share of the training that is done, in 0..1.
        highest: The learning rate at the end of the warm-up.
    """
    if done < recipe.warmup:
        return highest * done / recipe.warmup
    left = (1 - done) / (1 - recipe.warmup)
    if recipe.schedule == "onecycle":
        return highest * left
    return highest * 0.5 * (1 - math.cos(math.pi * left))


def side(recipe: Recipe, epoch: int, resolution: int) -> int:
    """Return the side of an epoch's whole images: a multiple of 8, or the resolution itself."""
    done = (epoch + 1) / (_GROWTH * recipe.epochs)
    if done >= 1 or recipe.progressive == 1:
        return resolution
    share = recipe.progressive + (1 - recipe.progressive) * done
    return min(resolution, max(8, 8 * round(share * resolution / 8)))


def crop_side(recipe: Recipe, side: int) -> int:
    """Return the side of the crops of an epoch's images, of which the whole has ``side``."""
    return side if recipe.crop == "resized" else max(1, round(recipe.crop_side * side))


def smallest_side(recipe: Recipe, resolution: int) -> int:
    """Return the side of the smallest images that a stage is trained on."""
    sides = (side(recipe, epoch, resolution) for epoch in range(recipe.epochs))
    return min(crop_side(recipe, pixels) for pixels in sides)
