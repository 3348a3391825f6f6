import pytest

from rcopt.core.cost import flops_from_macs, parameter_cost


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
