"""Train a stage, predict with it, keep its weights."""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from rcopt.core.predictions import Predictions, Split
from rcopt.data.images import normalize, stage_input
from rcopt.data.loading import Dataset, release
from rcopt.errors import InputError, WorkError
from rcopt.models.augmentation import Crops, cut, cut_batched, draw_crops
from rcopt.models.backbones import skeleton
from rcopt.models.checkpoints import load_checkpoint, save_checkpoint, write_tensors

Precision = Literal["auto", "float32", "bfloat16"]
Schedule = Literal["cosine", "onecycle"]

#: Share of the epochs after which a progressive training has reached its resolution.
_GROWTH = 0.75

#: Below this side depthwise convolutions are trained in float32 on CPUs. MobileNetV2 in bfloat16
#: trains 0.5 times as many images a second as in float32 at 32 pixels, 0.8 at 64, 1.05 at 96,
#: 1.2 at 128, 1.6 at 160 (AMD EPYC with AVX512-BF16, one thread, torch 2.13).
_SMALL = 96


@dataclass(frozen=True)
class Recipe:
    """How stages are trained: SGD with Nesterov momentum on random resized crops.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step; the images left over in an epoch wait for the next one.
        lr: Highest learning rate.
        momentum: Of SGD.
        weight_decay: On weights of convolutions and linear layers; not on norms and biases.
        label_smoothing: In [0, 1).
        schedule: ``"cosine"``: linear warm-up, then cosine to 0; ``"onecycle"``: linear up
            and linear down to 0 (Smith 2018, arXiv:1803.09820).
        warmup: Share of the steps in which the learning rate rises.
        crop_area: Smallest area of a random crop, as a share of the image.
        flip: Whether images are mirrored at random; off for writing.
        progressive: Share of the resolution that the first epochs train at. It rises evenly to
            the stage's own, reached after three quarters of the epochs; 1 trains at one
            resolution. Most of what is learnt from small images is kept, and they cost less
            (Tan and Le 2021, arXiv:2104.00298, section 4).
        precision: See `resolve_precision`.
    """

    epochs: int = 16
    batch_size: int = 64
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    schedule: Schedule = "cosine"
    warmup: float = 0.15
    crop_area: float = 0.35
    flip: bool = True
    progressive: float = 1.0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with."""
        _check("epochs", self.epochs, self.epochs >= 1, "at least 1")
        _check("batch_size", self.batch_size, self.batch_size >= 2, "at least 2")
        _check("lr", self.lr, 0 < self.lr < math.inf, "positive")
        _check("momentum", self.momentum, 0 < self.momentum < 1, "between 0 and 1")
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "not negative")
        smoothing = self.label_smoothing
        _check("label_smoothing", smoothing, 0 <= smoothing < 1, "at least 0 and below 1")
        _check("warmup", self.warmup, 0 <= self.warmup < 1, "at least 0 and below 1")
        _check("crop_area", self.crop_area, 0 < self.crop_area <= 1, "above 0 and at most 1")
        share = self.progressive
        _check("progressive", share, 0 < share <= 1, "above 0 and at most 1")
        if self.schedule not in ("cosine", "onecycle"):
            raise ValueError(f"schedule must be 'cosine' or 'onecycle', got {self.schedule!r}")


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
) -> Iterator[EpochRecord]:
    """Train a model in place, an epoch at each step of the iteration.

    Each epoch draws from its own random state, made of ``seed`` and its number: the result
    depends on nothing else, the global random state stays as it is, and on the CPU (with as
    many threads) a training that was interrupted and continued equals one that was not, bit
    for bit. Where memory does not suffice for a batch, it is halved, and the gradients of its
    parts are summed; batch norm then sees the parts one by one, so the result differs a little.

    Args:
        model: From `rcopt.backbones.build`; moved to ``device``.
        dataset: Of which the ``train`` split is used.
        resolution: Side of the stage's input.
        recipe: How to train.
        seed: Of order, crops and dropout.
        device: Where to train. On CUDA the training images live there as uint8.
        checkpoint: File for the state after each epoch, continued from if it is there; the
            caller removes it when the result is safe.

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
    return _train(model, dataset, resolution, recipe, seed, torch.device(device), checkpoint)


def predict(
    model: nn.Module,
    dataset: Dataset,
    split: Split,
    resolution: int,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "auto",
    batch_size: int | None = None,
) -> Predictions:
    """Predict a split.

    Args:
        model: Moved to ``device``; its training mode is left as it was.
        dataset: Source of images and labels.
        split: Which images; may be empty.
        resolution: Side of the stage's input.
        device: Where to work.
        precision: See `resolve_precision`.
        batch_size: Images at a time; by default 256, and above 112 pixels on the CPU fewer, so
            that memory does not grow with the resolution. Halved where memory does not suffice.
    """
    indices = dataset.splits[split]
    model.to(device)
    was_training = model.training
    model.eval()
    exact = resolve_precision(precision, model, device)
    parts = [np.empty((0, len(dataset.classes)), dtype=np.float32)]
    size = batch_size or _prediction_batch(resolution, torch.device(device))
    start = 0
    while start < len(indices):
        base = torch.from_numpy(dataset.base[indices[start : start + size]])
        release(dataset.base)
        try:
            answers = predict_batch(model, base.to(device), resolution, exact)
        except RuntimeError as error:
            if not _out_of_memory(error) or size == 1:
                raise
            size //= 2
            continue
        parts.append(answers.cpu().numpy())
        start += len(base)
    model.train(was_training)
    return Predictions(
        split=split,
        probabilities=np.concatenate(parts),
        labels=dataset.labels[indices],
        images=tuple(dataset.images[i] for i in indices),
    )


