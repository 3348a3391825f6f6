from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from rcopt.core.cascade import Cascade, OperatingPoint, Stage, StageId
from rcopt.core.cost import Amount
from rcopt.core.evaluating import evaluation
from rcopt.errors import InputError
from rcopt.study.samplers import Sampler, SamplerName, thinned
from rcopt.study.space import NONE, Proposal, Space
from rcopt.study.trial_records import exact_trial, trial_point, trial_source
from rcopt.study.trials import Trials

SPACE = Space({8: ("small", "large"), 16: ("small", "large"), 32: ("small", "large")}, True)
IDENTITY: Mapping[str, Any] = {"seed": 0, "stages.resolutions": [8, 16, 32], "training.lr": 0.1}
N_IMAGES = 40
PAIR = (StageId(8, "small"), StageId(16, "large"))


def open_trials(folder: Path, identity: Mapping[str, Any] = IDENTITY) -> Trials:
    return Trials("journal", "s", folder, identity)


def measured(proposal: Proposal) -> OperatingPoint:
    """A made-up but fixed outcome, with many ties: what matters is that it repeats."""
    stages = tuple(
        Stage(r, b, float(r * r * (1 + 3 * (b == "large")))) for r, b in proposal.stages
    )
    reached = [N_IMAGES]
    for rate in proposal.deferral_rates:
        reached.append(round(rate * reached[-1]))
    exits = [a - b for a, b in zip(reached, [*reached[1:], 0], strict=True)]
    skill = [
        0.4 + 0.1 * np.log2(stage.resolution / 8) + 0.1 * (stage.backbone == "large")
        for stage in stages
    ]
    right = int(sum(count * share for count, share in zip(exits, skill, strict=True)))
    return OperatingPoint(
        Cascade(stages, tuple(0.5 + rate / 2 for rate in proposal.deferral_rates)),
        evaluation(
            right,
            np.array(exits),
            np.array(reached),
            np.array([stage.flops for stage in stages]),
            N_IMAGES,
        ),
        source="sampled",
    )


def add_sampled(trials: Trials, sampler: Sampler) -> None:
    """One trial, as the study makes it; every fourth brings a point of an exact front along."""
    sampler.learn(trials.all())
    done = sum(trial_source(t) == "sampled" for t in trials.all())
    # A stage that cannot be trained, so that some proposals are refused.
    proposal = sampler.propose(done, lambda p: StageId(32, "large") not in p.stages)
    point = measured(proposal)
    with trials.adding() as add:
        sampler.stored(add(sampler.finished(proposal, point)))
        if done % 4 == 1:
            add(
                exact_trial(
                    measured(
                        Proposal(0, (StageId(8, "small"), StageId(16, "large")), (done / 200,))
                    ),
                    SPACE,
                )
            )


def comparable(trials: Trials) -> list[tuple[object, ...]]:
    return [(t.values, t.params, t.user_attrs) for t in trials.all()]


@pytest.mark.parametrize(("name", "total"), [("tpe", 30), ("nsga2", 130), ("random", 30)])
def test_a_search_that_is_stopped_and_continued_equals_an_undisturbed_one(
    tmp_path: Path, name: SamplerName, total: int
) -> None:
    undisturbed, sampler = open_trials(tmp_path / "undisturbed"), Sampler(name, SPACE, seed=3)
    for _ in range(total):
        add_sampled(undisturbed, sampler)
    for done in range(total):
        # At 50 and 100 NSGA-II has just chosen the parents of a generation.
        if done % 7 in (0, 3) or done in (51, 101):
            stopped, sampler = open_trials(tmp_path / "stopped"), Sampler(name, SPACE, seed=3)
        add_sampled(stopped, sampler)
    assert comparable(stopped) == comparable(undisturbed)
    assert len({str(t.params) for t in undisturbed.all()}) > total // 2


