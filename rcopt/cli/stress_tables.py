"""What `rcopt stress` prints."""

import csv
import io
import textwrap
from typing import Any

from rcopt.cli.tables import table, width
from rcopt.core.cost import COSTS
from rcopt.core.wording import cascade_text
from rcopt.study.stress import Stress


def stress_table(found: Stress) -> str:
    """Return what each kind of degraded image does to a cascade, and the verdict."""
    rows = []
    for condition in found.conditions:
        change = condition.comparison.change
        rows.append(
            [
                f"{condition.corruption} {condition.strength or ''}".rstrip(),
                f"{100 * condition.cascade.accuracy:.1f}",
                f"{100 * condition.reference:.1f}",
                f"{100 * change.estimate:+.1f}",
                f"{100 * change.low:+.1f} to {100 * change.high:+.1f}",
                COSTS["flops"].cell(condition.cascade.mean_flops),
                "/".join(f"{100 * rate:.0f}" for rate in condition.cascade.exit_rates),
            ]
        )
    header = ["", "cascade %", "alone %", "points", "95 % interval", "MFLOPs", "exits %"]
    return "\n\n".join(
        [
            textwrap.fill(found.verdict(), min(width(), 80)),
            f"{found.study}: {cascade_text(found.cascade, short=True)}\n"
            f"against {found.reference.name} alone, {found.n_images:,} {found.split} images",
            table(header, rows),
        ]
    )


def stress_csv(found: Stress) -> str:
    """Return what each kind of degraded image does as CSV, one line each."""
    text = io.StringIO()
    rows = [_flat(condition.to_dict()) for condition in found.conditions]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Spread intervals over two columns, and join other lists by spaces."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if key.endswith("_interval"):
            name = key.removesuffix("_interval")
            flat |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        else:
            flat[key] = " ".join(map(repr, value)) if isinstance(value, list) else value
    return flat
