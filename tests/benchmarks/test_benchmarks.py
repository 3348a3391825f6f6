"""The benchmarks compute what they say; their sizes here are tiny."""

import json
from dataclasses import replace

import numpy as np
import optuna
import pytest

from benchmarks import __main__ as everything
from benchmarks.answers import RULES, fronts_of, name, top_stage, worth
from benchmarks.ets2023.summary import print_reproduction, reproduction
from benchmarks.ingredients import (
    LOSSES,
    headline,
    measure,
    oracle,
    print_headline,
    print_table,
    stages_to_goal,
)
from benchmarks.pools import Pool, StageKey, simulated
from benchmarks.replay import STRATEGIES, seconds_to_goals, simulated_recording
from benchmarks.samplers import GOAL, ORDERS, compare, draw
from benchmarks.samplers import print_table as print_samplers
from benchmarks.searches import Scale, evaluate_proposal, propose, search, told_trial
from benchmarks.variants import GRID, Variant, grid_front, variants
from rcopt.core.answers import AnswerRule
from rcopt.core.evaluating import evaluate
from rcopt.core.hypervolumes import hypervolume_share
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.study.samplers import Sampler, SamplerName
from rcopt.study.space import Proposal
from rcopt.study.trial_records import DIRECTIONS, operating_point
from tests.support.simulated import simulated_stages


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool(simulated(0, n_images=150))


@pytest.fixture(scope="module")
def stages() -> list[TrainedStage]:
    return simulated_stages({"validation": 200, "test": 150})


def test_simulated_stages_have_the_costs_of_real_ones_and_gain_with_resolution() -> None:
    stages = {(t.stage.resolution, t.stage.backbone): t for t in simulated(0)}
    assert len(stages) == 15
    assert stages[32, "resnet18"].stage.flops == pytest.approx(7.4e7, rel=0.01)
    assert stages[96, "resnet34"].stage.flops == pytest.approx(1.35e9, rel=0.01)
    found = [stages[r, "resnet18"].predictions["validation"].accuracy for r in (32, 96, 224)]
    assert found == sorted(found)


def test_a_pools_front_is_the_study_front_of_the_same_stages_in_any_order(pool: Pool) -> None:
    keys: list[StageKey] = [(96, "resnet18"), (32, "resnet34"), (224, "resnet50")]
    expected = study_front(
        [pool.stages[key] for key in keys], resolutions=tuple(pool.space.backbones)
    )
    for order in (keys, keys[::-1]):
        points = [(p.cascade, p.validation) for p in pool.front(order)]
        assert points == [(p.cascade, p.validation) for p in expected]


def test_shares_rise_to_one_in_every_order() -> None:
    pool = Pool(simulated(1, n_images=80)[::2])
    for order in ORDERS.values():
        keys = order(pool)
        assert sorted(keys) == sorted(pool.stages)
        shares = pool.shares(keys)
        assert (np.diff(shares) >= -1e-12).all()
        assert shares[-1] == pytest.approx(1)


def test_spreading_over_cost_begins_with_both_ends_and_the_middle(pool: Pool) -> None:
    by_cost = pool.by_cost()
    assert pool.spread_over_cost()[:3] == [by_cost[0], by_cost[-1], by_cost[7]]


def test_no_order_beats_greedy_at_its_first_stage(pool: Pool) -> None:
    assert max(pool.share([key]) for key in pool.stages) == pool.share(pool.greedy()[:1])


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_deferral_rates_are_proposed_just_as_a_study_does(
    pool: Pool, sampler: SamplerName
) -> None:
    own = Sampler(sampler, pool.space, seed=3)
    mirror = optuna.create_study(directions=DIRECTIONS)
    for number in range(15):
        expected: Proposal = own.propose(number, lambda _: True)
        trial, keys, levels = propose(mirror, pool, sampler, "deferral_rate", (3, 0, number))
        assert (tuple(keys), levels) == (expected.stages, expected.deferral_rates)
        point = operating_point([pool.stages[k] for k in keys], levels, AnswerRule())
        own.finished(expected, point)
        mirror.tell(trial, (point.validation.accuracy, point.validation.mean_flops))


