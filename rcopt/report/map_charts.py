"""The featured cascade over its thresholds."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rcopt.core.wording import answers_at, axis_amount, cascade_name, flops_text, percent
from rcopt.report.analysis.report_data import Featured, ReportData
from rcopt.report.chart import HeatMap, Plot, Series, Tip
from rcopt.report.front_chart import ACCURACY, COST


def accuracy_map(data: ReportData) -> HeatMap | Plot | None:
    """Return the featured cascade's validation accuracy over its thresholds."""
    if data.featured is None:
        return None
    values, own = data.featured.map.accuracy, data.featured.point.validation.accuracy
    if len(data.featured.point.cascade.stages) == 2:
        return _curve(
            data.featured, "accuracy", "Accuracy", ACCURACY, values, own, lambda y: percent(y, 0)
        )
    return _grid(data.featured, "accuracy", "Accuracy", values, percent)


def flops_map(data: ReportData) -> HeatMap | Plot | None:
    """Return the featured cascade's mean FLOPs over its thresholds."""
    if data.featured is None:
        return None
    values, own = data.featured.map.mean_flops, data.featured.point.validation.mean_flops
    if len(data.featured.point.cascade.stages) == 2:
        return _curve(data.featured, "flops", "Mean FLOPs", COST, values, own, axis_amount)
    return _grid(data.featured, "flops", "Mean FLOPs", values, flops_text)


def _curve(
    featured: Featured,
    kind: str,
    title: str,
    label: str,
    values: NDArray[np.float64],
    own: float,
    text: Callable[[float], str],
) -> Plot:
    found = featured.map
    first, what = found.cascade.stages[0].name, cascade_name(found.cascade)
    marks = [Tip((answers_at(t),)) for t in found.thresholds[0]]
    return Plot(
        name=f"map-{kind}",
        title=f"{title} of {what} over its threshold",
        text=f"{title} on validation as more images are passed on; its own threshold passes on "
        f"{percent(found.own[0], 1)}.",
        x_label=f"share of images {first} passes on",
        y_label=label,
        series=(
            Series(
                "all thresholds",
                found.shares.tolist(),
                values.tolist(),
                1,
                tips=marks,
                shape="circle",
                size=2.4,
            ),
            Series(
                "this cascade", [found.own[0]], [own], 2, kind="points", shape="diamond", size=6
            ),
        ),
        log_x=False,
        x_text=lambda x: percent(x, 0),
        y_text=text,
    )


def _grid(
    featured: Featured,
    kind: str,
    title: str,
    values: NDArray[np.float64],
    text: Callable[[float], str],
) -> HeatMap | None:
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-12 * high:
        return None  # One colour all over tells nothing.
    found = featured.map
    stages = found.cascade.stages
    ticks = tuple((p, f"{100 * p:.0f} %") for p in (0.0, 0.25, 0.5, 0.75, 1.0))
    cells = tuple(
        tuple(
            f"{stage.name} {answers_at(t)} ({percent(share, 0)} below)"
            for t, share in zip(row, found.shares, strict=True)
        )
        for stage, row in zip(stages[:2], found.thresholds.tolist(), strict=True)
    )
    return HeatMap(
        name=f"map-{kind}",
        title=f"{title} over the thresholds",
        text=f"{title} of {cascade_name(found.cascade)} on validation over its two thresholds, "
        f"from {text(low)} to {text(high)}. The diamond is the cascade itself, the dots are the "
        "points of the front with these stages.",
        x_label=f"share of images below the threshold of {stages[0].name}",
        y_label=f"share below that of {stages[1].name}",
        values=values,
        ticks=(ticks, ticks),
        cells=(cells[0], cells[1]),
        value_text=text,
        log=kind == "flops",
        own=(found.own[0], found.own[1]),
        path=[(float(a), float(b)) for a, b in found.path],
    )