def test_seeds_and_workers_have_random_streams_of_their_own() -> None:
    def first(seed: int, worker: int) -> Proposal:
        return Sampler("random", SPACE, seed=seed, worker=worker).propose(0, lambda _: True)

    assert first(0, 0) == first(0, 0)
    proposals = {str(first(seed, worker)) for seed in range(4) for worker in range(4)}
    assert len(proposals) == 16


@given(st.integers(0, 10_000))
def test_every_proposal_is_a_cascade_of_the_space(count: int) -> None:
    proposal = Sampler("random", SPACE, seed=0).propose(count, lambda _: True)
    resolutions = [resolution for resolution, _ in proposal.stages]
    assert resolutions == sorted(set(resolutions))
    assert resolutions
    assert all(backbone in SPACE.backbones[r] for r, backbone in proposal.stages)
    assert len(proposal.deferral_rates) == len(proposal.stages) - 1
    assert all(0 <= rate <= 1 for rate in proposal.deferral_rates)


def test_without_optional_every_resolution_has_its_stage() -> None:
    sampler = Sampler("tpe", Space(SPACE.backbones, optional=False), seed=0)
    for count in range(20):
        proposal = sampler.propose(count, lambda _: True)
        assert [resolution for resolution, _ in proposal.stages] == [8, 16, 32]


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_what_is_refused_is_never_proposed(name: SamplerName) -> None:
    sampler = Sampler(name, SPACE, seed=0)
    for count in range(30):
        proposal = sampler.propose(count, lambda p: p.stages == (StageId(16, "large"),))
        assert proposal.stages == (StageId(16, "large"),)
        sampler.finished(proposal, measured(proposal))


def test_a_search_that_accepts_nothing_ends() -> None:
    with pytest.raises(LookupError, match="1000 attempts"):
        Sampler("random", SPACE, seed=0).propose(0, lambda _: False)


def test_a_stored_trial_reads_back_as_the_point_that_it_was(tmp_path: Path) -> None:
    trials, sampler = open_trials(tmp_path), Sampler("random", SPACE, seed=1)
    stages = {(r, b): Stage(r, b, 1.0) for r, names in SPACE.backbones.items() for b in names}
    points = []
    for count in range(10):
        proposal = sampler.propose(count, lambda _: True)
        points.append(measured(proposal))
        with trials.adding() as add:
            sampler.stored(add(sampler.finished(proposal, points[-1])))
    for number, (trial, point) in enumerate(zip(open_trials(tmp_path).all(), points, strict=True)):
        back = trial_point(trial, stages.__getitem__)
        assert back.trial == number
        assert back.source == "sampled"
        assert back.cascade.thresholds == point.cascade.thresholds
        assert [s.name for s in back.cascade.stages] == [s.name for s in point.cascade.stages]
        np.testing.assert_equal(back.validation, point.validation)


def test_a_trial_told_by_time_reads_back_with_its_time_and_its_flops(tmp_path: Path) -> None:
    timed = Trials("journal", "s", tmp_path, IDENTITY, "latency")
    assert timed.study.metric_names == ["accuracy", "mean_milliseconds"]
    sampler = Sampler("random", SPACE, seed=1)
    points = []
    for count in range(10):
        proposal = sampler.propose(count, lambda _: True)
        plain = measured(proposal)
        stages = tuple(
            replace(s, minimized=Amount("latency", 1 / s.resolution)) for s in plain.cascade.stages
        )
        reached = zip(plain.validation.reach_rates, stages, strict=True)
        time = sum(rate * stage.cost for rate, stage in reached)
        points.append(
            OperatingPoint(
                Cascade(stages, plain.cascade.thresholds),
                replace(plain.validation, minimized=Amount("latency", time)),
                source="sampled",
            )
        )
        with timed.adding() as add:
            sampler.stored(add(sampler.finished(proposal, points[-1])))
    known = {s: s for point in points for s in point.cascade.stages}
    by_name = {(s.resolution, s.backbone): s for s in known.values()}
    for trial, point in zip(timed.all(), points, strict=True):
        back = trial_point(trial, by_name.__getitem__)
        assert trial.values[1] == point.validation.cost
        np.testing.assert_equal(back.validation, point.validation)


