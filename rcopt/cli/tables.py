"""What the command line prints: tables within the terminal's width, JSON, CSV."""

import csv
import io
import json
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rcopt.core.cascade import Evaluation, OperatingPoint, StageId
from rcopt.core.cost import COSTS, Cost
from rcopt.core.wording import cascade_text, duration
from rcopt.redaction import one_line
from rcopt.study.repeats import Repeats, accuracy_within
from rcopt.study.results import Results

if TYPE_CHECKING:
    # Both stand on torch, which tables of numbers need not load.
    from rcopt.serving.pictures import Answer
    from rcopt.study.status import Status
    from rcopt.study.workers.slots import Worker


def width() -> int:
    """Return how many columns there are for people: the terminal's, 100 where there is none."""
    return min(max(shutil.get_terminal_size((100, 24)).columns, 60), 120)


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
    """Return a front as a table for people; a cascade that is too long takes several lines."""
    costs = units(points[0].validation.costs) if points else []
    header = ["cascade (stage, threshold, next)", "val %", *costs, "test %", *costs, "exits %"]
    numbers = [
        [
            *split_cells(point.validation, len(costs)),
            *split_cells(point.test, len(costs)),
            "/".join(f"{100 * rate:.0f}" for rate in point.validation.exit_rates),
        ]
        for point in points
    ]
    columns = zip(header[1:], *numbers, strict=True)
    room = width() - sum(2 + max(map(len, column)) for column in columns)
    rows = []
    for point, cells in zip(points, numbers, strict=True):
        first, *others = _wrapped(cascade_text(point.cascade, short=True), room)
        rows.append([first, *cells])
        rows += [[f"  {line}", *[""] * len(cells)] for line in others]
    return table(header, rows)


def front_json(points: Sequence[OperatingPoint]) -> str:
    """Return a front as the JSON of the contract."""
    keys = ("stages", "validation", "test", "run_id")
    return json.dumps([{key: point.to_dict()[key] for key in keys} for point in points], indent=1)


def front_csv(points: Sequence[OperatingPoint]) -> str:
    """Return a front as CSV, one line a point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    others = [point.validation.costs[0][0] for point in points[:1] if point.validation.minimized]
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
            *(f"{split}_{cost.mean_key}" for cost in others for split in ("val", "test")),
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
                *([e.cost if e else "" for e in (point.validation, test)] * len(others)),
            ]
        )
    return text.getvalue().rstrip("\n")


def units(costs: Sequence[tuple[Cost, float]]) -> list[str]:
    """Return the headers of columns of costs."""
    return [cost.unit for cost, _ in costs]


def split_cells(found: Evaluation | None, n_costs: int) -> list[str]:
    """Return a split's accuracy and costs as cells, empty where there are none."""
    if found is None:
        return [""] * (1 + n_costs)
    return [f"{100 * found.accuracy:.2f}", *(cost.cell(value) for cost, value in found.costs)]


def status_table(name: str, status: "Status") -> str:
    """Return how far a study is."""
    lines = [
        f"{name}: {status.sampled} of {status.total} trials, {status.exact} points of exact "
        "fronts among the study's trials"
    ]
    counts = [f"{status.done} done", f"{status.running} running", f"{len(status.failed)} failed"]
    if status.queued is not None:
        counts.insert(0, f"{status.queued} not asked for yet")
    lines.append(f"stages: {', '.join(counts)}")
    if status.seconds_left:
        lines.append(f"time left: at most about {duration(status.seconds_left)} of training")
    lines += [f"worker {_worker_line(worker)}" for worker in status.workers]
    lines += [
        f"given up after {failure.attempts} attempts: {StageId(*stage).name} ({failure.reason})"
        for stage, failure in sorted(status.failed.items())
    ]
    results = status.results
    if results is None:
        return "\n".join([*lines, "no front yet: it is there with the first cascade"])
    lines += [f"data: {note}" for note in results.notes]
    lines += ["", stage_table(results), "", f"front: {_count_points(results)}"]
    # A front that no stage is a part of may not reach into the frame.
    if results.hypervolume:
        cost = results.points[0].validation.costs[0][0]
        frame = results.frame
        lines[-1] += (
            f", hypervolume {100 * results.hypervolume:.1f} % (log {cost.unit} "
            f"{cost.cell(frame.cheapest)} to {cost.cell(frame.cost)}, accuracy "
            f"{100 * frame.accuracy:.1f} to 100 %)"
        )
    if results.limits:
        lines.append(f"not exact: {results.limits}")
    if status.sampled_share is not None:
        lines.append(f"sampled trials alone reach {100 * status.sampled_share:.1f} % of it")
    return "\n".join(lines)


