"""Confidence functions: every entry of the registry, searched with numpy and served with torch."""

from typing import get_args

import numpy as np
import pytest
import torch

from rcopt.core.answers import AnswerRule
from rcopt.core.confidences import CONFIDENCES, Confidence, confidence, tensor_confidence
from rcopt.core.wording import rule_text


@pytest.mark.parametrize("kind", get_args(Confidence))
def test_both_twins_say_the_same_and_words_are_found(kind: Confidence) -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(5, 0.3), size=1000)
    p[0], p[1] = [1.0, 0.0, 0.0, 0.0, 0.0], 0.2
    found = confidence(p, kind)
    assert found.min() >= 0
    assert found.max() <= 1
    twin = tensor_confidence(torch.from_numpy(p), kind).numpy()
    np.testing.assert_allclose(twin, found, rtol=0, atol=1e-14)
    assert found[0] == pytest.approx(1.0)
    assert found[1] == min(found)
    assert CONFIDENCES[kind].text in rule_text(AnswerRule(kind))


@pytest.mark.parametrize("kind", get_args(Confidence))
def test_functions_of_confidence_differ(kind: Confidence) -> None:
    p = np.random.default_rng(1).dirichlet(np.ones(4), size=50)
    for other in set(CONFIDENCES) - {kind}:
        assert not np.allclose(confidence(p, kind), confidence(p, other))


def test_a_name_nobody_knows_is_refused_everywhere() -> None:
    p = np.array([[0.7, 0.3]])
    unknown: Confidence = "luck"  # type: ignore[assignment]
    for call in (
        lambda: confidence(p, unknown),
        lambda: tensor_confidence(torch.from_numpy(p), unknown),
        lambda: AnswerRule(unknown),
    ):
        with pytest.raises(ValueError, match=r"one of max, margin, entropy.*'luck'"):
            call()
