"""A moving average of a network's weights over the steps of a training."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rcopt.models.recipe import Recipe


class MovingAverage:
    """An exponential moving average of weights and batch norms' statistics.

    At first, where the weights move fast, it forgets them fast: step n keeps at most
    (1 + n) / (10 + n) of it (as TensorFlow's moving average does).

    Args:
        model: Whose weights; they stay where they are.
        decay: Share of the average that a step keeps, in (0, 1).

    Attributes:
        state: The average by the names of the model's state.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._own = model.state_dict()
        self.state = {name: tensor.clone() for name, tensor in self._own.items()}
        floating = [name for name, tensor in self._own.items() if tensor.is_floating_point()]
        self._pairs = [(self.state[name], self._own[name]) for name in floating]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 0 over the whole training."""
        decay = min(self._decay, (1 + step) / (10 + step))
        averages, weights = (list(tensors) for tensors in zip(*self._pairs, strict=True))
        take_in = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        take_in(averages, weights, step)

    @torch.no_grad()
    def put(self) -> None:
        """Let the model have the average; counters, which have none, stay."""
        for average, own in self._pairs:
            own.copy_(average)


def make_average(model: nn.Module, recipe: Recipe) -> MovingAverage | None:
    """Return the average that a recipe wants, if it wants one."""
    return MovingAverage(model, recipe.ema) if recipe.ema else None
