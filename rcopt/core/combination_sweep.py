"""Sweeping many combinations of stages, each over all its thresholds, into one front."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcopt.core.answering import Answering
from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Stage
from rcopt.core.combinations import rank
from rcopt.core.evaluating import evaluate_stages
from rcopt.core.fronts import EXACT_STEPS, non_dominated, ranked_front
from rcopt.core.threshold_sweep import Known, Ranking, rank_images

#: Steps that all sweeps of one call share; a single one may take a quarter of what is left, and
#: in any case `LEAST_STEPS`.
TOTAL_STEPS = 8_000_000_000

LEAST_STEPS = 10_000_000

#: So many combinations' results are kept before they are merged.
_BLOCKS = 500


class Rights:
    """Reads the confidences and right answers of combinations, ranking each stage once.

    Args:
        answers_of: The stages' answers.
        forgiven: (N,) images that count as right whatever is answered; none by default.
    """

    def __init__(self, answers_of: Answering, forgiven: NDArray[np.bool_] | None = None) -> None:
        self._answers_of, self._forgiven = answers_of, forgiven
        self._rankings: dict[tuple[Stage, ...], Ranking] = {}

    def __call__(self, combination: tuple[Stage, ...]) -> tuple[list[Ranking], NDArray[np.bool_]]:
        """Return the rankings of all stages but the last, and what counts as right (K, N)."""
        answers = self._answers_of(combination)
        rankings = []
        for k, confidence in enumerate(answers.confidence[:-1]):
            if not self._answers_of.alone:
                rankings.append(rank_images(confidence))
                continue
            own = combination[k : k + 1]
            if own not in self._rankings:
                self._rankings[own] = rank_images(confidence)
            rankings.append(self._rankings[own])
        if self._forgiven is None:
            return rankings, answers.correct
        return rankings, answers.correct | self._forgiven


@dataclass(frozen=True)
class Merged:
    """The best of many combinations.

    Attributes:
        cascades: In the order of `rank`.
        combinations: How many were swept.
        accuracy_gap: Largest `rcopt.core.fronts.ThresholdFront.accuracy_gap` among them.
    """

    cascades: tuple[Cascade, ...]
    combinations: int
    accuracy_gap: float


def sweep_combinations(
    points: Sequence[OperatingPoint],
    combinations: Iterable[tuple[Stage, ...]],
    read: Rights,
) -> Merged:
    """Return the best of known points and of all thresholds of the combinations.

    Each sweep visits only what can beat the points and the combinations before it, so those of
    few stages should come first.

    Args:
        points: Known ones.
        combinations: Each once.
        read: Their answers.
    """
    blocks = [
        _Block(
            point.cascade.stages,
            np.array([point.cascade.thresholds]),
            np.array([point.validation.accuracy]),
            np.array([point.validation.cost]),
        )
        for point in points
    ]
    known: Known | None = None
    gap, count, new, steps = 0.0, 0, 0, TOTAL_STEPS
    for combination in combinations:
        rankings, correct = read(combination)
        if known is None:
            known = Known.nothing(correct.shape[1])
            for block in blocks:
                known.add(block.accuracy, block.cost)
        found = ranked_front(
            rankings,
            correct,
            np.array([stage.cost for stage in combination]),
            known,
            min(EXACT_STEPS, max(steps // 4, LEAST_STEPS)),
        )
        steps -= found.steps
        gap = max(gap, found.accuracy_gap)
        count += 1
        if len(found):
            blocks.append(_Block(combination, found.thresholds, found.accuracy, found.cost))
            new += 1
        if new == _BLOCKS:
            blocks, new = list(_undominated(blocks)), 0
    cascades = (
        Cascade(block.stages, tuple(row))
        for block in _undominated(blocks)
        for row in block.thresholds.tolist()
    )
    return Merged(tuple(cascades), count, gap)


@dataclass(frozen=True, eq=False)
class _Block:
    """Rows of one combination of stages."""

    stages: tuple[Stage, ...]
    thresholds: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    cost: NDArray[np.float64]


def _undominated(blocks: list[_Block]) -> Iterator[_Block]:
    """Yield what is left of the blocks, in the order of `rank`; of equal points the first."""
    if not blocks:
        return
    blocks = sorted(blocks, key=lambda block: rank(block.stages))
    keep = non_dominated(
        np.concatenate([block.accuracy for block in blocks]),
        np.concatenate([block.cost for block in blocks]),
    )
    ends = np.cumsum([len(block.accuracy) for block in blocks])
    for block, rows in zip(blocks, np.split(keep, ends[:-1]), strict=True):
        if rows.any():
            yield _Block(
                block.stages, block.thresholds[rows], block.accuracy[rows], block.cost[rows]
            )


def evaluated(cascade: Cascade, answers_of: Answering) -> Evaluation:
    """Return a cascade's numbers on the split that is answered."""
    answers = answers_of(cascade.stages)
    return evaluate_stages(answers.confidence, answers.correct, cascade.stages, cascade.thresholds)
