"""What training a network takes: memory, and time on this machine."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from rcopt.data.dataset import Dataset
from rcopt.models.recipe import Recipe
from rcopt.models.schedules import side
from rcopt.models.training import train

#: Values that an optimizer keeps for each parameter.
_STATES = {"sgd": 1, "muon": 1, "adamw": 2}


def training_bytes(model: nn.Module, resolution: int, recipe: Recipe) -> int:
    """Return about how many bytes training needs, in float32: weights, gradients, activations.

    Args:
        model: On the CPU; run once on two images.
        resolution: Side of its input in pixels.
        recipe: Says batch size and optimizer.
    """
    kept: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    was_training = model.training
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # Held until the sum is taken: what is freed could lend its address to another.
        answer = model.train()(torch.zeros(2, 3, resolution, resolution))
    activations = sum(kept.values()) * recipe.batch_size // 2
    del answer
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(state[name])
    model.train(was_training)
    copies = 2 + _STATES[recipe.optimizer] + (1 if recipe.ema else 0)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return activations + copies * weights


def training_seconds(
    model: nn.Module, n_classes: int, n_images: int, resolution: int, recipe: Recipe, device: str
) -> float:
    """Return about how long a training will take here, from a step or two on noise.

    Args:
        model: Trained a little, so no longer of use.
        n_classes: Size of its head.
        n_images: Training images.
        resolution: Side of its input in pixels.
        recipe: How it is to be trained.
        device: Where.

    Raises:
        WorkError: If memory does not suffice for two images.
    """
    cuda = device.startswith("cuda")
    # On a CPU the images per second hardly depend on the batch.
    batch = recipe.batch_size if cuda else min(recipe.batch_size, 16)
    noise = np.random.default_rng(0)
    count = batch * (8 if cuda else 1)
    images = Dataset(
        name="noise",
        classes=tuple(map(str, range(n_classes))),
        base=noise.integers(0, 256, (count, resolution, resolution, 3), dtype=np.uint8),
        labels=np.arange(count, dtype=np.int64) % n_classes,
        images=tuple(map(str, range(count))),
        splits={"train": np.arange(count, dtype=np.int64)},
        digest="noise",
        split_digest="noise",
    )
    # The first epoch is thrown away: everything is made ready in it.
    short = replace(recipe, epochs=2, batch_size=batch, progressive=1.0, lr=1e-6)
    *_, last = train(model, images, resolution, short, seed=0, device=device)
    whole = sum((side(recipe, e, resolution) / resolution) ** 2 for e in range(recipe.epochs))
    return n_images * whole / last.images_per_second
