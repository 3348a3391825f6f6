from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ets2023.__main__ import main
from benchmarks.ets2023.printed import DROPS, ORIGINAL, REPORT_WINDOW
from benchmarks.ets2023.reproduction import Analysis, CostModel, nearest_stages, reproduce
from rcopt.core.cascade import Stage
from rcopt.core.cost import parameter_cost
from rcopt.core.evaluating import evaluate
from rcopt.core.fronts import threshold_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import save_stage
from tests.support.simulated import simulated_stages

PARAMETERS = (11_690_000, 21_800_000, 25_560_000)


def _stages(seed: int = 0, decimals: int | None = None) -> list[TrainedStage]:
    drawn = simulated_stages({"validation": 400, "test": 300}, seed, decimals)
    return [replace(s, parameters=p) for s, p in zip(drawn, PARAMETERS, strict=True)]


@pytest.fixture(scope="module", params=["parameters", "flops"])
def analysis(request: pytest.FixtureRequest) -> Analysis:
    return reproduce(_stages(decimals=2), request.param)


def test_the_cost_models_are_scaled_parameters_and_measured_flops() -> None:
    stages = _stages()
    scaled = [
        parameter_cost(p, s.stage.resolution) for p, s in zip(PARAMETERS, stages, strict=True)
    ]
    assert reproduce(stages, "parameters").costs == tuple(scaled)
    assert reproduce(stages, "flops").costs == tuple(s.stage.flops for s in stages)
    assert [round(cost / 1e6, 2) for cost in scaled] == [0.24, 4.00, 25.56]  # table 2.1


def test_the_nearest_stages_are_the_reports_own_or_play_their_part() -> None:
    stages = _stages()
    assert nearest_stages(stages[::-1]) == tuple(stages)
    places = [
        (32, "resnet18"),
        (64, "resnet18"),
        (96, "resnet18"),
        (96, "resnet34"),
        (64, "mobilenet_v2"),
        (128, "resnet18"),
    ]
    drawn = [*stages, stages[0], stages[2], stages[0]]
    others = [
        replace(one, stage=replace(one.stage, resolution=side, backbone=backbone))
        for one, (side, backbone) in zip(drawn, places, strict=True)
    ]
    # Of two ResNets at 96 pixels the deeper one, for 50 layers; the MobileNet is not asked.
    assert nearest_stages(others[:5]) == (others[0], others[1], others[3])
    # With 128 pixels above it, 96 is the middle one, and has the report's own ResNet-34.
    assert nearest_stages(others) == (others[0], others[3], others[5])
    assert nearest_stages(others[:2]) == ()
    # Another stem only where the stock one is missing; then the more accurate.
    stem = replace(others[0], stage=replace(others[0].stage, backbone="resnet18-s2"))
    assert nearest_stages([stem, *others])[0] == others[0]
    assert nearest_stages([stem, *others[1:]])[0] == stem


def test_grids_have_the_reports_shape_and_begin_at_stage_0(analysis: Analysis) -> None:
    assert analysis.coarse.accuracy.shape == (40, 40)
    assert analysis.fine.accuracy.shape == (50, 100)
    assert analysis.coarse.accuracy[0, 0] == analysis.table[0].accuracy
    assert analysis.coarse.cost[0, 0] == pytest.approx(analysis.costs[0])


def test_no_grid_point_beats_the_exact_front(analysis: Analysis) -> None:
    exact = analysis.curves["exact"]
    for grid in (analysis.coarse, analysis.fine):
        _, accuracy, cost = grid.points()
        at = np.searchsorted(exact.accuracy, accuracy)
        assert (at < len(exact.accuracy)).all()
        assert (exact.cost[at] <= cost).all()


def test_the_exact_curve_is_the_threshold_front() -> None:
    stages = _stages(decimals=2)
    front = threshold_front(
        [s.predictions["validation"].probabilities.max(axis=1) for s in stages],
        [s.predictions["validation"].correct for s in stages],
        [s.stage.flops for s in stages],
    )
    curve = reproduce(stages, "flops").curves["exact"]
    assert np.array_equal(curve.thresholds, front.thresholds)
    assert np.array_equal(curve.accuracy, front.accuracy)
    assert np.array_equal(curve.cost, front.mean_flops)


def test_test_numbers_are_those_of_the_validation_thresholds(analysis: Analysis) -> None:
    test = [s.predictions["test"] for s in _stages(decimals=2)]
    confidence = [p.probabilities.max(axis=1) for p in test]
    for curve in analysis.curves.values():
        row = len(curve.accuracy) // 2
        slow = evaluate(
            confidence, [p.correct for p in test], analysis.costs, curve.thresholds[row]
        )
        assert curve.test_accuracy[row] == slow.accuracy
        assert curve.test_cost[row] == slow.mean_flops