def test_a_proposed_threshold_is_used_as_it_is(pool: Pool) -> None:
    stages = [pool.stages[32, "resnet18"], pool.stages[224, "resnet50"]]
    point = evaluate_proposal(stages, (0.625,), "threshold")
    assert point.cascade.thresholds == (0.625,)
    first, second = (one.predictions["validation"] for one in stages)
    alone = evaluate(
        [first.probabilities.max(axis=1)],
        [first.correct, second.correct],
        [one.stage.flops for one in stages],
        [0.625],
    )
    assert point.validation == alone


def test_told_points_keep_their_values_and_lie_within_the_scale(pool: Pool) -> None:
    for point in pool.front(pool.by_cost()):
        trial = told_trial(point, pool, "threshold")
        assert trial.values == [point.validation.accuracy, point.validation.mean_flops]
        levels = [v for k, v in trial.params.items() if k.startswith("threshold.")]
        assert len(levels) == len(point.cascade.thresholds)
        assert all(0.1 <= level <= 1 for level in levels)
        assert not any(key.startswith("deferral_rate") for key in trial.params)


@pytest.mark.parametrize("scale", ["deferral_rate", "threshold"])
def test_sampled_trials_never_pass_the_front_of_their_stages(pool: Pool, scale: Scale) -> None:
    trace = search(pool, "random", scale, seed=1, trials=30, told=False)
    assert (trace.sampled <= trace.swept + 1e-12).all()
    assert (np.diff(trace.sampled) >= 0).all()
    assert trace.stages[-1] == len(trace.order) == len(set(trace.order))
    assert trace.swept[-1] == pytest.approx(pool.share(trace.order))


def test_telling_changes_what_tpe_asks_next_and_nothing_random_asks(pool: Pool) -> None:
    def orders(sampler: SamplerName) -> list[tuple[StageKey, ...]]:
        traces = [
            search(pool, sampler, "deferral_rate", seed=0, trials=4, told=told)
            for told in (False, True)
        ]
        return [trace.order for trace in traces]

    untold, told = orders("random")
    assert untold == told
    untold, told = orders("tpe")
    assert untold != told


def test_a_told_search_ends_when_every_stage_is_trained(pool: Pool) -> None:
    trace = search(pool, "random", "deferral_rate", seed=0, trials=200, told=True)
    assert len(trace.swept) < 200
    assert trace.swept[-1] == pytest.approx(1)


def test_comparison_holds_every_arm_and_can_be_written_drawn_and_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.samplers.RESULTS", tmp_path)
    result = compare(
        "tiny",
        lambda seed: Pool(simulated(seed, n_images=80)[::4]),
        ("random", "tpe"),
        seeds=2,
        trials={"random": 10, "tpe": 5},
    )
    arms = json.loads(json.dumps(result["arms"]))
    assert {(a["sampler"], a["scale"], a["sweep"]) for a in arms} == {
        (sampler, scale, sweep)
        for sampler in ("random", "tpe")
        for scale in ("deferral_rate", "threshold")
        for sweep in ("none", "beside", "told")
    }
    for arm in arms:
        assert len(arm["by_stage"]["median"]) == 4
        assert arm["trials"] == ([1, 2, 3, 5, 10] if arm["sampler"] == "random" else [1, 2, 3, 5])
    draw(arms, {"tiny": result["baselines"]})
    print_samplers("tiny", arms, result["baselines"])
    assert "greedy in hindsight" in capsys.readouterr().out


def test_stages_to_the_goal_are_counted_in_the_order_of_training() -> None:
    drawn = Pool(simulated(0, n_images=80)[::2])
    result = compare("tiny", lambda _: drawn, (), seeds=1, trials={})
    for title, order in ORDERS.items():
        [count] = result["baselines"][title]["stages_to_goal"]["each"]
        keys = order(drawn)
        assert drawn.share(keys[: int(count)]) >= GOAL > drawn.share(keys[: int(count) - 1])


def test_rules_are_all_fifteen_and_the_default_is_first() -> None:
    assert RULES[0] == AnswerRule()
    assert len(set(RULES)) == 15
    assert len({name(rule) for rule in RULES}) == 15


@pytest.mark.parametrize("rule", RULES[3:9:5], ids=name)
def test_test_numbers_of_a_rules_front_are_those_of_its_outcomes(
    stages: list[TrainedStage], rule: AnswerRule
) -> None:
    fronts = fronts_of(stages, rule)
    known = cascade_outcomes([p.cascade for p in fronts.points], stages, "test", rule)
    for right, flops, outcome in zip(fronts.right, fronts.flops, known, strict=True):
        assert (right == outcome.correct).all()
        assert flops.mean() == pytest.approx(outcome.evaluation.mean_flops)


