"""Optimizers by a recipe."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rcopt.models.recipe import Recipe
from rcopt.models.schedules import learning_rate

#: Of the quintic that Newton-Schulz steps iterate (Jordan et al. 2024, "Muon").
_QUINTIC = (3.4445, -4.7750, 2.0315)
_STEPS = 3


class Muon(torch.optim.Optimizer):
    """Orthogonalized momentum for the filters of convolutions, SGD for all else.

    As in airbench94 (KellerJordan, commit f1c599c): Nesterov momentum; each filter bank is
    scaled to the norm sqrt(filters) and moved by the nearest orthogonal matrix to its gradient,
    found by three Newton-Schulz steps.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient; ``closure`` is not supported."""
        if closure is not None:
            raise ValueError("closure is not supported")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return None

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, momentum = parameter.grad, group["momentum"]
        assert gradient is not None
        filters = parameter.ndim == 4
        if not filters and group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        velocity = state["momentum_buffer"].mul_(momentum).add_(gradient)
        update = gradient.add(velocity, alpha=momentum)
        if filters:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
            update = orthogonal(update.flatten(1)).view_as(update).to(parameter.dtype)
        parameter.add_(update, alpha=-group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about U V' of a matrix U S V': its singular values brought near 1, in bfloat16."""
    first, third, fifth = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    found: Tensor = (matrix / (matrix.norm() + 1e-7)).bfloat16()
    if tall:
        found = found.T
    for _ in range(_STEPS):
        square = found @ found.T
        found = first * found + (third * square + fifth * square @ square) @ found
    return found.T if tall else found


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer of a model's weights.

    Each group holds its highest learning rate as ``peak``, for `set_rates`.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = []
    if recipe.head_lr != 1:
        head = set(_head(model).parameters())
        groups += _decayed([p for p in trained if p in head], recipe, recipe.lr * recipe.head_lr)
        trained = [p for p in trained if p not in head]
    if recipe.optimizer == "muon":
        filters = [p for p in trained if p.ndim == 4]
        trained = [p for p in trained if p.ndim != 4]
        groups.append({"params": filters, "peak": recipe.filter_lr})
    groups += _decayed(trained, recipe, recipe.lr)
    if recipe.optimizer == "muon":
        return Muon(groups, recipe.lr, recipe.momentum)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), fused=True)
    return torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, fused=True
    )


def _decayed(parameters: list[nn.Parameter], recipe: Recipe, peak: float) -> list[dict[str, Any]]:
    """Return two groups: weights that decay, and norms and biases, which do not."""
    decayed = [p for p in parameters if p.ndim > 1]
    free = [p for p in parameters if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": recipe.weight_decay, "peak": peak},
        {"params": free, "weight_decay": 0.0, "peak": peak},
    ]


def _head(model: nn.Module) -> nn.Module:
    """Return the layer that answers: the last linear one, or else the last convolution."""
    for kind in (nn.Linear, nn.Conv2d):
        layers = [layer for layer in model.modules() if isinstance(layer, kind)]
        if layers:
            return layers[-1]
    return model


def set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, done: float) -> None:
    """Set every group's learning rate for a moment of the training, see `learning_rate`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, done, group["peak"])
