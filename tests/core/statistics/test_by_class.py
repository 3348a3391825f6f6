from collections.abc import Mapping

import numpy as np
import pytest

from rcopt.core.cascade import Cascade
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.predictions import Split
from rcopt.core.statistics.by_class import class_effects
from rcopt.core.statistics.comparison import compare
from tests.support.simulated import STAGES, simulated_stages

SIZES: Mapping[Split, int] = {"validation": 60, "test": 400}
CASCADE = Cascade(STAGES, (0.7, 0.6))


def test_classes_add_up_to_the_whole() -> None:
    stages = simulated_stages(SIZES, seed=3)
    found = class_effects(CASCADE, STAGES[-1], stages, "test")
    whole = compare(CASCADE, STAGES[-1], stages, "test")
    n = sum(one.n_images for one in found)
    assert n == whole.n_images
    assert sum(one.gained - one.lost for one in found) / n == pytest.approx(whole.change.estimate)
    assert sum(one.accuracy * one.n_images for one in found) / n == pytest.approx(
        whole.accuracy.estimate
    )
    exits = np.array([np.array(one.exit_rates) * one.n_images for one in found]).sum(axis=0) / n
    (own,) = cascade_outcomes([CASCADE], stages, "test")
    assert exits == pytest.approx(np.array(own.evaluation.exit_rates))


def test_each_class_is_counted_by_itself_and_the_worst_comes_first() -> None:
    stages = simulated_stages(SIZES, seed=5)
    found = class_effects(CASCADE, STAGES[-1], stages, "test")
    own, alone = cascade_outcomes([CASCADE, Cascade(STAGES[-1:], ())], stages, "test")
    labels = stages[0].predictions["test"].labels
    for one in found:
        of_class = labels == one.label
        assert one.n_images == of_class.sum()
        assert one.lost == sum(
            not right and other
            for right, other in zip(own.correct[of_class], alone.correct[of_class], strict=True)
        )
    changes = [one.change.estimate for one in found]
    assert changes == sorted(changes)


def test_intervals_widen_with_the_number_of_classes_they_hold_for() -> None:
    stages = simulated_stages(SIZES, seed=7)
    (worst, *_) = class_effects(CASCADE, STAGES[-1], stages, "test")
    n_classes = stages[0].predictions["test"].probabilities.shape[1]
    assert worst.change.level == pytest.approx(1 - 0.05 / n_classes)


def test_a_reference_harms_no_class_of_its_own() -> None:
    found = class_effects(
        Cascade(STAGES[-1:], ()), STAGES[-1], simulated_stages(SIZES, seed=9), "test"
    )
    assert not any(one.harmed or one.lost or one.gained for one in found)
