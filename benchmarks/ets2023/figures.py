"""The charts and tables of the original report, drawn from any three stages."""

from collections.abc import Callable
from typing import Literal

from benchmarks.ets2023.printed import ORIGINAL, Method, TableRow
from benchmarks.ets2023.reproduction import Analysis, Claim, CostModel, Curve
from rcopt.core.wording import amount, axis_amount, flops_text, percent, plural, points, times
from rcopt.report.analysis.threshold_grid import Grid
from rcopt.report.chart import Chart, HeatMap, Plot, Series, Shape, Tip
from rcopt.report.html import Html, table

_UNITS: dict[CostModel, tuple[str, Callable[[float], str]]] = {
    "parameters": ("parameters × area", amount),
    "flops": ("measured FLOPs", flops_text),
}

_STYLES: dict[Method, tuple[int, Shape, str]] = {
    "coarse grid": (4, "square", "40 × 40 grid"),
    "fine grid": (3, "triangle", "50 × 100 grid"),
    "exact": (1, "circle", "exact front"),
}


def original_charts(analyses: tuple[Analysis, ...], names: tuple[str, ...]) -> tuple[Chart, ...]:
    """Return figures 2.2 to 2.7, those with a cost once for each cost model."""
    if not analyses:
        return ()
    first = analyses[0]
    made: list[Chart] = [
        _map(first, first.coarse, names, "accuracy"),
        _map(first, first.fine, names, "fine"),
    ]
    made += [_map(analysis, analysis.coarse, names, "cost") for analysis in analyses]
    made += [_curves(a, names, on_test) for on_test in (False, True) for a in analyses]
    return tuple(made)


def stage_table(analyses: tuple[Analysis, ...]) -> Html:
    """Return table 2.1: each stage as printed and as found here."""
    parameters, flops = analyses
    rows: list[tuple[str, ...]] = []
    for printed, ours, measured in zip(ORIGINAL.table, parameters.table, flops.table, strict=True):
        rows.append((*_stage_cells(printed, "report"), "not measured", "not measured"))
        rows.append(
            (
                *_stage_cells(ours, "here"),
                flops_text(measured.full_cost),
                flops_text(measured.cost),
            )
        )
    head = (
        "stage", "from", "accuracy", "at full resolution", "test accuracy",
        "parameters", "parameters × area", "FLOPs at full resolution", "FLOPs",
    )  # fmt: skip
    caption = (
        "Table 2.1 as printed and here, on validation where nothing else is said. The report's "
        "“FLOPs” are parameters × area. A network that was not trained at full resolution has "
        "its cost there scaled by area."
    )
    return table(head, rows, caption)


def claim_table(analyses: tuple[Analysis, ...]) -> Html:
    """Return the report's claims as printed and as found here, by cost model and method."""
    middle, top, less = ORIGINAL.claims
    rows = []
    for analysis in analyses:
        found = {(c.reference, c.drop, c.method): c for c in analysis.claims}
        for place, (reference, drop) in enumerate(dict.fromkeys((r, d) for r, d, _ in found)):
            low, high = ({0: middle, 1: top}.get(place) or less).times
            printed = times(low) if low == high else f"{low:g}× to {high:g}×"
            if analysis.cost_model == "flops":
                printed = "not measured"
            wanted = f"giving up {plural(100 * drop)}" if drop else "no less accurate"
            cells = [_claim_cell(found.get((reference, drop, method))) for method in _STYLES]
            unit = _UNITS[analysis.cost_model][0]
            rows.append((f"{reference}, {wanted}", unit, printed, *cells))
    head = ("against", "cost", "report", *(name for _, _, name in _STYLES.values()))
    caption = (
        "How many times less a cascade costs, chosen on validation. In brackets the same "
        "thresholds on test: times less, and points of test accuracy gained on the reference."
    )
    return table(head, rows, caption)


def _stage_cells(row: TableRow, source: str) -> tuple[str, ...]:
    return (
        f"{row.backbone}@{row.resolution}",
        source,
        percent(row.accuracy),
        "not trained" if row.full_accuracy is None else percent(row.full_accuracy),
        percent(row.test_accuracy),
        amount(row.full_cost),
        amount(row.cost),
    )


def _claim_cell(claim: Claim | None) -> str:
    if claim is None:
        return "out of reach"
    return f"{times(claim.times)} ({times(claim.test_times)}, {points(claim.test_change)})"


