"""Muon does what its paper says, and plain SGD to all that is no filter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rcopt.data.dataset import Dataset
from rcopt.models.backbones import build
from rcopt.models.families.compact import Whitening
from rcopt.models.optimizers import Muon, make_optimizer, orthogonal, set_rates
from rcopt.models.recipe import OptimizerName, Recipe
from rcopt.models.training import train

RECIPE = Recipe(
    epochs=3, batch_size=8, lr=0.05, momentum=0.6, optimizer="muon", precision="float32"
)


def noise(n: int = 24, side: int = 16) -> Dataset:
    """Pictures of two classes of another brightness."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    base = rng.integers(0, 128, (n, side, side, 3)) + 100 * labels[:, None, None, None]
    return Dataset(
        name="noise",
        classes=("dark", "bright"),
        base=base.astype(np.uint8),
        labels=labels.astype(np.int64),
        images=tuple(map(str, range(n))),
        splits={"train": np.arange(n)},
        digest="",
        split_digest="",
    )


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_the_update_is_about_the_nearest_orthogonal_matrix(shape: tuple[int, int]) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(drawn, full_matrices=False)
    matrix = left @ torch.diag(torch.linspace(1, 4, min(shape))) @ right
    inside = left.T @ orthogonal(matrix).float() @ right.T
    assert inside.diagonal().min() > 0.5
    assert inside.diagonal().max() < 1.4
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 0.1


def test_weights_that_are_no_filters_move_as_by_torchs_sgd() -> None:
    def layer() -> nn.Linear:
        torch.manual_seed(0)
        return nn.Linear(4, 3)

    ours, theirs = layer(), layer()
    recipe = Recipe(lr=0.1, momentum=0.6, weight_decay=0.01, optimizer="muon")
    optimizer = make_optimizer(ours, recipe)
    assert isinstance(optimizer, Muon)
    twin = torch.optim.SGD(
        [
            {"params": [theirs.weight], "weight_decay": 0.01},
            {"params": [theirs.bias], "weight_decay": 0.0},
        ],
        lr=0.1,
        momentum=0.6,
        nesterov=True,
    )
    for step in range(4):
        inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        for model, its in ((ours, optimizer), (theirs, twin)):
            its.zero_grad()
            model(inputs).square().sum().backward()
            its.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)
    assert torch.allclose(ours.bias, theirs.bias, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_the_last_layer_goes_at_its_own_rate(optimizer: OptimizerName) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 8), nn.Linear(8, 2))
    made = make_optimizer(model, Recipe(optimizer=optimizer, lr=0.1, head_lr=5, filter_lr=0.1))
    set_rates(made, Recipe(warmup=0), 0)
    rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    head = [rates[id(p)] for p in model[-1].parameters()]
    assert head == pytest.approx([0.5, 0.5])
    assert len(rates) == len(list(model.parameters()))
    rest = [rates[id(p)] for layer in (model[0], model[2]) for p in layer.parameters()]
    assert rest == pytest.approx([0.1] * 4)


def test_a_network_without_linear_layers_answers_by_its_last_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    made = make_optimizer(model, Recipe(lr=0.1, head_lr=5))
    peaks = {id(p): group["peak"] for group in made.param_groups for p in group["params"]}
    assert peaks[id(model[2].weight)] == 0.5
    assert peaks[id(model[0].weight)] == 0.1


def test_adamw_is_torchs_with_decay_of_matrices_alone() -> None:
    def layer() -> nn.Linear:
        torch.manual_seed(0)
        return nn.Linear(4, 3)

    ours, theirs = layer(), layer()
    recipe = Recipe(lr=0.01, momentum=0.8, weight_decay=0.1, optimizer="adamw")
    groups: list[dict[str, Any]] = [
        {"params": [theirs.weight]},
        {"params": [theirs.bias], "weight_decay": 0.0},
    ]
    twin = torch.optim.AdamW(
        groups,
        lr=0.01,
        betas=(0.8, 0.999),
        weight_decay=0.1,
    )
    for model, its in ((ours, make_optimizer(ours, recipe)), (theirs, twin)):
        for step in range(4):
            its.zero_grad()
            inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
            model(inputs).square().sum().backward()
            its.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)
    assert torch.allclose(ours.bias, theirs.bias, atol=1e-6)


def test_filters_keep_their_norm_and_move_by_the_rate() -> None:
    filters = nn.Conv2d(4, 6, 3, bias=False)
    optimizer = make_optimizer(filters, RECIPE)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    filters(torch.rand(2, 4, 8, 8)).square().sum().backward()
    optimizer.step()
    # An orthogonal 6 x 36 matrix has the norm sqrt(6).
    assert filters.weight.norm().item() == pytest.approx(6**0.5, abs=2e-3 * 6**0.5)


def test_frozen_layers_stay_and_an_interrupted_training_ends_the_same(tmp_path: Path) -> None:
    pictures = noise()
    whole = build("compact-4", 2, 16)
    list(train(whole, pictures, 16, RECIPE, seed=0))
    cut, place = build("compact-4", 2, 16), tmp_path / "state"
    next(iter(train(cut, pictures, 16, RECIPE, seed=0, checkpoint=place)))
    resumed = build("compact-4", 2, 16, seed=7)
    assert len(list(train(resumed, pictures, 16, RECIPE, seed=0, checkpoint=place))) == 2
    for (name, ours), theirs in zip(
        whole.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    norms = [layer for layer in whole.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(bool((norm.weight == 1).all() and norm.bias.any()) for norm in norms)


def test_whitened_patches_are_uncorrelated() -> None:
    rows = torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    images = rows + 3 * rows.mean(dim=1, keepdim=True)  # channels go together
    whitening = Whitening()
    whitening.fit_images(images)
    answers = whitening(images).permute(1, 0, 2, 3).flatten(1)
    covariance = torch.cov(answers)
    assert covariance.diagonal().min() > 0.8
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 1e-3


def test_weights_to_start_from_keep_their_whitening() -> None:
    start, other = build("compact-4", 2, 16), build("compact-4", 2, 16)
    list(train(start, noise(), 16, RECIPE, seed=0))
    other.load_state_dict(start.state_dict())
    list(train(other, noise(side=12), 12, RECIPE, seed=1))
    kept = other.state_dict()["whitening.weight"]
    assert torch.equal(kept, start.state_dict()["whitening.weight"])
    assert kept.any()
