"""What a stage, a cascade and its numbers are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from rcopt.core.cost import COSTS, Amount, Cost
from rcopt.core.wording import cascade_text

#: The smallest threshold that no confidence reaches: a stage with it answers nothing.
NEVER = float(np.nextafter(1.0, 2.0))

#: The smallest resolution.
PIXELS = 8

Source = Literal["sampled", "exact"]


class StageId(NamedTuple):
    """What a stage is called: one backbone at one resolution, in pixels.

    Below `PIXELS` it is no resolution but the rank by cost of a stage that has none.
    """

    resolution: int
    backbone: str

    @property
    def name(self) -> str:
        """``backbone@resolution``, or the backbone alone where there is no resolution."""
        return f"{self.backbone}@{self.resolution}" if self.resolution >= PIXELS else self.backbone


@dataclass(frozen=True)
class Stage:
    """One backbone at one resolution.

    Attributes:
        resolution: Input side in pixels.
        backbone: Registry name, such as ``resnet18``.
        flops: FLOPs (2 x MACs) of one forward pass of one image.
        minimized: What one image costs, where another cost than FLOPs is to be minimized. Not
            part of what a stage is: two that differ in nothing else are equal.
    """

    resolution: int
    backbone: str
    flops: float
    minimized: Amount | None = field(default=None, compare=False)

    @property
    def cost(self) -> float:
        """How much one image costs of what is minimized."""
        return self.flops if self.minimized is None else self.minimized.value

    @property
    def costs(self) -> tuple[tuple[Cost, float], ...]:
        """The costs that are known, what is minimized first."""
        return _known_costs(self.flops, self.minimized)

    @property
    def id(self) -> StageId:
        """The stage without its cost."""
        return StageId(self.resolution, self.backbone)

    @property
    def name(self) -> str:
        """``backbone@resolution``."""
        return self.id.name

    def to_dict(self) -> dict[str, Any]:
        """Return the stage's part of the front's JSON contract."""
        tree: dict[str, Any] = {
            "resolution": self.resolution,
            "backbone": self.backbone,
            "flops": self.flops,
        }
        if self.minimized is not None:
            tree[COSTS[self.minimized.cost].key] = self.minimized.value
        return tree

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Stage":
        """Return what `to_dict` gave.

        Raises:
            KeyError: If something is missing.
            ValueError: If something is no number.
        """
        return cls(
            int(tree["resolution"]),
            str(tree["backbone"]),
            float(tree["flops"]),
            Amount.from_json(tree),
        )


@dataclass(frozen=True)
class Evaluation:
    """What a cascade did to N images.

    Attributes:
        accuracy: Share answered correctly.
        mean_flops: FLOPs per image, every stage that ran counted.
        exit_rates: (K,) share of all images answered by each stage; sums to 1.
        reach_rates: (K,) share of all images that ran each stage; 1 at stage 0.
        deferral_rates: (K-1,) share of the images reaching a stage that went on; nan where
            none reached it.
        n_images: N.
        minimized: Mean cost per image, every stage that ran counted, where another cost than
            FLOPs is minimized.
    """

    accuracy: float
    mean_flops: float
    exit_rates: tuple[float, ...]
    reach_rates: tuple[float, ...]
    deferral_rates: tuple[float, ...]
    n_images: int
    minimized: Amount | None = None

    @property
    def cost(self) -> float:
        """How much of what is minimized an image costs on average."""
        return self.mean_flops if self.minimized is None else self.minimized.value

    @property
    def costs(self) -> tuple[tuple[Cost, float], ...]:
        """The mean costs that are known, what is minimized first."""
        return _known_costs(self.mean_flops, self.minimized)

    def to_dict(self) -> dict[str, Any]:
        """Return the part of the front's JSON contract that describes one split."""
        tree: dict[str, Any] = {"accuracy": self.accuracy, "mean_flops": self.mean_flops}
        if self.minimized is not None:
            tree[COSTS[self.minimized.cost].mean_key] = self.minimized.value
        return tree | {"exit_rates": list(self.exit_rates)}


@dataclass(frozen=True)
class Cascade:
    """Stages from cheap to costly, with a threshold for each but the last.

    Attributes:
        stages: K stages.
        thresholds: K-1 values; stage k answers iff its confidence >= thresholds[k].
    """

    stages: tuple[Stage, ...]
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse a wrong number of thresholds."""
        if not self.stages or len(self.thresholds) != len(self.stages) - 1:
            raise ValueError(
                f"thresholds must have length {len(self.stages) - 1} (stages - 1), "
                f"got {len(self.thresholds)}"
            )

    def __str__(self) -> str:
        """Return ``resnet18@32 0.913 > resnet50@224``."""
        return cascade_text(self)


@dataclass(frozen=True)
class OperatingPoint:
    """A cascade with its numbers.

    Attributes:
        cascade: The stages and thresholds.
        validation: What it was chosen by.
        test: What is reported; None until the report reads the test split.
        source: ``"sampled"`` (the sampler proposed it) or ``"exact"`` (the exact sweep did).
        trial: Optuna trial number, if it is one.
        run_id: MLflow run, if it has one.
    """

    cascade: Cascade
    validation: Evaluation
    test: Evaluation | None = None
    source: Source = "exact"
    trial: int | None = None
    run_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return one entry of the front's JSON contract."""
        thresholds = (*self.cascade.thresholds, None)
        return {
            "stages": [
                {**stage.to_dict(), "threshold": threshold}
                for stage, threshold in zip(self.cascade.stages, thresholds, strict=True)
            ],
            "validation": self.validation.to_dict(),
            "test": None if self.test is None else self.test.to_dict(),
            "source": self.source,
            "trial": self.trial,
            "run_id": self.run_id,
        }


def _known_costs(flops: float, minimized: Amount | None) -> tuple[tuple[Cost, float], ...]:
    known = (COSTS["flops"], flops)
    return (known,) if minimized is None else ((COSTS[minimized.cost], minimized.value), known)
