"""What a network wants its images to be like."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Interpolation = Literal["bilinear", "bicubic"]
Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """How a stage's input is made from base images: part of the stage, wherever it is used.

    Attributes:
        mean: Of each channel, in grey levels 0..255; becomes 0.
        std: Likewise; becomes 1.
        interpolation: Filter that images are resized with, antialiased.

    Raises:
        ValueError: If a value is not one of these.
    """

    mean: Channels = (123.675, 116.28, 103.53)
    std: Channels = (58.395, 57.12, 57.375)
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        """Refuse values that no image could be prepared by."""
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std must be 3 numbers each, got {self.mean}, {self.std}")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation must be bilinear or bicubic: {self.interpolation!r}")

    @classmethod
    def of_unit(
        cls, mean: Channels, std: Channels, interpolation: Interpolation = "bilinear"
    ) -> "Preprocessing":
        """Return what libraries state in units of 0..1."""
        return cls(_times_255(mean), _times_255(std), interpolation)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "Preprocessing":
        """Return what `to_json` gave; raises KeyError, TypeError or ValueError on others."""
        (r, g, b), (red, green, blue) = tree["mean"], tree["std"]
        mean, std = (float(r), float(g), float(b)), (float(red), float(green), float(blue))
        return cls(mean, std, tree["interpolation"])


def _times_255(values: Channels) -> Channels:
    red, green, blue = (round(255 * value, 9) for value in values)
    return red, green, blue


#: Channel statistics of ImageNet, which most public weights expect, and our filter.
IMAGENET = Preprocessing()
