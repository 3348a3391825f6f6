"""Augmented training batches of a data set."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from rcopt.data.dataset import Dataset, release
from rcopt.data.images import normalize
from rcopt.data.preprocessing import IMAGENET, Preprocessing
from rcopt.models.augmentation import Crops, cut, cut_batched, draw_crops
from rcopt.models.recipe import Recipe


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
        self._labels = torch.from_numpy(dataset.labels[self._indices]).to(device)
        self._images: Tensor | None = None
        if device.type != "cpu" if resident is None else resident:
            self._images = torch.from_numpy(dataset.base[self._indices]).to(device)
            release(dataset.base)

    def epoch(self, seed: int, epoch: int, side: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalized inputs (B, 3, side, side) and labels (B,) of one epoch."""
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self._indices))[: self.steps * self.size]
        base_side = self._dataset.base.shape[1]
        crops = draw_crops(
            rng, len(order), base_side, min_area=self._recipe.crop_area, flip=self._recipe.flip
        )
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
                pixels = cut_batched(images, boxes[now], flips[now], side, mode)
            yield normalize(pixels, self._preprocessing), self._labels[places[now]]
