"""Make stages of a predictions study of what came back."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from benchmarks.gpu.plan import Planned, read_images
from rcopt.core.cascade import Stage
from rcopt.core.cost import flops_from_macs
from rcopt.core.predictions import SPLITS, Predictions
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.dataset import Dataset
from rcopt.data.prediction_files import save_stage
from rcopt.errors import InputError
from rcopt.files import digest, file_name
from rcopt.models.recipe import Recipe


def take(packed: Path, results: Path, folder: Path) -> None:
    """Write a stage's file for every answer, and print a table of them.

    Args:
        packed: What `benchmarks.gpu.pack` wrote; labels and names are from there.
        results: What `benchmarks.gpu.train` wrote.
        folder: For the stages of seed 0; those of seed 1 go to ``FOLDER-1``, and so on.

    Raises:
        InputError: If there are no answers, or some are damaged or to other images.
    """
    dataset = read_images(packed, pixels=False)
    files = sorted(results.glob("*.safetensors"))
    if not files:
        raise InputError(f"{results}: no answers; name the folder that train wrote to")
    print("stage | seed | MFLOPs | validation % | test % | seconds | images/s | of the peak")
    for file in files:
        planned, trained, known = _read(file, dataset)
        seed = planned.seed
        place = folder if seed == 0 else folder.with_name(f"{folder.name}-{seed}")
        place.mkdir(parents=True, exist_ok=True)
        save_stage(place / f"{file_name(planned.name)}.safetensors", trained)
        validation, test = (
            100 * trained.predictions[split].accuracy for split in ("validation", "test")
        )
        print(
            f"{planned.name} | {seed} | {trained.stage.flops / 1e6:,.1f} | {validation:.2f} | "
            f"{test:.2f} | {trained.seconds:.1f} | {known['images_per_second']:,.0f} | "
            f"{known['share_of_peak']:.1%}"
        )


def _read(file: Path, dataset: Dataset) -> tuple[Planned, TrainedStage, dict[str, Any]]:
    try:
        with safe_open(file, framework="numpy") as opened:
            known = json.loads((opened.metadata() or {})["result"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        planned = Planned(**known["stage"])
        if (known["data_digest"], known["split_digest"]) != (dataset.digest, dataset.split_digest):
            raise ValueError("of other images than those that are packed")
        predictions = {
            split: Predictions(
                split=split,
                probabilities=tensors[split],
                labels=dataset.labels[dataset.splits[split]],
                images=tuple(dataset.images[i] for i in dataset.splits[split]),
            )
            for split in SPLITS
            if split in tensors
        }
        recipe = Recipe(**planned.recipe)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: not answers that can be taken ({' '.join(str(error).split())[:200]}); "
            "copy it again or remove it"
        ) from error
    details = {
        "hardware": known["hardware"],
        "torch": known["torch"],
        "torchvision": known["torchvision"],
        "recipe": json.dumps(recipe.identity()),
        "weights": "none",
        "seed": str(planned.seed),
        "epochs": str(recipe.epochs),
        "seconds": f"{known['seconds']:.1f}",
        "images_per_second": f"{known['images_per_second']:.0f}",
        "share_of_peak": f"{known['share_of_peak']:.3f}",
        "data": dataset.name,
        "data_digest": dataset.digest,
        "split_digest": dataset.split_digest,
        "classes": "\n".join(dataset.classes),
    }
    trained = TrainedStage(
        stage=Stage(planned.resolution, planned.backbone, flops_from_macs(planned.macs)),
        predictions=predictions,
        key=digest({"gpu": 1, **known["stage"], "data": dataset.digest}),
        macs=planned.macs,
        parameters=planned.parameters,
        seconds=known["seconds"],
        details=details,
    )
    return planned, trained, known
