"""Draw a chart as inline SVG; colours and fonts come from the page's style sheet."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np
from numpy.typing import NDArray

from rcopt.report.chart import (
    Bars,
    Chart,
    HeatMap,
    Plot,
    Series,
    Shape,
    Tip,
    limits,
    linear_ticks,
    log_ticks,
    tick_texts,
)
from rcopt.report.labels import place_labels


@dataclass(frozen=True)
class Frame:
    """The picture's size and the room around the plot, in pixels of the drawing."""

    width: int
    height: int
    left: int = 58
    right: int = 14
    top: int = 12
    bottom: int = 46

    @property
    def inner_width(self) -> float:
        """Width of the plot."""
        return self.width - self.left - self.right

    @property
    def inner_height(self) -> float:
        """Height of the plot."""
        return self.height - self.top - self.bottom

    def x(self, place: float) -> float:
        """Return the pixel of a place in 0..1."""
        return self.left + place * self.inner_width

    def y(self, place: float) -> float:
        """Return the pixel of a place in 0..1, which rises upwards."""
        return self.top + (1 - place) * self.inner_height


def svg(chart: Chart, frame: Frame, tips: dict[Tip, int], css: str = "") -> str:
    """Return an ``<svg>`` element.

    Args:
        chart: What to draw.
        frame: How large.
        tips: Number of each tip drawn so far; new ones are added.
        css: Class of the element.
    """
    if isinstance(chart, Plot):
        body = _plot(chart, frame, tips)
    elif isinstance(chart, Bars):
        body = _bars(chart, frame, tips)
    else:
        body = _heat_map(chart, frame)
    label = escape(f"{chart.title}. {chart.text}")
    role = 'role="img"'
    if "data-t=" in body:
        role = 'role="application" aria-roledescription="chart" tabindex="0"'
    return (
        f'<svg class="chart {css}" viewBox="0 0 {frame.width} {frame.height}" {role} '
        f'aria-label="{label}">{body}</svg>'
    )


def swatch(series: Series) -> str:
    """Return a small picture of how a series is drawn, for the legend."""
    line = f'<path class="line {series.dash}" d="M1,7H25"/>'
    if series.kind == "band":
        inside = '<rect class="band" x="1" y="2" width="24" height="10"/>'
    else:
        inside = line if series.kind != "points" else ""
        if series.whiskers:
            inside += '<path class="whisker" d="M13,0V14"/>'
        if series.shape:
            inside += _glyph(series.shape, 13, 7, min(series.size + 0.5, 5), "dot")
    return (
        f'<svg class="swatch c{series.colour}" viewBox="0 0 26 14" aria-hidden="true">'
        f"{inside}</svg>"
    )


def heat_colours(values: NDArray[np.float64], log: bool) -> NDArray[np.uint8]:
    """Return (…, 3) colours of values on matplotlib's cividis, made for any colour vision."""
    from matplotlib import colormaps

    level = np.log(values) if log and values.min() > 0 else values
    spread = float(level.max() - level.min()) or 1.0
    return np.asarray(colormaps["cividis"]((level - level.min()) / spread, bytes=True)[..., :3])


