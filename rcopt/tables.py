"""What the command line prints: tables within 100 columns, JSON, CSV."""

import csv
import io
import json
from collections.abc import Sequence

from rcopt.cascade import OperatingPoint, Stage
from rcopt.results import Results


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return rows under a header, the first ``left`` columns aligned left, the others right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def front_table(points: Sequence[OperatingPoint]) -> str:
    """Return a front as a table for people."""
    rows = [
        [
            cascade_text(point),
            f"{100 * point.validation.accuracy:.2f}",
            mflops(point.validation.mean_flops),
            "" if point.test is None else f"{100 * point.test.accuracy:.2f}",
            "" if point.test is None else mflops(point.test.mean_flops),
            "/".join(f"{100 * rate:.0f}" for rate in point.validation.exit_rates),
        ]
        for point in points
    ]
    header = ["cascade (stage, threshold, next)", "val %", "MFLOPs", "test %", "MFLOPs", "exits %"]
    return table(header, rows)


def front_json(points: Sequence[OperatingPoint]) -> str:
    """Return a front as the JSON of the contract."""
    return json.dumps([point.to_dict() for point in points], indent=1)


def front_csv(points: Sequence[OperatingPoint]) -> str:
    """Return a front as CSV, one line a point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "stages",
            "thresholds",
            "val_accuracy",
            "val_mean_flops",
            "val_exit_rates",
            "test_accuracy",
            "test_mean_flops",
            "test_exit_rates",
            "source",
            "trial",
            "run_id",
        ]
    )
    for point in points:
        test = point.test
        writer.writerow(
            [
                " ".join(stage.name for stage in point.cascade.stages),
                " ".join(repr(threshold) for threshold in point.cascade.thresholds),
                point.validation.accuracy,
                point.validation.mean_flops,
                " ".join(map(repr, point.validation.exit_rates)),
                "" if test is None else test.accuracy,
                "" if test is None else test.mean_flops,
                "" if test is None else " ".join(map(repr, test.exit_rates)),
                point.source,
                "" if point.trial is None else point.trial,
                point.run_id or "",
            ]
        )
    return text.getvalue().rstrip("\n")


def stage_table(results: Results) -> str:
    """Return the trained stages as a table."""
    rows = [
        [
            summary.stage.name,
            f"{100 * summary.validation:.2f}",
            f"{100 * summary.test:.2f}",
            mflops(summary.stage.flops),
            f"{summary.parameters / 1e6:.2f}",
            duration(summary.seconds),
        ]
        for summary in results.stages
    ]
    return table(["stage", "val %", "test %", "MFLOPs", "M params", "trained in"], rows)


def cascade_text(point: OperatingPoint) -> str:
    """Return ``r18@32 0.913 > r50@224``: each stage with the threshold it answers at."""
    parts = []
    thresholds: tuple[float | None, ...] = (*point.cascade.thresholds, None)
    for stage, threshold in zip(point.cascade.stages, thresholds, strict=True):
        name = short_stage(stage)
        if threshold is None:
            parts.append(name)
        elif threshold > 1:
            parts.append(f"{name} never")
        else:
            parts.append(f"{name} {threshold:.3f}")
    return " > ".join(parts)


def short_stage(stage: Stage) -> str:
    """Return ``r18@32`` for ``resnet18@32``."""
    name = stage.backbone.replace("mobilenet_v2", "mnv2").replace("resnet", "r")
    return f"{name}@{stage.resolution}"


def mflops(flops: float) -> str:
    """Return MFLOPs with three digits that matter, at least."""
    value = flops / 1e6
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def duration(seconds: float) -> str:
    """Return ``45 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
