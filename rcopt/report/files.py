"""Draw charts as PNG and SVG files with matplotlib."""

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rcopt.files import write_whole
from rcopt.report.chart import (
    COLOURS,
    Bars,
    Chart,
    HeatMap,
    Plot,
    Series,
    limits,
    linear_ticks,
    log_ticks,
    tick_texts,
)
from rcopt.report.labels import Anchor, place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D"}
_ALIGNED: dict[Anchor, Literal["left", "center", "right"]] = {
    "start": "left",
    "middle": "center",
    "end": "right",
}
_FONT = 9
#: Points of a pixel of `rcopt.report.labels`, whose letters are 12 high.
_UNIT = _FONT / 12
_DASHES = {"solid": "-", "dashed": "--", "dotted": ":"}


def save_charts(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Write ``NAME.png`` and ``NAME.svg`` of each chart into a folder, which is made.

    Series that the page hides at first are left out, for nobody can ask a picture for them.
    Equal charts give equal files.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with rc_context({"svg.hashsalt": "rcopt", "font.size": _FONT, "axes.axisbelow": True}):
        for chart in map(_without_hidden, charts):
            wide = chart.name == "front"
            figure = Figure(figsize=(9.2, 5.6) if wide else (5.4, 4.0), layout="constrained")
            axes = figure.subplots()
            if isinstance(chart, Plot):
                _plot(chart, axes)
            elif isinstance(chart, Bars):
                _bars(chart, axes)
            else:
                _heat_map(chart, axes)
            axes.set_title(chart.title, loc="left", fontweight="bold")
            axes.set_xlabel(chart.x_label)
            axes.set_ylabel(chart.y_label)
            if isinstance(chart, Plot):
                _names(chart, axes, figure)
            for suffix, metadata in (("png", {}), ("svg", {"Date": None})):
                path = folder / f"{chart.name}.{suffix}"
                drawn = io.BytesIO()
                figure.savefig(drawn, format=suffix, dpi=160, metadata=metadata)
                write_whole(path, drawn.getvalue())
                paths.append(path)
    return paths


def _without_hidden(chart: Chart) -> Chart:
    if not isinstance(chart, Plot):
        return chart
    return replace(chart, series=tuple(s for s in chart.series if not s.hidden))


def _plot(plot: Plot, axes: "Axes") -> None:
    (x_low, x_high), (y_low, y_high) = limits(plot)
    if plot.log_x:
        axes.set_xscale("log")
    axes.set_xlim(x_low, x_high)
    axes.set_ylim(y_low, y_high)
    x_ticks = (log_ticks if plot.log_x else linear_ticks)(x_low, x_high, 7)
    y_ticks = linear_ticks(y_low, y_high, 7)
    axes.set_xticks(x_ticks, tick_texts(x_ticks, plot.x_text))
    axes.set_xticks([], minor=True)
    axes.set_yticks(y_ticks, tick_texts(y_ticks, plot.y_text))
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    for series in plot.series:
        _series(series, axes)
    axes.legend(fontsize=7.5, frameon=False)


def _names(plot: Plot, axes: "Axes", figure: "Figure") -> None:
    """Write the points' names beside them, when all else has its place."""
    figure.draw_without_rendering()
    scale = _UNIT * figure.dpi / 72
    named = [
        (x, y, name)
        for series in plot.series
        for x, y, name in zip(series.x, series.y, series.names, strict=False)
    ]
    places = [(axes.transData.transform((x, y)) / scale).tolist() for x, y, _ in named]
    left, right = axes.bbox.x0 / scale, figure.bbox.x1 / scale
    # Matplotlib counts from the bottom.
    downwards = [(x, -y, name) for (x, y), (_, _, name) in zip(places, named, strict=True)]
    labels = place_labels(downwards, left, right)
    for label, point, (x, y) in zip(labels, named, places, strict=True):
        axes.annotate(
            label.text,
            point[:2],
            xytext=((label.x - x) * _UNIT, (-label.y - y) * _UNIT),
            textcoords="offset points",
            ha=_ALIGNED[label.anchor],
        ).set_in_layout(False)


def _series(series: Series, axes: "Axes") -> None:
    colour = COLOURS[series.colour]
    if series.kind == "band":
        axes.fill_between(
            series.x,
            series.y,
            series.top,
            color=colour,
            alpha=0.16,
            linewidth=0,
            label=series.label,
        )
        return
    style: dict[str, Any] = {
        "color": colour,
        "label": series.label,
        "linestyle": _DASHES[series.dash] if series.kind != "points" else "none",
        "marker": _MARKERS[series.shape] if series.shape else None,
        "markersize": 1.7 * series.size,
        "markeredgewidth": 0,
        "linewidth": 1.3,
        "drawstyle": "steps-post" if series.kind == "steps" else "default",
    }
    if series.whiskers:
        low, high = zip(*series.whiskers, strict=True)
        axes.vlines(series.x, low, high, color=colour, linewidth=1, alpha=0.7)
    axes.plot(series.x, series.y, **style)


def _bars(bars: Bars, axes: "Axes") -> None:
    places = np.arange(len(bars.bars))
    base = np.zeros(len(bars.bars))
    for layer, colour, share in zip(bars.layers, bars.colours, bars.shares.T, strict=True):
        axes.bar(places, share, 0.92, bottom=base, color=COLOURS[colour], label=layer)
        base += share
    every = max(1, math.ceil(len(places) / 7))
    axes.set_xticks(places[::every], bars.bars[::every])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7.5, loc="lower left")


def _heat_map(chart: HeatMap, axes: "Axes") -> None:
    from matplotlib.colors import LogNorm, Normalize

    low, high = float(chart.values.min()), float(chart.values.max())
    norm = LogNorm(low, high) if chart.log and 0 < low < high else Normalize(low, high)
    image = axes.imshow(
        chart.values.T,
        cmap="cividis",
        norm=norm,
        origin="lower",
        extent=(0.0, 1.0, 0.0, 1.0),
        aspect="auto",
        interpolation="nearest",
    )
    for place, ticks in zip((axes.set_xticks, axes.set_yticks), chart.ticks, strict=True):
        place([p for p, _ in ticks], [text for _, text in ticks])
    if len(chart.path):
        xs, ys = zip(*chart.path, strict=True)
        axes.plot(xs, ys, "o", color="white", markeredgecolor="black", markersize=2, mew=0.3)
    if chart.own is not None:
        axes.plot(*chart.own, "D", color="white", markeredgecolor="black", markersize=8)
    bar = axes.figure.colorbar(image, ax=axes)
    bar.set_ticks([low, high], labels=tick_texts([low, high], chart.value_text))
    bar.minorticks_off()
