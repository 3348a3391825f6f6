"""A cascade as a torch module that really exits early: later stages see fewer images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade
from rcopt.core.confidences import tensor_confidence
from rcopt.core.evaluating import check_thresholds
from rcopt.core.log_average import Weights
from rcopt.models.precision import resolve_precision
from rcopt.models.prediction import predict_batch
from rcopt.models.recipe import Precision
from rcopt.serving.prepacked import prepared


class CascadeOutput(NamedTuple):
    """What a cascade answered to B images, on the device they were on.

    Attributes:
        classes: (B,) int64, the class answered.
        probabilities: (B, C) float64, of the answering stage under the answer rule.
        confidence: (B,) float64 in [0, 1], of the answer.
        stages: (B,) int64, index of the stage that answered.
        flops: (B,) float64, spent on the image by all stages it ran.
        first_confidence: (B,) float64 in [0, 1], of the first stage's answer.
    """

    classes: Tensor
    probabilities: Tensor
    confidence: Tensor
    stages: Tensor
    flops: Tensor
    first_confidence: Tensor


class CascadeExecutor(nn.Module):
    """Run a cascade with real early exit.

    Stage 0 sees every image; each later stage only those that no stage before it answered,
    and only those are resized for it. Answers and exits equal what `rcopt.evaluate` and
    `rcopt.exits` say of the stages' stored predictions, made on the same device and in
    the same precision; but an image whose confidence lies within float rounding of a threshold
    may fall on its other side, since in float32 the sums of a network may be rounded otherwise
    in a batch of another size.

    Evaluation only: gradients are not recorded and `train` changes nothing.

    Args:
        cascade: Stages, their FLOPs and thresholds.
        models: K networks in the order of the stages; they are copied. All answer the same
            number of classes.
        rule: How probabilities become answers.
        temperatures: K values; needed if ``rule.temperature``, otherwise left out.
        weights: K rows of 1 to K values; needed if ``rule.weighted``, otherwise left out.
        precision: See `rcopt.models.precision.resolve_precision`; settled per stage, once, for
            ``device``.
        device: Where the networks are put, for good: they are laid out for it.

    Raises:
        ValueError: If numbers of models, thresholds, temperatures or weights do not fit the
            stages.
    """

    def __init__(
        self,
        cascade: Cascade,
        models: Sequence[nn.Module],
        rule: AnswerRule | None = None,
        temperatures: Sequence[float] | None = None,
        weights: Weights | None = None,
        *,
        precision: Precision = "auto",
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        n_stages = len(cascade.stages)
        if len(models) != n_stages:
            raise ValueError(f"models must have length {n_stages} (stages), got {len(models)}")
        self.device = torch.device(device)
        self.cascade = cascade
        self.rule = AnswerRule() if rule is None else rule
        self.temperatures = _check_temperatures(self.rule, temperatures, n_stages)
        self.weights = _check_weights(self.rule, weights, n_stages)
        self.precisions = tuple(resolve_precision(precision, m, device) for m in models)
        self.networks = nn.ModuleList(
            prepared(model, number_format, self.device)
            for model, number_format in zip(models, self.precisions, strict=True)
        )
        self._thresholds: list[float] = check_thresholds(cascade.thresholds, n_stages).tolist()
        spent = np.cumsum([stage.flops for stage in cascade.stages]).tolist()
        self._spent = torch.tensor(spent, dtype=torch.float64, device=self.device)
        self.train(False)

    def train(self, mode: bool = True) -> "CascadeExecutor":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> CascadeOutput:
        """Answer a batch.

        The host waits for the device once per stage, to learn how many images go on.

        Args:
            images: (B, S, S, 3) base images, uint8, or floating point grey levels in 0..255
                that are rounded to uint8. B may be 0. Moved to the executor's device.

        Raises:
            ValueError: If ``images`` has another type or shape.
        """
        base = _to_uint8(images).to(self.device, non_blocking=True)
        n = len(base)
        stages = torch.zeros(n, dtype=torch.int64, device=base.device)
        waiting = torch.arange(n, device=base.device)
        answered = confidence = first = total = torch.empty(0)
        logs: list[Tensor] = []
        last = len(self.networks) - 1
        for index, (network, stage, precision) in enumerate(
            zip(self.networks, self.cascade.stages, self.precisions, strict=True)
        ):
            own = self._probabilities(network, base, stage.resolution, precision, index)
            if self.rule.average:
                total = own if index == 0 else total + own
                own = total / (index + 1)
            elif self.rule.weighted:
                logs.append(_log(own))
                own = _log_average(logs, self.weights[index])
            own_confidence: Tensor = tensor_confidence(own, self.rule.confidence)
            if index == 0:
                answered, confidence, first = own, own_confidence, own_confidence.clone()
            else:
                answered[waiting], confidence[waiting] = own, own_confidence
                stages[waiting] = index
            if index == last:
                break
            go_on = (own_confidence < self._thresholds[index]).nonzero().squeeze(1)
            if not len(go_on):
                break
            # Copies whole images, where base[go_on] would copy byte by byte.
            base, waiting = base.index_select(0, go_on), waiting[go_on]
            total = total[go_on] if self.rule.average else total
            logs = [each[go_on] for each in logs]
        flops = self._spent[stages]
        return CascadeOutput(answered.argmax(dim=1), answered, confidence, stages, flops, first)

    def _probabilities(
        self, network: nn.Module, base: Tensor, resolution: int, precision: Precision, index: int
    ) -> Tensor:
        own = predict_batch(network, base, resolution, precision).double()
        if not self.rule.temperature:
            return own
        return functional.softmax(_log(own) / self.temperatures[index], dim=1)


def _log(p: Tensor) -> Tensor:
    """Return log p as `rcopt.core.temperature.log_probabilities` does."""
    return p.clamp_min(float(np.finfo(np.float32).tiny)).log()


def _log_average(logs: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return what `rcopt.core.log_average.log_average` does."""
    total = torch.zeros_like(logs[0])
    for own, weight in zip(logs, weights, strict=True):
        total += weight * own
    return functional.softmax(total, dim=1)


def _to_uint8(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(f"images must have shape (B, S, S, 3), got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8 or floating point, got {images.dtype}")
    return images.round().clamp(0, 255).to(torch.uint8)


def _check_temperatures(
    rule: AnswerRule, temperatures: Sequence[float] | None, n_stages: int
) -> tuple[float, ...]:
    if not rule.temperature:
        return (1.0,) * n_stages
    if temperatures is None or len(temperatures) != n_stages:
        came = "None" if temperatures is None else f"{len(temperatures)}"
        raise ValueError(f"temperatures must have length {n_stages} (stages), got {came}")
    if not all(math.isfinite(t) and t > 0 for t in temperatures):
        raise ValueError(f"temperatures must be positive and finite, got {list(temperatures)}")
    return tuple(float(t) for t in temperatures)


def _check_weights(
    rule: AnswerRule, weights: Weights | None, n_stages: int
) -> tuple[tuple[float, ...], ...]:
    if not rule.weighted:
        return ()
    rows = None if weights is None else [len(row) for row in weights]
    if weights is None or rows != list(range(1, n_stages + 1)):
        raise ValueError(f"weights must have rows of 1 to {n_stages} values (stages), got {rows}")
    if not all(math.isfinite(w) and w >= 0 for row in weights for w in row):
        raise ValueError(f"weights must be finite and not negative, got {list(weights)}")
    return tuple(tuple(float(w) for w in row) for row in weights)
