"""What a cascade costs an image. Each entry of `COSTS` is one cost that a study may minimize."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, Self

CostName = Literal["flops", "latency"]


@dataclass(frozen=True)
class Cost:
    """One kind of cost; a cascade's is the sum of its stages', each weighed by its reach rate.

    Attributes:
        name: As a study's ``search.cost`` says it.
        title: The mean of it, in words.
        unit: Of the values that tables show.
        per_unit: How much of the cost one such unit is.
        decimals: Shown of less than one such unit.
        key: Key of a stage's cost in JSON; ``mean_<key>`` of a cascade's mean, ``max_<key>``
            of a budget.
        metric: Name of the metric in MLflow, in the tables' unit.
        computed: From a stage's resolution in pixels and FLOPs to its cost, or
        meter: a reading that rises while a stage runs, such as a clock's: what a pass adds to
            it, shared among the pass's images, is the cost. Exactly one of the two is given.
    """

    name: CostName
    title: str
    unit: str
    per_unit: float
    decimals: int
    key: str
    metric: str
    computed: Callable[[int, float], float] | None = None
    meter: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        """Refuse a cost without a way to get it, or with two."""
        if (self.computed is None) == (self.meter is None):
            raise ValueError(f"cost {self.name}: give computed or meter, one of the two")

    @property
    def mean_key(self) -> str:
        """Key of a cascade's mean cost in JSON."""
        return f"mean_{self.key}"

    @property
    def limit(self) -> str:
        """What a budget is called."""
        return f"max_{self.key}"

    def cell(self, value: float) -> str:
        """Return a value in the tables' unit with about three digits that matter.

        Example:
            >>> COSTS["flops"].cell(7.4123e7), COSTS["latency"].cell(0.4567)
            ('74.1', '0.457')
        """
        value /= self.per_unit
        digits = self.decimals if value < 1 else 2 if value < 10 else 1 if value < 1000 else 0
        return f"{value:.{digits}f}"

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{self.cell(value)} {self.unit}"


#: Every cost, FLOPs first: they are always known and always shown.
COSTS: Mapping[CostName, Cost] = {
    "flops": Cost(
        "flops",
        title="mean FLOPs",
        unit="MFLOPs",
        per_unit=1e6,
        decimals=2,
        key="flops",
        metric="mflops",
        computed=lambda resolution, flops: flops,
    ),
    "latency": Cost(
        "latency",
        title="mean time",
        unit="ms",
        per_unit=1.0,
        decimals=3,
        key="milliseconds",
        metric="ms",
        meter=lambda: 1e3 * perf_counter(),
    ),
}


@dataclass(frozen=True)
class Amount:
    """So much of a cost, per image.

    Attributes:
        cost: Of which.
        value: In FLOPs, milliseconds, ...
    """

    cost: CostName
    value: float

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], prefix: str = "") -> Self | None:
        """Return the amount of a cost beside FLOPs that JSON holds, None if it holds none.

        Args:
            tree: Of a stage, or of a cascade's evaluation.
            prefix: ``"mean_"`` for the latter.
        """
        for cost in list(COSTS.values())[1:]:
            value = tree.get(prefix + cost.key)
            if value is not None:
                return cls(cost.name, float(value))
        return None


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
