"""Stages from tables of other people's predictions.

A stage need not have class probabilities. What cascades need of it is, for each item, whether its
answer is right and how confident it is. Where a table has no more, probabilities are made that say
just that: the answer has its confidence, the other classes share the rest. Their largest value is
the confidence that the table has; anything else of them means nothing, and what would use it
(averages, temperatures, other confidence functions) is refused for such stages.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rcopt.core.cascade import Stage
from rcopt.core.predictions import Predictions, Split
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.table_answers import PROBABILITY, answers_of, joint_probabilities
from rcopt.data.tables import Table
from rcopt.errors import InputError
from rcopt.files import digest

#: A stage's detail that says that its probabilities are made from confidences.
MADE = "probabilities made from confidences"
SHARES: Mapping[Split, float] = {"validation": 0.4, "calibration": 0.2, "test": 0.4}
_SPLIT_NAMES: Mapping[str, Split] = {
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("calibration", "cal", "calib"), "calibration"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


@dataclass(frozen=True)
class Reading:
    """How tables are to be read.

    Attributes:
        columns: Names of columns by role, such as ``{"confidence": "highest_prob"}``.
        costs: Cost of an item by stage, where there is no column of costs.
        resolutions: Of stages that have one, in pixels.
        drop_missing: Whether items that not every stage has are left out instead of refused.
        seed: Of the splits, where there is no column of splits.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    resolutions: Mapping[str, int] = field(default_factory=dict)
    drop_missing: bool = False
    seed: int = 0


@dataclass
class _Rows:
    """One stage's rows, item by item."""

    table: Table
    rows: dict[str, int] = field(default_factory=dict)


def stages_of(tables: Sequence[Table], reading: Reading) -> tuple[list[TrainedStage], list[str]]:
    """Return the stages in tables, and what a person should know of how they were read.

    Args:
        tables: One a stage, or one with a column that names the stage.
        reading: Which columns, costs and resolutions.

    Raises:
        InputError: Naming file and row of what cannot be used.
    """
    notes: list[str] = []
    rows = _by_stage(tables, reading)
    items = _common(rows, reading, notes)
    answered = {
        name: answers_of(own.table, [own.rows[item] for item in items], reading.columns)
        for name, own in rows.items()
    }
    first_name, first = next(iter(answered.items()))
    for name, own in answered.items():
        if own.labels != first.labels:
            at = next(
                i for i, (a, b) in enumerate(zip(own.labels, first.labels, strict=True)) if a != b
            )
            raise InputError(
                f"item {items[at]!r} is labelled {own.labels[at]!r} by {name} and "
                f"{first.labels[at]!r} by {first_name}; labels must agree"
            )
    costs = {name: _flops(name, own, items, reading, notes) for name, own in rows.items()}
    unknown = sorted({*reading.costs, *reading.resolutions} - set(rows))
    if unknown:
        raise InputError(f"there is no stage {unknown[0]!r}; the tables have {', '.join(rows)}")
    splits = _splits(next(iter(rows.values())), items, first.labels, reading, notes)
    ranks = {name: rank for rank, name in enumerate(sorted(costs, key=lambda n: (costs[n], n)), 1)}
    probabilities, classes = joint_probabilities(answered, notes)
    labels = np.array([classes.index(label) for label in first.labels], dtype=np.int64)
    made = any(own.probabilities is None for own in answered.values())
    if made:
        notes.append(
            "no class probabilities: averages, temperatures and other confidence functions are "
            "left out; everything else works"
        )
    found = []
    for name in sorted(rows, key=ranks.__getitem__):
        stage = Stage(reading.resolutions.get(name, ranks[name]), name, costs[name])
        predictions: dict[Split, Predictions] = {
            split: Predictions(
                split, probabilities[name][at], labels[at], tuple(items[i] for i in at.tolist())
            )
            for split, at in splits.items()
            if len(at)
        }
        details = {"classes": "\n".join(classes), "data": "table"} | (
            {MADE: "yes"} if made else {}
        )
        content = hashlib.sha256(probabilities[name].tobytes()).hexdigest()
        key = digest([name, stage.flops, items, content])
        found.append(TrainedStage(stage, predictions, key, 0, 0, details=details))
    return found, notes


def _by_stage(tables: Sequence[Table], reading: Reading) -> dict[str, _Rows]:
    """Return the rows of each stage: a file's, or those that a column names it in."""
    found: dict[str, _Rows] = {}
    for table in tables:
        columns = _wide(table, reading)
        named = table.find("stage", reading.columns)
        if columns:
            for column in columns:
                own = {**table.columns, "correct": table.columns[column]}
                _extend(found, column, Table(table.file, own, table.first), None, reading)
        elif named is not None:
            groups: dict[str, list[int]] = defaultdict(list)
            for row in range(len(table)):
                groups[table.text(named, row)].append(row)
            for name, rows in groups.items():
                _extend(found, name, table, rows, reading)
        elif table.file.stem in found:
            raise InputError(f"{table.file}: there are two tables of stage {table.file.stem!r}")
        else:
            _extend(found, table.file.stem, table, None, reading)
    return found


