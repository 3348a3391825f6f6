"""Time a cascade that really exits early: ``python -m benchmarks.execution`` (2 minutes).

Prints a table of goals and figures and writes results/execution.json. The networks are not
trained (time does not depend on weights); thresholds are put where the wanted shares exit.
"""

import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.cascade import Cascade, Stage
from rcopt.core.evaluating import exits
from rcopt.core.predictions import Predictions
from rcopt.models.backbones import build
from rcopt.models.macs import count_macs
from rcopt.models.prediction import predict_batch
from rcopt.serving.benchmark import Benchmark, benchmark, describe
from rcopt.serving.executor import CascadeExecutor

RESULTS = Path(__file__).parent / "results"

IMAGES = 256
BASE_SIDE = 224
CLASSES = 10
#: Backbone, resolution and share of the images reaching the stage that it answers.
CASES = {
    "r18@32 > r18@96 > r34@96": (
        ("resnet18", 32, 0.6),
        ("resnet18", 96, 0.5),
        ("resnet34", 96, 1),
    ),
    "r18@32 > r34@96": (("resnet18", 32, 0.6), ("resnet34", 96, 1)),
}
ROUNDING = 1e-5
GOAL = 0.8


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    base = images()
    found: dict[str, object] = {"hardware": hardware()}
    rows = []
    for name, parts in CASES.items():
        executor, wrong, near = cascade(parts, base)
        result = benchmark(executor, base, batch_sizes=(64, 256), calls=30, passes=5)
        processor = processor_speed_up(executor, base)
        found[name] = asdict(result) | {
            "processor_time_speed_ups_at_64": processor,
            "precisions": executor.precisions,
            "exits_other_than_evaluated": wrong,
            "of_them_within_rounding_of_a_threshold": near,
        }
        print(f"{name} ({', '.join(executor.precisions)})\n{describe(result)}\n")
        rows += figures(name, result, processor, wrong, near)
    (RESULTS / "execution.json").write_text(json.dumps(found, indent=1) + "\n")
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    print(found["hardware"])
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def figures(
    name: str, result: Benchmark, processor: list[float], wrong: int, near: int
) -> list[tuple[str, str, str]]:
    rows = [
        (
            f"{name}, batch {row.batch_size}: faster / fewer FLOPs",
            f">= {GOAL}",
            f"{row.speed_up / result.flops_saving:.2f} ({row.speed_up:.2f} / "
            f"{result.flops_saving:.2f}; pairs {row.lowest:.2f} to {row.highest:.2f}, "
            f"n = {row.passes})",
        )
        for row in result.throughput
    ]
    middle = float(np.median(processor))
    rows.append(
        (
            f"{name}, batch 64, in processor time",
            f">= {GOAL}",
            f"{middle / result.flops_saving:.2f} ({middle:.2f}; pairs {min(processor):.2f} to "
            f"{max(processor):.2f}, n = {len(processor)})",
        )
    )
    ratio = result.top_latency.median / result.latency.median
    rows.append(
        (f"{name}, batch 1: faster / fewer FLOPs", "-", f"{ratio / result.flops_saving:.2f}")
    )
    rows.append(
        (f"{name}: exits other than evaluated", "only within 1e-5", f"{wrong}, {near} of them so")
    )
    return rows


def processor_speed_up(executor: CascadeExecutor, base: Tensor) -> list[float]:
    """Return the speed-up per pair of passes in processor time, which other work leaves alone."""
    top = CascadeExecutor(
        Cascade(executor.cascade.stages[-1:], ()),
        [executor.networks[-1]],
        precision=executor.precisions[-1],
    )
    pairs = []
    for _ in range(4):
        spent = []
        for side in (executor, top):
            began = time.process_time()
            for start in range(0, len(base), 64):
                side(base[start : start + 64])
            spent.append(time.process_time() - began)
        pairs.append(spent[1] / spent[0])
    return pairs[1:]


def cascade(
    parts: tuple[tuple[str, int, float], ...], base: Tensor
) -> tuple[CascadeExecutor, int, int]:
    """Return an executor, and how many exits differ from those of stored predictions."""
    models = [build(backbone, CLASSES, seed=k).eval() for k, (backbone, _, _) in enumerate(parts)]
    for model in models:
        model.state_dict()["fc.weight"].mul_(20)  # confidences that differ
    stages = tuple(
        Stage(resolution, backbone, 2.0 * count_macs(model, resolution).macs)
        for model, (backbone, resolution, _) in zip(models, parts, strict=True)
    )
    names = tuple(str(i) for i in range(len(base)))
    stored = [
        Predictions(
            "validation",
            predict_batch(model, base, stage.resolution).numpy(),
            np.zeros(len(base), dtype=np.int64),
            names,
        )
        for model, stage in zip(models, stages, strict=True)
    ]
    sure = stage_answers(stored, AnswerRule()).confidence
    waiting = np.ones(len(base), dtype=bool)
    thresholds = []
    for confidence, (_, _, share) in zip(sure[:-1], parts, strict=False):
        ordered = np.sort(confidence[waiting])
        place = round((1 - share) * len(ordered))
        thresholds.append(float(ordered[place - 1 : place + 1].mean()))
        waiting &= confidence < thresholds[-1]
    executor = CascadeExecutor(Cascade(stages, tuple(thresholds)), models)
    got = torch.cat([executor(base[i : i + 64]).stages for i in range(0, len(base), 64)])
    wrong = got.numpy() != exits(sure, thresholds)
    near = (np.abs(sure[:-1] - np.array(thresholds)[:, None]) <= ROUNDING).any(axis=0)
    return executor, int(wrong.sum()), int((wrong & near).sum())


def images() -> Tensor:
    """Return base images: smooth random colours with noise."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (IMAGES, 3, 6, 6)))
    smooth = torch.nn.functional.interpolate(coarse, (BASE_SIDE, BASE_SIDE), mode="bicubic")
    noise = torch.from_numpy(rng.normal(0, 12, (IMAGES, 3, BASE_SIDE, BASE_SIDE)))
    return (smooth + noise).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def hardware() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    load = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, load average {load:.1f}, Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
