"""Sweeping many combinations of stages, each over all its thresholds, into one front."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcopt.core.answering import Answering
from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Stage
from rcopt.core.evaluating import evaluate_stages
from rcopt.core.fronts import cost_front, non_dominated

#: The confidence (K, N) and what counts as right (K, N) of a combination of stages.
Read = Callable[[tuple[Stage, ...]], tuple[NDArray[np.float64], NDArray[np.bool_]]]


def sweep_combinations(
    points: Sequence[OperatingPoint], combinations: Sequence[tuple[Stage, ...]], read: Read
) -> tuple[list[Cascade], float]:
    """Return the best of known points and of all thresholds of the combinations.

    Returns:
        The cascades, combination by combination, and the largest accuracy gap.
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
    gap = 0.0
    for combination in combinations:
        found = cost_front(*read(combination), [stage.cost for stage in combination])
        blocks.append(_Block(combination, found.thresholds, found.accuracy, found.cost))
        gap = max(gap, found.accuracy_gap)
    # Of equal points the first is kept.
    blocks.sort(key=lambda block: rank(block.stages))
    return [
        Cascade(block.stages, tuple(row))
        for block, rows in zip(blocks, _undominated(blocks), strict=True)
        for row in block.thresholds[rows].tolist()
    ], gap


@dataclass(frozen=True, eq=False)
class _Block:
    """Rows of one combination of stages."""

    stages: tuple[Stage, ...]
    thresholds: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    cost: NDArray[np.float64]


def _undominated(blocks: Sequence[_Block]) -> list[NDArray[np.bool_]]:
    if not blocks:
        return []
    keep = non_dominated(
        np.concatenate([block.accuracy for block in blocks]),
        np.concatenate([block.cost for block in blocks]),
    )
    ends = np.cumsum([len(block.accuracy) for block in blocks])
    return np.split(keep, ends[:-1])


def rights_of(answers_of: Answering) -> Read:
    """Return what reads confidences and right answers."""

    def read(
        combination: tuple[Stage, ...],
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        answers = answers_of(combination)
        return answers.confidence, answers.correct

    return read


def evaluated(cascade: Cascade, answers_of: Answering) -> Evaluation:
    """Return a cascade's numbers on the split that is answered."""
    answers = answers_of(cascade.stages)
    return evaluate_stages(answers.confidence, answers.correct, cascade.stages, cascade.thresholds)


def rank(combination: tuple[Stage, ...]) -> tuple[int, list[tuple[int, str]]]:
    """Return what says which of equal points stays: fewer stages, then their names."""
    return len(combination), [(stage.resolution, stage.backbone) for stage in combination]