@torch.inference_mode()
def predict_batch(
    model: nn.Module, base: Tensor, resolution: int, precision: Precision = "auto"
) -> Tensor:
    """Return class probabilities of base images; what `predict` and the executor share.

    Args:
        model: In evaluation mode, on ``base``'s device.
        base: (B, S, S, 3) uint8.
        resolution: Side of the stage's input.
        precision: See `resolve_precision`.

    Returns:
        (B, C) float32, rows sum to 1.
    """
    if not model.training:
        exact = resolve_precision(precision, model, base.device)
        with _autocast(base.device, exact):
            logits = model(stage_input(base, resolution))
        return functional.softmax(logits.float(), dim=1)
    raise ValueError("model must be in evaluation mode; call model.eval()")


def resolve_precision(
    precision: Precision,
    model: nn.Module,
    device: str | torch.device,
    *,
    training_side: int | None = None,
) -> Literal["float32", "bfloat16"]:
    """Settle what ``"auto"`` means for a model on a device.

    bfloat16 (autocast: weights, norms' statistics, head and loss stay float32) where the
    hardware computes in it: CUDA devices and CPUs that have the instructions. There ResNets are
    1.6 to 1.9 times as fast, MobileNets predict 1.2 to 2.2 times as fast. But gradients of
    depthwise convolutions of small images take up to twice as long in it, so that those are
    trained in float32.

    Args:
        precision: Returned unless it is ``"auto"``.
        model: Looked at for depthwise convolutions.
        device: Where the model is to work.
        training_side: Side of the images that it is to be trained with; None if it predicts.
    """
    if precision != "auto":
        return precision
    kind = torch.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if kind != "cpu" or not _cpu_has_bfloat16():
        return "float32"
    small = training_side is not None and training_side < _SMALL
    return "float32" if small and _has_depthwise(model) else "bfloat16"


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model read back from its weights file.

    Attributes:
        model: In evaluation mode.
        backbone: Name, see `rcopt.backbones.parse`.
        n_classes: Size of the head.
        resolution: Side of the input it was trained for.
    """

    model: nn.Module
    backbone: str
    n_classes: int
    resolution: int


def save_weights(
    path: Path, model: nn.Module, *, backbone: str, n_classes: int, resolution: int
) -> None:
    """Write a model's weights as safetensors, with what is needed to build it again."""
    metadata = {
        "backbone": backbone,
        "n_classes": str(n_classes),
        "resolution": str(resolution),
    }
    write_tensors(path, model.state_dict(), metadata)


