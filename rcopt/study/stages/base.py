"""Where a study's stages come from: trained here, or read from stored predictions."""

from collections.abc import Mapping
from typing import Protocol

from rcopt import tracking
from rcopt.core.cascade import Stage, StageId
from rcopt.core.trained_stage import TrainedStage
from rcopt.study.data_summary import DataSummary
from rcopt.study.space import Space


class StageProvider(Protocol):
    """Stages by resolution and backbone, trained when first asked for."""

    @property
    def space(self) -> Space:
        """What may be asked for."""

    @property
    def data(self) -> DataSummary:
        """What the numbers are measured on."""

    @property
    def costs(self) -> Mapping[StageId, Stage]:
        """Every stage of the space with its FLOPs."""

    def obtain(self, run: tracking.StudyRun, key: StageId, *, wait: bool) -> TrainedStage | None:
        """Return a stage, training it if it never was.

        None if another worker is training it and ``wait`` is false.
        """

    def busy(self) -> frozenset[StageId]:
        """Return the stages that some worker is training now."""
