"""A study's front as a picture, and as the data of one for optuna-dashboard."""

import io
import json
from collections.abc import Sequence
from typing import Any

from rcopt.core.cascade import OperatingPoint
from rcopt.core.cost import COSTS, CostName
from rcopt.core.wording import axis_amount, cascade_name, short_name
from rcopt.study.results import Results, well_spread

#: Okabe and Ito's blue and orange, told apart by everybody.
_FRONT, _SINGLE = "#0072b2", "#d55e00"


def front_picture(results: Results, *, tested: bool = True) -> bytes:
    """Return the front on validation, with single stages, as PNG.

    Equal results give equal bytes.

    Args:
        results: So far.
        tested: Whether the points are shown on test too; not while the search goes on.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    cost = COSTS[_minimized(results)]
    with rc_context({"font.size": 9, "axes.axisbelow": True}):
        figure = Figure(figsize=(8, 4.5), layout="constrained", facecolor="white")
        axes = figure.subplots()
        for label, xs, ys, style in _series(results, results.points, tested=tested):
            axes.plot(xs, ys, label=label, **style)
        for summary in results.stages:
            axes.annotate(
                short_name(summary.stage),
                (summary.stage.cost / cost.per_unit, 100 * summary.validation),
                xytext=(4, -9),
                textcoords="offset points",
                fontsize=7,
                color=_SINGLE,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: axis_amount(x)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"{cost.title} of an image ({cost.unit}, logarithmic)")
        axes.set_ylabel("accuracy (%)")
        axes.set_title(
            f"{results.study}: {len(results.stages)} stages", loc="left", fontweight="bold"
        )
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=110)
    return drawn.getvalue()


def front_plotly(results: Results) -> str:
    """Return the same picture as the JSON that Plotly draws; Plotly itself is not needed."""
    cost, points = COSTS[_minimized(results)], well_spread(results.points)
    names = {
        "front": [cascade_name(p.cascade, short=True) for p in points],
        "single stages": [short_name(s.stage) for s in results.stages],
    }
    names["front on test"] = names["front"]
    data = [
        {
            "type": "scatter",
            "name": label,
            "x": xs,
            "y": ys,
            "text": names[label],
            "mode": "lines+markers" if label == "front" else "markers",
            "line": {"shape": "hv"},
            "marker": {"color": style["color"], "size": 6},
        }
        for label, xs, ys, style in _series(results, points, tested=True)
    ]
    layout = {
        "title": {"text": "Accuracy against cost, validation"},
        "xaxis": {"type": "log", "title": {"text": f"{cost.title} ({cost.unit})"}},
        "yaxis": {"title": {"text": "accuracy (%)"}},
        "legend": {"orientation": "h", "y": -0.25},
    }
    return json.dumps({"data": data, "layout": layout})


def _series(
    results: Results, points: Sequence[OperatingPoint], *, tested: bool
) -> list[tuple[str, list[float], list[float], dict[str, Any]]]:
    """Return label, costs, accuracies in per cent and style of what is drawn."""
    unit = COSTS[_minimized(results)].per_unit
    stages = results.stages
    on_test = [p.test for p in points if p.test is not None]
    found: list[tuple[str, list[float], list[float], dict[str, Any]]] = [
        (
            "front",
            [p.validation.cost / unit for p in points],
            [100 * p.validation.accuracy for p in points],
            {"color": _FRONT, "drawstyle": "steps-post", "marker": "o", "markersize": 3},
        ),
        (
            "single stages",
            [s.stage.cost / unit for s in stages],
            [100 * s.validation for s in stages],
            {"color": _SINGLE, "linestyle": "none", "marker": "s", "markersize": 5},
        ),
    ]
    if tested and on_test:
        found.append(
            (
                "front on test",
                [t.cost / unit for t in on_test],
                [100 * t.accuracy for t in on_test],
                {"color": "#009e73", "linestyle": "none", "marker": "^", "markersize": 3},
            )
        )
    return found


def _minimized(results: Results) -> CostName:
    minimized = results.points[0].validation.minimized
    return "flops" if minimized is None else minimized.cost
