"""The weighted log-average: its fit against an independent optimizer, and its laws."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.log_average import MAX_WEIGHT, cross_fitted_average, fit_weights, log_average
from rcopt.core.predictions import Predictions, Split
from rcopt.core.temperature import cross_fitted, fit_temperature, scale


def stages(
    seed: int = 0, n: int = 300, k: int = 3, classes: int = 4, split: Split = "validation"
) -> list[Predictions]:
    """Return stages of rising skill whose mistakes agree in part, each too sure of itself."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    shared = rng.normal(0, 1, (n, classes))
    found = []
    for stage in range(k):
        logits = shared + rng.normal(0, 1, (n, classes))
        logits[np.arange(n), labels] += 1.5 + 0.5 * stage
        p = np.exp(2 * logits)
        p /= p.sum(axis=1, keepdims=True)
        names = tuple(f"{split}/{i}" for i in range(n))
        found.append(Predictions(split, p.astype(np.float32), labels, names))
    return found


def loss(predictions: Sequence[Predictions], weights: Sequence[float]) -> float:
    p = log_average([own.probabilities for own in predictions], weights)
    return float(-np.log(p[np.arange(len(p)), predictions[0].labels]).mean())


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), k=st.integers(2, 4))
def test_no_other_weights_make_the_labels_more_likely(seed: int, k: int) -> None:
    own = stages(seed, n=60, k=k)
    weights = fit_weights(own)
    assert min(weights) >= 0
    assert max(weights) <= MAX_WEIGHT
    other = minimize(
        lambda w: loss(own, np.maximum(w, 0.0).tolist()),
        np.full(k, 0.3),
        method="L-BFGS-B",
        bounds=[(0.0, MAX_WEIGHT)] * k,
    )
    assert loss(own, weights) <= other.fun + 1e-9


def test_one_stage_alone_is_scaled_by_its_temperature() -> None:
    [own] = stages(k=1)
    assert fit_weights([own]) == (1 / fit_temperature(own),)
    expected = scale(own.probabilities, fit_temperature(own))
    np.testing.assert_allclose(log_average([own.probabilities], fit_weights([own])), expected)
    np.testing.assert_allclose(cross_fitted_average([own]), cross_fitted(own))


def test_a_stage_that_knows_nothing_and_one_that_says_it_twice_change_nothing() -> None:
    own = stages(k=1)
    n, classes = own[0].probabilities.shape
    flat = Predictions(
        "validation",
        np.full((n, classes), 1 / classes, dtype=np.float32),
        own[0].labels,
        own[0].images,
    )
    alone = loss(own, fit_weights(own))
    for pair in ([flat, own[0]], [own[0], own[0]]):
        assert loss(pair, fit_weights(pair)) == pytest.approx(alone, abs=1e-9)


def test_each_image_is_answered_by_weights_fitted_without_it() -> None:
    own = stages(n=100)
    before = cross_fitted_average(own)
    labels = own[0].labels.copy()
    labels[7] = (labels[7] + 1) % 4
    changed = [Predictions(p.split, p.probabilities, labels, p.images) for p in own]
    after = cross_fitted_average(changed)
    assert np.array_equal(before[7], after[7])
    assert not np.array_equal(before, after)


def test_the_order_of_images_does_not_matter() -> None:
    own = stages(n=100)
    order = np.random.default_rng(0).permutation(100)
    shuffled = [
        Predictions(
            p.split, p.probabilities[order], p.labels[order], tuple(p.images[i] for i in order)
        )
        for p in own
    ]
    np.testing.assert_allclose(
        cross_fitted_average(shuffled), cross_fitted_average(own)[order], atol=1e-9
    )


def test_a_rule_answers_each_stage_with_those_before_it() -> None:
    own = stages(split="test")
    fitted_on = stages(seed=1)
    weights = [fit_weights(fitted_on[: k + 1]) for k in range(3)]
    answers = stage_answers(own, AnswerRule(weighted=True), weights=weights)
    given = [p.probabilities for p in own]
    for k in range(3):
        p = log_average(given[: k + 1], weights[k])
        assert np.array_equal(answers.predicted[k], p.argmax(axis=1))
        assert np.array_equal(answers.confidence[k], p.max(axis=1))
    assert answers.correct[2].mean() > own[2].accuracy


def test_what_cannot_be_fitted_or_applied_is_refused() -> None:
    with pytest.raises(ValueError, match="'validation' or 'calibration' to fit weights"):
        fit_weights(stages(split="test"))
    with pytest.raises(ValueError, match="weights are needed on split 'test'"):
        stage_answers(stages(split="test"), AnswerRule(weighted=True))
    with pytest.raises(ValueError, match="weights must have length 3"):
        stage_answers(stages(), AnswerRule(weighted=True), weights=[[1.0]])
    for wrong in ([1.0], [1.0, -0.1], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="2 finite numbers, none negative"):
            log_average([own.probabilities for own in stages(k=2)], wrong)
    with pytest.raises(ValueError, match="weighted goes without"):
        AnswerRule(weighted=True, average=True)
