"""What `rcopt select` prints."""

import textwrap

from rcopt.cli.tables import split_cells, table, units, width
from rcopt.core.cost import COSTS
from rcopt.core.statistics.intervals import Interval
from rcopt.core.wording import answers_at, cascade_text
from rcopt.redaction import one_line
from rcopt.study.choice import Choice


def choice_table(choice: Choice, *, by_class: bool = False) -> str:
    """Return a chosen configuration with its numbers and their intervals."""
    point, reference = choice.point, choice.reference
    thresholds: tuple[float | None, ...] = (*point.cascade.thresholds, None)
    test_exits = point.test.exit_rates if point.test else point.validation.exit_rates
    stages = table(
        ["stage", "answers at confidence", "MFLOPs", "exits % val", "exits % test"],
        [
            [
                stage.name,
                answers_at(t),
                COSTS["flops"].cell(stage.flops),
                f"{100 * on_validation:.1f}",
                f"{100 * on_test:.1f}",
            ]
            for stage, t, on_validation, on_test in zip(
                point.cascade.stages,
                thresholds,
                point.validation.exit_rates,
                test_exits,
                strict=True,
            )
        ],
    )
    costs = units(point.validation.costs)
    rows = [
        [
            name,
            f"{100 * evaluation.accuracy:.2f}",
            interval,
            *(split_cells(evaluation, len(costs))[1:]),
            _fewer(reference.stage.flops / evaluation.mean_flops),
            f"{100 * (evaluation.accuracy - alone):+.2f}",
        ]
        for name, evaluation, interval, alone in (
            # It was chosen on these images, so no interval around this number holds.
            ("validation (chosen)", point.validation, "", reference.validation),
            ("test", point.test, _percents(choice.test.accuracy), reference.test),
        )
        if evaluation is not None
    ]
    if (told := choice.expected) is not None:
        known = [f"{100 * told.estimate:.2f}", _percents(told)]
        rows.insert(1, ["to be expected", *known, *[""] * (len(costs) + 2)])
    numbers = table(["", "accuracy %", "95 % interval", *costs, "FLOPs", "points"], rows)
    numbers += f"\nFLOPs and points against {reference.stage.name} alone"
    where = "" if point.trial is None else f", trial {point.trial}"
    parts = [
        choice.verdict(),
        f"{choice.study}: {cascade_text(point.cascade, short=True)}  ({point.source}{where})",
        stages,
        numbers,
    ]
    if choice.asked_drop is not None:
        parts.append(
            f"Asked for {-100 * choice.asked_drop:+.2f} points on validation, where a choice "
            "looks better than it is, so that what to expect on new images is what was asked."
        )
    if by_class:
        parts.append(_class_table(choice))
    if choice.harm():
        parts.append(choice.harm())
    if choice.gain is not None:
        parts.append(str(choice.gain))
    if choice.certificate is not None:
        parts.append(str(choice.certificate))
    return "\n\n".join(
        part if "\n" in part else textwrap.fill(part, min(width(), 80)) for part in parts
    )


def _percents(interval: Interval) -> str:
    return f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"


def _fewer(ratio: float) -> str:
    return f"{ratio:.2f}x fewer" if ratio >= 1 else f"{1 / ratio:.2f}x more"


def _class_table(choice: Choice) -> str:
    rows = [
        [
            one_line(choice.classes[one.label]),
            str(one.n_images),
            f"{100 * one.accuracy:.1f}",
            f"{100 * one.change.estimate:+.1f}",
            f"{100 * one.change.low:+.1f} to {100 * one.change.high:+.1f}",
            str(one.lost),
            str(one.gained),
            "/".join(f"{100 * rate:.0f}" for rate in one.exit_rates),
        ]
        for one in choice.by_class
    ]
    header = ["class", "images", "test %", "points", "interval", "lost", "gained", "exits %"]
    note = "points against the reference; all intervals hold at once with 95 % confidence"
    return f"{table(header, rows)}\n{note}"