def _count_points(results: "Results") -> str:
    return "1 point" if len(results.points) == 1 else f"{len(results.points)} points"


def _worker_line(worker: "Worker") -> str:
    at = ", ".join(
        f"training {name} since {since:%Y-%m-%d %H:%M} UTC" for name, since in worker.training
    )
    joined = f"joined {worker.since:%Y-%m-%d %H:%M} UTC"
    return f"{worker.index} ({worker.process}, {joined}): {at or 'between stages'}"


def status_tree(name: str, status: "Status") -> dict[str, Any]:
    """Return how far a study is, for JSON."""
    results = status.results
    return {
        "study": name,
        "trials": status.sampled,
        "trials_total": status.total,
        "exact_trials": status.exact,
        "workers": [
            {
                "index": worker.index,
                "process": worker.process,
                "since": worker.since.isoformat(),
                "training": [
                    {"stage": name, "since": since.isoformat()} for name, since in worker.training
                ],
            }
            for worker in status.workers
        ],
        "failed": [
            {
                "stage": StageId(*stage).name,
                "attempts": failure.attempts,
                "reason": failure.reason,
            }
            for stage, failure in sorted(status.failed.items())
        ],
        "stages_queued": status.queued,
        "stages_running": status.running,
        "stages_done": status.done,
        "seconds_left": status.seconds_left,
        "stages": [] if results is None else [s.stage.name for s in results.stages],
        "front_points": 0 if results is None else len(results.points),
        "reference": None if results is None else list(results.frame[:2]),
        "cheapest": None if results is None else results.frame.cheapest,
        "hypervolume": None if results is None else results.hypervolume,
        "sampled_hypervolume": None if results is None else results.sampled_hypervolume,
        "sampled_share": status.sampled_share,
    }


def stage_table(results: Results) -> str:
    """Return the trained stages as a table; while a search runs, nobody looks at test."""
    costs = units(results.stages[0].stage.costs) if results.stages else []
    rows = [
        [
            summary.stage.name,
            f"{100 * summary.validation:.2f}",
            *(cost.cell(value) for cost, value in summary.stage.costs),
            f"{summary.parameters / 1e6:.2f}",
            duration(summary.seconds),
        ]
        for summary in results.stages
    ]
    return table(["stage", "val %", *costs, "M params", "trained in"], rows)


def repeats_table(found: Repeats, budgets: int = 12) -> str:
    """Return the accuracies that a quarter, half and three quarters of repeats reach."""
    shown = np.unique(np.linspace(0, len(found.budgets) - 1, budgets).round().astype(int))
    rows = []
    for at in shown.tolist():
        budget = float(found.budgets[at])
        cells = [
            f"{100 * reached:.2f}" if (reached := accuracy_within(level, budget)) else "-"
            for level in found.validation
        ]
        cells += [f"{100 * accuracy:.2f}" for accuracy in found.test[:, at].tolist()]
        rows.append([COSTS["flops"].cell(budget), *cells])
    header = ["within MFLOPs", "val 25 %", "median", "75 %", "test 25 %", "median", "75 %"]
    title = (
        f"accuracy % that a share of the {len(found.studies)} repeats reaches, chosen on "
        f"validation within a budget there:\n{', '.join(found.studies)}"
    )
    return f"{title}\n\n{table(header, rows)}"


def answer_table(answers: Sequence["Answer"]) -> str:
    """Return a cascade's answers to pictures."""
    rows = [
        [
            one_line(answer.file),
            answer.class_name or "",
            "" if answer.probability is None else f"{answer.probability:.3f}",
            answer.stage_name or "",
            "" if answer.flops is None else COSTS["flops"].cell(answer.flops),
        ]
        for answer in answers
        if answer.error is None
    ]
    text = table(["file", "class", "probability", "answered by", "MFLOPs"], rows, left=2)
    errors = [one_line(answer.error) for answer in answers if answer.error is not None]
    return "\n".join([text, *errors] if rows else errors)


def _wrapped(text: str, room: int) -> list[str]:
    """Break a cascade between its stages, each line at most ``room`` wide where that can be."""
    lines = [""]
    for part in text.split(" > "):
        longer = f"{lines[-1]} > {part}" if lines[-1] else part
        # Lines after the first are set in by two.
        if lines[-1] and len(longer) + 2 * (len(lines) > 1) > room:
            lines.append(f"> {part}")
        else:
            lines[-1] = longer
    return lines
