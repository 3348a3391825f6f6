import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcopt.core.statistics.attainment import attainment

FRONT = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=6)
FRONTS = st.lists(FRONT, min_size=1, max_size=6)


def arrays(points: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    accuracy, flops = np.array(points, dtype=float).T
    accuracy.setflags(write=False)
    flops.setflags(write=False)
    return accuracy, flops


@given(FRONTS, st.sampled_from([0.25, 0.5, 0.75, 1.0]))
@settings(max_examples=200, deadline=None)
def test_surface_equals_moocores(fronts: list[list[tuple[int, int]]], level: float) -> None:
    [surface] = attainment([arrays(front) for front in fronts], [level])
    points = np.array([(flops, -accuracy) for front in fronts for accuracy, flops in front])
    sets = np.concatenate([[i] * len(front) for i, front in enumerate(fronts)])
    twin = moocore.eaf(points.astype(float), sets, percentiles=[100 * level])
    expected = {(float(flops), -float(loss)) for flops, loss, _ in twin}
    assert (
        set(zip(surface.mean_flops.tolist(), surface.accuracy.tolist(), strict=True)) == expected
    )


@given(FRONTS, st.floats(0.01, 1.0))
@settings(max_examples=100, deadline=None)
def test_surface_is_the_accuracy_that_enough_fronts_reach_at_each_cost(
    fronts: list[list[tuple[int, int]]], level: float
) -> None:
    [surface] = attainment([arrays(front) for front in fronts], [level])
    for budget in range(7):
        reached = sorted(
            (max((a for a, f in front if f <= budget), default=-1) for front in fronts),
            reverse=True,
        )
        needed = next(k for k in range(1, len(fronts) + 1) if k >= level * len(fronts) - 1e-9)
        within = surface.accuracy[surface.mean_flops <= budget]
        assert within.max(initial=-1) == reached[needed - 1]
    assert (np.diff(surface.accuracy) > 0).all()
    assert (np.diff(surface.mean_flops) > 0).all()


def test_levels_are_nested_and_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    fronts = [(np.sort(rng.random(5)), np.sort(rng.random(5))) for _ in range(8)]
    lucky, median, sure = attainment(fronts)
    assert (lucky.level, median.level, sure.level) == (0.25, 0.5, 0.75)
    for budget in np.linspace(0.5, 1, 20):
        best = [s.accuracy[s.mean_flops <= budget].max(initial=0) for s in (lucky, median, sure)]
        assert best[0] >= best[1] >= best[2]


def test_one_front_is_its_own_surface_without_dominated_points() -> None:
    [surface] = attainment([([0.5, 0.4, 0.9], [1.0, 2.0, 3.0])], [0.5])
    assert surface.accuracy.tolist() == [0.5, 0.9]
    assert surface.mean_flops.tolist() == [1.0, 3.0]


@pytest.mark.parametrize("level", [0.0, 1.1, float("nan")])
def test_level_is_checked(level: float) -> None:
    with pytest.raises(ValueError, match=r"levels must lie in \(0, 1\]"):
        attainment([([0.5], [1.0])], [level])


def test_fronts_are_checked() -> None:
    with pytest.raises(ValueError, match="fronts must hold at least one front"):
        attainment([])
    with pytest.raises(ValueError, match=r"got shapes \(0,\) and \(0,\)"):
        attainment([([], [])])
    with pytest.raises(ValueError, match=r"got shapes \(2,\) and \(1,\)"):
        attainment([([0.1, 0.2], [1.0])])
    with pytest.raises(ValueError, match="fronts must be finite"):
        attainment([([np.nan], [1.0])])


def test_a_share_that_is_a_whole_number_of_fronts_is_not_rounded_up() -> None:
    # In floating point 0.07 x 100 is a little above 7.
    [surface] = attainment([([i / 100], [1.0]) for i in range(100)], [0.07])
    assert surface.accuracy.tolist() == [0.93]
