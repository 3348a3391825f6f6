"""Trained stages made of random numbers: correlated answers, realistic confidences."""

from collections.abc import Mapping, Sequence

import numpy as np

from rcopt.core.cascade import Stage
from rcopt.core.predictions import Predictions, Split
from rcopt.core.trained_stage import TrainedStage

#: About 73, 85 and 90 % right, at the costs of the report's three stages.
SKILLS = (0.75, 1.27, 1.56)
STAGES = (
    Stage(32, "resnet18", 7.4e7),
    Stage(96, "resnet34", 1.35e9),
    Stage(224, "resnet50", 8.26e9),
)


def simulated_stages(
    sizes: Mapping[Split, int], seed: int = 0, decimals: int | None = None
) -> list[TrainedStage]:
    """Three stages with predictions on splits of the given sizes; few decimals make ties."""
    rng = np.random.default_rng(seed)
    drawn = {split: _splits(split, n, rng, decimals) for split, n in sizes.items()}
    return [
        TrainedStage(stage, {split: drawn[split][k] for split in sizes}, stage.name, 1, 1)
        for k, stage in enumerate(STAGES)
    ]


def resampled(predictions: Predictions, index: "Sequence[int] | np.ndarray") -> Predictions:
    """The images of the given indices, under new names."""
    rows = np.asarray(index)
    return Predictions(
        predictions.split,
        predictions.probabilities[rows],
        predictions.labels[rows],
        tuple(f"{i}" for i in range(len(rows))),
    )


def _splits(
    split: Split, n: int, rng: np.random.Generator, decimals: int | None
) -> list[Predictions]:
    labels = rng.integers(0, 2, n)
    easiness = rng.normal(0, 1, n)
    results = []
    for skill in SKILLS:
        margin = 1.5 * (skill + easiness + rng.normal(0, 0.7, n))
        right = 1 / (1 + np.exp(-margin))
        if decimals is not None:
            right = np.clip(right.round(decimals), 0.01, 0.99)
        p = np.empty((n, 2), dtype=np.float32)
        p[np.arange(n), labels] = right
        p[np.arange(n), 1 - labels] = 1 - right
        p.setflags(write=False)
        results.append(Predictions(split, p, labels, tuple(f"{split}/{i}" for i in range(n))))
    return results