def _extend(
    found: dict[str, _Rows],
    name: str,
    table: Table,
    rows: Sequence[int] | None,
    reading: Reading,
) -> None:
    """Add rows of a table to a stage, behind those that it has; all rows where None are given."""
    rows = range(len(table)) if rows is None else rows
    if name in found:
        before = found[name]
        rows = [row + len(before.table) for row in rows]
        found[name] = _Rows(_joined(before.table, table), before.rows)
    own = found.setdefault(name, _Rows(table))
    column = own.table.find("id", reading.columns)
    for row in rows:
        item = str(row + 1) if column is None else own.table.text(column, row)
        if item in own.rows:
            raise InputError(
                f"{own.table.at(row)}: item {item!r} is there twice, first in "
                f"{own.table.at(own.rows[item])}"
            )
        own.rows[item] = row


def _wide(table: Table, reading: Reading) -> list[str]:
    """Return the columns of right and wrong, one a stage, where a table has nothing else."""
    if set(reading.columns) - {"id", "split", "group"}:
        return []
    known = [table.find(role, reading.columns) for role in ("correct", "confidence", "answer")]
    if any(known) or any(PROBABILITY.fullmatch(name) for name in table.columns):
        return []
    taken = {table.find(role, reading.columns) for role in ("id", "label", "split", "group")}
    return [
        name
        for name, values in table.columns.items()
        if name not in taken
        and {str(v).strip().lower() for v in values} <= {"true", "false", "0", "1"}
    ]


def _joined(one: Table, other: Table) -> Table:
    if set(one.columns) != set(other.columns):
        raise InputError(f"{other.file}: its columns are not those of {one.file}")
    columns = {name: [*one.columns[name], *other.columns[name]] for name in one.columns}
    return Table(other.file, columns, other.first, parts=(one, other))


def _common(rows: Mapping[str, _Rows], reading: Reading, notes: list[str]) -> list[str]:
    everywhere = [
        item
        for item in next(iter(rows.values())).rows
        if all(item in own.rows for own in rows.values())
    ]
    total = len({item for own in rows.values() for item in own.rows})
    lonely = total - len(everywhere)
    if lonely:
        short = min(rows, key=lambda name: len(rows[name].rows))
        example = next(
            item for own in rows.values() for item in own.rows if item not in set(everywhere)
        )
        text = f"{lonely} of {total} items are not in every stage, such as {example!r}"
        if not reading.drop_missing:
            raise InputError(
                f"{text} ({short} has the fewest, {len(rows[short].rows)}); --drop-missing "
                "leaves them out"
            )
        notes.append(f"left out: {text}")
    if len(everywhere) < 4:
        raise InputError(
            f"{len(everywhere)} items in all stages are too few; at least 4 are needed"
        )
    return everywhere


def _flops(
    name: str, own: _Rows, items: Sequence[str], reading: Reading, notes: list[str]
) -> float:
    """Return what takes the place of FLOPs: those of a column of that name, else 1e6 x cost."""
    column = own.table.find("cost", reading.columns)
    unit = 1.0 if column is not None and column.lower() == "flops" else 1e6
    if name in reading.costs:
        cost, unit = reading.costs[name], 1e6
    elif column is None:
        raise InputError(
            f"the cost of stage {name!r} is missing: add a column 'cost', or --cost {name}=NUMBER"
        )
    else:
        values = [own.table.number(column, own.rows[item]) for item in items]
        cost = float(np.mean(values))
        if len(set(values)) > 1:
            notes.append(f"{name}: costs differ by item; their mean, {cost:.6g}, stands for each")
    if not (math.isfinite(cost) and cost > 0):
        raise InputError(f"the cost of stage {name!r} must be above 0, got {cost:g}")
    return unit * cost


def _splits(
    own: _Rows, items: Sequence[str], labels: Sequence[str], reading: Reading, notes: list[str]
) -> dict[Split, NDArray[np.int64]]:
    table = own.table
    column = table.find("split", reading.columns)
    if column is None:
        group = table.find("group", reading.columns)
        groups = [item if group is None else table.text(group, own.rows[item]) for item in items]
        notes.append(
            "splits dealt at random, by label: "
            + ", ".join(f"{share:.0%} {split}" for split, share in SHARES.items())
        )
        return _dealt(groups, labels, reading.seed)
    found: dict[Split, list[int]] = {split: [] for split in SHARES}
    for at, item in enumerate(items):
        row = own.rows[item]
        named = table.text(column, row).lower()
        if named not in _SPLIT_NAMES:
            raise InputError(
                f"{table.at(row)}: split is {named!r}, expected validation, calibration or test"
            )
        found[_SPLIT_NAMES[named]].append(at)
    for split in ("validation", "test"):
        if not found[split]:
            raise InputError(f"{table.file}: no item is in split {split}; both are needed")
    return {split: np.array(at, dtype=np.int64) for split, at in found.items()}


def _dealt(
    groups: Sequence[str], labels: Sequence[str], seed: int
) -> dict[Split, NDArray[np.int64]]:
    """Deal whole groups out at random, label by label."""
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = defaultdict(list)
    for at, group in enumerate(groups):
        members[group].append(at)
    strata: dict[str, list[str]] = defaultdict(list)
    for group, places in members.items():
        strata[labels[places[0]]].append(group)
    dealt: dict[Split, list[int]] = {split: [] for split in SHARES}
    debt = dict.fromkeys(SHARES, 0.0)
    for label in sorted(strata):
        for i in rng.permutation(len(strata[label])).tolist():
            group = strata[label][i]
            for split, share in SHARES.items():
                debt[split] += share * len(members[group])
            richest = max(SHARES, key=lambda split: debt[split])
            debt[richest] -= len(members[group])
            dealt[richest] += members[group]
    return {split: np.array(sorted(at), dtype=np.int64) for split, at in dealt.items()}
