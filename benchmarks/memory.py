"""Memory of a stage at 224 pixels: ``python -m benchmarks.memory ROOT`` (about 5 minutes).

ROOT/{train,val}/CLASS/IMAGE. Each backbone trains for some steps and predicts some images in a
process of its own, on the whole data set, which is decoded before if it never was. The peak is
the process's largest resident set; mapped pages of the data set that happen to be in memory
count too. Each case is run as studies do, where freed memory stays in the process, and once more
without that, which tells what it costs and saves. Prints goals and figures and writes
results/memory.json.
"""

import argparse
import json
import resource
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.execution import hardware
from rcopt.data.loading import load_data
from rcopt.data.settings import DataSettings
from rcopt.models.allocation import memory_kept
from rcopt.models.backbones import build
from rcopt.models.prediction import predict
from rcopt.models.recipe import Recipe
from rcopt.models.training import train

RESULTS = Path(__file__).parent / "results"
RESOLUTION = 224
CASES = (("resnet18", 64), ("mobilenet_v2", 16), ("mobilenet_v2", 64), ("resnet50", 64))
STEPS, PREDICTED = 6, 256
GOAL = 3.0


def main() -> None:
    options = _options()
    if options.case is not None:
        case = CASES[options.case]
        print(json.dumps(measure(options.root, options.cache, *case, keep=not options.freed)))
        return
    RESULTS.mkdir(exist_ok=True)
    found: dict[str, Any] = {"hardware": hardware(), "peaks": []}
    for number in range(len(CASES)):
        freed = alone(options, number, "--freed")
        one = alone(options, number)
        one["freed"] = freed
        found["peaks"].append(one)
        print(
            f"{one['backbone']:14} batch {one['batch_size']:3}  goal at most {GOAL} GB  "
            f"{one['peak_gb']:.2f} GB (memory freed at once: {freed['peak_gb']:.2f} GB)  "
            f"{one['images_per_second'] / freed['images_per_second']:.2f} times as many images a "
            f"second as that",
            flush=True,
        )
    (RESULTS / "memory.json").write_text(json.dumps(found, indent=1) + "\n")


def alone(options: argparse.Namespace, number: int, *more: str) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", str(options.root)]
    command += ["--cache", str(options.cache), "--case", str(number), *more]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(
    root: Path, cache: Path, backbone: str, batch_size: int, *, keep: bool
) -> dict[str, Any]:
    dataset = load_data(
        DataSettings(source="folder", root=str(root)),
        root=root,
        base_side=RESOLUTION,
        seed=0,
        cache=cache,
    )
    loaded = peak_gb()
    some = {
        **dataset.splits,
        "train": dataset.splits["train"][:: len(dataset.splits["train"]) // (STEPS * batch_size)],
        "validation": dataset.splits["validation"][:PREDICTED],
    }
    few = replace(dataset, splits=some)
    model = build(backbone, len(dataset.classes))
    recipe = Recipe(epochs=2, batch_size=batch_size)
    with memory_kept() if keep else nullcontext():
        *_, last = train(model, few, RESOLUTION, recipe, seed=0)
        trained = peak_gb()
        predict(model, few, "validation", RESOLUTION)
    return {
        "backbone": backbone,
        "batch_size": batch_size,
        "images": len(dataset.base),
        "loaded_gb": loaded,
        "trained_gb": trained,
        "peak_gb": peak_gb(),
        "images_per_second": last.images_per_second,
    }


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("root", type=Path, help="folder with train and val")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"))
    parser.add_argument("--case", type=int, help="measure this one alone, here")
    parser.add_argument("--freed", action="store_true", help="give freed memory back at once")
    return parser.parse_args()


if __name__ == "__main__":
    main()
