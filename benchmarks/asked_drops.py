"""What ``--max-drop`` gives up on new images, over random re-splits of the committed pool.

python -m benchmarks.asked_drops [--splits 60]
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rcopt.core.cascade import Cascade
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.predictions import Predictions, Split
from rcopt.core.statistics.expectation import drop_to_ask
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import load_stage

POOL = Path(__file__).parent.parent / "studies" / "imagenette-predictions"
ASKED = (0.0, 0.01, 0.02)
HELD_OUT: tuple[Split, ...] = ("validation", "calibration", "test")


def resplit(
    stages: Sequence[TrainedStage], n: int, rng: np.random.Generator
) -> list[TrainedStage]:
    """Return the stages with n of all held-out images for validation, the rest for test."""
    total = sum(len(stages[0].predictions[split]) for split in HELD_OUT)
    order = rng.permutation(total)
    parts: dict[Split, np.ndarray] = {"validation": order[:n], "test": order[n:]}
    made = []
    for trained in stages:
        old = [trained.predictions[split] for split in HELD_OUT]
        probabilities = np.concatenate([p.probabilities for p in old])
        labels = np.concatenate([p.labels for p in old])
        new: dict[Split, Predictions] = {
            split: Predictions(
                split, probabilities[rows], labels[rows], tuple(map(str, rows.tolist()))
            )
            for split, rows in parts.items()
        }
        made.append(replace(trained, predictions=new))
    return made


def drops(stages: Sequence[TrainedStage]) -> list[float]:
    """Return what choices give up on test: for each drop asked for, plain and corrected."""
    points = study_front(stages).points
    accuracy = np.array([point.validation.accuracy for point in points])
    singles = [Cascade((trained.stage,), ()) for trained in stages]
    alone = [o.correct.mean() for o in cascade_outcomes(singles, stages, "validation")]
    top = singles[int(np.argmax(alone))]
    combinations = list(dict.fromkeys(point.cascade.stages for point in points))
    found = []
    for asked in ASKED:
        for limit in (asked, drop_to_ask(combinations, stages, asked)):
            at = int(np.searchsorted(accuracy, max(alone) - limit - 1e-12))
            chosen = points[min(at, len(points) - 1)]
            # Where nothing is cheaper than the stage itself, it is chosen, and gives up nothing.
            cascade = chosen.cascade if chosen.validation.cost < top.stages[0].cost else top
            reference, own = cascade_outcomes([top, cascade], stages, "test")
            found.append(float(reference.correct.mean() - own.correct.mean()))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of ``docs/numbers.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=60)
    arguments = parser.parse_args(argv)
    stages = [load_stage(path) for path in sorted(POOL.glob("*.safetensors"))]
    print("n      asked  plain         as printed    (points given up on test)")
    for n in (400, 1572):
        rng = np.random.default_rng(7)
        rows = 100 * np.array([drops(resplit(stages, n, rng)) for _ in range(arguments.splits)])
        mean, error = rows.mean(axis=0), rows.std(axis=0) / np.sqrt(len(rows))
        for i, asked in enumerate(ASKED):
            cells = [f"{mean[j]:5.2f} ({error[j]:.2f})" for j in (2 * i, 2 * i + 1)]
            print(f"{n:<6} {100 * asked:<6g} {cells[0]:13} {cells[1]}")


if __name__ == "__main__":
    main()
