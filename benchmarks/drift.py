"""How soon and how falsely the monitor alarms: ``python -m benchmarks.drift [TABLE...]``.

False alarms: 100 streams of 20,000 clean confidences, drawn from the held-out images of a
recorded stage of Imagenette, after a calibration set of 781. Detection: on the tables of Geirhos
et al. 2018 (CC BY 4.0; the reader's copies of ``googlenet_session_*.csv`` of the low-pass
experiment), half of the undegraded images for calibration, the others first, then those of one
strength of blur; 100 shuffles. Three minutes of one core.
"""

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.pools import POOL, recorded
from rcopt.core.confidences import confidence
from rcopt.core.statistics.drift import DriftMonitor, count_confidences

RESULT = Path(__file__).parent / "results" / "drift.json"


def false_alarms(clean: NDArray[np.float64], *, runs: int, length: int, n_calibration: int) -> int:
    """Return how many streams of clean confidences ever raise the alarm."""
    alarms = 0
    for run in range(runs):
        rng = np.random.default_rng(run)
        monitor = DriftMonitor(count_confidences(rng.choice(clean, n_calibration)), seed=run)
        monitor.see(rng.choice(clean, length))
        alarms += monitor.alarm is not None
    return alarms


def delays(clean: NDArray[np.float64], degraded: NDArray[np.float64], *, runs: int) -> list[float]:
    """Return after how many degraded images each shuffle raises the alarm, inf for never."""
    found = []
    half = len(clean) // 2
    for run in range(runs):
        rng = np.random.default_rng(run)
        order = rng.permutation(clean)
        monitor = DriftMonitor(count_confidences(order[:half]), seed=run)
        monitor.see(order[half:])
        false = monitor.alarm is not None
        monitor.see(rng.permutation(degraded)[:500])
        late = monitor.alarm is None or false
        found.append(float("inf") if late else float((monitor.alarm or 0) - len(order[half:])))
    return found


def read_tables(files: Sequence[Path]) -> dict[int, NDArray[np.float64]]:
    """Return GoogLeNet's confidences by condition, 0 for undegraded images."""
    found: dict[int, list[float]] = defaultdict(list)
    for file in files:
        with file.open(newline="", encoding="utf-8") as rows:
            for row in csv.DictReader(rows):
                found[int(row["condition"])].append(float(row["highest_prob_16"]))
    return {condition: np.array(found[condition]) for condition in sorted(found)}


def main(arguments: Sequence[str]) -> None:
    """Measure, print and keep."""
    (stage,) = [t for t in recorded(POOL) if t.stage.name == "mobilenet_v2@64"]
    clean = np.concatenate([confidence(p.probabilities) for p in stage.predictions.values()])
    runs, length = 100, 20_000
    alarms = false_alarms(clean, runs=runs, length=length, n_calibration=781)
    print(f"false alarms: {alarms} of {runs} streams of {length:,} clean images")
    result: dict[str, Any] = {"runs": runs, "length": length, "false_alarms": alarms}
    by_condition = read_tables([Path(name) for name in arguments])
    for condition, degraded in by_condition.items():
        if condition == 0:
            continue
        found = np.array(delays(by_condition[0], degraded, runs=runs))
        within = int((found <= 500).sum())
        middle = float(np.median(found))
        result[f"low-pass {condition}"] = {"within_500": within, "median": middle}
        print(f"blur {condition:2}: {within} of {runs} within 500 images, median {middle:g}")
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
