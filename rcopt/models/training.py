"""Train a network, an epoch at a time."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rcopt.data.dataset import Dataset
from rcopt.errors import WorkError
from rcopt.models.averaging import make_average
from rcopt.models.backbones import preprocessing_of
from rcopt.models.batches import Batches
from rcopt.models.checkpoints import load_checkpoint, save_checkpoint
from rcopt.models.devices import out_of_memory
from rcopt.models.mixing import make_mixing
from rcopt.models.optimizers import make_optimizer, set_rates
from rcopt.models.precision import NumberFormat, autocast, resolve_precision
from rcopt.models.recipe import Recipe
from rcopt.models.schedules import crop_side, learning_rate, side


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of training came to.

    Attributes:
        epoch: Number of this epoch, from 1.
        epochs: Number of epochs in all.
        loss: Mean training loss, label smoothing included.
        accuracy: Share of the augmented training images answered correctly on the way.
        lr: Learning rate of the last step.
        seconds: Duration.
        images_per_second: Training images per second.
        parts: Into how many parts each batch is divided, more than one since memory ran out.
    """

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    lr: float
    seconds: float
    images_per_second: float
    parts: int


class TrainingDiverged(WorkError):  # noqa: N818
    """The loss became infinite or NaN.

    Attributes:
        epoch: In which epoch, from 1.
    """

    def __init__(self, epoch: int, loss: float) -> None:
        super().__init__(
            f"training diverged: the loss became {loss} in epoch {epoch}; a smaller lr helps"
        )
        self.epoch = epoch


def train(
    model: nn.Module,
    dataset: Dataset,
    resolution: int,
    recipe: Recipe,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    save_every: float = 0.0,
) -> Iterator[EpochRecord]:
    """Train a model in place, an epoch at each step of the iteration.

    Each epoch draws from its own random state, made of ``seed`` and its number: the result
    depends on nothing else, the global random state stays as it is, and on the CPU (with as
    many threads) a training that was interrupted and continued equals one that was not, bit
    for bit. Where memory does not suffice for a batch, it is halved, and the gradients of its
    parts are summed; batch norm then sees the parts one by one, so the result differs a little.

    Args:
        model: From `rcopt.models.backbones.build`; moved to ``device``.
        dataset: Of which the ``train`` split is used.
        resolution: Side of the stage's input.
        recipe: How to train.
        seed: Of order, crops, mixing and dropout.
        device: Where to train. On CUDA the training images live there as uint8.
        checkpoint: File for the state after each epoch, continued from if it is there; the
            caller removes it when the result is safe.
        save_every: Seconds for which a written state stays good enough. The last one is written
            in any case, and so is the one at which the caller closes the iteration.

    Yields:
        A record after each epoch that was trained now (epochs in the checkpoint are not
        repeated).

    Raises:
        TrainingDiverged: When the loss of an epoch is not finite.
        WorkError: If memory does not even suffice for two images.
        ValueError: If ``resolution`` is not positive or the training split is too small.
    """
    indices = dataset.splits["train"]
    if resolution < 1:
        raise ValueError(f"resolution must be positive, got {resolution}")
    if len(indices) < 2:
        raise ValueError(f"the train split must have at least 2 images, got {len(indices)}")
    training = _Training(model, dataset, resolution, recipe, seed, torch.device(device))
    return _epochs(training, recipe, checkpoint, save_every)


def _epochs(
    training: "_Training", recipe: Recipe, checkpoint: Path | None, save_every: float
) -> Iterator[EpochRecord]:
    first = 0 if checkpoint is None else training.restore(checkpoint)
    saved = time.perf_counter()
    for epoch in range(first, recipe.epochs):
        began = time.perf_counter()
        record = training.epoch(epoch)
        last, old = epoch + 1 == recipe.epochs, began - saved >= save_every
        written = checkpoint is not None and (last or old)
        if checkpoint is not None and written:
            training.save(checkpoint, epoch + 1)
            saved = time.perf_counter()
        seconds = time.perf_counter() - began
        seen = record.images_per_second * record.seconds
        try:
            yield replace(record, seconds=seconds, images_per_second=seen / seconds)
        except GeneratorExit:
            if checkpoint is not None and not written:
                training.save(checkpoint, epoch + 1)
            raise
    training.finish()


