from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.confidences import confidence
from rcopt.core.predictions import Predictions, Split
from rcopt.core.temperature import TEMPERATURES, cross_fitted, fit_temperature, scale


def simulated(
    n: int = 300,
    classes: int = 4,
    seed: int = 0,
    sharpness: float = 1.0,
    split: Any = "validation",
) -> Predictions:
    """Labels drawn from softmax(z), stored probabilities softmax(sharpness * z)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    labels = (softmax(logits).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return stored(softmax(sharpness * logits), labels, split)


def stored(probabilities: NDArray[Any], labels: NDArray[Any], split: Split) -> Predictions:
    p = np.asarray(probabilities, dtype=np.float32)
    y = np.asarray(labels, dtype=np.int64)
    p.setflags(write=False)
    y.setflags(write=False)
    return Predictions(split, p, y, tuple(f"image{i}" for i in range(len(y))))


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def loss(predictions: Predictions, temperature: float) -> float:
    p = scale(predictions.probabilities, temperature)
    right = p[np.arange(len(p)), predictions.labels]
    return float(-np.log(np.maximum(right, 1e-300)).mean())


@given(seed=st.integers(0, 10_000), sharpness=st.floats(0.3, 3.0))
@settings(max_examples=30, deadline=None)
def test_fitted_temperature_equals_scipys_minimizer(seed: int, sharpness: float) -> None:
    predictions = simulated(seed=seed, sharpness=sharpness)
    twin = minimize_scalar(
        lambda t: loss(predictions, t),
        bounds=TEMPERATURES,
        method="bounded",
        options={"xatol": 1e-9},
    )
    temperature = fit_temperature(predictions)
    assert temperature == pytest.approx(twin.x, rel=1e-4)
    assert loss(predictions, temperature) <= twin.fun + 1e-12


def test_temperature_recovers_the_sharpness_that_was_put_in() -> None:
    assert fit_temperature(simulated(20_000, sharpness=2.0)) == pytest.approx(2.0, rel=0.05)
    assert fit_temperature(simulated(20_000, sharpness=0.5)) == pytest.approx(0.5, rel=0.05)


def test_temperature_by_hand_for_two_classes() -> None:
    # Three of four right at p = 0.9: the likeliest p is 3/4, so log(9) / T = log(3) and T = 2.
    p = np.tile([0.9, 0.1], (4, 1))
    assert fit_temperature(stored(p, np.array([0, 0, 0, 1]), "validation")) == pytest.approx(
        2.0, rel=1e-6
    )


def test_temperature_stops_at_the_bounds() -> None:
    p = np.tile([0.9, 0.1], (4, 1))
    always, never = np.zeros(4), np.ones(4)
    assert fit_temperature(stored(p, always, "validation")) == pytest.approx(TEMPERATURES[0])
    assert fit_temperature(stored(p, never, "validation")) == pytest.approx(TEMPERATURES[1])


def test_temperature_takes_probabilities_of_zero_and_one() -> None:
    p = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.4]])
    temperature = fit_temperature(stored(p, np.array([0, 1, 1, 0]), "validation"))
    assert TEMPERATURES[0] <= temperature <= TEMPERATURES[1] + 1e-9
    assert np.isfinite(scale(p, temperature)).all()


@pytest.mark.parametrize("split", ["test", "train"])
def test_temperature_is_not_fitted_on(split: Split) -> None:
    with pytest.raises(ValueError, match=f"predictions must be of split .* got '{split}'"):
        fit_temperature(simulated(split=split))


def test_temperature_needs_images() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        fit_temperature(stored(np.empty((0, 2)), np.empty(0), "validation"))


@given(seed=st.integers(0, 10_000), temperature=st.floats(*TEMPERATURES))
@settings(max_examples=50, deadline=None)
def test_scaling_keeps_the_answers_and_sums_to_one(seed: int, temperature: float) -> None:
    p = simulated(50, seed=seed).probabilities
    scaled = scale(p, temperature)
    assert np.array_equal(scaled.argmax(axis=1), p.argmax(axis=1))
    np.testing.assert_allclose(scaled.sum(axis=1), 1)
    np.testing.assert_allclose(scaled, softmax(np.log(p.astype(float)) / temperature), atol=1e-12)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_scaling_refuses_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
        scale(np.array([[0.8, 0.2]]), temperature)


def test_cross_fitting_never_sees_the_image_it_scales() -> None:
    predictions = simulated(60)
    scaled = cross_fitted(predictions)
    for i in range(0, 60, 7):
        labels = predictions.labels.copy()
        labels[i] = (labels[i] + 1) % 4
        other = cross_fitted(stored(predictions.probabilities, labels, "validation"))
        assert np.array_equal(other[i], scaled[i])
        assert not np.array_equal(other, scaled)


def test_cross_fitting_does_not_depend_on_the_order_of_images_but_on_the_seed() -> None:
    predictions = simulated(40)
    order = np.random.default_rng(1).permutation(40)
    shuffled = Predictions(
        "validation",
        predictions.probabilities[order],
        predictions.labels[order],
        tuple(predictions.images[i] for i in order),
    )
    np.testing.assert_allclose(cross_fitted(shuffled), cross_fitted(predictions)[order], rtol=1e-9)
    assert not np.allclose(cross_fitted(predictions, seed=1), cross_fitted(predictions))


def test_cross_fitting_improves_an_overconfident_stage_on_its_own_images() -> None:
    predictions = simulated(500, sharpness=3.0)
    scaled = stored(cross_fitted(predictions), predictions.labels, "validation")
    assert loss(scaled, 1.0) < loss(predictions, 1.0) - 0.1


@pytest.mark.parametrize("folds", [1, 7])
def test_cross_fitting_refuses_folds(folds: int) -> None:
    with pytest.raises(ValueError, match=rf"folds must lie in 2\.\.6 .* got {folds}"):
        cross_fitted(simulated(6), folds)


def test_plain_rule_gives_each_stages_own_answers() -> None:
    stages = [
        simulated(seed=0),
        stored(simulated(seed=1).probabilities, simulated().labels, "test"),
    ]
    stages[0] = stored(stages[0].probabilities, stages[0].labels, "test")
    answers = stage_answers(stages, AnswerRule("margin"))
    assert answers.split == "test"
    for level, stage in enumerate(stages):
        assert np.array_equal(answers.confidence[level], confidence(stage.probabilities, "margin"))
        assert np.array_equal(answers.correct[level], stage.correct)
        assert np.array_equal(answers.predicted[level], stage.probabilities.argmax(axis=1))


def test_average_by_hand() -> None:
    labels = np.array([0, 1])
    stages = [
        stored(np.array([[0.75, 0.25], [0.75, 0.25]]), labels, "test"),
        stored(np.array([[0.5, 0.5], [0.0, 1.0]]), labels, "test"),
        stored(np.array([[0.25, 0.75], [0.0, 1.0]]), labels, "test"),
    ]
    answers = stage_answers(stages, AnswerRule(average=True))
    assert answers.confidence.tolist() == [[0.75, 0.75], [0.625, 0.625], [0.5, 0.75]]
    assert answers.predicted.tolist() == [[0, 0], [0, 1], [0, 1]]
    assert answers.correct.tolist() == [[True, False], [True, True], [True, True]]


def test_temperature_rule_cross_fits_on_validation_and_uses_given_ones_on_test() -> None:
    validation = simulated(sharpness=2.0)
    fitted = fit_temperature(validation)
    rule = AnswerRule(temperature=True)
    on_validation = stage_answers([validation], rule)
    assert np.array_equal(on_validation.confidence[0], confidence(cross_fitted(validation), "max"))
    test = simulated(sharpness=2.0, seed=1, split="test")
    on_test = stage_answers([test], rule, [fitted])
    assert np.array_equal(
        on_test.confidence[0], confidence(scale(test.probabilities, fitted), "max")
    )


def test_averaging_takes_the_scaled_probabilities() -> None:
    first, second = simulated(seed=0), simulated(seed=1)
    second = stored(second.probabilities, first.labels, "validation")
    answers = stage_answers(
        [first, second], AnswerRule(temperature=True, average=True), [2.0, 0.5]
    )
    mean = (scale(first.probabilities, 2.0) + scale(second.probabilities, 0.5)) / 2
    np.testing.assert_allclose(answers.confidence[1], mean.max(axis=1))


@pytest.mark.parametrize("split", ["test", "calibration", "train"])
def test_temperatures_must_be_given_off_validation(split: Split) -> None:
    with pytest.raises(ValueError, match=f"temperatures are needed on split '{split}'"):
        stage_answers([simulated(split=split)], AnswerRule(temperature=True))


def test_number_of_temperatures_is_checked() -> None:
    with pytest.raises(
        ValueError, match="temperatures must have length 1 like predictions, got 2"
    ):
        stage_answers([simulated()], AnswerRule(temperature=True), [1.0, 1.0])


def test_stages_of_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="not of the same images"):
        stage_answers([simulated(seed=0), simulated(seed=1)], AnswerRule())


def test_no_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="predictions must hold at least one stage"):
        stage_answers([], AnswerRule())
