"""The sections of the report page below its main figure."""

import base64
from collections.abc import Callable, Mapping
from html import escape

from rcopt.core.first_weights import seen_note, weights_details
from rcopt.core.wording import (
    amount,
    answers_at,
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
    times,
    times_interval,
)
from rcopt.report.analysis.answered_images import AnsweredImage
from rcopt.report.analysis.report_data import Featured, FrontLine, ReportData, StageLine
from rcopt.report.charts import RESOLUTION_COLOURS
from rcopt.report.html import Html, element, table, text

#: Anchor, title and HTML; left out of the page where the HTML is empty.
Section = tuple[str, str, str]

#: Returns a small PNG or JPEG of an image by its name, or None where there is none.
Thumbnail = Callable[[str], bytes | None]


def front_section(data: ReportData, figures: Mapping[str, str]) -> Section:
    """Return what the front saves and about 20 of its points."""
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
    if data.gain is not None:
        body += element("p", str(data.gain.over_all))
    body += table(
        (
            "given up",
            "cascade",
            "fewer FLOPs, validation",
            "fewer FLOPs, test",
            "test accuracy",
            "repeated choices",
        ),
        [
            (
                plural(100 * s.saving.loss),
                cascade_name(s.saving.point.cascade, short=True),
                times(s.saving.validation),
                f"{times(s.interval.saving.estimate)} ({times_interval(s.interval.saving)})",
                f"{points(s.interval.change.estimate)} points "
                f"({points_interval(s.interval.change)})",
                times_interval(s.repeated.times),
            )
            for s in data.savings
        ],
        f"What a cascade saves against {data.top.trained.stage.name}, the most accurate stage: "
        "the cheapest cascade that loses no more on validation. In brackets: "
        f"{percent(data.savings[0].interval.saving.level, 0)} intervals of that cascade on new "
        "images, paired with the stage's. Repeated choices: what "
        f"{percent(data.bootstrap.level, 0)} of {data.bootstrap.n_resamples} choices save that "
        "are made anew on resampled images, which is no interval of the cascade named. Who wants "
        "to give up no more on new images asks "
        f"rcopt select {data.facts.name} --max-drop {data.savings[-1].saving.loss:g}, which "
        "allows for choosing and testing on the same validation images.",
        css="plain",
    )
    return "front", "The front", body + _front_table(data)


def exit_section(figures: Mapping[str, str]) -> Section:
    """Return which resolution answers how many images."""
    pair = f'<div class="pair">{figures["exit-rates"]}{figures["reach-rates"]}</div>'
    return "exits", "Who answers what", pair


def stage_section(data: ReportData) -> Section:
    """Return every trained stage alone."""
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
    note = seen_note(
        {line.trained.stage.name: weights_details(line.trained.details) for line in data.stages},
        data.facts.data,
    )
    body = table(head, rows, caption) + (element("p", note) if note else "")
    return "stages", "The stages", body


def map_section(featured: Featured | None, figures: Mapping[str, str]) -> Section:
    """Return the featured cascade over its thresholds."""
    if featured is None:
        return "map", "", ""
    thresholds = ", ".join(
        f"{stage.name} {answers_at(t)}"
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
    drawn = "".join(figure for name, figure in figures.items() if name.startswith("map-"))
    pair = f'<div class="pair">{drawn}</div>'
    return "map", "One cascade over its thresholds", body + pair


def image_section(data: ReportData, thumbnail: Thumbnail | None) -> Section:
    """Return the images that each stage answers first and last."""
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


def progress_section(data: ReportData, figures: Mapping[str, str]) -> Section:
    """Return how far the search came."""
    history = data.history
    if history is None:
        return "progress", "", ""
    frame = history.frame
    body: str = element(
        "p",
        f"{len(history.trials)} trials trained {int(history.stages_trained[-1])} stages in "
        f"{duration(float(history.seconds[-1]))}. The sampled trials reach "
        f"{percent(history.share, 1)} of the exact front's hypervolume: the area, in log FLOPs "
        f"from {flops_text(frame.cheapest)} to {flops_text(frame.cost)}, above accuracy "
        f"{percent(frame.accuracy, 1)}, of which the exact front covers "
        f"{percent(history.maximum, 1)} up to an accuracy of 100 %.",
    )
    drawn = "".join(figure for name, figure in figures.items() if name.startswith("progress-"))
    return "progress", "Search progress", f'{body}<div class="pair">{drawn}</div>'


def limit_section(data: ReportData) -> Section:
    """Return what the numbers do not say."""
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
        "The band around the test front is the spread of repeated choices, for each budget by "
        "itself: how much the test accuracy would differ had other images been drawn to choose "
        "and to test on. It is no interval of the cascades drawn, and does not contain the chance "
        "of training: every stage was trained once, with one seed.",
        "FLOPs are not time. A small stage uses a processor less well than a large one; "
        "rcopt bench measures the gain in time.",
        "All numbers hold for images like these. Where the images change, confidences and exit "
        "rates change too.",
        rule_text(data.rule),
        *_coarse_choices(data),
    )
    sizes = ", ".join(f"{split} {count:,}" for split, count in data.split_sizes.items())
    listed = "".join(element("li", fact) for fact in (f"Images by split: {sizes}.", *facts))
    return "limits", "Limits", f"<ul>{listed}</ul>"


def _coarse_choices(data: ReportData) -> list[str]:
    repeated = data.bootstrap
    if not repeated.accuracy_gap:
        return []
    return [
        f"The {repeated.n_resamples} repeated choices are made from coarse fronts, each at most "
        f"{100 * repeated.accuracy_gap:.2f} points below the exact one."
    ]


def repeat_section(data: ReportData) -> Section:
    """Return commands, versions and the study file."""
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


def _command(command: str) -> Html:
    return Html(f'<code data-copy="">{escape(command)}</code>')
