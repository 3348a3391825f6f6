"""How stages are trained."""

import math
from dataclasses import dataclass
from typing import Literal

from rcopt.models.precision import Precision

Schedule = Literal["cosine", "onecycle"]


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
        check("epochs", self.epochs, self.epochs >= 1, "at least 1")
        check("batch_size", self.batch_size, self.batch_size >= 2, "at least 2")
        check("lr", self.lr, 0 < self.lr < math.inf, "positive")
        check("momentum", self.momentum, 0 < self.momentum < 1, "between 0 and 1")
        check("weight_decay", self.weight_decay, self.weight_decay >= 0, "not negative")
        smoothing = self.label_smoothing
        check("label_smoothing", smoothing, 0 <= smoothing < 1, "at least 0 and below 1")
        check("warmup", self.warmup, 0 <= self.warmup < 1, "at least 0 and below 1")
        check("crop_area", self.crop_area, 0 < self.crop_area <= 1, "above 0 and at most 1")
        share = self.progressive
        check("progressive", share, 0 < share <= 1, "above 0 and at most 1")
        if self.schedule not in ("cosine", "onecycle"):
            raise ValueError(f"schedule must be 'cosine' or 'onecycle', got {self.schedule!r}")


def check(name: str, value: float, holds: bool, expected: str) -> None:
    """Raise ValueError unless a value holds."""
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {value}")