def test_sampled_trials_are_counted_whoever_added_them(tmp_path: Path) -> None:
    one, other = open_trials(tmp_path), open_trials(tmp_path)
    sampler = Sampler("random", SPACE, seed=0)
    assert one.count_sampled() == 0
    for done in range(1, 12):
        add_sampled(one if done % 3 else other, sampler)
        for trials in (one, other):
            assert trials.count_sampled() == done
            assert trials.count_sampled() == done
    assert open_trials(tmp_path).count_sampled() == 11
    assert len(one.all()) > 11


def test_what_a_study_shares_is_made_once(tmp_path: Path) -> None:
    assert open_trials(tmp_path).shared("times", lambda: "first") == "first"
    assert open_trials(tmp_path).shared("times", lambda: "second") == "first"


def test_exact_points_enter_as_finished_trials_of_the_same_space(tmp_path: Path) -> None:
    trials = open_trials(tmp_path)
    # Nothing reaches the second stage, so no rate can be observed there.
    point = measured(
        Proposal(0, (StageId(8, "small"), StageId(16, "large"), StageId(32, "small")), (0.0, 0.5))
    )
    assert np.isnan(point.validation.deferral_rates[1])
    with trials.adding() as add:
        add(exact_trial(point, SPACE))
    (trial,) = open_trials(tmp_path).all()
    assert trial_source(trial) == "exact"
    assert trial.params == {
        "backbone.8": "small",
        "backbone.16": "large",
        "backbone.32": "small",
        "deferral_rate.8": 0.0,
        "deferral_rate.16": 0.0,
    }
    assert trial.values == [point.validation.accuracy, point.validation.mean_flops]


def test_an_exact_point_names_the_resolutions_that_it_leaves_out() -> None:
    point = measured(Proposal(0, (StageId(16, "large"),), ()))
    assert exact_trial(point, SPACE).params == {
        "backbone.8": NONE,
        "backbone.16": "large",
        "backbone.32": NONE,
    }


def test_trials_of_others_and_failed_ones_have_no_source() -> None:
    foreign = create_trial(values=[1.0, 2.0])
    failed = create_trial(state=TrialState.FAIL, user_attrs={"source": "sampled"})
    assert trial_source(foreign) is None
    assert trial_source(failed) is None


def three_trials(folder: Path) -> Path:
    trials, sampler = open_trials(folder), Sampler("random", SPACE, seed=0)
    for count in range(3):
        proposal = sampler.propose(count, lambda _: True)
        with trials.adding() as add:
            sampler.stored(add(sampler.finished(proposal, measured(proposal))))
    return folder / "trials.journal"


