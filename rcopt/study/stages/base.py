"""Where a study's stages come from: trained here, or read from stored predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rcopt import tracking
from rcopt.core.cascade import Stage
from rcopt.core.trained_stage import TrainedStage
from rcopt.study.space import Space
from rcopt.study.stages.train_once import (
    Origin,
)

if TYPE_CHECKING:
    pass

StageKey = tuple[int, str]


@dataclass(frozen=True)
class DataSummary:
    """What a study's numbers are measured on.

    Attributes:
        name: Of the data set.
        classes: Class names.
        split_sizes: Images by split.
        digest: Of images and splits, or of the stored predictions.
        split_digest: Of the splits alone.
        source: Where it comes from.
        notes: What a person should know of it.
    """

    name: str
    classes: tuple[str, ...]
    split_sizes: Mapping[str, int]
    digest: str
    split_digest: str
    source: str
    notes: tuple[str, ...] = ()


class Material(Protocol):
    """Stages by resolution and backbone, trained when first asked for."""

    @property
    def space(self) -> Space:
        """What may be asked for."""

    @property
    def data(self) -> DataSummary:
        """What the numbers are measured on."""

    @property
    def costs(self) -> Mapping[StageKey, Stage]:
        """Every stage of the space with its FLOPs."""

    def obtain(
        self, run: tracking.StudyRun, key: StageKey, *, wait: bool
    ) -> tuple[TrainedStage, Origin] | None:
        """Return a stage, training it if it never was.

        None if another worker is training it and ``wait`` is false.
        """

    def busy(self) -> frozenset[StageKey]:
        """Return the stages that some worker is training now."""
