"""What a network answers."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rcopt.core.predictions import Predictions, Split
from rcopt.data.dataset import Dataset, release
from rcopt.data.images import stage_input
from rcopt.errors import WorkError
from rcopt.models.backbones import preprocessing_of
from rcopt.models.devices import out_of_memory
from rcopt.models.precision import autocast, resolve_precision
from rcopt.models.recipe import Precision


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

    Raises:
        WorkError: If an answer is not finite.
    """
    indices = dataset.splits[split]
    model.to(device)
    was_training = model.training
    model.eval()
    number_format = resolve_precision(precision, model, device)
    parts = [np.empty((0, len(dataset.classes)), dtype=np.float32)]
    size = batch_size or prediction_batch(resolution, torch.device(device))
    start = 0
    while start < len(indices):
        base = torch.from_numpy(dataset.base[indices[start : start + size]])
        release(dataset.base)
        try:
            answers = predict_batch(model, base.to(device), resolution, number_format)
        except RuntimeError as error:
            if not out_of_memory(error) or size == 1:
                raise
            size //= 2
            continue
        parts.append(answers.cpu().numpy())
        start += len(base)
    model.train(was_training)
    probabilities = np.concatenate(parts)
    if not np.isfinite(probabilities).all():
        raise WorkError(
            f"training diverged: its answers to the {split} images are not finite, though its "
            "loss was; a smaller lr helps"
        )
    return Predictions(
        split=split,
        probabilities=probabilities,
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
        number_format = resolve_precision(precision, model, base.device)
        with autocast(base.device, number_format):
            logits = model(stage_input(base, resolution, preprocessing_of(model)))
        return functional.softmax(logits.float(), dim=1)
    raise ValueError("model must be in evaluation mode; call model.eval()")


def prediction_batch(resolution: int, device: torch.device) -> int:
    """Return how many images are predicted at once."""
    if device.type != "cpu":
        return 256
    return max(1, min(256, 256 * 112**2 // resolution**2))
