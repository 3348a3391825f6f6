"""Decoding a folder of JPEG files: ``python -m benchmarks.decoding ROOT`` (about a minute).

ROOT/{train,val}/CLASS/IMAGE. Times decoding in full and scaled (``data.scaled_jpeg``), taking
turns on the same files, and how far their pixels differ; then what opening the data set costs
when it was decoded before: with every file and all pixels read, and with neither read since
nothing changed. Writes results/decoding.json.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.execution import hardware
from rcopt.data.images import decode
from rcopt.data.loading import load_data
from rcopt.data.settings import DataSettings

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _options()
    files = sorted(f for f in options.root.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg"))
    files = files[:: max(1, len(files) // options.images)][: options.images]
    found: dict[str, Any] = {"hardware": hardware(), "images": len(files), "decoding": []}
    for side in options.sides:
        found["decoding"].append(arms(files, side, options.rounds))
        print(found["decoding"][-1], flush=True)
    found["opening"] = opening(options.root, options.sides[0])
    print(found["opening"])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "decoding.json").write_text(json.dumps(found, indent=1) + "\n")


def arms(files: list[Path], side: int, rounds: int) -> dict[str, Any]:
    """Images a second of both ways on one thread, alternating, and how the pixels differ."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    bases: dict[bool, Any] = {}
    for _ in range(rounds):
        for scaled in rates:
            start = time.process_time()
            bases[scaled] = np.stack([decode(f, side, str(f), scaled=scaled) for f in files])
            rates[scaled].append(len(files) / (time.process_time() - start))
    off = np.abs(bases[True].astype(np.int16) - bases[False])
    return {
        "side": side,
        "full_per_cpu_second": round(statistics.median(rates[False])),
        "scaled_per_cpu_second": round(statistics.median(rates[True])),
        "ratios": [round(s / f, 2) for s, f in zip(rates[True], rates[False], strict=True)],
        "mean_difference": round(float(off.mean()), 3),
        "largest_difference_of_99_percent": float(np.percentile(off, 99)),
        "largest_difference": int(off.max()),
    }


def opening(root: Path, side: int) -> dict[str, float]:
    """Seconds of the first, second (files and pixels are trusted only later) and third opening."""
    settings = DataSettings(source="folder", root=str(root))
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(3):
            start = time.perf_counter()
            load_data(settings, root=root, base_side=side, seed=0, cache=Path(cache))
            seconds.append(round(time.perf_counter() - start, 3))
    return dict(zip(("first", "second", "third"), seconds, strict=True))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 96, 224])
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
