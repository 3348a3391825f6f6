import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rcopt.core.evaluating import evaluate
from rcopt.report.analysis.threshold_grid import Grid, cheapest_pairs, threshold_grid

COSTS = [0.24, 4.0, 25.56]


def _random(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, 11, (3, n)) / 10
    correct = rng.random((3, n)) < np.array([[0.6], [0.7], [0.8]])
    for array in (confidence, correct):
        array.flags.writeable = False
    return confidence, correct


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_every_pair_of_the_grid_is_evaluated_to_the_bit(seed: int, n: int) -> None:
    confidence, correct = _random(seed, n)
    first, second = np.linspace(0, 1, 6), np.linspace(0.3, 1, 5)  # 0.2, 0.4, .. tie with images
    grid = threshold_grid(confidence, correct, COSTS, first, second)
    for i, low in enumerate(first):
        for j, high in enumerate(second):
            slow = evaluate(confidence, correct, COSTS, [low, high])
            assert (grid.accuracy[i, j], grid.cost[i, j]) == (slow.accuracy, slow.mean_flops)


def test_thresholds_of_zero_are_stage_0_alone() -> None:
    confidence, correct = _random(1, 50)
    grid = threshold_grid(confidence, correct, COSTS, [0.0, 0.5], [0.0, 0.5])
    assert grid.accuracy[0, 0] == correct[0].mean()
    assert grid.cost[0, 0] == pytest.approx(0.24)


def _slow_cheapest(grid: Grid, tolerance: float) -> list[list[float]]:
    points = list(zip(*(part.tolist() for part in grid.points()), strict=True))
    aim, kept = max(a for _, a, _ in points), []
    lowest = min(a for _, a, _ in points)
    number = 0
    while aim - number * tolerance > lowest - tolerance + 1e-9:
        target = aim - number * tolerance
        near = [p for p in points if abs(p[1] - target) <= tolerance + 1e-9]
        if near:
            kept.append(min(near, key=lambda p: (p[2], -p[1]))[0])
        number += 1
    rising = kept[::-1]
    return [pair for i, pair in enumerate(rising) if pair not in rising[:i]]


@given(st.integers(0, 10_000))
@example(92)  # its accuracies lie a whole number of steps apart
@settings(max_examples=20, deadline=None)
def test_the_cheapest_pair_within_reach_of_each_accuracy_is_kept(seed: int) -> None:
    confidence, correct = _random(seed, 30)
    axis = np.linspace(0, 1, 7)
    grid = threshold_grid(confidence, correct, COSTS, axis, axis)
    assert cheapest_pairs(grid, 0.05).tolist() == _slow_cheapest(grid, 0.05)


def test_an_accuracy_that_no_pair_is_near_is_left_out() -> None:
    grid = Grid(
        np.array([0.0]),
        np.array([0.0, 0.5, 1.0]),
        np.array([[0.1, 0.9, 0.9]]),
        np.array([[1.0, 3.0, 2.0]]),
    )
    assert cheapest_pairs(grid, 0.01).tolist() == [[0.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": np.ones((2, 3), bool)}, "correct must have three rows, got 2"),
        ({"first": [0.5, 0.1]}, "first must be rising thresholds"),
        ({"second": []}, "second must be rising thresholds"),
        ({"second": [0.5, np.nan]}, "second must be rising thresholds"),
        ({"confidence": np.full((3, 3), 2.0)}, "confidence must lie in"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, object], message: str) -> None:
    inputs: dict[str, object] = {
        "confidence": np.full((3, 3), 0.5),
        "correct": np.ones((3, 3), bool),
        "costs": COSTS,
        "first": [0.0, 1.0],
        "second": [0.0, 1.0],
    } | change
    if "correct" in change:
        inputs |= {"confidence": np.full((2, 3), 0.5), "costs": COSTS[:2]}
    with pytest.raises(ValueError, match=message):
        threshold_grid(**inputs)  # type: ignore[arg-type]


def test_a_tolerance_of_zero_is_refused() -> None:
    confidence, correct = _random(0, 5)
    grid = threshold_grid(confidence, correct, COSTS, [0.0], [0.0])
    with pytest.raises(ValueError, match="tolerance must be positive, got 0"):
        cheapest_pairs(grid, 0)
