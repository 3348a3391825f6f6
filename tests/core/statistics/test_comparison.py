import numpy as np
import pytest

from rcopt.core.cascade import Cascade
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.statistics.comparison import compare, saving_interval
from tests.support.simulated import STAGES, simulated_stages

TOP = STAGES[2]
CASCADE = Cascade(STAGES, (0.8, 0.8))


def test_estimates_are_those_of_the_images() -> None:
    stages = simulated_stages({"test": 500})
    found = compare(CASCADE, TOP, stages, "test")
    own, alone = cascade_outcomes([CASCADE, Cascade((TOP,), ())], stages, "test")
    assert found.n_images == 500
    assert found.saving.estimate == pytest.approx(TOP.flops / own.evaluation.mean_flops)
    assert found.accuracy.estimate == own.evaluation.accuracy
    assert found.change.estimate == pytest.approx(own.correct.mean() - alone.correct.mean())
    for interval in (found.saving, found.change, found.accuracy):
        assert interval.low < interval.estimate < interval.high


def test_the_interval_of_a_saving_equals_a_plain_bootstrap() -> None:
    exits, costs = np.array([60, 30, 10]), np.array([1.0, 4.0, 20.0])
    per_image = np.repeat(np.cumsum(costs), exits)
    rng = np.random.default_rng(1)
    drawn = [20.0 / rng.choice(per_image, 100).mean() for _ in range(10_000)]
    found = saving_interval(exits, costs, 20.0)
    assert (found.low, found.high) == pytest.approx(
        tuple(np.quantile(drawn, [0.025, 0.975])), rel=0.02
    )


def test_a_cascade_of_the_reference_alone_saves_nothing_for_sure() -> None:
    found = saving_interval(np.array([50]), np.array([3.0]), 3.0)
    assert (found.low, found.estimate, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_images_give_intervals_that_hold_the_estimate(n: int) -> None:
    for seed in range(10):
        found = compare(CASCADE, TOP, simulated_stages({"test": n}, seed=seed), "test")
        for interval in (found.saving, found.accuracy):
            assert interval.low <= interval.estimate <= interval.high
        assert -1 <= found.change.low <= found.change.high <= 1


def test_the_reference_differs_from_itself_by_nothing_for_sure() -> None:
    found = compare(Cascade((TOP,), ()), TOP, simulated_stages({"test": 50}), "test")
    assert (found.change.low, found.change.estimate, found.change.high) == (0.0, 0.0, 0.0)
    assert (found.saving.low, found.saving.estimate, found.saving.high) == (1.0, 1.0, 1.0)
    assert found.accuracy.low < found.accuracy.estimate


def test_a_cascade_without_cost_is_refused() -> None:
    with pytest.raises(ValueError, match="positive cost"):
        saving_interval(np.array([5]), np.array([0.0]), 3.0)


@pytest.mark.slow
def test_the_intervals_cover_the_cascades_true_numbers() -> None:
    world = simulated_stages({"test": 100_000}, seed=5)
    truth = compare(CASCADE, TOP, world, "test")
    covered = np.zeros(3)
    draws = 400
    for seed in range(draws):
        found = compare(CASCADE, TOP, simulated_stages({"test": 400}, seed=1000 + seed), "test")
        for place, name in enumerate(("saving", "change", "accuracy")):
            interval, true = getattr(found, name), getattr(truth, name).estimate
            covered[place] += interval.low <= true <= interval.high
    # Three standard errors of 400 draws; the exact interval of the accuracy covers more.
    assert (covered / draws >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / draws)).all()
    assert (covered[:2] / draws <= 0.95 + 3 * np.sqrt(0.95 * 0.05 / draws)).all()
