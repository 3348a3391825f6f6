"""Work through a plan: most valuable stage first, each one's answers written at once.

Needs torch, torchvision (timm for its networks) and safetensors, and no network.
"""

import json
import platform
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from benchmarks.gpu.plan import Planned, read_images, read_plan
from rcopt.compat import import_torchvision
from rcopt.core.predictions import SPLITS
from rcopt.data.dataset import Dataset
from rcopt.errors import InputError, WorkError
from rcopt.files import write_whole
from rcopt.models.backbones import build
from rcopt.models.prediction import predict
from rcopt.models.recipe import Recipe
from rcopt.models.training import train

#: Seconds between written states; a large network's takes a second, as long as an epoch.
_SAVE_EVERY = 30.0


def train_plan(packed: Path, results: Path, *, limit: float, device: str) -> None:
    """Train the stages that have no answers yet, until the time is over.

    A stage that cannot be finished in what is left is set aside for the next ones, its epochs
    kept: a second call goes on with it.

    Args:
        packed: What `benchmarks.gpu.pack` wrote.
        results: Folder for answers and unfinished states.
        limit: Seconds in all.
        device: Such as ``cuda``.

    Raises:
        InputError: If the device is not there or the packed folder is not whole.
    """
    end = time.monotonic() + limit
    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here; try --device cpu")
    results.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    dataset = read_images(packed)
    peak = measured_peak(where)
    print(f"{_hardware(where)}, torch {torch.__version__}: {peak / 1e12:.2f} TFLOP/s", flush=True)
    for stage in read_plan(packed):
        if (results / f"{stage.file}.safetensors").exists():
            continue
        if time.monotonic() >= end:
            print("the time is over", flush=True)
            break
        try:
            _train_stage(stage, dataset, results, where, peak, end)
        except WorkError as error:
            print(f"{stage.file}: {error}", flush=True)


def _train_stage(
    stage: Planned, dataset: Dataset, results: Path, where: torch.device, peak: float, end: float
) -> None:
    recipe, n_classes = Recipe(**stage.recipe), len(dataset.classes)
    model = build(stage.backbone, n_classes, stage.resolution, seed=stage.seed)
    if stage.compiled and where.type == "cuda":
        model.compile()
    checkpoint = results / f"{stage.file}.unfinished"
    spent, flops, images, shortest = 0.0, 0.0, 0.0, float("inf")
    for record in train(
        model,
        dataset,
        stage.resolution,
        recipe,
        seed=stage.seed,
        device=where,
        checkpoint=checkpoint,
        save_every=_SAVE_EVERY,
    ):
        seen = record.images_per_second * record.seconds
        spent += record.seconds
        images += seen
        flops += seen * stage.epoch_flops(record.epoch - 1)
        # The first epoch here has the compiler's time in it, later ones may have larger images.
        shortest = min(shortest, record.seconds)
        left = (record.epochs - record.epoch) * shortest
        if left and time.monotonic() + (left if images > seen else 0) >= end:
            print(
                f"{stage.file}: {record.epoch} of {record.epochs} epochs; set aside, about "
                f"{left:.0f} s are missing",
                flush=True,
            )
            return
    tensors: dict[str, NDArray[np.float32]] = {
        split: predict(
            model, dataset, split, stage.resolution, device=where, precision=recipe.precision
        ).probabilities
        for split in SPLITS
        if split != "train" and len(dataset.splits.get(split, ()))
    }
    known = {
        "stage": asdict(stage),
        "data_digest": dataset.digest,
        "split_digest": dataset.split_digest,
        "hardware": _hardware(where),
        "torch": torch.__version__,
        "torchvision": import_torchvision().__version__,
        "seconds": spent,
        "images_per_second": images / spent if spent else 0.0,
        "share_of_peak": flops / spent / peak if spent else 0.0,
    }
    write_whole(
        results / f"{stage.file}.safetensors", save(tensors, {"result": json.dumps(known)})
    )
    checkpoint.unlink(missing_ok=True)
    labels = dataset.labels[dataset.splits["validation"]]
    accuracy = float(np.mean(tensors["validation"].argmax(axis=1) == labels))
    print(
        f"{stage.file}: validation {accuracy:.2%}, {spent:.1f} s, "
        f"{known['images_per_second']:,.0f} images/s, {known['share_of_peak']:.1%} of the peak",
        flush=True,
    )


def measured_peak(device: torch.device) -> float:
    """Return the FLOP/s of large products of matrices, in bfloat16 on a GPU."""
    gpu = device.type == "cuda"
    side, kind = (8192, torch.bfloat16) if gpu else (512, torch.float32)
    one = torch.randn(side, side, device=device, dtype=kind)
    best = 0.0
    for _ in range(5):
        _wait(device)
        began = time.perf_counter()
        one @ one
        _wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
