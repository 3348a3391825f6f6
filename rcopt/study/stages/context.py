"""What making a stage needs, and the key that tells stages apart."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rcopt import tracking
from rcopt.core.cascade import StageId
from rcopt.files import digest
from rcopt.progress import Progress
from rcopt.study.file import Study
from rcopt.study.stages.starting_weights import larger_stage, weights_identity
from rcopt.study.workers.claim import Claims
from rcopt.study.workers.retrying import RetryPolicy

if TYPE_CHECKING:
    from rcopt.data.dataset import Dataset

#: Raised when training or prediction change so that the same key no longer means the same.
KEY_VERSION = 2


@dataclass(frozen=True, eq=False)
class TrainingContext:
    """Everything that making a stage needs.

    Attributes:
        study: The study file.
        stages: All that it may train.
        dataset: Images and splits.
        tracker: MLflow, which is the stage store.
        claims: Who may train what.
        retry: Waits for servers that are away.
        progress: What is shown.
        device: Where to train.
    """

    study: Study
    stages: Collection[StageId]
    dataset: "Dataset"
    tracker: tracking.Tracker
    claims: Claims
    retry: RetryPolicy
    progress: Progress
    device: str


def content_key(context: TrainingContext, stage: StageId) -> str:
    """Return the content key: same data, splits, stage, recipe, start and seed, same key."""
    from rcopt.models.families import parse

    settings = context.study.settings
    larger = larger_stage(context.study, stage, context.stages)
    version = parse(stage.backbone).version
    return digest(
        {
            "version": KEY_VERSION,
            "data": context.dataset.digest,
            "splits": context.dataset.split_digest,
            "resolution": stage.resolution,
            "backbone": stage.backbone,
            **({"backbone_version": version} if version else {}),
            "recipe": settings.training.recipe_of(stage.name).identity(),
            "weights": weights_identity(context.study, stage),
            **({} if larger is None else {"larger": content_key(context, larger)}),
            "seed": settings.seed,
        }
    )


def claim_name(context: TrainingContext, stage: StageId) -> str:
    """Return what is claimed to train a stage: readable, and its own for each content key."""
    return f"{stage.name}.{content_key(context, stage)[:32]}"