def test_default_rule_differs_from_itself_by_nothing(stages: list[TrainedStage]) -> None:
    found = worth(stages, np.random.default_rng(0), resamples=20)
    assert [one.rule for one in found] == list(RULES)
    own = found[0]
    assert (own.difference.estimate, own.difference.low, own.difference.high) == (0, 0, 0)
    for other in found[1:]:
        assert other.difference.estimate == pytest.approx(other.test - own.test)
        assert other.difference.low <= other.difference.high
    assert 0 < own.test < 1


def test_the_top_stage_is_chosen_on_validation_whatever_test_says(
    stages: list[TrainedStage],
) -> None:
    top = top_stage(stages)
    swapped = [
        replace(one, predictions={"validation": one.predictions["validation"], "test": other})
        for one, other in zip(
            stages, (one.predictions["test"] for one in reversed(stages)), strict=True
        )
    ]
    assert top_stage(swapped).stage == top.stage


def test_a_grid_is_never_better_than_the_exact_front(stages: list[TrainedStage]) -> None:
    exact = study_front(stages)
    cost = np.array([point.validation.mean_flops for point in exact])
    accuracy = np.array([point.validation.accuracy for point in exact])
    grid = grid_front(stages)
    assert max(len(point.cascade.stages) for point in grid) == 3
    allowed = set(np.linspace(0, 1, GRID).tolist())
    for point in grid:
        assert set(point.cascade.thresholds) <= allowed
        (outcome,) = cascade_outcomes([point.cascade], stages, "validation")
        assert outcome.evaluation == point.validation
        affordable = accuracy[cost <= point.validation.mean_flops]
        assert affordable[-1] >= point.validation.accuracy


def test_no_variant_beats_everything_where_it_was_chosen(stages: list[TrainedStage]) -> None:
    chosen = list(variants(stages))
    assert chosen[0].points == study_front(stages).points
    assert len({variant.name for variant in chosen}) == len(chosen) == 15
    found = measure(chosen, stages, np.random.default_rng(0), resamples=20)
    first = found[0]
    assert (first.difference.estimate, first.difference.low, first.difference.high) == (0, 0, 0)
    by_name = {one.name: one for one in found}
    for name_ in ("without 32 pixels", "without 96 pixels", "no resolution skipped"):
        assert by_name[name_].validation <= first.validation
    for one in found:
        assert one.difference.estimate == pytest.approx(one.test - first.test)
    assert by_name["random exits"].test < first.test
    assert by_name["resnet18 alone"].budget is not None
    print_table(found)


def test_a_choice_is_what_the_cascade_does_on_test(stages: list[TrainedStage]) -> None:
    (everything_,) = measure(
        [Variant("everything", study_front(stages).points)],
        stages,
        np.random.default_rng(0),
        resamples=20,
    )
    top = top_stage(stages)
    for choice, loss in zip(everything_.losses, LOSSES, strict=True):
        assert choice.validation >= top.predictions["validation"].accuracy - loss - 1e-9
        point = next(p for p in study_front(stages) if str(p.cascade) == choice.cascade)
        (outcome,) = cascade_outcomes([point.cascade], stages, "test")
        assert choice.accuracy == pytest.approx(outcome.evaluation.accuracy)
        assert choice.times.estimate == pytest.approx(
            top.stage.flops / outcome.evaluation.mean_flops
        )
        change = outcome.evaluation.accuracy - top.predictions["test"].accuracy
        assert choice.change.estimate == pytest.approx(change)
        assert choice.times.low <= choice.times.estimate <= choice.times.high


def test_without_anything_affordable_there_is_no_choice_within_the_budget(
    stages: list[TrainedStage],
) -> None:
    top = top_stage(stages)
    (worth_,) = measure(
        [Variant("top", study_front([top]).points)], stages, np.random.default_rng(0), resamples=5
    )
    assert worth_.budget is None
    assert [choice.times.estimate for choice in worth_.losses] == pytest.approx([1, 1])
    assert [choice.change.estimate for choice in worth_.losses] == pytest.approx([0, 0])
    print_table([worth_])


