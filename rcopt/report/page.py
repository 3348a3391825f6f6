"""The report as one self-contained HTML page."""

import base64
import json
from collections.abc import Callable, Mapping
from html import escape
from importlib.resources import files

from rcopt.answered_images import AnsweredImage
from rcopt.report.chart import Bars, Chart, HeatMap, Tip
from rcopt.report.charts import RESOLUTION_COLOURS, charts
from rcopt.report.html import Html, element, table, text
from rcopt.report.original import claim_table, original_charts, stage_table
from rcopt.report.svg import Frame, svg, swatch
from rcopt.report.wording import (
    amount,
    cascade_name,
    configuration,
    duration,
    flops_text,
    numbers,
    percent,
    plural,
    points,
    points_interval,
    rule_text,
    short_cascade,
    threshold_text,
    times,
    times_interval,
)
from rcopt.report_data import Featured, FrontLine, ReportData, StageLine

#: Returns a small PNG or JPEG of an image by its name, or None where there is none.
Thumbnail = Callable[[str], bytes | None]

_WIDE, _NARROW, _HALF = Frame(1040, 520), Frame(400, 420), Frame(500, 340)


def page(data: ReportData, thumbnail: Thumbnail | None = None) -> str:
    """Return the whole page.

    Args:
        data: What it shows.
        thumbnail: Gives the pictures of the images shown; names alone without it.
    """
    tips: dict[Tip, int] = {}
    drawn = {c.name: c for c in (*charts(data), *original_charts(data.analyses, data.analysed))}
    figures = {name: _figure(chart, tips) for name, chart in drawn.items()}
    sections = [
        _front_section(data, figures),
        _exit_section(figures),
        _stage_section(data),
        _map_section(data.featured, figures),
        _image_section(data, thumbnail),
        _original_section(data, figures),
        _progress_section(data, figures),
        _limit_section(data),
        _repeat_section(data),
    ]
    shown = [(anchor, title, body) for anchor, title, body in sections if body]
    links = "".join(element("a", title, href=f"#{anchor}") for anchor, title, _ in shown)
    body = "".join(
        f'<section id="{anchor}">{element("h2", title)}{body}</section>'
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
    saved, less = data.savings[0], data.savings[-1]
    top = data.top.trained.stage.name
    best = data.front[-1]
    best_test = best.point.test or best.point.validation
    level = percent(data.bootstrap.level, 0)
    cards = (
        (
            f"fewer FLOPs, as accurate as {top}",
            times(saved.saving.test or saved.saving.validation),
            f"{level} interval {times_interval(saved.interval.times)}; test accuracy "
            f"{points(saved.interval.change.estimate)} points "
            f"({points_interval(saved.interval.change)})",
        ),
        (
            f"fewer FLOPs, giving up {plural(100 * less.saving.loss)}",
            times(less.saving.test or less.saving.validation),
            f"{level} interval {times_interval(less.interval.times)}; test accuracy "
            f"{points(less.interval.change.estimate)} points "
            f"({points_interval(less.interval.change)})",
        ),
        (
            "right on test: the most accurate cascade",
            percent(best_test.accuracy),
            f"{top} alone: {percent(data.top.test.estimate)} "
            f"({percent(data.top.test.low, 1)} to {percent(data.top.test.high, 1)}); "
            f"for {times(best.times)} fewer FLOPs",
        ),
    )
    blocks = "".join(
        f"<div><dt>{element('span', big, css='big')} {text(label)}</dt>"
        f"{element('dd', note, css='soft')}</div>"
        for label, big, note in cards
    )
    images = ", ".join(f"{count:,} {split}" for split, count in data.split_sizes.items())
    return (
        element("p", f"rcopt report · {data.facts.created}", css="kicker")
        + element("h1", data.facts.name)
        + element(
            "p",
            "A resolution cascade: a small network at low resolution answers the images it is "
            "sure about, larger ones at higher resolution answer the rest. Here is what "
            f"{len(data.stages)} trained stages do together on {data.facts.data} "
            f"({len(data.facts.classes)} classes; {images} images). Everything is chosen on "
            "validation; test is only reported.",
        )
        + f'<dl class="numbers">{blocks}</dl>'
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
            for i, s in enumerate(chart.series)
        )
    return f'<div class="legend">{entries}</div>'


def _front_section(data: ReportData, figures: Mapping[str, str]) -> tuple[str, str, str]:
    gap = data.generalization
    apart = gap.gap / gap.optimistic_hypervolume if gap.optimistic_hypervolume else 0.0
    body: str = element(
        "p",
        f"The validation front has {len(data.front)} cascades; {len(data.rows)} well-spread ones "
        "are listed. Of the whole front "
        f"{sum(line.optimistic for line in data.front)} stay undominated on test (optimistic "
        f"front) and {sum(line.pessimistic for line in data.front)} dominate no other "
        f"(pessimistic front); the hypervolumes of the two differ by {percent(apart, 1)} (Mind "
        "the Gap, arXiv:2212.04183).",
    )
    body += table(
        ("given up", "cascade", "fewer FLOPs, validation", "fewer FLOPs, test", "test accuracy"),
        [
            (
                plural(100 * s.saving.loss),
                short_cascade(s.saving.point.cascade),
                times(s.saving.validation),
                f"{times(s.interval.times.estimate)} ({times_interval(s.interval.times)})",
                f"{points(s.interval.change.estimate)} points "
                f"({points_interval(s.interval.change)})",
            )
            for s in data.savings
        ],
        f"What a cascade saves against {data.top.trained.stage.name}, the most accurate stage: "
        "the cheapest cascade that loses no more on validation. In brackets: paired bootstrap, "
        f"{data.bootstrap.n_resamples} resamples, choice repeated in each, "
        f"{percent(data.bootstrap.level, 0)} intervals. The last row is chosen by "
        f"rcopt select {data.facts.name} --max-drop {data.savings[-1].saving.loss:g}",
        css="plain",
    )
    return "front", "The front", body + _front_table(data)


def _front_table(data: ReportData) -> str:
    resolutions = sorted({s.resolution for x in data.front for s in x.point.cascade.stages})
    colours = dict(zip(resolutions, RESOLUTION_COLOURS * len(resolutions), strict=False))
    rows = []
    for i in data.rows:
        line = data.front[i]
        validation, test = line.point.validation, line.point.test or line.point.validation
        rows.append(
            (
                _lines(*configuration(line.point)),
                _lines(percent(validation.accuracy), flops_text(validation.mean_flops)),
                _lines(percent(test.accuracy), flops_text(test.mean_flops)),
                times(line.times),
                _mini(line, colours),
                _command(line.command),
            )
        )
    head = (
        "stages, thresholds, exit rates on test",
        "validation",
        "test",
        "fewer FLOPs",
        "exits",
        "command",
    )
    keys = ", ".join(f"{r} px" for r in resolutions)
    return table(
        head,
        rows,
        f"The front, cheapest first: accuracy and mean FLOPs of {len(rows)} of its points, and "
        f"how many times fewer FLOPs than {data.top.trained.stage.name} on test. Exits by "
        f"resolution, from the left: {keys}.",
        css="front",
    )


def _lines(*lines: str) -> Html:
    return Html("<br>".join(map(escape, lines)))


def _mini(line: FrontLine, colours: Mapping[int, int]) -> Html:
    shown = line.point.test or line.point.validation
    parts = "".join(
        f'<i class="c{colours[stage.resolution]}" style="width:{100 * rate:.2f}%"></i>'
        for stage, rate in zip(line.point.cascade.stages, shown.exit_rates, strict=True)
    )
    label = ", ".join(configuration(line.point))
    return Html(f'<div class="mini" role="img" aria-label="{escape(label)}">{parts}</div>')


def _exit_section(figures: Mapping[str, str]) -> tuple[str, str, str]:
    pair = f'<div class="pair">{figures["exit-rates"]}{figures["reach-rates"]}</div>'
    return "exits", "Who answers what", pair


def _stage_section(data: ReportData) -> tuple[str, str, str]:
    rows = [_stage_row(line) for line in data.stages]
    head = (
        "stage",
        "MACs",
        "FLOPs",
        "parameters",
        "validation accuracy",
        "test accuracy (95 %)",
        "trained in",
        "MLflow run",
    )
    caption = (
        "Every trained stage alone. FLOPs are 2 × MACs of one image, MACs as ptflops counts them."
    )
    return "stages", "The stages", table(head, rows, caption)


def _stage_row(line: StageLine) -> tuple[str, ...]:
    trained = line.trained
    return (
        trained.stage.name,
        amount(trained.macs),
        flops_text(trained.stage.flops),
        amount(trained.parameters),
        percent(line.point.validation.accuracy),
        f"{percent(line.test.estimate)} ({percent(line.test.low)} to {percent(line.test.high)})",
        duration(trained.seconds) if trained.seconds else "not here",
        (trained.run_id or "none")[:8],
    )


def _map_section(featured: Featured | None, figures: Mapping[str, str]) -> tuple[str, str, str]:
    if featured is None:
        return "map", "", ""
    thresholds = ", ".join(
        f"{stage.name} {threshold_text(t)}"
        for stage, t in zip(
            featured.point.cascade.stages, featured.point.cascade.thresholds, strict=False
        )
    )
    body: str = element(
        "p",
        f"{cascade_name(featured.point.cascade)} ({thresholds}): validation "
        f"{numbers(featured.point.validation)}. The axes are even in images, since confidences "
        "crowd near 1.",
    )
    pair = f'<div class="pair">{figures["map-accuracy"]}{figures["map-flops"]}</div>'
    return "map", "One cascade over its thresholds", body + pair


def _image_section(data: ReportData, thumbnail: Thumbnail | None) -> tuple[str, str, str]:
    if data.featured is None:
        return "images", "", ""
    body = ""
    for part in data.featured.images:
        right = f", {percent(part.accuracy, 1)} of them rightly" if part.count else ""
        body += element("h3", f"{part.stage.name} answers {part.count:,} test images{right}")
        for label, shown in (("First: surest", part.first), ("Last: only just", part.last)):
            if shown:
                items = "".join(_image(image, data, thumbnail) for image in shown)
                body += element("p", label, css="soft") + f'<ul class="strip">{items}</ul>'
    intro = element(
        "p", f"Test images of {cascade_name(data.featured.point.cascade)}, stage by stage."
    )
    return "images", "Images each stage answers first and last", intro + body


def _image(image: AnsweredImage, data: ReportData, thumbnail: Thumbnail | None) -> str:
    classes = data.facts.classes
    label, answer = (
        classes[i] if i < len(classes) else str(i) for i in (image.label, image.answer)
    )
    picture = thumbnail(image.image) if thumbnail else None
    shown = ""
    if picture is not None:
        kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
        code = base64.b64encode(picture).decode()
        shown = f'<img alt="{escape(image.image)}" src="data:image/{kind};base64,{code}">'
    said = (
        element("span", f"✓ {answer}")
        if image.right
        else element("span", f"✗ {answer}", css="wrong") + text(f", is {label}")
    )
    name = "" if shown else text(f"{image.image}: ")
    return f"<li>{shown}{name}{said} {text(f'{image.confidence:.4f}')}</li>"


def _original_section(data: ReportData, figures: Mapping[str, str]) -> tuple[str, str, str]:
    if not data.analyses:
        return "original", "", ""
    body: str = element(
        "p",
        "The analysis of the report that rcopt comes from (ETS Montréal, 2023), repeated with "
        f"{', '.join(data.analysed)}. It laid grids over the two thresholds and counted cost in "
        "parameters × area; beside it stand measured FLOPs and the exact front.",
    )
    body += claim_table(data.analyses) + stage_table(data.analyses)
    drawn = "".join(figure for name, figure in figures.items() if name.startswith("original-"))
    return "original", "The original report, repeated", f'{body}<div class="pair">{drawn}</div>'


def _progress_section(data: ReportData, figures: Mapping[str, str]) -> tuple[str, str, str]:
    history = data.history
    if history is None:
        return "progress", "", ""
    accuracy, flops = history.reference
    body: str = element(
        "p",
        f"{len(history.trials)} trials trained {int(history.stages_trained[-1])} stages in "
        f"{duration(float(history.seconds[-1]))}. The sampled trials reach "
        f"{percent(history.share, 1)} of the exact front's hypervolume, measured from accuracy "
        f"{percent(accuracy, 1)} and {flops_text(flops)}.",
    )
    drawn = "".join(figure for name, figure in figures.items() if name.startswith("progress-"))
    return "progress", "Search progress", f'{body}<div class="pair">{drawn}</div>'


def _limit_section(data: ReportData) -> tuple[str, str, str]:
    optimism = data.bootstrap.optimism.optimism
    half = (data.top.test.high - data.top.test.low) / 2
    facts = (
        f"Test accuracies rest on {data.split_sizes['test']:,} images: an accuracy near "
        f"{percent(data.top.test.estimate, 0)} is known to about ±{100 * half:.1f} points. "
        "Differences between cascades on the same images are known better; their intervals are "
        "paired.",
        f"Choosing the best of many thresholds on {data.split_sizes['validation']:,} validation "
        f"images flatters validation accuracy, by {100 * float(optimism.mean()):.2f} points on "
        f"average over the budgets (bootstrap, at most {100 * float(optimism.max()):.2f}). That "
        "is why the test numbers count.",
        "The band around the test front holds for each budget by itself, not for the whole "
        "front at once; it does not contain the chance of training: every stage was trained "
        "once, with one seed.",
        "FLOPs are not time. A small stage uses a processor less well than a large one; "
        "rcopt bench measures the gain in time.",
        "All numbers hold for images like these. Where the images change, confidences and exit "
        "rates change too.",
        rule_text(data.rule),
    )
    sizes = ", ".join(f"{split} {count:,}" for split, count in data.split_sizes.items())
    listed = "".join(element("li", fact) for fact in (f"Images by split: {sizes}.", *facts))
    return "limits", "Limits", f"<ul>{listed}</ul>"


def _repeat_section(data: ReportData) -> tuple[str, str, str]:
    name = data.facts.name
    commands = (
        f"rcopt run studies/{name}.toml    # the study file below",
        f"rcopt front {name}",
        f"rcopt select {name} --max-drop 0.01",
        f"rcopt report {name}",
    )
    versions = "".join(
        element("dt", key) + element("dd", value) for key, value in data.facts.versions.items()
    )
    body: str = element("pre", "\n".join(commands))
    if versions:
        body += element("dl", Html(versions), css="facts")
    if data.facts.settings:
        body += (
            f"<details>{element('summary', 'The whole study file, every default spelled out')}"
            f"{element('pre', data.facts.settings)}</details>"
        )
    return "repeat", "How to repeat it", body


def _footer(data: ReportData) -> str:
    return text(
        f"Made by rcopt report {data.facts.name}. Colours: Okabe and Ito's palette. Nothing on "
        "this page is loaded from elsewhere."
    )


def _command(command: str) -> Html:
    return Html(f'<code data-copy="">{escape(command)}</code>')


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