def load_weights(path: Path, device: str | torch.device = "cpu") -> TrainedModel:
    """Read a model written by `save_weights`.

    Raises:
        InputError: If the file is missing, damaged, or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        backbone, n_classes = metadata["backbone"], int(metadata["n_classes"])
        resolution = int(metadata["resolution"])
        model = skeleton(backbone, n_classes)
        model.load_state_dict(state)
    except FileNotFoundError:
        raise InputError(f"{path}: no such weights file; train the stage again") from None
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, InputError):
        raise InputError(
            f"{path}: damaged, or not a weights file of rcopt; delete it to train again"
        ) from None
    return TrainedModel(model.to(device).eval(), backbone, n_classes, resolution)


def _train(
    model: nn.Module,
    dataset: Dataset,
    resolution: int,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    checkpoint: Path | None,
) -> Iterator[EpochRecord]:
    model.to(device)
    batches = _Batches(dataset, recipe, device)
    optimizer = _optimizer(model, recipe)
    exact = resolve_precision(recipe.precision, model, device, training_side=resolution)
    belongs_to = repr((dataset.digest, resolution, asdict(recipe), seed, exact))
    first, parts = 0, 1
    if checkpoint is not None:
        first = load_checkpoint(checkpoint, model, optimizer, belongs_to=belongs_to)
    for epoch in range(first, recipe.epochs):
        began = time.perf_counter()
        side = _side(recipe, epoch, resolution)
        precision = resolve_precision(recipe.precision, model, device, training_side=side)
        model.train()
        loss_sum = torch.zeros((), device=device)
        right = torch.zeros((), device=device, dtype=torch.int64)
        with _own_random_state(device, seed, epoch):
            for step, (inputs, labels) in enumerate(batches.epoch(seed, epoch, side)):
                lr = _lr(recipe, epoch * batches.steps + step, recipe.epochs * batches.steps)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                while True:
                    optimizer.zero_grad(set_to_none=True)
                    try:
                        loss, hits = _gradients(
                            model, inputs, labels, parts, recipe.label_smoothing, precision
                        )
                        break
                    except RuntimeError as error:
                        parts = _more_parts(error, parts, len(inputs), device)
                optimizer.step()
                loss_sum += loss
                right += hits
        loss_mean = loss_sum.item() / batches.steps
        if not math.isfinite(loss_mean):
            raise TrainingDiverged(epoch + 1, loss_mean)
        if checkpoint is not None:
            save_checkpoint(checkpoint, model, optimizer, epoch=epoch + 1, belongs_to=belongs_to)
        seconds = time.perf_counter() - began
        seen = batches.steps * batches.size
        yield EpochRecord(
            epoch=epoch + 1,
            epochs=recipe.epochs,
            loss=loss_mean,
            accuracy=right.item() / seen,
            lr=lr,
            seconds=seconds,
            images_per_second=seen / seconds,
            parts=parts,
        )
    model.eval()


def _gradients(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    parts: int,
    label_smoothing: float,
    precision: Precision,
) -> tuple[Tensor, Tensor]:
    """Add a batch's gradients to the model's, part by part; return its loss and right answers."""
    loss_sum = torch.zeros((), device=inputs.device)
    right = torch.zeros((), device=inputs.device, dtype=torch.int64)
    for some, answers in zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True):
        with _autocast(inputs.device, precision):
            logits = model(some)
        loss = functional.cross_entropy(logits.float(), answers, label_smoothing=label_smoothing)
        loss = loss * (len(some) / len(inputs))
        loss.backward()  # type: ignore[no-untyped-call]
        loss_sum += loss.detach()
        right += (logits.argmax(dim=1) == answers).sum()
    return loss_sum, right


def _more_parts(error: RuntimeError, parts: int, size: int, device: torch.device) -> int:
    """Return into how many parts to divide a batch after an error, if memory was what lacked."""
    if not _out_of_memory(error):
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


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class _Batches:
    """Augmented training batches of a data set."""

    def __init__(self, dataset: Dataset, recipe: Recipe, device: torch.device) -> None:
        self._indices = dataset.splits["train"]
        self.size = min(recipe.batch_size, len(self._indices))
        self.steps = len(self._indices) // self.size
        self._dataset, self._recipe, self._device = dataset, recipe, device
        self._labels = torch.from_numpy(dataset.labels[self._indices]).to(device)
        self._resident: Tensor | None = None
        if device.type != "cpu":
            self._resident = torch.from_numpy(dataset.base[self._indices]).to(device)
            release(dataset.base)

    def epoch(self, seed: int, epoch: int, resolution: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalized inputs and labels of one epoch."""
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self._indices))[: self.steps * self.size]
        side = self._dataset.base.shape[1]
        crops = draw_crops(
            rng, len(order), side, min_area=self._recipe.crop_area, flip=self._recipe.flip
        )
        places = torch.from_numpy(order).to(self._device)
        boxes = torch.from_numpy(crops.boxes).to(self._device)
        flips = torch.from_numpy(crops.flips).to(self._device)
        for start in range(0, len(order), self.size):
            now = slice(start, start + self.size)
            if self._resident is None:
                some = Crops(crops.boxes[now], crops.flips[now])
                pixels = cut(self._dataset.base, self._indices[order[now]], some, resolution)
                release(self._dataset.base)
            else:
                images = self._resident[places[now]]
                pixels = cut_batched(images, boxes[now], flips[now], resolution)
            yield normalize(pixels), self._labels[places[now]]


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, fused=True
    )


def _lr(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of a step; the middle of the step's interval is looked at."""
    done = (step + 0.5) / steps
    if done < recipe.warmup:
        return recipe.lr * done / recipe.warmup
    left = (1 - done) / (1 - recipe.warmup)
    if recipe.schedule == "onecycle":
        return recipe.lr * left
    return recipe.lr * 0.5 * (1 - math.cos(math.pi * left))


def _side(recipe: Recipe, epoch: int, resolution: int) -> int:
    """Return the side of an epoch's images: a multiple of 8, or the resolution itself."""
    done = (epoch + 1) / (_GROWTH * recipe.epochs)
    if done >= 1 or recipe.progressive == 1:
        return resolution
    share = recipe.progressive + (1 - recipe.progressive) * done
    return min(resolution, max(8, 8 * round(share * resolution / 8)))


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def _own_random_state(device: torch.device, seed: int, epoch: int) -> Iterator[None]:
    """Seed torch inside and put its state back outside; dropout draws from it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        yield


def _cpu_has_bfloat16() -> bool:
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported is not None and supported())


def _has_depthwise(model: nn.Module) -> bool:
    return any(
        isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
        for layer in model.modules()
    )


def _prediction_batch(resolution: int, device: torch.device) -> int:
    if device.type != "cpu":
        return 256
    return max(1, min(256, 256 * 112**2 // resolution**2))


def _check(name: str, value: float, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {value}")
