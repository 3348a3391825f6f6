"""How stages are trained: the one declaration that study files and training share.

Imports nothing but the standard library, so that a study file is checked without torch, and a
machine without pydantic can train. pydantic reads the bounds from the annotations.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

Schedule = Literal["cosine", "onecycle"]
Precision = Literal["auto", "float32", "bfloat16"]
OptimizerName = Literal["sgd", "adamw", "muon"]
Crop = Literal["resized", "plain"]


@dataclass(frozen=True)
class Bounds:
    """Where a number must lie, as pydantic's constraints of the same names say it."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: object, handler: Callable[[Any], Any]) -> Any:
        """Add the bounds to the type's schema; called by pydantic alone."""
        return {**handler(source), **self._given()}

    def holds(self, value: float) -> bool:
        """Return whether a value is finite and within the bounds."""
        return (
            math.isfinite(value)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        """Return the bounds in words."""
        words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        return " and ".join(f"{words[name]} {bound:g}" for name, bound in self._given().items())

    def _given(self) -> dict[str, float]:
        return {name: bound for name, bound in vars(self).items() if bound is not None}


@dataclass(frozen=True)
class Recipe:
    """How stages are trained: by default with Nesterov momentum on random resized crops.

    `rcopt.models.named_recipes` has others.

    A setting that is added later has a default that changes nothing; while it has it, it is left
    out of `identity`, so that stages trained before are found again.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step; the images left over in an epoch wait for the next one.
        lr: Highest learning rate.
        momentum: Nesterov's; AdamW's first beta.
        weight_decay: On weights of convolutions and linear layers; not on norms and biases, nor
            on filters that Muon moves. AdamW multiplies it by the learning rate alone.
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
        precision: Of the arithmetic in training; ``"auto"`` is bfloat16 where it is faster here:
            see `rcopt.models.precision.resolve_precision`.
        optimizer: ``"sgd"``; ``"adamw"`` (Loshchilov and Hutter 2019, arXiv:1711.05101), which
            wants an ``lr`` of 1e-3 or less; or ``"muon"``: filters of convolutions by
            `rcopt.models.optimizers.Muon`, which reaches the same loss in fewer epochs; it
            wants ``momentum`` 0.6 (airbench94, commit f1c599c).
        filter_lr: Highest learning rate of filters that Muon moves.
        head_lr: Learning rate of the last layer, as a multiple of ``lr``. Above 1 where the
            other layers start from trained weights and the last one does not.
        ema: How much of the weights' moving average a step keeps, such as 0.999; the average
            is the result. Early steps keep less, as weights still move fast. 0 takes the last
            step's weights.
        mixup: Alpha of the beta distribution by which images are blended with others of their
            batch, labels too (Zhang et al. 2018, arXiv:1710.09412); 0 for never.
        cutmix: Likewise for pasting a rectangle of another image (Yun et al. 2019,
            arXiv:1905.04899). With both, each batch takes one of them, drawn evenly.
        mix_share: Share of the batches that are mixed.
        crop: ``"resized"``: random resized crops, see ``crop_area``; ``"plain"``: squares of
            ``crop_side`` cut from images at the stage's resolution, without another scaling.
        crop_side: Side of plain crops, as a share of the resolution. Half of it costs a quarter
            of the computation; the network must take images of any size.
        shift: Share of the resolution by which plain crops may reach over the image's edge,
            beyond which it is reflected.
        alternating_flips: Mirror each image at random in the first epoch, and from then on in
            every other epoch, so that both sides are seen equally often (Jordan 2024,
            arXiv:2404.00498). Needs ``flip``.
        frozen_norms: Leave batch norms' statistics, scales and offsets as they are in the
            weights to start from.

    Raises:
        ValueError: On values that cannot be trained with.
    """

    epochs: Annotated[int, Bounds(ge=1, le=10_000)] = 16
    batch_size: Annotated[int, Bounds(ge=2, le=65_536)] = 64
    lr: Annotated[float, Bounds(gt=0, le=100)] = 0.2
    momentum: Annotated[float, Bounds(gt=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Bounds(ge=0, le=1)] = 5e-4
    label_smoothing: Annotated[float, Bounds(ge=0, lt=1)] = 0.1
    schedule: Schedule = "cosine"
    warmup: Annotated[float, Bounds(ge=0, lt=1)] = 0.15
    crop_area: Annotated[float, Bounds(gt=0, le=1)] = 0.35
    flip: bool = True
    progressive: Annotated[float, Bounds(gt=0, le=1)] = 1.0
    precision: Precision = "auto"
    optimizer: OptimizerName = "sgd"
    filter_lr: Annotated[float, Bounds(gt=0, le=100)] = 0.05
    head_lr: Annotated[float, Bounds(gt=0, le=1000)] = 1.0
    ema: Annotated[float, Bounds(ge=0, lt=1)] = 0.0
    mixup: Annotated[float, Bounds(ge=0, le=100)] = 0.0
    cutmix: Annotated[float, Bounds(ge=0, le=100)] = 0.0
    mix_share: Annotated[float, Bounds(gt=0, le=1)] = 1.0
    crop: Crop = "resized"
    crop_side: Annotated[float, Bounds(gt=0, le=1)] = 1.0
    shift: Annotated[float, Bounds(ge=0, le=0.5)] = 0.0625
    alternating_flips: bool = False
    frozen_norms: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with."""
        for name, kind in recipe_types().items():
            value = getattr(self, name)
            if get_origin(kind) is Literal and value not in get_args(kind):
                expected = " or ".join(repr(choice) for choice in get_args(kind))
                raise ValueError(f"{name} must be {expected}, got {value!r}")
            for bounds in getattr(kind, "__metadata__", ()):
                if not bounds.holds(value):
                    raise ValueError(f"{name} must be {bounds}, got {value}")

    def identity(self) -> dict[str, Any]:
        """Return what a stage's content key and checkpoints are made of.

        The first settings always, those added later where they differ from their default.
        """
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name in _FIRST or getattr(self, field.name) != field.default
        }


#: The settings that every stored stage's content key holds.
_FIRST = (
    *("epochs", "batch_size", "lr", "momentum", "weight_decay", "label_smoothing", "schedule"),
    *("warmup", "crop_area", "flip", "progressive", "precision"),
)


def recipe_types() -> Mapping[str, Any]:
    """Return each setting's type, bounds included."""
    return get_type_hints(Recipe, include_extras=True)
