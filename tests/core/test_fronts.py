import itertools
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rcopt import evaluate
from rcopt.core.cascade import NEVER
from rcopt.core.fronts import (
    ThresholdFront,
    hypervolume,
    non_dominated,
    spread,
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
    return confidence, score > 0, np.array([4.0**k for k in range(stages)])


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
@given(answers(most=10), st.integers(0, 2**32))
def test_order_of_images_does_not_matter(data: Answers, seed: int) -> None:
    confidence, correct, flops = data
    shuffled = np.random.default_rng(seed).permutation(correct.shape[1])
    moved = threshold_front(confidence[:, shuffled], correct[:, shuffled], flops)
    assert rows_of(moved) == rows_of(threshold_front(*data))


@settings(max_examples=60, deadline=None)
@given(answers(most=10))
def test_duplicating_every_image_changes_nothing(data: Answers) -> None:
    confidence, correct, flops = data
    doubled = threshold_front(np.tile(confidence, 2), np.tile(correct, 2), flops)
    assert rows_of(doubled) == rows_of(threshold_front(*data))


def test_a_fresh_interpreter_runs_the_compiled_sweep_and_loads_no_torch() -> None:
    threshold_front(*realistic(30, 4))  # compiled and in numba's cache by now
    code = (
        "import sys\n"
        "from rcopt.core.fronts import threshold_front\n"
        "front = threshold_front([[0.3], [0.4], [0.5]], [[0], [0], [0], [1]], [1.0, 2, 3, 4])\n"
        "print(len(front), sorted({'torch', 'mlflow', 'optuna'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "2 []"


def test_all_zero_and_all_never_are_among_the_vectors() -> None:
    # Stage 0 alone is cheapest; only the last stage is right about anything.
    front = threshold_front([[0.3, 1.0]], [[False, False], [True, True]], [1.0, 2.0])
    assert front.thresholds.tolist() == [[0.0], [1.0], [NEVER]]
    assert front.accuracy.tolist() == [0.0, 0.5, 1.0]
    assert front.mean_flops.tolist() == [1.0, 2.0, 3.0]


def test_one_stage_gives_one_point_without_thresholds() -> None:
    front = threshold_front(np.empty((0, 4)), [[True, True, False, True]], [3.0])
    assert front.thresholds.shape == (1, 0)
    assert (front.accuracy.tolist(), front.mean_flops.tolist()) == ([0.75], [3.0])


def test_a_costly_first_stage_is_still_on_the_front_as_every_image_runs_it() -> None:
    front = threshold_front([[0.3, 0.6]], [[True, False], [True, True]], [100.0, 1.0])
    assert rows_of(front) == [(0.5, 100.0, (0.0,)), (1.0, 101.0, (NEVER,))]


@pytest.mark.parametrize("stages", [3, 4])
def test_the_sweep_is_exact_within_the_steps_that_useful_cuts_take(stages: int) -> None:
    confidence, correct, flops = realistic(40, stages, levels=8)
    sizes = []
    for k in range(stages - 1):
        useful = ~correct[k] & correct[k + 1 :].any(axis=0)
        sizes.append(len(np.unique(confidence[k, useful])))
    vectors = np.prod([len(np.unique([0.0, *row, NEVER])) for row in confidence[:-1]])
    assert np.prod(sizes) < vectors / 2
    steps = int(np.prod(sizes)) + 40 * (1 if stages == 3 else 1 + sizes[0])
    enough = threshold_front(confidence, correct, flops, max_steps=steps)
    assert enough.exact
    assert rows_of(enough) == brute_force(confidence, correct, flops)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 3, 4]), st.integers(1, 400))
def test_a_coarse_front_misses_no_more_than_it_says(seed: int, stages: int, steps: int) -> None:
    data = realistic(60, stages, seed, levels=30)
    exact, coarse = threshold_front(*data), threshold_front(*data, max_steps=steps)
    assert coarse.exact == (coarse.accuracy_gap == 0.0)
    for accuracy, mean_flops, _ in rows_of(exact):
        reached = coarse.accuracy[coarse.mean_flops <= mean_flops].max()
        assert reached >= accuracy - coarse.accuracy_gap - 1e-12
    for accuracy, mean_flops, thresholds in rows_of(coarse):
        one = evaluate(*data, thresholds)
        assert (one.accuracy, one.mean_flops) == (accuracy, mean_flops)


def test_a_coarse_front_is_not_called_exact_and_its_bound_is_of_use() -> None:
    data = realistic(2000, 3)
    coarse = threshold_front(*data, max_steps=20_000)
    assert not coarse.exact
    assert 0 < coarse.accuracy_gap < 0.01
    assert len(coarse) < len(threshold_front(*data))


