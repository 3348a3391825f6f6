"""Time training and prediction against the ordinary way, on real images.

``python -m benchmarks.training ROOT`` with ROOT/{train,val}/CLASS/IMAGE. The ordinary way is
torchvision's ImageFolder and DataLoader (a worker per core) with the transforms of its reference
classification recipe, in float32; a second one has the same bfloat16 autocast and channels-last
layout as rcopt, so that what the data route brings is seen alone. All train the same backbone
with the same optimizer, batch size and number of images; rounds are alternated.

Prints a table of goals and figures and writes results/training.json.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset

from rcopt.compat import import_torchvision
from rcopt.data.dataset import Dataset
from rcopt.data.loading import load_data
from rcopt.data.settings import DataSettings
from rcopt.models.backbones import build
from rcopt.models.precision import resolve_precision
from rcopt.models.prediction import predict
from rcopt.models.recipe import Precision, Recipe
from rcopt.models.training import train

RESULTS = Path(__file__).parent / "results"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GOALS = {("train", 32): 1.3, ("train", 96): 1.0, ("predict", 32): 1.5}

Arm = Callable[[], None]


def main() -> None:
    options = _options()
    dataset = load_data(
        DataSettings(source="folder", root=str(options.root)),
        root=options.root,
        base_side=options.base_side,
        seed=0,
        cache=options.cache,
    )
    few = _fewer(dataset, options.images)
    found: dict[str, Any] = {"hardware": hardware(), "images": options.images, "rates": []}
    for resolution in options.resolutions:
        for what, arms in (
            ("train", training_arms(options.root, few, resolution, options.backbone)),
            ("predict", prediction_arms(options.root, few, resolution, options.backbone)),
        ):
            rates = alternate(arms, options.images, options.rounds)
            found["rates"].append(rates | {"what": what, "resolution": resolution})
            _print_rates(what, resolution, rates)
    if options.accuracy_epochs:
        found["accuracy"] = accuracies(
            options.root,
            dataset,
            options.resolutions[0],
            options.backbone,
            options.accuracy_epochs,
        )
        print(f"accuracy on validation, {options.accuracy_epochs} epochs: {found['accuracy']}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "training.json").write_text(json.dumps(found, indent=1) + "\n")


def training_arms(root: Path, dataset: Dataset, resolution: int, backbone: str) -> dict[str, Arm]:
    """Return functions that each train on the images of ``dataset`` once."""
    recipe = Recipe(epochs=1)
    classes = len(dataset.classes)
    own = build(backbone, classes)
    loader = train_loader(root, dataset, resolution, recipe)

    def ordinary(precision: Precision) -> Arm:
        model = build(backbone, classes)
        if precision == "float32":
            model = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        optimizer = sgd(model, recipe)
        return lambda: train_ordinary(model, optimizer, loader, recipe, precision)

    fmt = resolve_precision("auto", own, "cpu")
    return {
        "ordinary": ordinary("float32"),
        f"ordinary, {fmt}": ordinary(fmt),
        "rcopt": lambda: _exhaust(train(own, dataset, resolution, recipe, seed=0)),
    }


def prediction_arms(
    root: Path, dataset: Dataset, resolution: int, backbone: str
) -> dict[str, Arm]:
    """Return functions that each predict the training images of ``dataset`` once."""
    model = build(backbone, len(dataset.classes)).eval()
    loader = prediction_loader(root, dataset.splits["train"], "train", resolution)
    fmt = resolve_precision("auto", model, "cpu")
    return {
        "ordinary": lambda: _exhaust(predict_ordinary(model, loader, "float32")),
        f"ordinary, {fmt}": lambda: _exhaust(predict_ordinary(model, loader, fmt)),
        "rcopt": lambda: _exhaust([predict(model, dataset, "train", resolution)]),
    }


def accuracies(
    root: Path, dataset: Dataset, resolution: int, backbone: str, epochs: int
) -> dict[str, float]:
    """Train a whole run both ways and return the accuracies on the validation split."""
    recipe = Recipe(epochs=epochs)
    classes = len(dataset.classes)
    own = build(backbone, classes)
    _exhaust(train(own, dataset, resolution, recipe, seed=0))
    other = build(backbone, classes)
    optimizer = sgd(other, recipe)
    loader = train_loader(root, dataset, resolution, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.lr,
        total_steps=epochs * len(loader),
        pct_start=recipe.warmup,
        cycle_momentum=False,
        div_factor=1e3,
    )
    fmt = resolve_precision("auto", other, "cpu")
    for _ in range(epochs):
        train_ordinary(other, optimizer, loader, recipe, fmt, schedule)
    other.eval()
    chosen = dataset.splits["validation"]
    held_out = prediction_loader(root, chosen - len(dataset.splits["train"]), "val", resolution)
    answers = torch.cat(list(predict_ordinary(other, held_out, fmt))).argmax(dim=1).numpy()
    return {
        "ordinary": float((answers == dataset.labels[chosen]).mean()),
        "rcopt": predict(own, dataset, "validation", resolution).accuracy,
    }


def train_loader(root: Path, dataset: Dataset, resolution: int, recipe: Recipe) -> DataLoader[Any]:
    transforms = import_torchvision("torchvision.transforms")
    folder = import_torchvision("torchvision.datasets").ImageFolder
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(resolution, scale=(recipe.crop_area, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return DataLoader(
        Subset(folder(root / "train", augment), dataset.splits["train"].tolist()),
        recipe.batch_size,
        shuffle=True,
        num_workers=len(os.sched_getaffinity(0)),
        persistent_workers=True,
        drop_last=True,
    )


def prediction_loader(
    root: Path, indices: np.ndarray[Any, np.dtype[np.int64]], part: str, resolution: int
) -> DataLoader[Any]:
    transforms = import_torchvision("torchvision.transforms")
    folder = import_torchvision("torchvision.datasets").ImageFolder
    preset = transforms.Compose(
        [
            transforms.Resize(resolution),
            transforms.CenterCrop(resolution),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return DataLoader(
        Subset(folder(root / part, preset), indices.tolist()),
        256,
        num_workers=len(os.sched_getaffinity(0)),
        persistent_workers=True,
    )


def sgd(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups,
        lr=recipe.lr * 0.1,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )


def train_ordinary(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    loader: DataLoader[Any],
    recipe: Recipe,
    precision: Precision,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> None:
    """Train an epoch as torchvision's reference script does, with its loss read each step."""
    model.train()
    total = 0.0
    for inputs, labels in loader:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(_laid_out(inputs, precision))
        loss = functional.cross_entropy(
            logits.float(), labels, label_smoothing=recipe.label_smoothing
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if schedule is not None:
            schedule.step()
        total += loss.item()


def predict_ordinary(
    model: nn.Module, loader: DataLoader[Any], precision: Precision
) -> Iterable[Tensor]:
    for inputs, _ in loader:
        with (
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            yield model(_laid_out(inputs, precision)).float().softmax(dim=1)


def alternate(arms: dict[str, Arm], images: int, rounds: int) -> dict[str, Any]:
    """Run the arms in turn, once for warmth and then ``rounds`` times.

    Returns:
        For each arm median, smallest and largest images per second; for rcopt's ratio to each
        other arm the median over rounds and its range. The same per second of processor time,
        that of the loaders' processes included: what other work on the machine leaves alone.
    """
    rates: dict[str, list[float]] = {name: [] for name in arms}
    frugal: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, arm in arms.items():
            began = time.perf_counter(), processor_seconds()
            arm()
            if turn:
                rates[name].append(images / (time.perf_counter() - began[0]))
                frugal[name].append(images / (processor_seconds() - began[1]))
    return {
        "rounds": rounds,
        "images_per_second": {name: _spread(values) for name, values in rates.items()},
        "ratio": _ratios(rates),
        "images_per_processor_second": {name: _spread(v) for name, v in frugal.items()},
        "processor_ratio": _ratios(frugal),
    }


def processor_seconds() -> float:
    """Return the processor time of this process and its children, living and dead."""
    total = time.process_time()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total += ended.ru_utime + ended.ru_stime
    for child in multiprocessing.active_children():
        # The name in brackets may hold spaces; user and system time are 12th and 13th after it.
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _ratios(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return rcopt's rates over each other arm's, round by round."""
    return {
        name: _spread([a / b for a, b in zip(rates["rcopt"], other, strict=True)])
        for name, other in rates.items()
        if name != "rcopt"
    }


def hardware() -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }


def _fewer(dataset: Dataset, images: int) -> Dataset:
    """Keep a random part of the training images."""
    chosen = np.random.default_rng(0).permutation(dataset.splits["train"])[:images]
    return replace(dataset, splits={**dataset.splits, "train": np.sort(chosen)})


def _laid_out(inputs: Tensor, precision: Precision) -> Tensor:
    if precision == "float32":
        return inputs
    return inputs.contiguous(memory_format=torch.channels_last)


def _exhaust(items: Iterable[object]) -> None:
    for _ in items:
        pass


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
    }


def _print_rates(what: str, resolution: int, rates: dict[str, Any]) -> None:
    for name, rate in rates["images_per_second"].items():
        line = f"{what} {resolution:4} px  {name:22} {rate['median']:8.0f} images/s"
        if ratio := rates["ratio"].get(name):
            line += f"   rcopt x {ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f})"
            if name == "ordinary" and (what, resolution) in GOALS:
                line += f", goal {GOALS[what, resolution]}"
            frugal = rates["processor_ratio"][name]
            line += f"; in processor time x {frugal['median']:.2f}"
        print(line, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("root", type=Path, help="folder with train and val")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"))
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--base-side", type=int, default=224)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[32, 96])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--accuracy-epochs", type=int, default=6, help="of the whole runs compared; 0: none"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
