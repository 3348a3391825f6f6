"""Open what a study file names."""

from rcopt import tracking
from rcopt.progress import Progress
from rcopt.study.file import Study
from rcopt.study.stages.base import StageProvider
from rcopt.study.stages.recorded import StoredPredictions
from rcopt.study.stages.trainable import TrainableStages
from rcopt.study.workers.claim import Claims
from rcopt.study.workers.retrying import RetryPolicy


def open_stages(
    study: Study,
    tracker: tracking.Tracker,
    progress: Progress,
    *,
    claims: Claims,
    retry: RetryPolicy,
) -> StageProvider:
    """Open what the study file names.

    Raises:
        InputError: If data or backbones cannot be used; one line says why.
    """
    if study.settings.data.source == "predictions":
        return StoredPredictions(study, tracker, retry)
    return TrainableStages(study, tracker, progress, claims, retry)
