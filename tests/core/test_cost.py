from dataclasses import replace
from typing import get_args

import pytest

from rcopt.core.cost import COSTS, Amount, CostName, flops_from_macs, parameter_cost


def test_a_multiply_accumulate_is_two_flops() -> None:
    assert flops_from_macs(1.82e9) == 3.64e9


@pytest.mark.parametrize(
    ("parameters", "resolution", "millions"),
    [(11.69e6, 32, 0.24), (21.80e6, 96, 4.00), (25.56e6, 224, 25.56)],
)
def test_parameter_cost_repeats_the_reports_table_2_1(
    parameters: float, resolution: int, millions: float
) -> None:
    assert parameter_cost(int(parameters), resolution) / 1e6 == pytest.approx(millions, abs=0.005)


def test_parameter_cost_is_measured_from_the_full_resolution() -> None:
    assert parameter_cost(100, 50, full_resolution=100) == 25.0


@pytest.mark.parametrize(
    ("flops", "text"),
    [(0.0, "0.00"), (5.35e5, "0.54"), (9.994e6, "9.99"), (1.234e7, "12.3"), (8.26e9, "8260")],
)
def test_tables_show_three_digits_that_matter(flops: float, text: str) -> None:
    assert COSTS["flops"].cell(flops) == text
    assert COSTS["flops"].text(flops) == f"{text} MFLOPs"


@pytest.mark.parametrize("name", get_args(CostName))
def test_every_cost_has_an_entry_that_names_it_and_says_how_it_is_got(name: CostName) -> None:
    cost = COSTS[name]
    assert cost.name == name
    assert (cost.computed is None) != (cost.meter is None)
    if cost.computed is not None:
        assert cost.computed(32, 1e6) > 0
    if cost.meter is not None:
        assert cost.meter() <= cost.meter()
    assert Amount.from_json({cost.mean_key: 2.0}, "mean_") == (
        None if name == "flops" else Amount(name, 2.0)
    )


def test_costs_keep_names_of_their_own() -> None:
    for part in ("name", "key", "metric"):
        assert len({getattr(cost, part) for cost in COSTS.values()}) == len(COSTS)
    assert next(iter(COSTS)) == "flops"


def test_a_cost_without_a_way_to_get_it_is_refused() -> None:
    with pytest.raises(ValueError, match="computed or meter"):
        replace(COSTS["latency"], meter=None)
    with pytest.raises(ValueError, match="computed or meter"):
        replace(COSTS["latency"], computed=COSTS["flops"].computed)
