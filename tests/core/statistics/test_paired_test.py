import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaincinv
from scipy.stats import multinomial

from rcopt.core.statistics.paired_test import BETA, counts, drop_p_value, smallest_drop


def statistic(lost: np.ndarray, gained: np.ndarray, n: int, drop: float) -> np.ndarray:
    """Tango's score, its restricted estimate found by looking at a fine grid."""
    rates = np.linspace(1e-9, (1 - drop) / 2 - 1e-9, 20_001)
    score = np.empty(lost.shape)
    for place, (b, c) in enumerate(zip(lost, gained, strict=True)):
        likelihood = (
            b * np.log(rates + drop)
            + c * np.log(rates)
            + (n - b - c) * np.log1p(-2 * rates - drop)
        )
        rate = rates[likelihood.argmax()]
        score[place] = (b - c - n * drop) / np.sqrt(n * (2 * rate + drop - drop**2))
    return score


def slow_p_value(lost: int, gained: int, n: int, drop: float) -> float:
    """The definition: every outcome, every nuisance rate of the confidence set."""
    outcomes = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b)])
    score = statistic(outcomes[:, 0], outcomes[:, 1], n, drop)
    mine = score[(outcomes == (lost, gained)).all(axis=1)][0]
    favourable = outcomes[score <= mine + 1e-3 * max(1, abs(mine))]
    tail = BETA / 2
    low = 0.0 if gained == 0 else float(betaincinv(gained, n - gained + 1, tail))
    high = 1.0 if gained == n else float(betaincinv(gained + 1, n - gained, 1 - tail))
    high = min(high, (1 - drop) / 2)
    if low > high:
        return BETA
    chances = [
        multinomial.pmf(
            np.column_stack([favourable, n - favourable.sum(axis=1)]),
            n,
            [q + drop, q, max(0.0, 1 - 2 * q - drop)],
        ).sum()
        for q in np.linspace(low, high, 300)
    ]
    return min(1.0, float(max(chances)) + BETA)


@pytest.mark.parametrize("drop", [0.02, 0.1, 0.3])
@pytest.mark.parametrize(
    ("lost", "gained", "n"),
    [(0, 0, 12), (1, 0, 12), (0, 3, 12), (2, 1, 15), (5, 4, 14), (0, 9, 9)],
)
def test_it_equals_its_definition(lost: int, gained: int, n: int, drop: float) -> None:
    assert drop_p_value(lost, gained, n, drop) == pytest.approx(
        slow_p_value(lost, gained, n, drop), abs=2e-3
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(5, 400), st.floats(0.005, 0.4), st.data())
def test_losing_more_or_gaining_less_never_helps(n: int, drop: float, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, n - 1))
    gained = data.draw(st.integers(0, n - 1 - lost))
    p = drop_p_value(lost, gained, n, drop)
    assert 0 < p <= 1
    assert drop_p_value(lost + 1, gained, n, drop) >= p - 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("n", "drop", "rate"), [(100, 0.02, 0.01), (300, 0.01, 0.02)])
def test_a_false_certificate_is_as_rare_as_promised(n: int, drop: float, rate: float) -> None:
    # The fall is exactly the drop, the hardest case that must not be certified.
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(n, [rate + drop, rate, 1 - 2 * rate - drop], size=4000)
    pairs, times = np.unique(drawn[:, :2], axis=0, return_counts=True)
    p_values = np.array([drop_p_value(int(b), int(c), n, drop) for b, c in pairs])
    for error in (0.05, 0.1, 0.2):
        share = times[p_values <= error].sum() / 4000
        assert share <= error + 3 * np.sqrt(error * (1 - error) / 4000)


def test_the_smallest_drop_is_the_edge_of_what_is_ruled_out() -> None:
    edge = smallest_drop(4, 6, 500, 0.9)
    assert drop_p_value(4, 6, 500, edge) <= 0.1
    assert drop_p_value(4, 6, 500, edge - 0.0005) > 0.1
    assert smallest_drop(20, 0, 20, 0.9) == 1.0


def test_counts_of_pairs() -> None:
    assert counts([True, True, False, False], [True, False, True, False]) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((-1, 0, 10, 0.1), "lost and gained"),
        ((6, 5, 10, 0.1), "lost and gained"),
        ((0, 0, 0, 0.1), "lost and gained"),
        ((0, 0, 10, 0.0), "drop must lie between 0 and 1"),
        ((0, 0, 10, 1.0), "drop must lie between 0 and 1"),
    ],
)
def test_what_is_refused(arguments: tuple[int, int, int, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        drop_p_value(*arguments)
