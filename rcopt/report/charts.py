"""Which charts a report has, and what each of them says."""

import numpy as np
from numpy.typing import NDArray

from rcopt.core.wording import (
    answers_at,
    axis_amount,
    cascade_name,
    flops_text,
    percent,
)
from rcopt.report.analysis.report_data import Featured, ReportData
from rcopt.report.analysis.search_history import SearchHistory
from rcopt.report.chart import SHAPES, Bars, Chart, HeatMap, Plot, Series, Tip
from rcopt.report.front_chart import ACCURACY, COST, front_chart, front_tip, marked, on_test

#: Colours of resolutions, from the lowest; indices in `rcopt.report.chart.COLOURS`.
RESOLUTION_COLOURS = (6, 1, 5, 3, 4, 2, 7)


def charts(data: ReportData) -> tuple[Chart, ...]:
    """Return every chart of the report."""
    made: list[Chart] = [front_chart(data), exit_chart(data), reach_chart(data)]
    if data.featured is not None:
        made += _maps(data.featured)
    if data.history is not None:
        made += _progress(data.history)
    return tuple(made)


def exit_chart(data: ReportData) -> Bars:
    """Return the exit rates of the front's well-spread points."""
    rows = [data.front[i] for i in data.rows]
    resolutions = sorted({s.resolution for row in rows for s in row.point.cascade.stages})
    shares = np.zeros((len(rows), len(resolutions)))
    for i, row in enumerate(rows):
        shown = row.point.test or row.point.validation
        for stage, rate in zip(row.point.cascade.stages, shown.exit_rates, strict=True):
            shares[i, resolutions.index(stage.resolution)] = rate
    return Bars(
        name="exit-rates",
        title="Which resolution answers",
        text=(
            "Share of the test images that each resolution answers, for well-spread points of "
            f"the front from cheap to costly. At the cheapest, {resolutions[0]} px answers "
            f"{percent(shares[0, 0], 0)}; at the costliest, {resolutions[-1]} px answers "
            f"{percent(shares[-1, -1], 0)}."
        ),
        x_label=f"{COST}, on test",
        y_label="exit rate",
        bars=tuple(axis_amount(float(f"{on_test(row)[0]:.3g}")) for row in rows),
        layers=tuple(f"{r} px" for r in resolutions),
        colours=tuple(RESOLUTION_COLOURS[i % 7] for i in range(len(resolutions))),
        shares=shares,
        tips=tuple(front_tip(row) for row in rows),
    )


def reach_chart(data: ReportData) -> Plot:
    """Return the reach rates along the front."""
    lines = marked(data.front)
    resolutions = sorted({s.resolution for x in lines for s in x.point.cascade.stages})
    series = []
    for place, resolution in enumerate(resolutions):
        used = [
            (on_test(x)[0], rate)
            for x in lines
            for stage, rate in zip(
                x.point.cascade.stages,
                (x.point.test or x.point.validation).reach_rates,
                strict=True,
            )
            if stage.resolution == resolution
        ]
        series.append(
            Series(
                f"{resolution} px",
                [x for x, _ in used],
                [y for _, y in used],
                RESOLUTION_COLOURS[place % 7],
                kind="points",
                shape=SHAPES[place % len(SHAPES)],
                size=2.4,
            )
        )
    return Plot(
        name="reach-rates",
        title="How many images run each resolution",
        text=(
            "Share of the test images that run a stage of each resolution, along the front. "
            "The first stage of a cascade runs on every image."
        ),
        x_label=f"{COST} (logarithmic), on test",
        y_label="reach rate",
        series=tuple(series),
        log_x=True,
        x_text=axis_amount,
        y_text=lambda y: percent(y, 0),
    )