def test_claims_are_the_cheapest_points_that_are_accurate_enough(analysis: Analysis) -> None:
    grids = {"coarse grid": analysis.coarse, "fine grid": analysis.fine}
    top = analysis.table[2]
    for claim in analysis.claims:
        if claim.reference != "resnet50@224" or claim.method == "exact":
            continue
        slow = min(
            cost
            for _, accuracy, cost in zip(*grids[claim.method].points(), strict=True)
            if accuracy >= top.accuracy - claim.drop - 1e-9
        )
        assert claim.cost == slow
        assert claim.times == pytest.approx(top.cost / slow)
        assert claim.test_change == pytest.approx(claim.test_accuracy - top.test_accuracy)


def test_the_exact_front_saves_at_least_as_much_as_any_grid(analysis: Analysis) -> None:
    exact = {(c.reference, c.drop): c.times for c in analysis.claims if c.method == "exact"}
    assert set(exact) == {("resnet34@96", 0.0), *(("resnet50@224", d) for d in (0.0, *DROPS))}
    for claim in analysis.claims:
        assert claim.times <= exact[claim.reference, claim.drop]


def test_giving_up_accuracy_never_costs_more(analysis: Analysis) -> None:
    by_drop = [
        c.cost for c in analysis.claims if c.method == "exact" and c.reference == "resnet50@224"
    ]
    assert by_drop == sorted(by_drop, reverse=True)


def test_the_middle_model_at_full_resolution_is_taken_from_the_pool() -> None:
    stages = _stages()
    full = replace(
        stages[1], stage=Stage(224, "resnet34", 7.36e9), predictions=stages[2].predictions
    )
    analysis = reproduce(stages, "flops", pool=[full])
    assert analysis.claims[0].reference == "resnet34@224"
    assert analysis.table[1].full_accuracy == stages[2].predictions["validation"].accuracy
    assert analysis.table[1].full_cost == 7.36e9
    without = reproduce(stages, "flops")
    assert without.table[1].full_accuracy is None
    assert without.table[1].full_cost == pytest.approx(1.35e9 * (224 / 96) ** 2)


def test_the_fine_window_may_be_the_reports_own() -> None:
    fine = reproduce(_stages(), "flops", window=REPORT_WINDOW).fine
    assert (fine.first[0], fine.second[0]) == REPORT_WINDOW
    assert (fine.first[-1], fine.second[-1]) == (1.0, 1.0)


def test_a_claim_out_of_reach_is_left_out() -> None:
    stages = _stages()
    perfect = stages[2].predictions["validation"]
    sure = np.eye(2, dtype=np.float32)[perfect.labels]
    top = replace(
        stages[2],
        predictions={**stages[2].predictions, "validation": replace(perfect, probabilities=sure)},
    )
    # Stage 0 is certain and wrong: no threshold of a grid, which ends at 1, passes its images on.
    stages[0] = replace(
        stages[0],
        predictions={
            **stages[0].predictions,
            "validation": replace(perfect, probabilities=1 - sure),
        },
    )
    methods = {c.method for c in reproduce([*stages[:2], top], "flops").claims if c.drop == 0}
    assert methods == {"exact"}


@pytest.mark.parametrize("count", [2, 4])
def test_other_than_three_stages_are_refused(count: int) -> None:
    stages = (_stages() * 2)[:count]
    with pytest.raises(ValueError, match=f"stages must be three, got {count}"):
        reproduce(stages, "flops")


def test_a_stage_without_test_predictions_is_refused() -> None:
    stages = _stages()
    stages[1] = replace(stages[1], predictions={"validation": stages[1].predictions["validation"]})
    with pytest.raises(ValueError, match="must have test predictions, resnet34@96 has none"):
        reproduce(stages, "flops")


def test_the_originals_ratios_follow_from_its_figures() -> None:
    middle, top, _ = ORIGINAL.claims
    assert middle.cost is not None
    assert top.cost is not None
    assert ORIGINAL.table[1].full_cost / middle.cost == pytest.approx(middle.times[0], abs=0.06)
    assert ORIGINAL.table[2].full_cost / top.cost == pytest.approx(top.times[0], abs=0.06)
    for row in ORIGINAL.table:
        scaled = row.full_cost * (row.resolution / 224) ** 2
        assert scaled == pytest.approx(row.cost, abs=5e3)


def test_the_ratio_of_costs_hardly_depends_on_the_cost_model() -> None:
    models: tuple[CostModel, ...] = ("parameters", "flops")
    times = [
        next(c.times for c in reproduce(_stages(), m).claims if c.method == "exact" and c.drop > 0)
        for m in models
    ]
    assert times[0] == pytest.approx(times[1], rel=0.1)


@pytest.mark.slow
def test_one_command_writes_all_figures_and_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stored").mkdir()
    for trained in simulated_stages({"validation": 300, "test": 300}):
        save_stage(tmp_path / "stored" / f"{trained.stage.name}.safetensors", trained)
    assert main([str(tmp_path / "stored"), "--output", str(tmp_path / "page")]) == 0
    assert "cost: parameters" in capsys.readouterr().out
    page = (tmp_path / "page" / "index.html").read_text()
    figures = sorted((tmp_path / "page").glob("*.svg"))
    assert len(figures) == 8
    assert all(figure.name in page for figure in figures)
    assert "Table 2.1 as printed and here" in page
    assert main([str(tmp_path)]) == 2
