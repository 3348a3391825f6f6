import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Source, Stage
from rcopt.core.hypervolumes import Frame, hypervolume_share
from rcopt.report.analysis.search_history import search_history

SMALL, LARGE = Stage(32, "resnet18", 1.0), Stage(64, "resnet18", 4.0)
SECONDS = {SMALL: 10.0, LARGE: 30.0}
FRAME = Frame(0.0, math.exp(10.0), 1.0)


def _point(
    trial: int, accuracy: float, flops: float, source: Source = "sampled", stage: Stage = SMALL
) -> OperatingPoint:
    # In log FLOPs from 0 to 10.
    numbers = Evaluation(accuracy, math.exp(flops), (1.0,), (1.0,), (), 10)
    return OperatingPoint(Cascade((stage,), ()), numbers, source=source, trial=trial)


def test_hypervolume_grows_with_the_trials_in_order_of_their_numbers() -> None:
    trials = [_point(3, 0.5, 2.0), _point(1, 0.5, 5.0), _point(2, 0.4, 6.0)]
    history = search_history(trials, SECONDS, FRAME, 0.8)
    assert history.trials.tolist() == [1, 2, 3]
    assert history.sampled.tolist() == pytest.approx([0.25, 0.25, 0.4])
    assert history.share == pytest.approx(0.5)


def test_what_the_exact_sweep_added_is_kept_apart() -> None:
    trials = [_point(0, 0.5, 5.0), _point(1, 0.9, 1.0, "exact"), _point(2, 0.6, 5.0)]
    history = search_history(trials, SECONDS, FRAME, 0.81)
    assert history.sampled.tolist() == pytest.approx([0.25, 0.25, 0.3])
    assert history.everything.tolist() == pytest.approx([0.25, 0.81, 0.81])


def test_a_stage_counts_from_the_first_trial_that_uses_it() -> None:
    trials = [_point(0, 0.5, 5.0), _point(1, 0.5, 5.0, stage=LARGE), _point(2, 0.5, 5.0)]
    history = search_history(trials, SECONDS, FRAME, 1.0)
    assert history.stages_trained.tolist() == [1, 2, 2]
    assert history.seconds.tolist() == [10.0, 40.0, 40.0]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12), st.booleans()), min_size=1))
@settings(max_examples=50, deadline=None)
def test_the_running_volume_is_that_of_all_points_so_far(
    rows: list[tuple[int, int, bool]],
) -> None:
    trials = [
        _point(i, a / 6, float(f), "exact" if exact else "sampled")
        for i, (a, f, exact) in enumerate(rows)
    ]
    history = search_history(trials, SECONDS, FRAME, 1.0)
    for end in range(1, len(trials) + 1):
        for kept, volumes in (
            ([p for p in trials[:end] if p.source == "sampled"], history.sampled),
            (trials[:end], history.everything),
        ):
            slow = hypervolume_share(
                [p.validation.accuracy for p in kept],
                [p.validation.mean_flops for p in kept],
                FRAME,
            )
            assert volumes[end - 1] == pytest.approx(slow)


def test_a_maximum_of_zero_gives_no_share() -> None:
    assert search_history([_point(0, 0.5, 20.0)], SECONDS, FRAME, 0.0).share == 0.0


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ([], "at least one operating point"),
        ([_point(1, 0.5, 1.0), _point(1, 0.6, 1.0)], "a trial number of their own"),
        ([replace(_point(1, 0.5, 1.0), trial=None)], "a trial number of their own"),
        ([_point(1, 0.5, 1.0, stage=Stage(96, "resnet34", 9.0))], "seconds hold none of stage"),
    ],
)
def test_wrong_trials_are_refused(trials: list[OperatingPoint], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_history(trials, SECONDS, FRAME, 1.0)


def test_volumes_never_fall() -> None:
    rng = np.random.default_rng(0)
    trials = [_point(i, a, 10 * f) for i, (a, f) in enumerate(rng.random((60, 2)))]
    history = search_history(trials, SECONDS, FRAME, 1.0)
    assert (np.diff(history.sampled) >= 0).all()
