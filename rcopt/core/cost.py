"""What a forward pass costs: MACs, FLOPs, and the report's parameter-based stand-in."""

from typing import Literal

#: What a study minimizes: mean FLOPs, or mean time by the stages' measured times.
CostName = Literal["flops", "latency"]


def flops_from_macs(macs: float) -> float:
    """Return FLOPs of a number of multiply-accumulates: 2 per MAC, here and nowhere else."""
    return 2.0 * macs


def parameter_cost(parameters: int, resolution: int, *, full_resolution: int = 224) -> float:
    """Return the cost model of the original report: parameters x (resolution / 224) squared.

    It is a parameter count scaled by area, called "FLOPs" there; rcopt offers it to repeat the
    report's figures and measures MACs for everything else.

    Example:
        >>> round(parameter_cost(11_690_000, 32) / 1e6, 2)
        0.24
    """
    return parameters * (resolution / full_resolution) ** 2
