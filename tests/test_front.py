import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rcopt import evaluate
from rcopt.cascade import NEVER
from rcopt.front import (
    ThresholdFront,
    threshold_front,
)

Answers = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]


@st.composite
def answers(draw: st.DrawFn, stages: Sequence[int] = (1, 2, 3, 4), most: int = 7) -> Answers:
    """Small stored answers with many ties, costs in any order, zero among them."""
    k = draw(st.sampled_from(stages))
    n = draw(st.integers(1, most))
    level = st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0])
    confidence = draw(st.lists(level, min_size=k * n, max_size=k * n))
    correct = draw(st.lists(st.booleans(), min_size=k * n, max_size=k * n))
    cost = st.one_of(st.integers(0, 4).map(float), st.floats(0, 100, allow_subnormal=False))
    flops = draw(st.lists(cost, min_size=k, max_size=k))
    return (
        np.array(confidence).reshape(k, n),
        np.array(correct).reshape(k, n),
        np.array(flops),
    )


def brute_force(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], flops: NDArray[np.float64]
) -> list[tuple[float, float, tuple[float, ...]]]:
    """Try every vector of 0.0, observed confidences and `NEVER`, image by image."""
    n_stages, n = correct.shape
    levels = [sorted({0.0, *row.tolist(), NEVER}) for row in confidence[: n_stages - 1]]
    best: dict[int, tuple[float, tuple[float, ...]]] = {}
    for thresholds in itertools.product(*levels):
        right, reached = 0, [0] * n_stages
        for image in range(n):
            for k in range(n_stages):
                reached[k] += 1
                if k == n_stages - 1 or confidence[k, image] >= thresholds[k]:
                    right += int(correct[k, image])
                    break
        total = 0.0
        for count, cost in zip(reached, flops.tolist(), strict=True):
            total += count * cost
        if right not in best or total < best[right][0]:
            best[right] = (total, thresholds)
    rows = []
    least = float("inf")
    for right in sorted(best, reverse=True):
        total, thresholds = best[right]
        if total / n < least:
            least = total / n
            rows.append((right / n, total / n, thresholds))
    return rows[::-1]


def rows_of(front: ThresholdFront) -> list[tuple[float, float, tuple[float, ...]]]:
    return [
        (a, f, tuple(t))
        for a, f, t in zip(
            front.accuracy.tolist(),
            front.mean_flops.tolist(),
            front.thresholds.tolist(),
            strict=True,
        )
    ]


def realistic(n: int, stages: int, seed: int = 0, levels: int | None = None) -> Answers:
    """Correlated stages, later ones better; confidences rounded to ``levels`` if given."""
    rng = np.random.default_rng(seed)
    easy = rng.normal(size=n)
    strength = np.linspace(0.6, 1.4, stages)[:, None]
    score = strength + 0.85 * easy + 0.5 * rng.normal(size=(stages, n))
    confidence = 1 / (1 + np.exp(-np.abs(score) - 0.5 * rng.normal(size=(stages, n))))
    if levels:
        confidence = np.round(confidence * levels) / levels
    return confidence, score > 0, 4.0 ** np.arange(stages)


@settings(max_examples=200, deadline=None)
@given(answers())
def test_front_equals_brute_force_with_thresholds_on_data_with_ties(data: Answers) -> None:
    front = threshold_front(*data)
    assert front.exact
    assert front.accuracy_gap == 0.0
    assert rows_of(front) == brute_force(*data)


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_front_of_more_images_than_levels_equals_brute_force(stages: int) -> None:
    for seed in range(5):
        data = realistic(40, stages, seed, levels=6)
        assert rows_of(threshold_front(*data)) == brute_force(*data)


@settings(max_examples=100, deadline=None)
@given(answers(most=12), st.data())
def test_no_threshold_vector_beats_the_front(data: Answers, draw: st.DataObject) -> None:
    confidence, correct, flops = data
    front = threshold_front(*data)
    value = st.floats(0, 1.1, allow_subnormal=False)
    thresholds = [draw.draw(value) for _ in range(len(flops) - 1)]
    one = evaluate(confidence, correct, flops, thresholds)
    assert front.accuracy[front.mean_flops <= one.mean_flops].max() >= one.accuracy


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5])
def test_rows_evaluate_to_their_own_numbers_bit_for_bit(stages: int) -> None:
    confidence, correct, flops = realistic(120, stages, levels=50)
    flops = flops * 1.1e9 / 3
    front = threshold_front(confidence, correct, flops)
    assert front.thresholds.shape == (len(front), stages - 1)
    for accuracy, mean_flops, thresholds in rows_of(front):
        one = evaluate(confidence, correct, flops, thresholds)
        assert (one.accuracy, one.mean_flops) == (accuracy, mean_flops)


@settings(max_examples=100, deadline=None)
@given(answers(most=12))
def test_front_rises_strictly_in_both(data: Answers) -> None:
    front = threshold_front(*data)
    assert (np.diff(front.accuracy) > 0).all()
    assert (np.diff(front.mean_flops) > 0).all()


@settings(max_examples=60, deadline=None)
@given(answers(most=10), st.randoms(use_true_random=False))
def test_order_of_images_does_not_matter(data: Answers, random: object) -> None:
    confidence, correct, flops = data
    shuffled = np.random.default_rng(random.getrandbits(32)).permutation(correct.shape[1])  # type: ignore[attr-defined]
    moved = threshold_front(confidence[:, shuffled], correct[:, shuffled], flops)
    assert rows_of(moved) == rows_of(threshold_front(*data))


@settings(max_examples=60, deadline=None)
@given(answers(most=10))
def test_duplicating_every_image_changes_nothing(data: Answers) -> None:
    confidence, correct, flops = data
    doubled = threshold_front(np.tile(confidence, 2), np.tile(correct, 2), flops)
    assert rows_of(doubled) == rows_of(threshold_front(*data))