def test_an_oracle_gains_and_chance_loses(stages: list[TrainedStage]) -> None:
    for one in oracle(stages):
        assert one["times_at_accuracy"] > 1
        assert one["random_accuracy"] < one["accuracy"] < one["accuracy_at_flops"]
        assert one["accuracy_at_flops"] <= one["accuracy_at_most"]


def test_stages_are_counted_until_the_goal(pool: Pool) -> None:
    counts = stages_to_goal(pool, seeds=2)
    assert counts["all"] == [15]
    assert {len(counts[sampler]) for sampler in ("tpe", "random", "nsga2")} == {2}
    for found in counts.values():
        assert all(1 <= count <= 15 for count in found)
    assert counts["greedy in hindsight"][0] <= min(counts["tpe"])


def test_the_headline_is_told_with_its_intervals(
    stages: list[TrainedStage], capsys: pytest.CaptureFixture[str]
) -> None:
    top = top_stage(stages)
    found = headline(stages, top, np.random.default_rng(0), resamples=10)
    assert [one["loss"] for one in found] == list(LOSSES)
    assert [one["cascade"] for one in found] == [one["cascade"] for one in oracle(stages)]
    costliest = headline(stages, stages[0], np.random.default_rng(0), resamples=10)
    print_headline(
        {
            "pool": "tiny",
            "images": {},
            "stages": [],
            "top": "top",
            "headline": found,
            "costliest": "costliest",
            "against_costliest": costliest,
            "oracle": oracle(stages),
            "stages_to_goal": {"all": [3]},
        }
    )
    out = capsys.readouterr().out
    assert f"{found[0]['times']['estimate']:.2f}x" in out
    assert "against costliest" in out
    assert f"{costliest[0]['times']['estimate']:.2f}x" in out


def test_the_reports_analysis_is_told_under_both_cost_models(
    stages: list[TrainedStage], capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduction(stages[:2]) == {}
    found = reproduction(stages)
    assert found["stages"] == ["resnet18@32", "resnet34@96", "resnet50@224"]
    json.dumps(found)
    assert found["flops"]["table"][2]["share"] == 1
    exact = [c for c in found["flops"]["claims"] if c["method"] == "exact" and c["drop"] == 0]
    assert all(claim["times"] >= 1 for claim in exact)
    print_reproduction(found)
    assert "against resnet50@224, 1 points less, exact" in capsys.readouterr().out


def test_a_missed_goal_is_marked_and_a_met_one_is_not() -> None:
    rows = [everything.at_most("a", 0.3, 0.2), everything.at_least("b", 0.3, 0.2, " s")]
    header, missed, met = everything.table(rows).splitlines()
    assert header.split() == ["goal", "figure"]
    assert missed.endswith("MISSED")
    assert met.split() == ["b", "at", "least", "0.2", "s", "0.3", "s"]


def test_stored_results_can_be_read_into_the_table() -> None:
    for benchmark, read in everything.READERS.items():
        stored = everything.RESULTS / f"{benchmark}.json"
        if stored.exists():
            assert read(json.loads(stored.read_text()))


def test_training_is_skipped_without_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(everything.IMAGES, raising=False)
    assert everything.IMAGES in everything.skipped("training")
    monkeypatch.setenv(everything.IMAGES, "images")
    assert everything.skipped("training") == ""


def test_a_pools_share_is_that_of_its_exact_front(pool: Pool) -> None:
    keys = pool.by_cost()[2:9:3]
    front = pool.front(keys).points
    accuracy = [point.validation.accuracy for point in front]
    flops = [point.validation.mean_flops for point in front]
    expected = hypervolume_share(accuracy, flops, pool.frame) / pool.maximum
    assert pool.share(keys) == pytest.approx(expected, abs=1e-12)


def test_a_replay_charges_the_seconds_of_what_was_trained_and_ends_with_the_goal() -> None:
    recording = simulated_recording(0)
    total = sum(recording.seconds.values())
    for title, strategy in STRATEGIES.items():
        found = seconds_to_goals(recording, strategy(recording, 0))["seconds"]
        assert found == sorted(found), title
        if title == "everything":
            assert found == [total] * 3
        elif title not in ("TPE", "NSGA-II"):
            # These may never ask for what is needed.
            assert 0 < found[0] <= found[2] <= total * (1 + 1e-9), title