def _maps(featured: Featured) -> list[Chart]:
    found = featured.map
    stages = found.cascade.stages
    what = cascade_name(found.cascade)
    if len(stages) == 2:
        marks = [Tip((answers_at(t),)) for t in found.thresholds[0]]
        return [
            Plot(
                name=f"map-{kind}",
                title=f"{title} of {what} over its threshold",
                text=f"{title} on validation as more images are passed on; its own threshold "
                f"passes on {percent(found.own[0], 1)}.",
                x_label=f"share of images {stages[0].name} passes on",
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
                        "this cascade",
                        [found.own[0]],
                        [own],
                        2,
                        kind="points",
                        shape="diamond",
                        size=6,
                    ),
                ),
                log_x=False,
                x_text=lambda x: percent(x, 0),
                y_text=text,
            )
            for kind, title, label, values, own, text in (
                (
                    "accuracy",
                    "Accuracy",
                    ACCURACY,
                    found.accuracy,
                    featured.point.validation.accuracy,
                    lambda y: percent(y, 0),
                ),
                (
                    "flops",
                    "Mean FLOPs",
                    COST,
                    found.mean_flops,
                    featured.point.validation.mean_flops,
                    axis_amount,
                ),
            )
        ]
    places = (0.0, 0.25, 0.5, 0.75, 1.0)
    ticks = tuple(tuple((p, f"{100 * p:.0f} %") for p in places) for _ in range(2))
    cells = tuple(
        tuple(
            f"{stage.name} {answers_at(t)} ({percent(share, 0)} below)"
            for t, share in zip(row, found.shares, strict=True)
        )
        for stage, row in zip(stages[:2], found.thresholds.tolist(), strict=True)
    )
    return [
        HeatMap(
            name=f"map-{kind}",
            title=f"{title} over the thresholds",
            text=f"{title} of {what} on validation over its two thresholds, from "
            f"{text(float(values.min()))} to {text(float(values.max()))}. The diamond is the "
            "cascade itself, the dots are the points of the front with these stages.",
            x_label=f"share of images below the threshold of {stages[0].name}",
            y_label=f"share below that of {stages[1].name}",
            values=values,
            ticks=(ticks[0], ticks[1]),
            cells=(cells[0], cells[1]),
            value_text=text,
            log=kind == "flops",
            own=(found.own[0], found.own[1]),
            path=[(float(a), float(b)) for a, b in found.path],
        )
        for kind, title, values, text in (
            ("accuracy", "Accuracy", found.accuracy, percent),
            ("flops", "Mean FLOPs", found.mean_flops, flops_text),
        )
    ]


def _progress(history: SearchHistory) -> list[Chart]:
    maximum = history.maximum or 1.0
    sampled, everything = history.sampled / maximum, history.everything / maximum
    unit, name = (3600.0, "h") if history.seconds[-1] >= 7200 else (60.0, "min")
    axes = (
        ("trials", "trial", history.trials.astype(float)),
        ("stages", "stages trained", history.stages_trained.astype(float)),
        ("time", f"training time so far, {name}", history.seconds / unit),
    )
    return [
        Plot(
            name=f"progress-{kind}",
            title=f"Hypervolume against {label}",
            text="Share of the exact front's hypervolume. "
            f"{_passed('The sampled trials', sampled, x, label)} "
            f"{_passed('With the exact sweep they', everything, x, label)}",
            x_label=label,
            y_label="share of hypervolume",
            series=(
                Series("sampled trials", x.tolist(), sampled.tolist(), 4, kind="steps"),
                Series(
                    "with the exact sweep",
                    x.tolist(),
                    everything.tolist(),
                    1,
                    kind="steps",
                    dash="dashed",
                ),
            ),
            log_x=False,
            x_text=lambda x: f"{x:g}",
            y_text=lambda y: percent(y, 0),
        )
        for kind, label, x in axes
    ]


def _passed(who: str, shares: NDArray[np.float64], x: NDArray[np.float64], label: str) -> str:
    reached = f"{who} reach {percent(float(shares[-1]), 1)}"
    late = np.flatnonzero(shares >= 0.95)
    return f"{reached}, 95 % of it at {x[late[0]]:.3g} ({label})." if len(late) else f"{reached}."