def test_five_stages_of_few_images_are_exact() -> None:
    data = realistic(9, 5, levels=4)
    front = threshold_front(*data)
    assert front.exact
    assert rows_of(front) == brute_force(*data)


def test_inputs_are_not_changed_and_results_are_read_only() -> None:
    data = realistic(50, 3)
    for array in data:
        array.flags.writeable = False
    front = threshold_front(*data)
    for array in (front.thresholds, front.accuracy, front.mean_flops):
        assert not array.flags.writeable
    non_dominated(front.accuracy, front.mean_flops)
    hypervolume(front.accuracy, front.mean_flops, (0.0, 100.0))
    spread(front.accuracy, front.mean_flops, 3)


@pytest.mark.parametrize(
    ("confidence", "correct", "flops", "message"),
    [
        ([[0.5]], [True], [1.0], r"correct must have shape \(K, N\)"),
        ([[]], [[], []], [1.0, 2.0], r"correct must have shape .* got \(2, 0\)"),
        ([[0.5]], [[2], [1]], [1.0, 2.0], "correct must be boolean"),
        ([[0.5]], [[True], [True]], [1.0], r"flops must have shape \(2,\)"),
        ([[0.5]], [[True], [True]], [1.0, -2.0], "flops must be finite and not negative"),
        ([[0.5]], [[True], [True]], [1.0, np.inf], "flops must be finite and not negative"),
        ([[0.5, 0.5]], [[True], [True]], [1.0, 2.0], r"confidence must have shape \(1, 1\)"),
        ([[1.5]], [[True], [True]], [1.0, 2.0], r"confidence must lie in \[0, 1\]"),
        ([[np.nan]], [[True], [True]], [1.0, 2.0], "confidence .* hold no NaN"),
    ],
)
def test_threshold_front_refuses(
    confidence: object, correct: object, flops: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        threshold_front(confidence, correct, flops)  # type: ignore[arg-type]


def test_threshold_front_refuses_no_steps() -> None:
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        threshold_front([[0.5]], [[True], [True]], [1.0, 2.0], max_steps=0)


Points = tuple[NDArray[np.float64], NDArray[np.float64]]


@st.composite
def points(draw: st.DrawFn, least: int = 0) -> Points:
    """Points on a small lattice, so that many tie in one or both coordinates."""
    pairs = draw(
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=least, max_size=14)
    )
    both = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return both[:, 0] / 4, both[:, 1]


def as_losses(accuracy: NDArray[np.float64], flops: NDArray[np.float64]) -> Any:
    return np.column_stack([-accuracy, flops])


@settings(deadline=None)
@given(points(least=1))
def test_non_dominated_equals_moocore(data: Points) -> None:
    accuracy, flops = data
    expected = moocore.is_nondominated(as_losses(accuracy, flops), keep_weakly=False)
    assert non_dominated(accuracy, flops).tolist() == expected.tolist()


@settings(deadline=None)
@given(points())
def test_non_dominated_keeps_the_first_of_equal_points_and_equals_the_definition(
    data: Points,
) -> None:
    pairs = list(zip(data[0].tolist(), data[1].tolist(), strict=True))

    def beaten(i: int) -> bool:
        a, f = pairs[i]
        return any(
            (b >= a and g <= f and (b, g) != (a, f)) or ((b, g) == (a, f) and j < i)
            for j, (b, g) in enumerate(pairs)
        )

    assert non_dominated(*data).tolist() == [not beaten(i) for i in range(len(pairs))]


@settings(deadline=None)
@given(points())
def test_non_dominated_is_idempotent(data: Points) -> None:
    keep = non_dominated(*data)
    assert non_dominated(data[0][keep], data[1][keep]).all()


@settings(deadline=None)
@given(points(least=1), st.integers(0, 5), st.integers(0, 6))
def test_hypervolume_equals_moocore(data: Points, accuracy0: int, flops0: int) -> None:
    expected = moocore.hypervolume(as_losses(*data), ref=[-accuracy0 / 4, flops0])
    assert hypervolume(*data, (accuracy0 / 4, flops0)) == pytest.approx(expected, abs=1e-12)


def test_hypervolume_of_a_real_front_equals_moocore() -> None:
    front = threshold_front(*realistic(500, 3))
    expected = moocore.hypervolume(as_losses(front.accuracy, front.mean_flops), ref=[0.0, 21.0])
    found = hypervolume(front.accuracy, front.mean_flops, (0.0, 21.0))
    assert found == pytest.approx(expected, rel=1e-12)


