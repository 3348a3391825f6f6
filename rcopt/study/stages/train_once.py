"""Train a stage once, ever: claim, training, publication."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rcopt import interruption, tracking
from rcopt.core.cascade import Stage, StageId
from rcopt.core.cost import flops_from_macs
from rcopt.core.predictions import SPLITS
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import save_stage
from rcopt.errors import WorkError
from rcopt.models.allocation import memory_kept
from rcopt.models.devices import cpu_threads
from rcopt.models.recipe import Recipe
from rcopt.study.settings import StudySettings
from rcopt.study.stages.context import TrainingContext, claim_name, content_key
from rcopt.study.stages.starting_weights import (
    larger_stage,
    provenance,
    starting_weights,
    weights_identity,
)
from rcopt.study.workers.claim import ClaimLost

if TYPE_CHECKING:
    from rcopt.models.macs import Cost

#: Seconds between looks at a stage that another process is training.
POLL = 1.0


def obtain_stage(
    context: TrainingContext, run: tracking.StudyRun, stage: StageId, *, wait: bool
) -> TrainedStage | None:
    """Return a stage: from the store if it was ever trained, else trained here and stored.

    A stage that a dead process left is taken over from its last epoch's checkpoint. One that
    starts from a larger one has that made before.

    Args:
        context: What making it needs.
        run: The study it is for.
        stage: Which one.
        wait: Whether to wait while another process trains it, which is as long as that one
            lives, and not to return None at once.

    Raises:
        WorkError: If its training failed (its run is then FAILED).
        KeyboardInterrupt: If interrupted (its run is then KILLED, its checkpoint kept).
    """
    key = content_key(context, stage)
    name = claim_name(context, stage)
    larger = larger_stage(context.study, stage, context.stages)
    start: TrainedStage | None = None
    retry, tracker, progress = context.retry, context.tracker, context.progress
    told = False
    while True:
        found = retry(tracker.stages.find_stage, key)
        if found is not None:
            retry(tracker.stages.reuse_stage, run, found)
            # Whoever stored it may have been killed before it could tidy up.
            _clear(_checkpoint(context, key))
            return found
        if larger is not None and start is None:
            start = obtain_stage(context, run, larger, wait=wait)
            if start is None:
                return None
        with ExitStack() as held:
            alive = retry(lambda: held.enter_context(context.claims.claim(name)))
            # Another process may have published it between the look above and the claim.
            if alive is not None and retry(tracker.stages.find_stage, key) is None:
                training = context.study.settings.training
                held.enter_context(cpu_threads(training.threads))
                if training.keep_memory:
                    held.enter_context(memory_kept())
                try:
                    return _make(context, run, key, stage, start, alive)
                except ClaimLost as lost:
                    progress.note(f"{lost}; it goes on from its last epoch")
                    continue
        if not wait:
            return None
        if not told:
            told = True
            progress.note(f"{stage.name}: another process is training it")
        time.sleep(POLL)


def _make(
    context: TrainingContext,
    run: tracking.StudyRun,
    key: str,
    wanted: StageId,
    larger: TrainedStage | None,
    alive: Callable[[], None],
) -> TrainedStage:
    from rcopt.models.backbones import build
    from rcopt.models.families import parse
    from rcopt.models.initial_weights import open_initial
    from rcopt.models.macs import count_macs
    from rcopt.models.prediction import predict
    from rcopt.models.training import train
    from rcopt.models.weights import save_weights

    settings = context.study.settings
    dataset, progress = context.dataset, context.progress
    n_classes = len(dataset.classes)
    resolution, backbone = wanted
    retry, tracker = context.retry, context.tracker
    weights = starting_weights(context.study, wanted)
    if larger is not None:
        weights = retry(tracker.stages.weights_path, str(larger.run_id))
    initial = open_initial(parse(backbone), weights, resolution)
    model = build(backbone, n_classes, resolution, weights=initial or "none", seed=settings.seed)
    cost = count_macs(model, resolution)
    stage = Stage(resolution, backbone, flops_from_macs(cost.macs))
    recipe = settings.training.recipe_of(stage.name)
    checkpoint = _checkpoint(context, key)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    params = _params(settings, stage, recipe, cost)
    run_id = retry(tracker.stages.start_stage, run, key, stage, params)
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
            tracker.stages.log_epoch(run_id, record)
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
            details=_details(context, wanted, recipe, seconds) | provenance(initial, larger),
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
            return tracker.stages.finish_stage(run_id, trained, files)

        published = retry(publish)
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit)) or interruption.asked()
        handed_on = stopped or isinstance(error, ClaimLost)
        # The store may be what failed; the first error is the one to show.
        with suppress(WorkError):
            tracker.stages.end_stage(
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


def _params(
    settings: StudySettings, stage: Stage, recipe: Recipe, cost: "Cost"
) -> Mapping[str, object]:
    return {
        **asdict(recipe),
        "weights": settings.training.weights_of(stage.name),
        "seed": settings.seed,
        "macs": cost.macs,
        "parameters": cost.parameters,
    }


def _details(
    context: TrainingContext, stage: StageId, recipe: Recipe, seconds: float
) -> dict[str, str]:
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
        "weights": weights_identity(context.study, stage),
        "seed": str(context.study.settings.seed),
        "epochs": str(recipe.epochs),
        "seconds": f"{seconds:.1f}",
        "data": context.dataset.name,
        "data_digest": context.dataset.digest,
        "split_digest": context.dataset.split_digest,
        "classes": "\n".join(context.dataset.classes),
        **({} if levels is None else {"levels": json.dumps(levels)}),
    }


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
