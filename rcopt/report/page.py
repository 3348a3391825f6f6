"""The report as one self-contained HTML page."""

import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files

from rcopt.report.analysis.report_data import ReportData
from rcopt.report.chart import Bars, Chart, HeatMap, Tip
from rcopt.report.charts import charts
from rcopt.report.html import element, text
from rcopt.report.sections import (
    Thumbnail,
    exit_section,
    front_section,
    image_section,
    limit_section,
    map_section,
    progress_section,
    repeat_section,
    stage_section,
)
from rcopt.report.svg import Frame, svg, swatch
from rcopt.report.verdict import verdict

_WIDE, _NARROW, _HALF = Frame(1040, 520), Frame(400, 420), Frame(500, 340)


def page(data: ReportData, thumbnail: Thumbnail | None = None) -> str:
    """Return the whole page.

    Args:
        data: What it shows.
        thumbnail: Gives the pictures of the images shown; names alone without it.
    """
    tips: dict[Tip, int] = {}
    drawn = {chart.name: chart for chart in charts(data)}
    figures = {name: _figure(chart, tips) for name, chart in drawn.items()}
    sections = [
        front_section(data, figures),
        exit_section(figures),
        stage_section(data),
        map_section(data.featured, figures),
        image_section(data, thumbnail),
        progress_section(data, figures),
        limit_section(data),
        repeat_section(data),
    ]
    shown = [(anchor, title, body) for anchor, title, body in sections if body]
    links = "".join(element("a", title, href=f"#{anchor}") for anchor, title, _ in shown)
    body = "".join(
        f'<section id="{anchor}"><details class="fold"><summary>{element("h2", title)}</summary>'
        f"{body}</details></section>"
        for anchor, title, body in shown
    )
    resources = files("rcopt.report")
    style = resources.joinpath("page.css").read_text(encoding="utf-8")
    script = resources.joinpath("page.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">"
        f"{element('title', f'rcopt: {data.facts.name}')}<style>{style}</style></head><body>"
        f"<header>{_header(data)}{figures['front']}"
        f'<div class="pick" id="pick" aria-live="polite">{element("p", _HINT, css="hint")}</div>'
        f'<nav aria-label="Sections">{links}</nav></header><main>{body}</main>'
        f"<footer>{_footer(data)}</footer>"
        '<div id="tip" role="status"></div>'
        f'<script type="application/json" id="data">{_json(tips, drawn)}</script>'
        f"<script>{script}</script></body></html>\n"
    )


_HINT = (
    "Point at the figure to see a configuration; click (or arrow keys and Enter) to get the "
    "command that chooses it."
)


def _header(data: ReportData) -> str:
    images = ", ".join(f"{count:,} {split}" for split, count in data.split_sizes.items())
    return (
        element("p", f"rcopt report · {data.facts.created}", css="kicker")
        + element("h1", data.facts.name)
        + verdict(data)
        + element(
            "p",
            "A resolution cascade: a small network at low resolution answers the images it is "
            "sure about, larger ones at higher resolution answer the rest. Here is what "
            f"{len(data.stages)} trained stages do together on {data.facts.data} "
            f"({len(data.facts.classes)} classes; {images} images). Everything is chosen on "
            "validation; test is only reported.",
            css="soft",
        )
    )


def _figure(chart: Chart, tips: dict[Tip, int]) -> str:
    if chart.name == "front":
        drawing = svg(chart, _WIDE, tips, "wide") + svg(chart, _NARROW, tips, "narrow")
    else:
        drawing = svg(chart, _HALF, tips)
    return (
        f'<figure id="fig-{chart.name}">{element("figcaption", chart.title)}{_legend(chart)}'
        f"{drawing}{element('p', chart.text)}</figure>"
    )


def _legend(chart: Chart) -> str:
    if isinstance(chart, HeatMap):
        return ""
    if isinstance(chart, Bars):
        entries = "".join(
            f'<span><i class="box c{colour}"></i>{escape(layer)}</span>'
            for colour, layer in zip(chart.colours, chart.layers, strict=True)
        )
    else:
        entries = "".join(
            f'<button type="button" data-s="{i}" aria-pressed="{str(not s.hidden).lower()}">'
            f"{swatch(s)}{escape(s.label)}</button>"
            # What is drawn at first comes first, what can be asked for behind it.
            for i, s in sorted(enumerate(chart.series), key=lambda entry: entry[1].hidden)
        )
    return f'<div class="legend">{entries}</div>'


def _footer(data: ReportData) -> str:
    return text(
        f"Made by rcopt report {data.facts.name}. Colours: Okabe and Ito's palette. Nothing on "
        "this page is loaded from elsewhere."
    )


def _json(tips: Mapping[Tip, int], drawn: Mapping[str, Chart]) -> str:
    tree = {
        "tips": [{"lines": tip.lines, "command": tip.command} for tip in tips],
        "maps": {
            name: {
                "x": chart.cells[0],
                "y": chart.cells[1],
                "values": [[chart.value_text(v) for v in row] for row in chart.values.tolist()],
            }
            for name, chart in drawn.items()
            if isinstance(chart, HeatMap)
        },
    }
    # "</" would end the script element; the escape means the same to JSON.
    return json.dumps(tree, separators=(",", ":")).replace("<", "\\u003c")