@settings(deadline=None)
@given(points(), st.integers(0, 5), st.integers(0, 5))
def test_a_point_never_lowers_hypervolume_and_a_dominated_one_changes_nothing(
    data: Points, right: int, cost: int
) -> None:
    accuracy, flops = data
    reference = (0.25, 4.0)
    before = hypervolume(accuracy, flops, reference)
    more = np.append(accuracy, right / 4), np.append(flops, float(cost))
    after = hypervolume(*more, reference)
    assert after >= before
    if not non_dominated(*more)[-1]:
        assert after == before
        assert non_dominated(*more)[:-1].tolist() == non_dominated(accuracy, flops).tolist()


def test_hypervolume_of_nothing_better_than_the_reference_is_zero() -> None:
    assert hypervolume([], [], (0.0, 1.0)) == 0.0
    assert hypervolume([0.5, 0.9], [1.0, 2.0], (0.5, 2.0)) == 0.0


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 45))
def test_spread_picks_n_distinct_members_with_both_ends(seed: int, size: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    accuracy = np.cumsum(rng.exponential(size=size) ** 3 + 1e-6)
    flops = np.cumsum(rng.exponential(size=size) ** 3 + 1e-6)
    picked = spread(accuracy, flops, n)
    assert len(picked) == min(n, size)
    assert (np.diff(picked) > 0).all()
    assert (picked[0], picked[-1]) == (0, size - 1)


def test_spread_is_even_on_an_even_curve_of_log_flops() -> None:
    accuracy, flops = np.linspace(0.5, 0.9, 41), 10.0 ** np.linspace(6, 9, 41)
    assert spread(accuracy, flops, 5).tolist() == [0, 10, 20, 30, 40]


def test_spread_takes_a_point_without_cost() -> None:
    assert spread([0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 2.0, 4.0], 2).tolist() == [0, 3]
    assert spread([0.1, 0.2, 0.3], [0.0, 1.0, 1.1], 2).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("accuracy", "flops", "message"),
    [
        ([[0.1]], [1.0], r"accuracy must have shape \(P,\), got \(1, 1\)"),
        ([0.1], [1.0, 2.0], r"mean_flops must have shape \(1,\) like accuracy, got \(2,\)"),
        ([np.nan], [1.0], "accuracy must be finite, got nan"),
        ([0.1], [np.inf], "mean_flops must be finite, got inf"),
    ],
)
def test_points_are_checked(accuracy: Any, flops: Any, message: str) -> None:
    for function in (
        non_dominated,
        lambda a, f: hypervolume(a, f, (0.0, 1.0)),
        lambda a, f: spread(a, f, 2),
    ):
        with pytest.raises(ValueError, match=message):
            function(accuracy, flops)


@pytest.mark.parametrize("reference", [(0.0,), (0.0, np.nan), (0.0, 1.0, 2.0)])
def test_hypervolume_refuses_a_reference_that_is_not_two_numbers(reference: Any) -> None:
    with pytest.raises(ValueError, match="reference must be two finite numbers"):
        hypervolume([0.5], [1.0], reference)


def test_spread_refuses_fewer_than_two_and_what_is_no_front() -> None:
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        spread([0.1, 0.2], [1.0, 2.0], 1)
    for accuracy, flops in (
        ([0.2, 0.1], [1.0, 2.0]),
        ([0.1, 0.2], [2.0, 2.0]),
        ([0.1, 0.2], [-1.0, 2.0]),
    ):
        with pytest.raises(ValueError, match="must be a front"):
            spread(accuracy, flops, 2)


@pytest.mark.parametrize("n_stages", [70, 127])
def test_rows_of_very_many_stages_hold_their_own_numbers(n_stages: int) -> None:
    rng = np.random.default_rng(n_stages)
    confidence = rng.random((n_stages, 40)).round(2)
    correct = rng.random((n_stages, 40)) < np.linspace(0.3, 0.9, n_stages)[:, None]
    flops = np.arange(1.0, n_stages + 1)
    front = threshold_front(confidence, correct, flops, max_steps=200_000)
    for thresholds, accuracy, mean_flops in zip(
        front.thresholds, front.accuracy, front.mean_flops, strict=True
    ):
        found = evaluate(confidence, correct, flops, thresholds)
        assert (found.accuracy, found.mean_flops) == (accuracy, mean_flops)


def test_more_than_127_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 127 stages, got 128"):
        threshold_front(np.full((128, 2), 0.5), np.ones((128, 2), dtype=bool), np.ones(128))
