"""What a study may combine."""

from collections.abc import Mapping
from dataclasses import dataclass

from optuna.distributions import CategoricalDistribution

from rcopt.core.cascade import StageId

#: Leaves a resolution out.
NONE = "none"


@dataclass(frozen=True)
class Space:
    """What a trial chooses among.

    Attributes:
        backbones: For each resolution, rising, the backbones ordered by depth.
        optional: Whether a resolution may be left out.
    """

    backbones: Mapping[int, tuple[str, ...]]
    optional: bool

    def choices(self, resolution: int) -> CategoricalDistribution:
        """Return the distribution of ``backbone.<resolution>``."""
        names = self.backbones[resolution]
        return CategoricalDistribution((*names, NONE) if self.optional else names)


@dataclass(frozen=True)
class Proposal:
    """What a sampler asks to be evaluated.

    Attributes:
        number: Its number in the in-memory mirror, not in the storage.
        stages: From cheap to costly, at least one.
        deferral_rates: One for each stage but the last.
    """

    number: int
    stages: tuple[StageId, ...]
    deferral_rates: tuple[float, ...]