class _Training:
    """A network, what moves it, and what is kept of it on the way."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        resolution: int,
        recipe: Recipe,
        seed: int,
        device: torch.device,
    ) -> None:
        self._model = model.to(device)
        self._resolution, self._recipe = resolution, recipe
        self._seed, self._device = seed, device
        self._frozen = _norms(model) if recipe.frozen_norms else []
        for norm in self._frozen:
            norm.requires_grad_(False)
        self._batches = Batches(dataset, recipe, device, preprocessing_of(model))
        _fit_images(model, self._batches, seed, side(recipe, 0, resolution))
        self._mix = make_mixing(recipe, len(dataset.classes))
        self._optimizer = make_optimizer(model, recipe)
        self._average = make_average(model, recipe)
        self._parts = 1
        number_format = self._number_format(resolution)
        self._belongs_to = repr(
            (dataset.digest, resolution, recipe.identity(), seed, number_format)
        )

    def restore(self, checkpoint: Path) -> int:
        """Return how many epochs the state in a file has seen, now this one's."""
        return load_checkpoint(
            checkpoint,
            self._model,
            self._optimizer,
            belongs_to=self._belongs_to,
            average=self._average,
        )

    def save(self, checkpoint: Path, epoch: int) -> None:
        """Write the state after so many epochs."""
        save_checkpoint(
            checkpoint,
            self._model,
            self._optimizer,
            epoch=epoch,
            belongs_to=self._belongs_to,
            average=self._average,
        )

    def epoch(self, epoch: int) -> EpochRecord:
        """Train for an epoch, numbered from 0."""
        began = time.perf_counter()
        recipe, batches = self._recipe, self._batches
        pixels = side(recipe, epoch, self._resolution)
        number_format = self._number_format(pixels)
        self._model.train()
        for norm in self._frozen:
            norm.eval()
        loss_sum = torch.zeros((), device=self._device)
        right = torch.zeros((), device=self._device, dtype=torch.int64)
        with _own_random_state(self._device, self._seed, epoch):
            for step, (inputs, labels) in enumerate(
                batches.epoch(self._seed, epoch, pixels), epoch * batches.steps
            ):
                done = (step + 0.5) / (recipe.epochs * batches.steps)
                set_rates(self._optimizer, recipe, done)
                loss, hits = self._step(step, inputs, labels, number_format)
                loss_sum += loss
                right += hits
        loss_mean = loss_sum.item() / batches.steps
        if not math.isfinite(loss_mean):
            raise TrainingDiverged(epoch + 1, loss_mean)
        seconds, seen = time.perf_counter() - began, batches.steps * batches.size
        return EpochRecord(
            epoch=epoch + 1,
            epochs=recipe.epochs,
            loss=loss_mean,
            accuracy=right.item() / seen,
            lr=learning_rate(recipe, done, recipe.lr),
            seconds=seconds,
            images_per_second=seen / seconds,
            parts=self._parts,
        )

    def finish(self) -> None:
        """Make the network what the training has come to."""
        if self._average is not None:
            self._average.put()
        self._model.eval()

    def _step(
        self, step: int, inputs: Tensor, labels: Tensor, number_format: NumberFormat
    ) -> tuple[Tensor, Tensor]:
        """Take a step by a batch; return its loss and right answers."""
        if self._mix is not None:
            inputs, labels = self._mix(inputs, labels)
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            try:
                smoothing = self._recipe.label_smoothing
                found = _gradients(
                    self._model, inputs, labels, self._parts, smoothing, number_format
                )
                break
            except RuntimeError as error:
                self._parts = _more_parts(error, self._parts, len(inputs), self._device)
        self._optimizer.step()
        if self._average is not None:
            self._average.update(step)
        return found

    def _number_format(self, pixels: int) -> NumberFormat:
        return resolve_precision(
            self._recipe.precision,
            self._model,
            self._device,
            training_side=crop_side(self._recipe, pixels),
        )


def _norms(model: nn.Module) -> list[nn.Module]:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return [layer for layer in model.modules() if isinstance(layer, kinds)]


def _fit_images(model: nn.Module, batches: Batches, seed: int, side: int) -> None:
    """Let the layers that are computed from images, such as a whitening one, see a batch."""
    layers = [layer for layer in model.modules() if hasattr(layer, "fit_images")]
    if layers:
        inputs, _ = next(batches.epoch(seed, 0, side))
    for layer in layers:
        cast(Any, layer).fit_images(inputs)


def _gradients(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    parts: int,
    label_smoothing: float,
    number_format: NumberFormat,
) -> tuple[Tensor, Tensor]:
    """Add a batch's gradients to the model's, part by part; return its loss and right answers."""
    loss_sum = torch.zeros((), device=inputs.device)
    right = torch.zeros((), device=inputs.device, dtype=torch.int64)
    for some, answers in zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True):
        with autocast(inputs.device, number_format):
            logits = model(some)
        loss = functional.cross_entropy(logits.float(), answers, label_smoothing=label_smoothing)
        answers = answers if answers.ndim == 1 else answers.argmax(dim=1)
        loss = loss * (len(some) / len(inputs))
        loss.backward()  # type: ignore[no-untyped-call]
        loss_sum += loss.detach()
        right += (logits.argmax(dim=1) == answers).sum()
    return loss_sum, right


def _more_parts(error: RuntimeError, parts: int, size: int, device: torch.device) -> int:
    """Return into how many parts to divide a batch after an error, if memory was what lacked."""
    if not out_of_memory(error):
        raise error
    # Batch norm needs two images.
    if size // (2 * parts) < 2:
        raise WorkError(
            f"out of memory on {device} with {size // parts} images at a time; a smaller "
            "resolution or backbone, or a device with more memory, is needed"
        ) from error
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return 2 * parts


@contextmanager
def _own_random_state(device: torch.device, seed: int, epoch: int) -> Iterator[None]:
    """Seed torch inside and put its state back outside; dropout draws from it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        yield
