"""Which charts a report has: `CHARTS`; and those of what answers what."""

from collections.abc import Callable, Sequence

import numpy as np

from rcopt.core.wording import axis_amount, percent
from rcopt.report.analysis.report_data import ReportData
from rcopt.report.chart import SHAPES, Bars, Chart, Plot, Series
from rcopt.report.front_chart import COST, front_chart, front_tip, on_test
from rcopt.report.map_charts import accuracy_map, flops_map
from rcopt.report.progress_charts import progress_by_stage, progress_by_time, progress_by_trial

#: Colours of resolutions, from the lowest; indices in `rcopt.report.chart.COLOURS`.
RESOLUTION_COLOURS = (6, 1, 5, 3, 4, 2, 7)


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
        x_label=f"{COST}, on validation",
        y_label="exit rate",
        bars=_told_apart([row.point.validation.mean_flops for row in rows]),
        layers=tuple(f"{r} px" for r in resolutions),
        colours=tuple(RESOLUTION_COLOURS[i % 7] for i in range(len(resolutions))),
        shares=shares,
        tips=tuple(front_tip(row) for row in rows),
    )


def reach_chart(data: ReportData) -> Plot:
    """Return the reach rates along the front."""
    lines = [data.front[i] for i in data.rows]
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
                size=4,
            )
        )
    return Plot(
        name="reach-rates",
        title="How many images run each resolution",
        text=(
            "Share of the test images that run a stage of each resolution, at the same points. "
            "The first stage of a cascade runs on every image."
        ),
        x_label=f"{COST} (logarithmic), on test",
        y_label="reach rate",
        series=tuple(series),
        log_x=True,
        x_text=axis_amount,
        y_text=lambda y: percent(y, 0),
    )


def _told_apart(costs: Sequence[float]) -> tuple[str, ...]:
    """Return costs in as few digits as tell them apart."""
    for digits in range(2, 16):
        texts = tuple(axis_amount(float(f"{cost:.{digits}g}")) for cost in costs)
        if len(set(texts)) == len(texts):
            break
    return texts


#: Every chart of the report, in its order; one that has nothing to show returns None.
CHARTS: tuple[Callable[[ReportData], Chart | None], ...] = (
    front_chart,
    exit_chart,
    reach_chart,
    accuracy_map,
    flops_map,
    progress_by_trial,
    progress_by_stage,
    progress_by_time,
)


def charts(data: ReportData) -> tuple[Chart, ...]:
    """Return every chart of `CHARTS` that has something to show."""
    return tuple(made for chart in CHARTS if (made := chart(data)) is not None)
