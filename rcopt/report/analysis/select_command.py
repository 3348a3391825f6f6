"""The command that chooses one point of a front."""

import math
from collections.abc import Sequence

from rcopt.core.cascade import OperatingPoint


def select_command(name: str, points: Sequence[OperatingPoint], at: int) -> str:
    """Return the command that chooses one point of a front.

    Args:
        name: The study's.
        points: The front, cheapest first, strictly rising in accuracy and mean FLOPs.
        at: Index of the point.

    Returns:
        ``rcopt select NAME --trial N`` for a trial, else with ``--max-flops`` and the shortest
        budget that holds the point and not the next one.
    """
    point = points[at]
    if point.trial is not None:
        return f"rcopt select {name} --trial {point.trial}"
    flops = point.validation.mean_flops
    limit = points[at + 1].validation.mean_flops if at + 1 < len(points) else math.inf
    for digits in range(2, 17):
        unit = 10.0 ** (math.floor(math.log10(flops)) - digits + 1)
        budget = f"{math.ceil(flops / unit) * unit:.{digits - 1}e}"
        if flops <= float(budget) < limit:
            mantissa, exponent = budget.split("e")
            return f"rcopt select {name} --max-flops {mantissa}e{int(exponent)}"
    return f"rcopt select {name} --max-flops {flops!r}"
