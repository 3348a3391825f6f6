"""Descriptions of charts: plain data that the page and the picture files both draw."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

#: Okabe and Ito's palette, told apart with any kind of colour vision; 0 is the text's colour.
COLOURS = ("#222222", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")

Shape = Literal["circle", "square", "triangle", "diamond"]
Dash = Literal["solid", "dashed", "dotted"]

SHAPES: tuple[Shape, ...] = get_args(Shape)


@dataclass(frozen=True)
class Tip:
    """What a hover shows and a click copies.

    Attributes:
        lines: The first is the heading.
        command: What to type to get it; empty if there is nothing to type.
    """

    lines: tuple[str, ...]
    command: str = ""


@dataclass(frozen=True)
class Series:
    """One thing drawn in a plot.

    Attributes:
        label: In the legend.
        x: (P,) positions.
        y: (P,) positions.
        colour: Index in `COLOURS`.
        kind: Joined by lines, by steps that hold y until the next x, drawn as points alone, or
            filled between y and ``top``.
        dash: Of the line.
        shape: Of the points; None for a line alone.
        size: Radius of the points in pixels.
        top: (P,) upper edge of a band.
        whiskers: (P,) interval of y of each point, or none.
        tips: One for each point, or none.
        names: Text beside each point, or none.
        hidden: Whether it is left out: of pictures for good, of the page until it is asked for.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int
    kind: Literal["line", "steps", "points", "band"] = "line"
    dash: Dash = "solid"
    shape: Shape | None = None
    size: float = 3.0
    top: Sequence[float] = ()
    whiskers: Sequence[tuple[float, float]] = ()
    tips: Sequence[Tip] = ()
    names: Sequence[str] = ()
    hidden: bool = False


@dataclass(frozen=True)
class Plot:
    """Series over two axes.

    Attributes:
        name: File name without suffix, unique on the page.
        title: One line.
        text: Text alternative: what the picture shows, with its main numbers.
        x_label: With its unit.
        y_label: With its unit.
        series: Drawn in this order.
        log_x: Whether x is logarithmic.
        x_text: Shows a position on x.
        y_text: Shows a position on y.
    """

    name: str
    title: str
    text: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool
    x_text: Callable[[float], str]
    y_text: Callable[[float], str]


@dataclass(frozen=True)
class Bars:
    """Stacked bars, each of height 1.

    Attributes:
        name: File name without suffix, unique on the page.
        title: One line.
        text: Text alternative.
        x_label: What the bars are ordered by.
        y_label: What is stacked.
        bars: (B,) text under each bar.
        layers: (L,) names, from the bottom.
        colours: (L,) indices in `COLOURS`.
        shares: (B, L) heights, each row sums to 1.
        tips: (B,) one for each bar.
    """

    name: str
    title: str
    text: str
    x_label: str
    y_label: str
    bars: tuple[str, ...]
    layers: tuple[str, ...]
    colours: tuple[int, ...]
    shares: NDArray[np.float64]
    tips: tuple[Tip, ...]


@dataclass(frozen=True)
class HeatMap:
    """Values over a grid of two thresholds.

    Attributes:
        name: File name without suffix, unique on the page.
        title: One line.
        text: Text alternative.
        x_label: Of the first axis of ``values``.
        y_label: Of its second axis.
        values: (G, H).
        ticks: For x and y, (place in 0..1, text).
        cells: For x and y, the text that names each row of cells when hovered over.
        value_text: Shows a value.
        log: Whether colours follow the logarithm of the values.
        own: Marked place in 0..1 x 0..1, None for none.
        path: (P, 2) further places to mark.
    """

    name: str
    title: str
    text: str
    x_label: str
    y_label: str
    values: NDArray[np.float64]
    ticks: tuple[tuple[tuple[float, str], ...], tuple[tuple[float, str], ...]]
    cells: tuple[tuple[str, ...], tuple[str, ...]]
    value_text: Callable[[float], str]
    log: bool = False
    own: tuple[float, float] | None = None
    path: Sequence[tuple[float, float]] = ()


Chart = Plot | Bars | HeatMap


def limits(plot: Plot) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the ranges of x and y that hold all series, with a small margin."""
    xs = np.concatenate([np.asarray(s.x, dtype=np.float64) for s in plot.series])
    ys = np.concatenate(
        [
            np.asarray([*s.y, *s.top, *(end for pair in s.whiskers for end in pair)], np.float64)
            for s in plot.series
        ]
    )
    x_low, x_high = float(xs.min()), float(xs.max())
    if plot.log_x:
        x_low, x_high = _margin(math.log10(x_low), math.log10(x_high))
        x_low, x_high = 10**x_low, 10**x_high
    else:
        x_low, x_high = _margin(x_low, x_high)
    return (x_low, x_high), _margin(float(ys.min()), float(ys.max()))


def tick_texts(ticks: Sequence[float], text: Callable[[float], str]) -> list[str]:
    """Return what stands beside ticks, no text twice.

    Shares get as many decimals as it takes to tell them apart.

    Example:
        >>> tick_texts([0.99, 0.995, 1.0], lambda share: f"{100 * share:.0f} %")
        ['99.0 %', '99.5 %', '100.0 %']
    """
    texts = [text(tick) for tick in ticks]
    if len(set(texts)) < len(texts) and all(t.endswith(" %") for t in texts):
        for digits in range(1, 7):
            texts = [f"{100 * tick:.{digits}f} %" for tick in ticks]
            if len(set(texts)) == len(texts):
                break
    return [t if t not in texts[:i] else "" for i, t in enumerate(texts)]


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about ``count`` round values within a range.

    Example:
        >>> linear_ticks(0.71, 0.93, 5)
        [0.75, 0.8, 0.85, 0.9]
    """
    rough = (high - low) / max(count, 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """Return round values within a range, evenly on a logarithmic scale: 1, 2, 5, 10, ...

    Example:
        >>> log_ticks(70, 9000, 7)
        [100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0]
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
        # The nearest two, such as 9 and 10, need room for their labels too.
        nearest = min((math.log(b / a) for a, b in pairwise(ticks)), default=math.inf)
        if len(ticks) <= count and nearest >= 0.6 * math.log(high / low) / count:
            break
    return ticks if len(ticks) >= 2 else linear_ticks(low, high, count)


def _margin(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.04 or max(abs(low) * 0.05, 1e-6)
    return low - room, high + room
