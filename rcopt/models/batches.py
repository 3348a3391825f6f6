"""Augmented training batches of a data set."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from rcopt.data.dataset import Dataset, release
from rcopt.data.images import normalize
from rcopt.data.preprocessing import IMAGENET, Preprocessing
from rcopt.models.augmentation import (
    Crops,
    cut,
    cut_batched,
    draw_crops,
    draw_plain_crops,
)
from rcopt.models.recipe import Recipe
from rcopt.models.schedules import crop_side


class Batches:
    """Random crops of the training images, in a new order each epoch.

    Args:
        dataset: Of which the ``train`` split is used.
        recipe: Says batch size and augmentation.
        device: Where batches are wanted.
        preprocessing: What the network wants.
        resident: Whether the images live there as uint8 and are cut there; by default anywhere
            but on the CPU.

    Attributes:
        size: Images in a batch.
        steps: Batches in an epoch; the images left over wait for the next one.
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        device: torch.device,
        preprocessing: Preprocessing = IMAGENET,
        *,
        resident: bool | None = None,
    ) -> None:
        self._indices = dataset.splits["train"]
        self.size = min(recipe.batch_size, len(self._indices))
        self.steps = len(self._indices) // self.size
        self._dataset, self._recipe, self._device = dataset, recipe, device
        self._preprocessing = preprocessing
        plain = recipe.crop == "plain"
        self._over = round(recipe.shift * dataset.base_side) if plain else 0
        self._labels = torch.from_numpy(dataset.labels[self._indices]).to(device)
        self._images: Tensor | None = None
        if device.type != "cpu" if resident is None else resident:
            self._images = torch.from_numpy(dataset.base[self._indices]).to(device)
            release(dataset.base)

    def epoch(self, seed: int, epoch: int, side: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalized inputs and labels (B,) of one epoch.

        Args:
            seed: Of order and crops, together with ``epoch``.
            epoch: From 0.
            side: Of whole images. Inputs have it too, or where plain crops are smaller theirs:
                (B, 3, crop side, crop side).
        """
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self._indices))[: self.steps * self.size]
        crops = self._draw(rng, len(order))
        if self._recipe.flip and self._recipe.alternating_flips:
            at_first = np.random.default_rng([seed, 0, 1]).random(len(self._indices)) < 0.5
            crops = Crops(crops.boxes, at_first[order] ^ bool(epoch % 2))
        side, over = crop_side(self._recipe, side), self._over
        places = torch.from_numpy(order).to(self._device)
        boxes = torch.from_numpy(crops.boxes).to(self._device)
        flips = torch.from_numpy(crops.flips).to(self._device)
        mode = self._preprocessing.interpolation
        for start in range(0, len(order), self.size):
            now = slice(start, start + self.size)
            if self._images is None:
                some = Crops(crops.boxes[now], crops.flips[now])
                pixels = cut(self._dataset.base, self._indices[order[now]], some, side, mode)
                release(self._dataset.base)
            else:
                images = self._images[places[now]]
                pixels = cut_batched(images, boxes[now], flips[now], side, mode, over=over)
            yield normalize(pixels, self._preprocessing), self._labels[places[now]]

    def _draw(self, rng: np.random.Generator, n: int) -> Crops:
        recipe, side = self._recipe, self._dataset.base_side
        if recipe.crop == "resized":
            return draw_crops(rng, n, side, min_area=recipe.crop_area, flip=recipe.flip)
        share, shift = recipe.crop_side, recipe.shift
        return draw_plain_crops(rng, n, side, share=share, shift=shift, flip=recipe.flip)
