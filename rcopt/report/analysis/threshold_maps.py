"""What a cascade's thresholds do to its accuracy and cost, on an even scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rcopt.core.answers import Answers
from rcopt.core.cascade import NEVER, Cascade
from rcopt.core.evaluating import evaluate
from rcopt.report.analysis.threshold_grid import threshold_grid


@dataclass(frozen=True, eq=False)
class ThresholdMap:
    """A cascade of two or three stages over its thresholds.

    Along each axis the thresholds lie evenly by the share of all images whose confidence is
    below them, since confidences crowd near 1.

    Attributes:
        cascade: Whose stages; its own thresholds are marked.
        shares: (G,) share of images below the thresholds, the same for each axis.
        thresholds: (K-1, G), rising; the first is 0.0, the last `rcopt.NEVER`.
        accuracy: (G,) for two stages, (G, G) for three, stage 0 first.
        mean_flops: As accuracy.
        own: (K-1,) shares at the cascade's own thresholds.
        path: (P, K-1) shares at other thresholds of the same stages, such as the front's.
    """

    cascade: Cascade
    shares: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    mean_flops: NDArray[np.float64]
    own: tuple[float, ...]
    path: NDArray[np.float64]


def threshold_map(
    cascade: Cascade, answers: Answers, others: Sequence[ArrayLike] = (), size: int = 41
) -> ThresholdMap:
    """Evaluate a cascade's stages over its thresholds.

    Args:
        cascade: Of two or three stages.
        answers: Of its stages, on the split to show.
        others: Further threshold vectors of the same stages to mark.
        size: Thresholds along each axis, 2 or more.

    Raises:
        ValueError: If the cascade has fewer than two or more than three stages, or ``size``
            is below 2.
    """
    k = len(cascade.stages)
    if k not in (2, 3):
        raise ValueError(f"cascade must have two or three stages, got {k}")
    if size < 2:
        raise ValueError(f"size must be at least 2, got {size}")
    shares = np.linspace(0, 1, size)
    thresholds = np.stack([_at_shares(sure, shares) for sure in answers.confidence[: k - 1]])
    flops = [stage.flops for stage in cascade.stages]
    if k == 3:
        grid = threshold_grid(answers.confidence, answers.correct, flops, *thresholds)
        accuracy, mean_flops = grid.accuracy, grid.cost
    else:
        line = [evaluate(answers.confidence, answers.correct, flops, [t]) for t in thresholds[0]]
        accuracy = np.array([e.accuracy for e in line])
        mean_flops = np.array([e.mean_flops for e in line])
    return ThresholdMap(
        cascade=cascade,
        shares=shares,
        thresholds=thresholds,
        accuracy=accuracy,
        mean_flops=mean_flops,
        own=tuple(_below(cascade.thresholds, answers).tolist()),
        path=np.array([_below(row, answers) for row in others]).reshape(len(others), k - 1),
    )


def _at_shares(
    confidence: NDArray[np.float64], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    ordered = np.append(np.sort(confidence), NEVER)
    thresholds = ordered[np.round(shares * len(confidence)).astype(int)]
    thresholds[0] = 0.0
    return np.asarray(thresholds)


def _below(thresholds: ArrayLike, answers: Answers) -> NDArray[np.float64]:
    levels = np.asarray(thresholds, dtype=np.float64)
    return np.asarray((answers.confidence[: len(levels)] < levels[:, None]).mean(axis=1))
