import numpy as np
import pytest
from scipy.stats import beta

from rcopt.core.statistics import drift
from rcopt.core.statistics.drift import DriftMonitor, count_confidences


def clean(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.beta(6, 1.2, n)


def test_alarms_are_false_as_seldom_as_promised() -> None:
    # Promised 5 %: of 100 streams more than 12 would come with a chance of 0.1 %.
    alarms = 0
    for run in range(100):
        rng = np.random.default_rng(run)
        monitor = DriftMonitor(count_confidences(clean(rng, 100)), false_alarms=0.05, seed=run)
        monitor.see(clean(rng, 1500))
        alarms += monitor.alarm is not None
    assert alarms <= 12


@pytest.mark.parametrize("before", [0, 3000])
@pytest.mark.parametrize("worse", [(3, 1.5), (20, 1)])
def test_a_change_is_found_whenever_it_comes(before: int, worse: tuple[float, float]) -> None:
    for run in range(5):
        rng = np.random.default_rng(run)
        monitor = DriftMonitor(count_confidences(clean(rng, 300)), seed=run)
        monitor.see(clean(rng, before))
        assert monitor.alarm is None
        monitor.see(rng.beta(*worse, 500))
        assert monitor.alarm is not None
        assert before < monitor.alarm <= before + 500


def test_capital_is_the_mean_over_bets_begun_at_every_time() -> None:
    """A slow twin: each bet and each beginning by itself."""
    rng = np.random.default_rng(3)
    reference = count_confidences(clean(rng, 20))
    stream = rng.beta(2, 1, 12)
    monitor = DriftMonitor(reference, seed=4)
    monitor.see(stream)
    counts = dict(reference)
    ranks = []
    ties = np.random.default_rng(4)
    for value in stream:
        (place,) = count_confidences([value])
        counts[place] = counts.get(place, 0) + 1
        above = sum(count for other, count in counts.items() if other > place)
        ranks.append((above + ties.random() * counts[place]) / sum(counts.values()))

    def aside(n: int) -> float:
        return float(1 / (1 + np.log2(n + 1)))

    capital = aside(len(ranks))
    for a, b in drift.BETS.tolist():
        for start in range(len(ranks)):
            won = np.prod(beta.pdf(ranks[start:], a, b))
            capital += (aside(start) - aside(start + 1)) * won / len(drift.BETS)
    assert monitor.evidence == pytest.approx(capital)


def test_it_does_not_matter_how_the_stream_is_cut() -> None:
    rng = np.random.default_rng(5)
    reference, stream = count_confidences(clean(rng, 50)), rng.beta(1, 1, 100)
    whole, parts = DriftMonitor(reference), DriftMonitor(reference)
    whole.see(stream)
    for value in stream:
        parts.see([value])
    assert (whole.evidence, whole.alarm) == (parts.evidence, parts.alarm)


def test_equal_confidences_say_nothing() -> None:
    monitor = DriftMonitor(count_confidences(np.ones(40)))
    monitor.see(np.ones(2000))
    assert monitor.alarm is None


def test_the_first_alarm_stays() -> None:
    monitor = DriftMonitor(count_confidences(np.full(200, 0.99)))
    monitor.see(np.full(100, 0.2))
    first = monitor.alarm
    assert first is not None
    monitor.see(np.full(100, 0.2))
    assert monitor.alarm == first


@pytest.mark.parametrize("values", [[-0.1], [1.1], [float("nan")]])
def test_what_is_no_confidence_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="confidence must lie"):
        count_confidences(values)


def test_nothing_to_compare_with_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        DriftMonitor({})
    with pytest.raises(ValueError, match="false_alarms"):
        DriftMonitor({3: 1}, false_alarms=0)
