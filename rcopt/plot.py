"""Figures for notebooks: each function returns a matplotlib axis."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rcopt.core.cascade import OperatingPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def front(points: Sequence[OperatingPoint], ax: "Axes | None" = None) -> "Axes":
    """Draw a front: accuracy over the mean cost, on a log scale.

    Args:
        points: Such as `rcopt.front` returns, or the points of `rcopt.Results`.
        ax: Where to draw; a new figure's if None.

    Returns:
        The axis: on it a line of the validation numbers that the points were chosen by, and dots
        of their test numbers where they have them.

    Raises:
        ValueError: If there are no points.
    """
    if not points:
        raise ValueError("points must hold at least one operating point, got none")
    if ax is None:
        from matplotlib import pyplot as plt

        _, ax = plt.subplots()
    cost = points[0].validation.costs[0][0]
    chosen = sorted((p.validation.cost / cost.per_unit, p.validation.accuracy) for p in points)
    reported = [(p.test.cost / cost.per_unit, p.test.accuracy) for p in points if p.test]
    ax.step(
        *_percent(chosen), where="post", color="C0", label="validation (chosen here)", zorder=2
    )
    if reported:
        ax.plot(*_percent(reported), "o", markersize=4, color="C1", label="test", zorder=3)
    ax.set_xscale("log")
    ax.set_xlabel(f"{cost.title} ({cost.unit})")
    ax.set_ylabel("accuracy (%)")
    ax.grid(visible=True, alpha=0.3)
    ax.legend(loc="lower right")
    return ax


def _percent(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [cost for cost, _ in pairs], [100 * accuracy for _, accuracy in pairs]