def _plot(plot: Plot, frame: Frame, tips: dict[Tip, int]) -> str:
    (x_low, x_high), (y_low, y_high) = limits(plot)
    y_ticks = linear_ticks(y_low, y_high, max(2, int(frame.inner_height // 48)))
    y_text = tick_texts(y_ticks, plot.y_text)
    frame = replace(frame, left=30 + 7 * max(map(len, y_text)))
    scale: Callable[[float], float] = math.log10 if plot.log_x else float
    x0, x1 = scale(x_low), scale(x_high)

    def at(x: float, y: float) -> tuple[float, float]:
        return frame.x((scale(x) - x0) / (x1 - x0)), frame.y((y - y_low) / (y_high - y_low))

    make = log_ticks if plot.log_x else linear_ticks
    x_ticks = make(x_low, x_high, max(2, int(frame.inner_width // 62)))
    parts = [
        _axes(
            frame,
            [
                (at(t, y_low)[0], text)
                for t, text in zip(x_ticks, tick_texts(x_ticks, plot.x_text), strict=True)
            ],
            [(at(x_low, t)[1], text) for t, text in zip(y_ticks, y_text, strict=True)],
            plot.x_label,
            plot.y_label,
        )
    ]
    names: list[tuple[float, float, str]] = []
    for number, series in enumerate(plot.series):
        places = [at(x, y) for x, y in zip(series.x, series.y, strict=True)]
        upper = [at(x, y) for x, y in zip(series.x, series.top, strict=False)]
        whiskers = "".join(
            f"M{at(x, low)[0]:.1f},{at(x, low)[1]:.1f}V{at(x, high)[1]:.1f}"
            for x, (low, high) in zip(series.x, series.whiskers, strict=False)
        )
        drawn = f'<path class="whisker" d="{whiskers}"/>' if whiskers else ""
        drawn += _series(series, places, upper, tips)
        off = " off" if series.hidden else ""
        parts.append(f'<g class="s c{series.colour}{off}" data-s="{number}">{drawn}</g>')
        names += [(x, y, n) for (x, y), n in zip(places, series.names, strict=False)]
    return "".join(parts) + _labels(names, frame)


def _series(
    series: Series,
    places: Sequence[tuple[float, float]],
    upper: Sequence[tuple[float, float]],
    tips: dict[Tip, int],
) -> str:
    if series.kind == "band":
        return f'<path class="band" d="M{_joined(places)}L{_joined(upper[::-1])}Z"/>'
    parts = []
    if series.kind == "line":
        parts.append(f'<path class="line {series.dash}" d="M{_joined(places)}"/>')
    if series.kind == "steps":
        parts.append(f'<path class="line {series.dash}" d="{_stairs(places)}"/>')
    if series.shape:
        for i, (x, y) in enumerate(places):
            tip = tips.setdefault(series.tips[i], len(tips)) if series.tips else None
            parts.append(_glyph(series.shape, x, y, series.size, "dot", tip))
    return "".join(parts)


def _bars(bars: Bars, frame: Frame, tips: dict[Tip, int]) -> str:
    count = len(bars.bars)
    slot = frame.inner_width / count
    parts = []
    for i, row in enumerate(bars.shares):
        tip = tips.setdefault(bars.tips[i], len(tips))
        base = 0.0
        for colour, share in zip(bars.colours, row.tolist(), strict=True):
            if share > 0:
                parts.append(
                    f'<rect class="bar c{colour}" data-t="{tip}" x="{frame.left + i * slot:.1f}" '
                    f'y="{frame.y(base + share):.1f}" width="{slot * 0.92:.1f}" '
                    f'height="{share * frame.inner_height:.1f}"/>'
                )
            base += share
    every = max(1, math.ceil(count * 44 / frame.inner_width))
    x_ticks = [(frame.left + (i + 0.46) * slot, bars.bars[i]) for i in range(0, count, every)]
    y_ticks = [(frame.y(p), f"{100 * p:.0f} %") for p in (0, 0.25, 0.5, 0.75, 1)]
    return _axes(frame, x_ticks, y_ticks, bars.x_label, bars.y_label) + "".join(parts)


def _heat_map(chart: HeatMap, frame: Frame) -> str:
    strip = 56
    inner = Frame(
        frame.width, frame.height, frame.left, frame.right + strip, frame.top, frame.bottom
    )
    picture = _png(heat_colours(chart.values, chart.log).transpose(1, 0, 2)[::-1])
    box = (
        f'x="{inner.x(0):.1f}" y="{inner.y(1):.1f}" '
        f'width="{inner.inner_width:.1f}" height="{inner.inner_height:.1f}"'
    )
    marks = "".join(
        f'<circle class="trail" cx="{inner.x(x):.1f}" cy="{inner.y(y):.1f}" r="1.6"/>'
        for x, y in chart.path
    )
    if chart.own is not None:
        marks += _glyph("diamond", inner.x(chart.own[0]), inner.y(chart.own[1]), 7, "own")
    axes = _axes(
        inner,
        [(inner.x(p), text) for p, text in chart.ticks[0]],
        [(inner.y(p), text) for p, text in chart.ticks[1]],
        chart.x_label,
        chart.y_label,
    )
    return (
        f'{axes}<image class="pixels" preserveAspectRatio="none" {box} href="{picture}"/>{marks}'
        f'<rect class="cells" data-map="{chart.name}" {box}/>{_colour_bar(chart, inner)}'
    )


def _colour_bar(chart: HeatMap, inner: Frame) -> str:
    low, high = float(chart.values.min()), float(chart.values.max())
    logarithmic = chart.log and low > 0
    levels = np.geomspace(low, high, 64) if logarithmic else np.linspace(low, high, 64)
    strip = _png(heat_colours(levels[::-1, None], chart.log))
    x = inner.width - inner.right + 16
    ends = tick_texts([high, low], chart.value_text)
    texts = "".join(
        f'<text class="tick" text-anchor="middle" x="{x + 14:.1f}" y="{y:.1f}">'
        f"{escape(text.replace('FLOPs', ''))}</text>"
        for y, text in zip((inner.y(1) + 10, inner.y(0)), ends, strict=True)
    )
    top, height = inner.y(1) + 18, inner.inner_height - 34
    return (
        f'<image class="pixels" preserveAspectRatio="none" x="{x + 7:.1f}" y="{top:.1f}" '
        f'width="14" height="{height:.1f}" href="{strip}"/>{texts}'
    )


def _axes(
    frame: Frame,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    x_label: str,
    y_label: str,
) -> str:
    bottom, right = frame.y(0), frame.x(1)
    parts = [
        f'<path class="grid" d="M{frame.left},{y:.1f}H{right:.1f}"/>'
        f'<text class="tick" text-anchor="end" x="{frame.left - 7}" y="{y + 4:.1f}">'
        f"{escape(text)}</text>"
        for y, text in y_ticks
    ]
    parts += [
        f'<path class="grid" d="M{x:.1f},{bottom:.1f}v5"/>'
        f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{bottom + 18:.1f}">'
        f"{escape(text)}</text>"
        for x, text in x_ticks
    ]
    middle = (frame.y(0) + frame.y(1)) / 2
    parts.append(
        f'<path class="axis" d="M{frame.left},{frame.y(1):.1f}V{bottom:.1f}H{right:.1f}"/>'
        f'<text class="name" text-anchor="middle" x="{frame.x(0.5):.1f}" '
        f'y="{frame.height - 8}">{escape(x_label)}</text>'
        f'<text class="name" text-anchor="middle" transform="translate(13,{middle:.1f}) '
        f'rotate(-90)">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _labels(names: Sequence[tuple[float, float, str]], frame: Frame) -> str:
    return "".join(
        f'<text class="label" text-anchor="{label.anchor}" x="{label.x:.1f}" y="{label.y:.1f}">'
        f"{escape(label.text)}</text>"
        for label in place_labels(names, frame.left, frame.width - 2)
    )


def _glyph(shape: Shape, x: float, y: float, size: float, css: str, tip: int | None = None) -> str:
    mark = "" if tip is None else f' data-t="{tip}"'
    if shape == "circle":
        return f'<circle class="{css}"{mark} cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"/>'
    s = size
    outline = {
        "square": f"m{-s:g},{-s:g}h{2 * s:g}v{2 * s:g}h{-2 * s:g}z",
        "triangle": f"m0,{-1.2 * s:g}l{1.1 * s:g},{2 * s:g}h{-2.2 * s:g}z",
        "diamond": f"m0,{-1.2 * s:g}l{1.2 * s:g},{1.2 * s:g}l{-1.2 * s:g},{1.2 * s:g}"
        f"l{-1.2 * s:g},{-1.2 * s:g}z",
    }[shape]
    return f'<path class="{css}"{mark} d="M{x:.1f},{y:.1f}{outline}"/>'


def _joined(places: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _stairs(places: Sequence[tuple[float, float]]) -> str:
    return f"M{places[0][0]:.1f},{places[0][1]:.1f}" + "".join(
        f"H{x:.1f}V{y:.1f}" for x, y in places[1:]
    )


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
