"""Fronts as pandas frames, and as notebooks show them."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from rcopt.core.cascade import OperatingPoint

if TYPE_CHECKING:
    import pandas as pd


class Front(list[OperatingPoint]):
    """The points of a front, cheapest first: a list that notebooks show as a table."""

    def to_frame(self) -> "pd.DataFrame":
        """Return one row a point; see `points_frame`."""
        return points_frame(self)

    def __repr__(self) -> str:
        """Return the number of points and what the ends reach on validation."""
        if not self:
            return "Front()"
        ends = " to ".join(
            f"{100 * point.validation.accuracy:.1f} % at "
            f"{point.validation.mean_flops / 1e6:.4g} MFLOPs"
            for point in (self[0], self[-1])
        )
        return f"<Front of {len(self)} points: {ends}>"

    def _repr_html_(self) -> str:
        return (
            f"<p>{escape(repr(self))}</p>{self.to_frame().to_html(float_format='{:.4g}'.format)}"
        )


def points_frame(points: Sequence[OperatingPoint]) -> "pd.DataFrame":
    """Return operating points as a frame, one row a point.

    Columns: ``cascade``, ``val_accuracy``, ``val_mflops``, ``test_accuracy``, ``test_mflops``
    (NaN where there are no test numbers), the mean of another cost where that is minimized
    (``val_latency_ms``), ``exit_rates`` on validation, ``source`` and ``trial``. Accuracies and
    rates are shares.
    """
    import pandas as pd

    rows = []
    for point in points:
        row: dict[str, object] = {"cascade": str(point.cascade)}
        for split, found in (("val", point.validation), ("test", point.test)):
            row[f"{split}_accuracy"] = float("nan") if found is None else found.accuracy
            for cost, value in point.validation.costs if found is None else found.costs:
                shown = float("nan") if found is None else value / cost.per_unit
                row[f"{split}_{cost.metric}"] = shown
        row |= {
            "exit_rates": point.validation.exit_rates,
            "source": point.source,
            "trial": point.trial,
        }
        rows.append(row)
    return pd.DataFrame(rows)
