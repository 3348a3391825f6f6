"""Train a stage once, ever: content key, claim, training, publication."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rcopt import interruption, tracking
from rcopt.core.cascade import Stage
from rcopt.core.cost import flops_from_macs
from rcopt.core.predictions import SPLITS
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import save_stage
from rcopt.errors import InputError, WorkError
from rcopt.files import digest, file_digest
from rcopt.models.allocation import memory_kept
from rcopt.models.devices import cpu_threads
from rcopt.models.recipe import Recipe
from rcopt.progress import Progress
from rcopt.study.file import Study
from rcopt.study.settings import StudySettings
from rcopt.study.workers.claim import ClaimLost, Claims
from rcopt.study.workers.retrying import RetryPolicy

if TYPE_CHECKING:
    from rcopt.data.dataset import Dataset
    from rcopt.models.macs import Cost

#: Raised when training or prediction change so that the same key no longer means the same.
KEY_VERSION = 2

#: Seconds between looks at a stage that another process is training.
POLL = 1.0


@dataclass(frozen=True, eq=False)
class TrainingContext:
    """Everything that making a stage needs.

    Attributes:
        study: The study file.
        dataset: Images and splits.
        tracker: MLflow, which is the stage store.
        claims: Who may train what.
        retry: Waits for servers that are away.
        progress: What is shown.
        device: Where to train.
    """

    study: Study
    dataset: "Dataset"
    tracker: tracking.Tracker
    claims: Claims
    retry: RetryPolicy
    progress: Progress
    device: str


def content_key(context: TrainingContext, resolution: int, backbone: str) -> str:
    """Return the content key: same data, splits, resolution, backbone, recipe, seed, same key."""
    from rcopt.models.families import parse

    settings = context.study.settings
    parsed = parse(backbone)
    name = parsed.name
    return digest(
        {
            "version": KEY_VERSION,
            "data": context.dataset.digest,
            "splits": context.dataset.split_digest,
            "resolution": resolution,
            "backbone": name,
            **({"backbone_version": parsed.version} if parsed.version else {}),
            "recipe": settings.training.recipe_of(f"{name}@{resolution}").identity(),
            "weights": weights_identity(context.study),
            "seed": settings.seed,
        }
    )


def claim_name(context: TrainingContext, resolution: int, backbone: str) -> str:
    """Return what is claimed to train a stage: readable, and its own for each content key."""
    return f"{backbone}@{resolution}.{content_key(context, resolution, backbone)[:32]}"


def weights_identity(study: Study) -> str:
    """Return what the stages start from: ``none``, ``pretrained``, or a file's SHA-256.

    Raises:
        InputError: If the file cannot be read.
    """
    weights = _weights(study)
    if isinstance(weights, str):
        return weights
    try:
        if weights.exists() and not weights.is_file():
            raise InputError(f"training.weights: {weights} is no file; name a weights file")
        return file_digest(weights)
    except OSError as error:
        raise InputError(
            f"training.weights: {weights} cannot be read ({error.strerror}); name a weights "
            "file, or use 'none' or 'pretrained'"
        ) from error


def obtain_stage(
    context: TrainingContext, run: tracking.StudyRun, resolution: int, backbone: str, *, wait: bool
) -> TrainedStage | None:
    """Return a stage: from the store if it was ever trained, else trained here and stored.

    A stage that a dead process left is taken over from its last epoch's checkpoint.

    Args:
        context: What making it needs.
        run: The study it is for.
        resolution: Side of its input.
        backbone: Its name.
        wait: Whether to wait while another process trains it, which is as long as that one
            lives, and not to return None at once.

    Raises:
        WorkError: If its training failed (its run is then FAILED).
        KeyboardInterrupt: If interrupted (its run is then KILLED, its checkpoint kept).
    """
    key = content_key(context, resolution, backbone)
    name = claim_name(context, resolution, backbone)
    retry, tracker, progress = context.retry, context.tracker, context.progress
    told = False
    while True:
        found = retry(tracker.find_stage, key)
        if found is not None:
            retry(tracker.reuse_stage, run, found)
            # Whoever stored it may have been killed before it could tidy up.
            _clear(_checkpoint(context, key))
            return found
        with ExitStack() as held:
            alive = retry(lambda: held.enter_context(context.claims.claim(name)))
            # Another process may have published it between the look above and the claim.
            if alive is not None and retry(tracker.find_stage, key) is None:
                training = context.study.settings.training
                held.enter_context(cpu_threads(training.threads))
                if training.keep_memory:
                    held.enter_context(memory_kept())
                try:
                    return _make(context, run, key, resolution, backbone, alive)
                except ClaimLost as lost:
                    progress.note(f"{lost}; it goes on from its last epoch")
                    continue
        if not wait:
            return None
        if not told:
            told = True
            progress.note(f"{backbone}@{resolution}: another process is training it")
        time.sleep(POLL)


def _make(
    context: TrainingContext,
    run: tracking.StudyRun,
    key: str,
    resolution: int,
    backbone: str,
    alive: Callable[[], None],
) -> TrainedStage:
    from rcopt.models.backbones import build
    from rcopt.models.macs import count_macs
    from rcopt.models.prediction import predict
    from rcopt.models.training import train
    from rcopt.models.weights import save_weights

    settings = context.study.settings
    dataset, progress = context.dataset, context.progress
    n_classes = len(dataset.classes)
    model = build(
        backbone, n_classes, resolution, weights=_weights(context.study), seed=settings.seed
    )
    cost = count_macs(model, resolution)
    stage = Stage(resolution, backbone, flops_from_macs(cost.macs))
    recipe = settings.training.recipe_of(stage.name)
    checkpoint = _checkpoint(context, key)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    retry, tracker = context.retry, context.tracker
    run_id = retry(tracker.start_stage, run, key, stage, _params(settings, recipe, cost))
    try:
        seconds = _seconds_before(checkpoint)
        parts = 1
        for record in train(
            model,
            dataset,
            resolution,
            recipe,
            seed=settings.seed,
            device=context.device,
            checkpoint=checkpoint,
        ):
            interruption.check()
            alive()
            seconds += record.seconds
            _note_seconds(checkpoint, seconds)
            tracker.log_epoch(run_id, record)
            if record.parts > parts:
                parts = record.parts
                progress.note(
                    f"{stage.name}: out of memory; each batch of {recipe.batch_size} is now "
                    f"computed in {parts} parts whose gradients are summed"
                )
            progress.count(
                f"train {stage.name}",
                record.epoch,
                record.epochs,
                f"loss {record.loss:.3f}  {record.images_per_second:.0f} images/s",
            )
        predictions = {}
        for split in SPLITS:
            if len(dataset.splits.get(split, ())):
                predictions[split] = predict(
                    model,
                    dataset,
                    split,
                    resolution,
                    device=context.device,
                    precision=recipe.precision,
                )
                alive()
        trained = TrainedStage(
            stage=stage,
            predictions=predictions,
            key=key,
            macs=cost.macs,
            parameters=cost.parameters,
            seconds=seconds,
            details=_details(context, recipe, seconds),
        )
        # Named after the stage, so that what a killed process leaves here is found and removed.
        folder = checkpoint.with_suffix(".files")
        folder.mkdir(exist_ok=True)
        files = {name: folder / name for name in (tracking.PREDICTIONS, tracking.WEIGHTS)}
        save_stage(files[tracking.PREDICTIONS], trained)
        save_weights(
            files[tracking.WEIGHTS],
            model,
            backbone=backbone,
            n_classes=n_classes,
            resolution=resolution,
        )

        def publish() -> TrainedStage:
            # At each attempt: the claim may have been lost while the server was away.
            alive()
            return tracker.finish_stage(run_id, trained, files)

        published = retry(publish)
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit)) or interruption.asked()
        handed_on = stopped or isinstance(error, ClaimLost)
        # The store may be what failed; the first error is the one to show.
        with suppress(WorkError):
            tracker.end_stage(
                run_id,
                "KILLED" if handed_on else "FAILED",
                "interrupted; the next command goes on" if stopped else str(error),
            )
        raise
    _clear(checkpoint)
    accuracy = published.predictions["validation"].accuracy
    progress.note(
        f"trained {stage.name}: validation accuracy {accuracy:.4f}, "
        f"{cost.macs / 1e6:.1f} MMACs, {seconds:.0f} s"
    )
    return published


def _params(settings: StudySettings, recipe: Recipe, cost: "Cost") -> Mapping[str, object]:
    return {
        **asdict(recipe),
        "weights": settings.training.weights,
        "seed": settings.seed,
        "macs": cost.macs,
        "parameters": cost.parameters,
    }


def _details(context: TrainingContext, recipe: Recipe, seconds: float) -> Mapping[str, str]:
    import platform

    import torch
    import torchvision

    cuda = context.device.startswith("cuda")
    hardware = (
        torch.cuda.get_device_name(context.device)
        if cuda
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    levels = context.dataset.levels
    return {
        "hardware": hardware,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "recipe": json.dumps(recipe.identity()),
        "weights": weights_identity(context.study),
        "seed": str(context.study.settings.seed),
        "epochs": str(recipe.epochs),
        "seconds": f"{seconds:.1f}",
        "data": context.dataset.name,
        "data_digest": context.dataset.digest,
        "split_digest": context.dataset.split_digest,
        "classes": "\n".join(context.dataset.classes),
        **({} if levels is None else {"levels": json.dumps(levels)}),
    }


def _weights(study: Study) -> str | Path:
    weights = study.settings.training.weights
    return weights if weights in ("none", "pretrained") else study.project / weights


def _checkpoint(context: TrainingContext, key: str) -> Path:
    return context.study.project / "mlruns" / "checkpoints" / f"{key}.safetensors"


def _clear(checkpoint: Path) -> None:
    """Remove all that a training keeps beside its checkpoint, half-written files too."""
    for leftover in checkpoint.parent.glob(f"*{checkpoint.stem}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _seconds_file(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".seconds")


def _note_seconds(checkpoint: Path, seconds: float) -> None:
    _seconds_file(checkpoint).write_text(f"{seconds:.3f}")


def _seconds_before(checkpoint: Path) -> float:
    """Return how long the epochs in a checkpoint took."""
    try:
        return float(_seconds_file(checkpoint).read_text()) if checkpoint.exists() else 0.0
    except (OSError, ValueError):
        return 0.0