def test_a_torn_last_line_costs_only_itself_wherever_it_is_torn(tmp_path: Path) -> None:
    path = three_trials(tmp_path)
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    kept = comparable(open_trials(tmp_path))[:2]
    for end in (last, last + 1, last + 40, len(whole) - 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        trials = open_trials(tmp_path)
        assert comparable(trials) == kept
        with trials.adding() as add:
            add(exact_trial(measured(Proposal(0, (StageId(8, "small"),), ())), SPACE))
        again = open_trials(tmp_path).all()
        assert [trial_source(t) for t in again] == ["sampled", "sampled", "exact"]


@pytest.mark.parametrize("at", [0, 2, -2, -1])
@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"garbage",
        b"\x00\x00\x00\x00",
        b"\xff\xfe",
        b"{}",
        b"[]",
        b"null",
        b"7",
        b'{"op_code": 4}',
        b'{"op_code": 99, "worker_id": "w"}',
        b'{"op_code": 4, "worker_id": "w", "study_id": 0, "state": 1, "values": "x"}',
    ],
)
def test_a_damaged_line_inside_the_journal_is_one_clear_error(
    tmp_path: Path, damage: bytes, at: int
) -> None:
    path = three_trials(tmp_path)
    lines = path.read_bytes().splitlines()
    lines[at] = damage
    path.write_bytes(b"\n".join(lines) + b"\n")
    before = path.read_bytes()
    with pytest.raises(
        InputError, match=r"trials\.journal: corrupt journal .* delete it"
    ) as caught:
        open_trials(tmp_path).all()
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_random_damage_to_the_journal_is_one_clear_error_or_leaves_whole_trials(
    tmp_path: Path,
) -> None:
    path = three_trials(tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 60).tolist():
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            for trial in open_trials(tmp_path).all():
                trial_source(trial)
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, r"^study s: seed was 0 when it was started and is 1 now, so"),
        ({"training.lr": 0.3}, r"training\.lr was 0\.1 .* is 0\.3 now"),
        ({"seed": 1, "training.lr": 0.3}, r"seed was 0 .* is 1 now \(and training\.lr\)"),
        ({"added": "x"}, r"added was None .* is x now"),
        ({"stages.resolutions": [8, 16]}, r"was \[8, 16, 32\] .* is \[8, 16\] now"),
    ],
)
def test_other_settings_are_refused_with_the_way_out(
    tmp_path: Path, changed: Mapping[str, Any], message: str
) -> None:
    path = three_trials(tmp_path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=message) as caught:
        open_trials(tmp_path, {**IDENTITY, **changed})
    assert "put it back, or give the study another name (--set name=NEW)" in str(caught.value)
    assert path.read_bytes() == before
    assert len(open_trials(tmp_path).all()) == 3


def test_settings_that_are_tuples_equal_the_lists_that_they_were_stored_as(tmp_path: Path) -> None:
    three_trials(tmp_path)
    assert len(open_trials(tmp_path, {**IDENTITY, "stages.resolutions": (8, 16, 32)}).all()) == 3


def test_trials_in_an_sqlite_database_are_found_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    proposal = Proposal(0, (StageId(8, "small"),), ())
    with Trials(url, "s", tmp_path, IDENTITY).adding() as add:
        assert add(exact_trial(measured(proposal), SPACE)) == 0
    again = Trials(url, "s", tmp_path, IDENTITY).all()
    assert [trial_source(t) for t in again] == ["exact"]


@pytest.mark.parametrize(
    "storage", ["sqlite:////nowhere/at/all.db", "nonsense", "mysql://localhost/x"]
)
def test_a_storage_that_cannot_be_opened_is_one_clear_error(tmp_path: Path, storage: str) -> None:
    with pytest.raises(InputError, match=r"search\.storage: ") as caught:
        Trials(storage, "s", tmp_path, IDENTITY)
    assert "\n" not in str(caught.value)


def test_opening_a_study_again_writes_nothing(tmp_path: Path) -> None:
    path = three_trials(tmp_path)
    before = path.read_bytes()
    open_trials(tmp_path).all()
    assert path.read_bytes() == before


def _trial(number: int, accuracy: float, cost: float) -> FrozenTrial:
    trial = create_trial(values=(accuracy, cost))
    trial.number = number
    return trial


def test_thinning_keeps_the_front_and_order_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    trials = [_trial(i, *rng.random(2).tolist()) for i in range(1000)]
    kept = thinned(trials, 100)
    numbers = [trial.number for trial in kept]
    assert len(numbers) == 100
    assert numbers == sorted(set(numbers))
    front = [
        t.number
        for t in trials
        if not any(
            o.values[0] >= t.values[0] and o.values[1] <= t.values[1] and o.values != t.values
            for o in trials
        )
    ]
    assert set(front) <= set(numbers)
    assert numbers == [trial.number for trial in thinned(trials, 100)]
    assert thinned(trials[:100], 100) == trials[:100]
