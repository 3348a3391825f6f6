"""Time the exact fronts on simulated stages: ``python -m benchmarks.fronts``.

Prints a table of goals and figures and writes results/fronts.json and results/fronts.png.
"""

import json
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.cascade import Stage
from rcopt.core.fronts import ThresholdFront, threshold_front
from rcopt.core.predictions import Predictions
from rcopt.core.study_front import extend_front, study_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.report.analysis.threshold_grid import threshold_grid

RESULTS = Path(__file__).parent / "results"

#: Share of right answers and FLOPs of an image, in the order of the cascade: three stages like
#: the original report's, and two more for the longer cascades.
ACCURACIES = (0.727, 0.854, 0.896, 0.91, 0.92)
FLOPS = (7.4e7, 1.35e9, 8.26e9, 1.57e10, 2.31e10)

Answers = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]
Seconds = tuple[float, ...]


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    threshold_front(*answers(100, 4))  # compiled, or loaded from numba's cache
    found: dict[str, Any] = {"hardware": hardware()}
    rows = []
    grids = against_grids()
    found["against_grids"] = grids
    for name, one in grids["grids"].items():
        goal = "at most 0.2 of its time" if name == "broadcast" else "-"
        figure = f"{one['ratio']:.3f}: {grids['front']['median'] * 1e3:.2f} ms against "
        rows.append((f"40 x 40 grid, {name}", goal, figure + f"{one['median'] * 1e3:.2f} ms"))
    large = alone(50_000, 3)
    found["3 x 50,000"] = large
    rows.append(("3 stages x 50,000: time", "< 15 s", f"{large['seconds']:.2f} s"))
    rows.append(("3 stages x 50,000: process at its peak", "< 1 GB", f"{large['peak_gb']:.2f} GB"))
    four = alone(2_000, 4)
    found["4 x 2,000"] = four
    rows.append(("4 stages x 2,000: time", "< 30 s", f"{four['seconds']:.3f} s"))
    study = combinations()
    found["study"] = study
    for name, goal in (("125 cascades", "< 5 s"), ("215 cascades", "-"), ("one more stage", "-")):
        figure = f"{study[name]['median']:.2f} s"
        rows.append((f"{name} x 1,963 images", goal, figure))
    found["scaling"] = scaling()
    (RESULTS / "fronts.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found["scaling"])
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    print(found["hardware"])
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def hardware() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    load = f"load average {os.getloadavg()[0]:.1f} before the run"
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {load}"


def pool(
    accuracies: Sequence[tuple[Stage, float]], n_images: int, seed: int = 0
) -> list[TrainedStage]:
    """Return stages whose predictions are softmaxes of noisy logits of 10 classes.

    An image's easiness and most of its noise are common to the stages, so that these err on
    the same images; a stage's skill is set so that its share of right answers is as asked.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n_images)
    images = tuple(f"{i}" for i in range(n_images))
    easiness, common = rng.normal(size=n_images), rng.normal(size=(n_images, 10))
    stages = []
    for stage, accuracy in accuracies:
        noise = np.sqrt(0.6) * common + np.sqrt(0.4) * rng.normal(size=(n_images, 10))
        own = noise[np.arange(n_images), labels] + 2.5 * easiness
        noise[np.arange(n_images), labels] = -np.inf
        margin = own - noise.max(axis=1)
        skill = -np.quantile(margin, 1 - accuracy)
        noise[np.arange(n_images), labels] = own + skill
        weights = np.exp(2.0 * (noise - noise.max(axis=1, keepdims=True)))
        p = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        predictions = Predictions("validation", p, labels, images)
        stages.append(TrainedStage(stage, {"validation": predictions}, stage.name, 1, 1))
    return stages


def answers(n_images: int, n_stages: int, seed: int = 0) -> Answers:
    named = [(Stage(32 * (k + 1), "net", FLOPS[k]), ACCURACIES[k]) for k in range(n_stages)]
    stages = pool(named, n_images, seed)
    read = stage_answers([one.predictions["validation"] for one in stages], AnswerRule())
    return read.confidence, read.correct, np.array(FLOPS[:n_stages])


def broadcast(
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_],
    flops: NDArray[np.float64],
    axis: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Evaluate every pair of thresholds on every image at once."""
    n = correct.shape[1]
    first, second = confidence[0] >= axis[:, None], confidence[1] >= axis[:, None]
    right = np.where(first[:, None], correct[0], np.where(second, correct[1], correct[2]))
    deferred = (~first[:, None] & ~second).sum(axis=-1)
    total = n * flops[0] + (~first).sum(axis=1)[:, None] * flops[1] + deferred * flops[2]
    return right.sum(axis=-1) / n, total / n


def products(
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_],
    flops: NDArray[np.float64],
    axis: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Evaluate the same by two matrix products."""
    n = correct.shape[1]
    first = (confidence[0] < axis[:, None]).astype(np.float32)
    second = (confidence[1] < axis[:, None]).astype(np.float32)
    gain = np.diff(correct.astype(np.float32), axis=0)
    right = correct[0].sum() + (first @ gain[0])[:, None] + first @ (second * gain[1]).T
    total = n * flops[0] + first.sum(axis=1)[:, None] * flops[1] + (first @ second.T) * flops[2]
    return right / n, total / n


def counts(
    confidence: NDArray[np.float64],
    correct: NDArray[np.bool_],
    flops: NDArray[np.float64],
    axis: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Evaluate the same by cumulated counts, as `rcopt.threshold_grid` does."""
    grid = threshold_grid(confidence, correct, flops, axis, axis)
    return grid.accuracy, grid.cost


def against_grids(n: int = 31) -> dict[str, Any]:
    data, axis = answers(1_963, 3), np.linspace(0, 1, 40)
    grids = {"broadcast": broadcast, "matrix products": products, "cumulated counts": counts}
    front = threshold_front(*data)
    for evaluate_grid in grids.values():
        accuracy, flops = evaluate_grid(*data, axis)
        refuse_if_beaten(front, accuracy.ravel(), flops.ravel())
        np.testing.assert_allclose(accuracy, broadcast(*data, axis)[0], rtol=1e-6)
        np.testing.assert_allclose(flops, broadcast(*data, axis)[1], rtol=1e-6)
    seconds = alternated(
        {"front": partial(threshold_front, *data)}
        | {name: partial(one, *data, axis) for name, one in grids.items()},
        n,
    )
    own = float(np.median(seconds.pop("front")))
    return {
        "n": n,
        "front": {"median": own, "points": len(front)},
        "grids": {
            name: {"median": float(np.median(one)), "ratio": own / float(np.median(one))}
            for name, one in seconds.items()
        },
    }


def refuse_if_beaten(
    front: ThresholdFront, accuracy: NDArray[np.float64], flops: NDArray[np.float64]
) -> None:
    """Stop if a grid point has more right answers than the front at its cost."""
    at = np.searchsorted(front.mean_flops, flops * (1 + 1e-7), side="right") - 1
    if (front.accuracy[at] < accuracy - 1e-6).any():
        raise AssertionError("a grid point beats the exact front")


def alternated(runs: dict[str, Callable[[], object]], n: int) -> dict[str, Seconds]:
    """Run each once for warmth, then all in turn, n times."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(n):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: tuple(one) for name, one in seconds.items()}


def alone(n_images: int, n_stages: int) -> dict[str, float]:
    """Time a front in a process of its own, so that its peak memory is its own too."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        return processes.submit(_alone, n_images, n_stages).result()


def _alone(n_images: int, n_stages: int) -> dict[str, float]:
    threshold_front(*answers(100, n_stages))
    data = answers(n_images, n_stages)
    seconds = alternated({"front": partial(threshold_front, *data)}, 7)["front"]
    front = threshold_front(*data)
    if not front.exact:
        raise AssertionError(f"{n_stages} stages x {n_images} images is not exact")
    return {
        "n": len(seconds),
        "seconds": float(np.median(seconds)),
        "points": len(front),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def combinations(n: int = 7) -> dict[str, Any]:
    named = [
        (Stage(resolution, f"net{depth}", flops * (1 + 0.5 * depth)), accuracy + 0.01 * depth)
        for resolution, flops, accuracy in zip((32, 96, 224), FLOPS, ACCURACIES, strict=False)
        for depth in range(5)
    ]
    stages = pool(named, 1_963)
    known = study_front(stages[:-1])
    seconds = alternated(
        {
            "125 cascades": partial(study_front, stages, optional=False),
            "215 cascades": partial(study_front, stages),
            "one more stage": partial(extend_front, known, stages[:-1], stages[-1]),
        },
        n,
    )
    found: dict[str, Any] = {
        name: {"n": n, "median": float(np.median(one))} for name, one in seconds.items()
    }
    return found | {"points": len(study_front(stages))}


def scaling() -> list[dict[str, float]]:
    sizes = {2: 200_000, 3: 50_000, 4: 10_000, 5: 2_000}
    found = []
    for n_stages, largest in sizes.items():
        for n_images in (250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 200_000):
            if n_images > largest:
                continue
            data = answers(n_images, n_stages)
            n = 3 if n_images * n_stages >= 40_000 else 7
            seconds = alternated({"front": partial(threshold_front, *data)}, n)["front"]
            found.append(
                {
                    "stages": n_stages,
                    "images": n_images,
                    "n": n,
                    "seconds": float(np.median(seconds)),
                }
            )
    return found


def draw(points: Sequence[dict[str, float]]) -> None:
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for n_stages in sorted({point["stages"] for point in points}):
        line = [point for point in points if point["stages"] == n_stages]
        axes.plot(
            [point["images"] for point in line],
            [point["seconds"] for point in line],
            marker="o",
            label=f"{n_stages:.0f} stages",
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="images",
        ylabel="seconds (median)",
        title="Exact front over all threshold vectors",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(RESULTS / "fronts.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
