"""Optimizers by a recipe."""

import torch
from torch import nn

from rcopt.models.recipe import Recipe
from rcopt.models.schedules import learning_rate


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer of a model's weights.

    Each group holds its highest learning rate as ``peak``, for `set_rates`.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay, "peak": recipe.lr},
        {"params": free, "weight_decay": 0.0, "peak": recipe.lr},
    ]
    return torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, fused=True
    )


def set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, done: float) -> None:
    """Set every group's learning rate for a moment of the training, see `learning_rate`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, done, group["peak"])