def _map(
    analysis: Analysis,
    grid: Grid,
    names: tuple[str, ...],
    kind: Literal["accuracy", "fine", "cost"],
) -> HeatMap:
    unit, cost_text = _UNITS[analysis.cost_model]
    values = grid.cost if kind == "cost" else grid.accuracy
    shown: Callable[[float], str] = cost_text if kind == "cost" else percent
    x_ticks, y_ticks = (
        tuple((p / 4, f"{axis[0] + p / 4 * (axis[-1] - axis[0]):.3g}") for p in range(5))
        for axis in (grid.first, grid.second)
    )
    title = {
        "accuracy": "Cascade accuracy (figure 2.2)",
        "fine": "Cascade accuracy on the fine grid",
        "cost": f"Cost in {unit} (figure 2.3)",
    }[kind]
    return HeatMap(
        name=f"original-{kind}" + (f"-{analysis.cost_model}" if kind == "cost" else ""),
        title=title,
        text=f"{len(grid.first)} × {len(grid.second)} thresholds on validation, from "
        f"{shown(float(values.min()))} to {shown(float(values.max()))}.",
        x_label=f"threshold of {names[0]}",
        y_label=f"threshold of {names[1]}",
        values=values,
        ticks=(x_ticks, y_ticks),
        cells=(
            tuple(f"{names[0]} ≥ {t:.4f}" for t in grid.first),
            tuple(f"{names[1]} ≥ {t:.4f}" for t in grid.second),
        ),
        value_text=shown,
    )


def _curves(analysis: Analysis, names: tuple[str, ...], on_test: bool) -> Plot:
    unit, text = _UNITS[analysis.cost_model]
    split = "test" if on_test else "validation"
    exact = analysis.curves["exact"]
    best = {m: max(_numbers(c, on_test)[0]) for m, c in analysis.curves.items()}
    figures = "figures 2.6, 2.7" if on_test else "figures 2.4, 2.5"
    top = analysis.table[2]
    return Plot(
        name=f"original-{split}-{analysis.cost_model}",
        title=f"{unit[0].upper()}{unit[1:]} against accuracy, {split} ({figures})",
        text=(
            f"Cost of the cascade as a function of its accuracy on {split}. Largest accuracy: "
            + ", ".join(f"{_STYLES[m][2]} {percent(value)}" for m, value in best.items())
            + f"; {names[2]} alone has "
            + percent(top.test_accuracy if on_test else top.accuracy)
            + f" at {text(top.cost)}."
        ),
        x_label=f"accuracy on {split}",
        y_label=unit,
        series=(
            Series(
                "exact front",
                *_numbers(exact, on_test),
                1,
                kind="points" if on_test else "line",
                shape="circle" if on_test else None,
                size=2,
                tips=_tips(exact, names, text) if on_test else (),
            ),
            *(
                Series(
                    _STYLES[method][2],
                    *_numbers(analysis.curves[method], on_test),
                    _STYLES[method][0],
                    kind="points",
                    shape=_STYLES[method][1],
                    size=2.4,
                    tips=_tips(analysis.curves[method], names, text),
                )
                for method in ("coarse grid", "fine grid")
            ),
            Series(
                "stages alone",
                [row.test_accuracy if on_test else row.accuracy for row in analysis.table],
                [row.cost for row in analysis.table],
                0,
                kind="points",
                shape="diamond",
                size=4.5,
                names=names,
            ),
        ),
        log_x=False,
        x_text=lambda x: percent(x, 0),
        y_text=axis_amount,
    )


def _numbers(curve: Curve, on_test: bool) -> tuple[list[float], list[float]]:
    if on_test:
        return curve.test_accuracy.tolist(), curve.test_cost.tolist()
    return curve.accuracy.tolist(), curve.cost.tolist()


def _tips(curve: Curve, names: tuple[str, ...], text: Callable[[float], str]) -> list[Tip]:
    return [
        Tip(
            (
                f"{names[0]} ≥ {first:.4f} › {names[1]} ≥ {second:.4f} › {names[2]}",
                f"validation {percent(accuracy)} at {text(cost)}",
                f"test {percent(test_accuracy)} at {text(test_cost)}",
            )
        )
        for (first, second), accuracy, cost, test_accuracy, test_cost in zip(
            curve.thresholds.tolist(),
            curve.accuracy.tolist(),
            curve.cost.tolist(),
            curve.test_accuracy.tolist(),
            curve.test_cost.tolist(),
            strict=True,
        )
    ]
