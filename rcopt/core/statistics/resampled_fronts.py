"""The front over combinations of stages on some of the images: what choosing anew chooses from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcopt.core.answers import Answers
from rcopt.core.fronts import EXACT_STEPS, non_dominated, ranked_front
from rcopt.core.threshold_sweep import Known, Ranking, rank_images
from rcopt.core.threshold_walk import EXACT

#: The share of the images that a coarse front may have fewer right answers of, as a divisor.
COARSE = 400


@dataclass(frozen=True, eq=False)
class ResampledFront:
    """A front on some of the images.

    Attributes:
        accuracy: (P,) on these images, strictly rising.
        cost: (P,) mean per image, strictly rising.
        choices: For each point the index of its candidate, and its thresholds.
        accuracy_gap: Accuracy that other thresholds can have more for no more cost, at most.
        steps: Work done.
    """

    accuracy: NDArray[np.float64]
    cost: NDArray[np.float64]
    choices: tuple[tuple[int, NDArray[np.float64]], ...]
    accuracy_gap: float
    steps: int


def resampled_front(
    candidates: Sequence[tuple[Answers, NDArray[np.float64]]],
    images: NDArray[np.int64],
    *,
    coarse: bool = False,
) -> ResampledFront:
    """Return the front over all candidates and thresholds on some of the images.

    Args:
        candidates: For each combination its answers (K, N) and the costs (K,) of its stages.
        images: (M,) which images; they may come more than once.
        coarse: Whether a front will do that has up to M / `COARSE` fewer right answers.
    """
    n = len(images)
    known = Known.nothing(n)
    rankings: dict[bytes, Ranking] = {}
    swept, gap, steps = [], 0.0, 0
    for answers, costs in candidates:
        confidence = answers.confidence[:-1, images]
        for row in confidence:
            if row.tobytes() not in rankings:
                rankings[row.tobytes()] = rank_images(row)
        front = ranked_front(
            [rankings[row.tobytes()] for row in confidence],
            answers.correct[:, images],
            costs,
            known,
            EXACT_STEPS,
            n // COARSE if coarse else EXACT,
        )
        gap, steps = max(gap, front.accuracy_gap), steps + front.steps
        swept.append(front)
    accuracy = np.concatenate([front.accuracy for front in swept])
    cost = np.concatenate([front.cost for front in swept])
    kept = np.flatnonzero(non_dominated(accuracy, cost))
    kept = kept[np.argsort(cost[kept])]
    owner = np.repeat(np.arange(len(swept)), [len(front) for front in swept])
    row_of = np.concatenate([np.arange(len(front)) for front in swept])
    choices = tuple(
        (c, swept[c].thresholds[r])
        for c, r in zip(owner[kept].tolist(), row_of[kept].tolist(), strict=True)
    )
    return ResampledFront(accuracy[kept], cost[kept], choices, gap, steps)
