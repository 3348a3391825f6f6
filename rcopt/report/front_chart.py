"""The main figure, and what all charts of the front share."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rcopt.core.cascade import OperatingPoint
from rcopt.core.fronts import spread
from rcopt.core.wording import (
    axis_amount,
    cascade_name,
    configuration,
    flops_against,
    numbers,
    percent,
    points,
    points_interval,
    short_name,
)
from rcopt.report.analysis.report_data import ROWS, FrontLine, ReportData, StageLine
from rcopt.report.chart import Dash, Plot, Series, Tip

#: Axis labels.
COST, ACCURACY = "mean FLOPs of an image", "accuracy"


def front_chart(data: ReportData) -> Plot:
    """Return the main figure: accuracy against mean FLOPs, first in three series."""
    lines = data.front
    shown = [lines[i] for i in data.marked]
    rows = [lines[i] for i in data.rows]
    top = data.top.point
    saved = data.savings[0]
    change = saved.interval.change
    return Plot(
        name="front",
        title="Accuracy against FLOPs",
        text=(
            f"Accuracy against mean FLOPs of an image, logarithmic. The front has {len(lines)} "
            f"cascades, on validation from {numbers(lines[0].point.validation)} to "
            f"{numbers(lines[-1].point.validation)}. The most accurate single stage, "
            f"{top.cascade.stages[0].name}, has {numbers(top.validation)}; of what is as "
            "accurate there, the cheapest needs on test "
            f"{flops_against(saved.interval.saving.estimate, 'it')} at {points(change.estimate)} "
            f"points of accuracy ({points_interval(change)})."
        ),
        x_label=f"{COST} (logarithmic)",
        y_label=ACCURACY,
        series=(
            *(replace(series, hidden=True) for series in _asked_for(data, shown)),
            Series(
                "front on validation",
                [x.point.validation.mean_flops for x in shown],
                [x.point.validation.accuracy for x in shown],
                1,
                kind="steps",
                shape="circle",
                size=1.8,
                tips=[front_tip(x) for x in shown],
            ),
            Series(
                f"{len(rows)} of its points on test, with "
                f"{percent(saved.interval.accuracy.level, 0)} intervals",
                [on_test(x)[0] for x in rows],
                [on_test(x)[1] for x in rows],
                2,
                kind="points",
                shape="triangle",
                size=4.2,
                whiskers=[(x.test.low, x.test.high) for x in rows],
                tips=[front_tip(x) for x in rows],
            ),
            Series(
                "single stages on test",
                [s.trained.stage.flops for s in data.stages],
                [s.test.estimate for s in data.stages],
                0,
                kind="points",
                shape="square",
                size=4.2,
                tips=[_stage_tip(s) for s in data.stages],
                names=[short_name(s.trained.stage) for s in data.stages],
            ),
        ),
        log_x=True,
        x_text=axis_amount,
        y_text=lambda y: percent(y, 0),
    )


def _asked_for(data: ReportData, shown: Sequence[FrontLine]) -> list[Series]:
    """Return the series that are one click away."""
    band = data.bootstrap.band
    return [
        Series(
            f"{percent(data.bootstrap.level, 0)} of repeated choices on test, by budget",
            band.budgets.tolist(),
            band.low.tolist(),
            2,
            kind="band",
            top=band.high.tolist(),
        ),
        *_baselines(data),
        *_hull(data),
        _test_front("optimistic test front", [x for x in data.front if x.optimistic], "solid"),
        _test_front("pessimistic test front", [x for x in data.front if x.pessimistic], "dashed"),
        Series(
            "all of the front's points on test",
            [on_test(x)[0] for x in shown],
            [on_test(x)[1] for x in shown],
            2,
            kind="points",
            shape="triangle",
            size=2.2,
            tips=[front_tip(x) for x in shown],
        ),
    ]


def _hull(data: ReportData) -> list[Series]:
    """Return what sending each image at random to one of two single stages reaches on test."""
    gain = data.gain
    if gain is None or len(gain.hull_cost) < 2:
        return []
    # A straight line bends on a logarithmic axis.
    costs = np.geomspace(gain.hull_cost[0], gain.hull_cost[-1], 100)
    reached = np.interp(costs, gain.hull_cost, gain.hull_accuracy)
    return [
        Series(
            "hull of single stages on test (a random mix of two)",
            costs.tolist(),
            reached.tolist(),
            0,
            kind="line",
            dash="dotted",
        )
    ]


def on_test(line: FrontLine) -> tuple[float, float]:
    """Return mean FLOPs and accuracy on test."""
    shown = line.point.test or line.point.validation
    return shown.mean_flops, shown.accuracy


def front_tip(line: FrontLine) -> Tip:
    """Return a point's configuration and numbers, and the command that chooses it."""
    return Tip(
        (
            _heading(line.point),
            *configuration(line.point),
            f"validation {numbers(line.point.validation)}",
            f"test {numbers(line.point.test or line.point.validation)}, "
            + flops_against(line.times, "the top stage"),
        ),
        line.command,
    )


def _baselines(data: ReportData) -> list[Series]:
    rows = [data.front[i] for i in data.rows]
    two = [p.test for p in data.two_stage if p.test is not None]
    few = spread(
        [p.validation.accuracy for p in data.two_stage],
        [p.validation.mean_flops for p in data.two_stage],
        ROWS,
    ).tolist()
    found = [
        Series(
            "any two stages, on test",
            [two[i].mean_flops for i in few],
            [two[i].accuracy for i in few],
            3,
            dash="dashed",
        ),
        Series(
            "random exits at the front's rates",
            [on_test(x)[0] for x in rows],
            [x.random_accuracy for x in rows],
            4,
            dash="dotted",
        ),
    ]
    if data.featured is not None:
        oracle = data.featured.oracle
        shown = np.unique(np.linspace(0, len(oracle.accuracy) - 1, 120).astype(int))
        found.append(
            Series(
                f"oracle exits of {cascade_name(data.featured.point.cascade, short=True)}",
                oracle.mean_flops[shown].tolist(),
                oracle.accuracy[shown].tolist(),
                5,
                dash="dashed",
            )
        )
    return found


def _test_front(label: str, lines: Sequence[FrontLine], dash: Dash) -> Series:
    corners = sorted({on_test(line) for line in lines})
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return Series(label, xs, ys, 2, kind="steps", dash=dash)


def _stage_tip(line: StageLine) -> Tip:
    return Tip(
        (
            f"{line.trained.stage.name} alone",
            f"validation {numbers(line.point.validation)}",
            f"test {percent(line.test.estimate)} "
            f"({percent(line.test.low)} to {percent(line.test.high)})",
        )
    )


def _heading(point: OperatingPoint) -> str:
    source = "exact sweep" if point.trial is None else f"trial {point.trial}"
    return f"{cascade_name(point.cascade)} ({source})"
