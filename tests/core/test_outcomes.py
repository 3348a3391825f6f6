from dataclasses import asdict, replace

import numpy as np
import pytest

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.cascade import Cascade
from rcopt.core.evaluating import evaluate
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.temperature import fit_temperature, scale
from tests.support.simulated import STAGES, simulated_stages

CASCADES = [
    Cascade(STAGES, (0.8, 0.9)),
    Cascade(STAGES[1:], (0.7,)),
    Cascade((STAGES[2],), ()),
    Cascade(STAGES, (0.0, 0.0)),
]


def test_outcome_equals_evaluating_by_hand() -> None:
    stages = simulated_stages({"test": 200}, decimals=1)
    for cascade, outcome in zip(
        CASCADES, cascade_outcomes(CASCADES, stages[::-1], "test"), strict=True
    ):
        used = [t.predictions["test"] for t in stages if t.stage in cascade.stages]
        answers = stage_answers(used, AnswerRule())
        flops = [stage.flops for stage in cascade.stages]
        expected = evaluate(answers.confidence, answers.correct, flops, cascade.thresholds)
        np.testing.assert_equal(asdict(outcome.evaluation), asdict(expected))
        assert outcome.correct.mean() == outcome.evaluation.accuracy
        for i in range(200):
            for level in range(len(used)):
                last = level == len(used) - 1
                if last or answers.confidence[level, i] >= cascade.thresholds[level]:
                    assert outcome.correct[i] == answers.correct[level, i]
                    break


def test_temperatures_come_from_validation() -> None:
    stages = simulated_stages({"validation": 300, "test": 100})
    rule = AnswerRule(temperature=True)
    [outcome] = cascade_outcomes([Cascade(STAGES[:2], (0.8,))], stages, "test", rule)
    scaled = [
        scale(t.predictions["test"].probabilities, fit_temperature(t.predictions["validation"]))
        for t in stages[:2]
    ]
    leaves = scaled[0].max(axis=1) >= 0.8
    assert outcome.evaluation.exit_rates[0] == leaves.mean()
    [on_validation] = cascade_outcomes([Cascade(STAGES[:2], (0.8,))], stages, "validation", rule)
    answers = stage_answers([t.predictions["validation"] for t in stages[:2]], rule)
    assert on_validation.evaluation.exit_rates[0] == np.mean(answers.confidence[0] >= 0.8)


def test_stages_are_checked() -> None:
    stages = simulated_stages({"validation": 10})
    cascade = Cascade(STAGES[:2], (0.8,))
    with pytest.raises(ValueError, match="stages lack resnet34@96"):
        cascade_outcomes([cascade], stages[:1], "validation")
    with pytest.raises(ValueError, match="stages hold resnet18@32 twice"):
        cascade_outcomes([cascade], [*stages, stages[0]], "validation")
    with pytest.raises(ValueError, match="lack predictions of resnet18@32 on split 'test'"):
        cascade_outcomes([cascade], stages, "test")
    wrong = [replace(t, predictions={"test": t.predictions["validation"]}) for t in stages]
    with pytest.raises(ValueError, match="as 'test' that are of split 'validation'"):
        cascade_outcomes([cascade], wrong, "test")


def test_stages_that_no_cascade_names_are_not_looked_at() -> None:
    stages = simulated_stages({"validation": 10})
    without = replace(stages[2], predictions={})
    [outcome] = cascade_outcomes(
        [Cascade(STAGES[:2], (0.8,))], [*stages[:2], without], "validation"
    )
    assert outcome.evaluation.n_images == 10
