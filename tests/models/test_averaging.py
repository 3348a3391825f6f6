"""The moving average is the recursion that its docstring states."""

import pytest
import torch
from torch import nn

from rcopt.models.averaging import make_average
from rcopt.models.recipe import Recipe


def test_the_average_follows_its_recursion_buffers_included() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    average = make_average(model, Recipe(ema=0.7))
    assert average is not None
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    draws = torch.Generator().manual_seed(0)
    for step in range(40):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.randn(tensor.shape, generator=draws))
        average.update(step)
        kept = min(0.7, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = kept * expected[name] + (1 - kept) * tensor
    counted = model[1].num_batches_tracked
    assert isinstance(counted, torch.Tensor)
    counted.fill_(5)
    average.put()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, expected[name], atol=1e-5), name
    assert counted == 5


def test_an_average_of_weights_that_stand_still_is_these_weights() -> None:
    model = nn.Linear(3, 3)
    before = model.weight.clone()
    average = make_average(model, Recipe(ema=0.99))
    assert average is not None
    for step in range(50):
        average.update(step)
    average.put()
    assert model.weight.detach().numpy() == pytest.approx(before.detach().numpy())


def test_without_a_decay_there_is_no_average() -> None:
    assert make_average(nn.Linear(2, 2), Recipe()) is None
