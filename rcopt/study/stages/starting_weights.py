"""What each stage's training starts from, and what is known of where that comes from."""

from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rcopt.core.cascade import StageId
from rcopt.core.first_weights import DETAIL, weights_details
from rcopt.core.trained_stage import TrainedStage
from rcopt.errors import InputError
from rcopt.files import file_digest
from rcopt.study.file import Study

if TYPE_CHECKING:
    from rcopt.models.initial_weights import InitialWeights

#: Start from the same backbone's stage at the next larger resolution.
LARGER = "larger"
#: What a study file may say instead of a file's path.
_WORDS = ("none", "pretrained", LARGER)


def starting_weights(study: Study, stage: StageId) -> str | Path:
    """Return ``none``, ``pretrained``, ``larger``, or the path of a file or folder."""
    weights = study.settings.training.weights_of(stage.name)
    return weights if weights in _WORDS else study.project / Path(weights).expanduser()


def larger_stage(study: Study, stage: StageId, every: Collection[StageId]) -> StageId | None:
    """Return the stage that must be trained before another one, None if there is none.

    Args:
        study: The study file.
        stage: Which one starts from it.
        every: All stages of the study.

    Raises:
        InputError: If the study file says ``larger``, and no stage is.
    """
    if starting_weights(study, stage) != LARGER:
        return None
    larger = [
        other
        for other in every
        if other.backbone == stage.backbone and other.resolution > stage.resolution
    ]
    if not larger:
        raise InputError(
            f"{study.file.name}: training.weights: {stage.name} has no larger stage of the same "
            f'backbone to start from; say what it starts from: [training.override."{stage.name}"] '
            'weights = "pretrained"'
        )
    return min(larger)


def weights_identity(study: Study, stage: StageId) -> str:
    """Return ``none``, ``pretrained``, ``larger``, or the SHA-256 of a file.

    Raises:
        InputError: If the file cannot be read.
    """
    weights = starting_weights(study, stage)
    if isinstance(weights, str):
        return weights
    if weights.is_dir():
        from rcopt.models.initial_weights import weights_file

        weights = weights_file(weights)
    try:
        if weights.exists() and not weights.is_file():
            raise InputError(f"training.weights: {weights} is no file; name a weights file")
        status = weights.stat()
        return _digest(weights, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise InputError(
            f"training.weights: {weights} cannot be read ({error.strerror}); name a weights "
            "file, or use 'none', 'pretrained' or 'larger'"
        ) from error


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Return a file's SHA-256, computed once for each state of it."""
    return file_digest(path)


def check_weights(study: Study, stages: Collection[StageId]) -> None:
    """Refuse stages that could not be started, before anything is trained.

    Raises:
        InputError: Naming the first one.
    """
    from rcopt.models.families import parse

    for stage in stages:
        larger_stage(study, stage, stages)
        public = weights_identity(study, stage) == "pretrained"
        if public and parse(stage.backbone).pretrained is None:
            raise InputError(
                f"{study.file.name}: training.weights: there are no public weights of "
                f"{stage.backbone}; use 'none' or a file for it, by "
                f'[training.override."{stage.backbone}@*"]'
            )


def provenance(initial: "InitialWeights | None", larger: TrainedStage | None) -> dict[str, str]:
    """Return what a stage's details say of the weights it started from.

    Args:
        initial: The weights themselves.
        larger: The stage that they are of; what it started from is told on.
    """
    if initial is None:
        return {}
    told = {"source": initial.source, "sha256": initial.sha256}
    if larger is None:
        told |= {"images": initial.images, "licence": initial.licence}
    else:
        before = weights_details(larger.details)
        source = before.get("source", "no weights")
        told |= {**before, "source": f"stage {larger.stage.name}, which started from {source}"}
    return {f"{DETAIL}{key}": value for key, value in told.items()}
