"""What one stage of a table answered, and class probabilities that say the same."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcopt.data.tables import Table
from rcopt.errors import InputError

#: More classes than this are not made up to write small confidences as they are.
_MOST_MADE = 50
#: Names of columns of probabilities, such as ``p0``, ``prob_cat``.
PROBABILITY = re.compile(
    r"(?:p_?(?=\d+$)|probs?_?(?=\d+$)|prob(?:s|ability|abilities)?_)(.+)", re.IGNORECASE
)
_LOGIT = re.compile(r"logits?_?(.+)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class TableAnswers:
    """What one stage answered to the items, in their order."""

    labels: list[str]
    answers: list[str]
    confidence: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None
    classes: tuple[str, ...]


def answers_of(table: Table, rows: Sequence[int], named: Mapping[str, str]) -> TableAnswers:
    """Read what a stage answered in the given rows.

    Args:
        table: Its table.
        rows: In the order of the items.
        named: Columns by role.

    Raises:
        InputError: Naming file and row of what cannot be used.
    """
    label = table.find("label", named)
    answer = table.find("answer", named)
    correct = table.find("correct", named)
    confidence = table.find("confidence", named)
    labels = [] if label is None else [table.text(label, row) for row in rows]
    columns, classes, logits = _class_columns(table)
    if columns and label is not None and not {"answer", "correct", "confidence"} & set(named):
        p = np.array([[table.number(c, row) for c in columns] for row in rows])
        p = _softmax(p) if logits else _checked(p, table, rows)
        if not set(labels) <= set(classes):
            raise InputError(
                f"{table.file}: label {sorted(set(labels) - set(classes))[0]!r} is none of the "
                f"classes of its probabilities, {classes[0]} to {classes[-1]}"
            )
        answers = [classes[i] for i in p.argmax(axis=1).tolist()]
        return TableAnswers(labels, answers, p.max(axis=1), p, classes)
    if correct is None and (answer is None or label is None):
        raise InputError(
            f"{table.file}: expected class probabilities and a label, or an answer and a label, "
            f"or what is correct; it has {', '.join(map(repr, table.columns))}"
        )
    if correct is not None:
        labels = ["right"] * len(rows)
        answers = ["right" if table.truth(correct, row) else "wrong" for row in rows]
    else:
        assert answer is not None
        answers = [table.text(answer, row) for row in rows]
    sure = (
        np.ones(len(rows))
        if confidence is None
        else np.array([table.number(confidence, row) for row in rows])
    )
    return TableAnswers(labels, answers, sure, None, ())


def _class_columns(table: Table) -> tuple[list[str], tuple[str, ...], bool]:
    """Return columns of probabilities or logits, their classes, and whether they are logits."""
    for pattern, logits in ((PROBABILITY, False), (_LOGIT, True)):
        found = {name: match[1] for name in table.columns if (match := pattern.fullmatch(name))}
        numbered = {n: c for n, c in found.items() if c.isdigit()}
        chosen = numbered if len(numbered) >= 2 else found
        if len(chosen) >= 2 and _numeric(table, list(chosen)):
            return list(chosen), tuple(chosen.values()), logits
    return [], (), False


def _numeric(table: Table, columns: Sequence[str]) -> bool:
    try:
        return all(math.isfinite(float(table.columns[name][0])) for name in columns)
    except (TypeError, ValueError):
        return False


def _checked(p: NDArray[np.float64], table: Table, rows: Sequence[int]) -> NDArray[np.float64]:
    total = p.sum(axis=1)
    bad = np.flatnonzero((p.min(axis=1) < 0) | (np.abs(total - 1) > 0.01))
    if len(bad):
        raise InputError(
            f"{table.at(rows[int(bad[0])])}: probabilities must be at least 0 and sum to 1, got "
            f"the sum {total[bad[0]]:.4g}"
        )
    found: NDArray[np.float64] = p / total[:, None]
    return found


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return found


def joint_probabilities(
    answered: Mapping[str, TableAnswers], notes: list[str]
) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...]]:
    """Return every stage's probabilities over the same classes, and these.

    Args:
        answered: By stage, all of the same items.
        notes: Told what a person should know.
    """
    given = [own.classes for own in answered.values() if own.probabilities is not None]
    names = {name for own in answered.values() for name in (*own.labels, *own.answers)}
    if given and all(classes == given[0] for classes in given) and names <= set(given[0]):
        classes = given[0]
    else:
        classes = tuple(sorted(names | {name for some in given for name in some}))
    lowest = 1.0
    scaled = {}
    for name, own in answered.items():
        if own.probabilities is None:
            scaled[name] = _confidences(name, own.confidence, notes)
            lowest = min(lowest, float(scaled[name].min()))
    # So many classes that the least confident answer is still the most probable one.
    needed = min(_MOST_MADE, math.floor(1 / lowest) + 1) if lowest > 0 else _MOST_MADE
    for number in range(max(2, needed) - len(classes)):
        classes = (*classes, f"other {number + 1}")
    found = {}
    for name, own in answered.items():
        if own.probabilities is not None:
            p = np.zeros((len(own.labels), len(classes)))
            p[:, [classes.index(c) for c in own.classes]] = own.probabilities
        else:
            c = np.maximum(scaled[name], (1 + 1e-6) / len(classes))
            p = np.repeat(((1 - c) / (len(classes) - 1))[:, None], len(classes), axis=1)
            p[np.arange(len(c)), [classes.index(a) for a in own.answers]] = c
        found[name] = p.astype(np.float32)
    return found, classes


def _confidences(name: str, values: NDArray[np.float64], notes: list[str]) -> NDArray[np.float64]:
    """Return confidences in [0, 1]: as they are, or another scale brought to [0.5, 1]."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        notes.append(
            f"{name}: every confidence is the same, so items could only be passed on by chance"
        )
        return np.ones_like(values)
    if low >= 0 and high <= 1:
        return values
    notes.append(f"{name}: confidences from {low:.6g} to {high:.6g} are shown as 0.5 to 1")
    return 0.5 + 0.5 * (values - low) / (high - low)
