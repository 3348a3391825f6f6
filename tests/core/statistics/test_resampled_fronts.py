from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rcopt.core.answers import Answers
from rcopt.core.evaluating import evaluate
from rcopt.core.fronts import cost_front, non_dominated
from rcopt.core.statistics.resampled_fronts import COARSE, ResampledFront, resampled_front

Candidate = tuple[Answers, NDArray[np.float64]]


def candidates(n: int, seed: int, levels: int = 50) -> list[Candidate]:
    """All cascades of four stages that err on the same hard images."""
    rng = np.random.default_rng(seed)
    strength = np.linspace(0.4, 1.4, 4)[:, None]
    score = strength + 0.85 * rng.normal(size=n) + 0.5 * rng.normal(size=(4, n))
    noise = 0.5 * rng.normal(size=(4, n))
    confidence = np.round(levels / (1 + np.exp(-np.abs(score) - noise))) / levels
    costs = np.array([1.0, 4.0, 16.0, 64.0])
    chosen = [list(c) for size in (1, 2, 3, 4) for c in combinations(range(4), size)]
    predicted = np.zeros((4, n), dtype=np.int64)
    return [
        (Answers("validation", confidence[c], score[c] > 0, predicted[c]), costs[c])
        for c in chosen
    ]


def plainly(
    given: list[Candidate], images: NDArray[np.int64]
) -> list[tuple[float, float, int, tuple[float, ...]]]:
    rows = []
    for at, (answers, costs) in enumerate(given):
        front = cost_front(answers.confidence[:, images], answers.correct[:, images], costs)
        for row in range(len(front)):
            thresholds = tuple(front.thresholds[row].tolist())
            rows.append((float(front.accuracy[row]), float(front.cost[row]), at, thresholds))
    keep = non_dominated([row[0] for row in rows], [row[1] for row in rows])
    kept = [row for row, is_kept in zip(rows, keep, strict=True) if is_kept]
    return sorted(kept, key=lambda row: row[1])


def rows_of(front: ResampledFront) -> list[tuple[float, float, int, tuple[float, ...]]]:
    return [
        (accuracy, cost, at, tuple(thresholds.tolist()))
        for accuracy, cost, (at, thresholds) in zip(
            front.accuracy.tolist(), front.cost.tolist(), front.choices, strict=True
        )
    ]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 120))
def test_the_front_on_drawn_images_equals_that_of_every_candidate_alone(
    seed: int, drawn: int
) -> None:
    given = candidates(60, seed, levels=20)
    images = np.random.default_rng(seed).integers(0, 60, drawn)
    front = resampled_front(given, images)
    assert rows_of(front) == plainly(given, images)
    assert front.accuracy_gap == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_a_coarse_front_misses_no_more_than_it_says_and_takes_less_work(seed: int) -> None:
    given = candidates(1_200, seed, levels=5_000)
    images = np.random.default_rng(seed).integers(0, 1_200, 1_200)
    exact, coarse = resampled_front(given, images), resampled_front(given, images, coarse=True)
    assert 0 < coarse.accuracy_gap <= 1 / COARSE
    assert coarse.steps < exact.steps
    for accuracy, cost, _, _ in rows_of(exact):
        reached = coarse.accuracy[coarse.cost <= cost].max()
        assert reached >= accuracy - coarse.accuracy_gap - 1e-12
    for accuracy, cost, at, thresholds in rows_of(coarse):
        answers, costs = given[at]
        one = evaluate(
            answers.confidence[:, images], answers.correct[:, images], costs, thresholds
        )
        assert (one.accuracy, one.mean_flops) == (accuracy, cost)
