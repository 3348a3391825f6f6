"""Prediction tables of other people: CSV, JSON lines, Parquet, NumPy; every row with its place."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcopt.errors import InputError

#: What a column is called where nobody says which it is; case does not matter.
GUESSES: Mapping[str, tuple[str, ...]] = {
    "stage": ("stage", "model", "network", "subj"),
    "id": ("id", "image", "imagename", "image_id", "filename", "file", "item", "question_id",
           "prompt"),
    "label": ("label", "target", "true", "truth", "category", "class", "y"),
    "answer": ("answer", "prediction", "predicted", "pred", "object_response"),
    "correct": ("correct", "right", "is_correct"),
    "confidence": ("confidence", "conf", "score", "max_prob"),
    "cost": ("cost", "flops", "price", "latency", "tokens", "seconds", "ms"),
    "split": ("split", "part", "fold"),
    "group": ("group", "source_id"),
}  # fmt: skip
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".npz")
_TRUE = {"true": True, "1": True, "1.0": True, "yes": True, "right": True, "correct": True}
_FALSE = {"false": False, "0": False, "0.0": False, "no": False, "wrong": False, "": None}


@dataclass(frozen=True)
class Table:
    """The columns of one file.

    Attributes:
        file: Where it came from.
        columns: Values of equal length by name, as text or numbers.
        first: Number of the first row as an editor shows it.
        parts: The tables it was joined from, in order, if it was.
    """

    file: Path
    columns: Mapping[str, Sequence[Any]]
    first: int = 1
    parts: tuple["Table", ...] = ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values()), ()))

    def at(self, row: int) -> str:
        """Return where a row is, for messages."""
        for part in self.parts:
            if row < len(part):
                return part.at(row)
            row -= len(part)
        return f"{self.file.name}, row {row + self.first}"

    def find(self, role: str, named: Mapping[str, str]) -> str | None:
        """Return the column of a role: the one that is named, else the one that is guessed.

        Raises:
            InputError: If the named one is not there, or several could be meant.
        """
        if role in named:
            if named[role] not in self.columns:
                raise InputError(
                    f"{self.file}: no column {named[role]!r} for {role}; it has {self._names()}"
                )
            return named[role]
        taken = set(named.values())
        meant = [
            name
            for guess in GUESSES[role]
            for name in self.columns
            if name.strip().lower() == guess and name not in taken
        ]
        if len(meant) > 1 and role not in ("id", "label"):
            raise InputError(
                f"{self.file}: {role} may be {meant[0]!r} or {meant[1]!r}; say which: "
                f"--column {role}={meant[0]}"
            )
        return meant[0] if meant else None

    def text(self, column: str, row: int) -> str:
        """Return a cell as text, whole numbers without a point; it must not be empty."""
        value = self.columns[column][row]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        found = "" if value is None or value != value else str(value).strip()
        if not found:
            raise InputError(f"{self.at(row)}: {column!r} is empty")
        return found

    def number(self, column: str, row: int) -> float:
        """Return a cell as a finite number."""
        value = self.columns[column][row]
        try:
            found = float(value)
        except (TypeError, ValueError):
            found = math.nan
        if not math.isfinite(found):
            raise InputError(f"{self.at(row)}: {column!r} is {value!r}, expected a number")
        return found

    def truth(self, column: str, row: int) -> bool:
        """Return a cell as true or false."""
        value = str(self.columns[column][row]).strip().lower()
        found = _TRUE.get(value, _FALSE.get(value))
        if found is None:
            raise InputError(
                f"{self.at(row)}: {column!r} is {value!r}, expected true or false, 1 or 0"
            )
        return found

    def _names(self) -> str:
        names = list(self.columns)
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        return ", ".join(map(repr, names[:12])) + more


def table_files(paths: Sequence[Path]) -> list[Path]:
    """Return the tables that are named, those in folders by name.

    Raises:
        InputError: If there are none, or one is of no known kind.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES)
        elif not path.is_file():
            raise InputError(f"{path}: no such file or folder")
        elif path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: expected one of {', '.join(SUFFIXES)}")
        else:
            found.append(path)
    if not found:
        raise InputError(f"{paths[0]}: holds no table; expected files {', '.join(SUFFIXES)}")
    return found


def read_table(file: Path) -> Table:
    """Read a table; nothing in it is executed.

    Raises:
        InputError: If it cannot be read, names a column twice, or has no row.
    """
    readers = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".npz": _npz}
    try:
        table = readers.get(file.suffix.lower(), _lines)(file)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, EOFError, UnicodeError) as error:
        raise InputError(f"{file}: cannot be read ({_one_line(error)})") from error
    if not len(table):
        raise InputError(f"{file}: holds no row")
    return table


def _csv(file: Path) -> Table:
    import csv

    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    with file.open(newline="", encoding="utf-8-sig") as text:
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = next(rows)
            body = [row for row in rows if row]
        except StopIteration as error:
            raise InputError(f"{file}: is empty; expected a header and rows") from error
        except csv.Error as error:
            raise InputError(f"{file}: line {rows.line_num}: not CSV ({error})") from error
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise InputError(f"{file}: has two columns called {twice[0]!r}")
    for number, row in enumerate(body):
        if len(row) != len(header):
            raise InputError(
                f"{file.name}, row {number + 2}: has {len(row)} cells, expected {len(header)} as "
                "in the header"
            )
    return Table(file, {name: [row[i] for row in body] for i, name in enumerate(header)}, 2)


def _lines(file: Path) -> Table:
    rows: list[dict[str, Any]] = []
    with file.open(encoding="utf-8-sig") as text:
        for number, line in enumerate(text, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"{file}: line {number}: not JSON ({_one_line(error)})"
                ) from error
            if not isinstance(row, dict) or (rows and row.keys() != rows[0].keys()):
                raise InputError(
                    f"{file}: line {number}: expected an object with the keys of the first line"
                )
            rows.append(row)
    names = list(rows[0]) if rows else []
    return _spread(file, {name: [row[name] for row in rows] for name in names})


def _parquet(file: Path) -> Table:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table as read

    try:
        columns = read(file).to_pydict()
    except ArrowException as error:
        raise InputError(f"{file}: cannot be read ({_one_line(error)})") from error
    return _spread(file, columns)


def _npz(file: Path) -> Table:
    from zipfile import BadZipFile

    try:
        # Opened here: what is no archive would otherwise stay open.
        with file.open("rb") as raw, np.load(raw, allow_pickle=False) as arrays:
            columns = {name: arrays[name].tolist() for name in arrays.files}
    except BadZipFile as error:
        raise InputError(f"{file}: cannot be read ({_one_line(error)})") from error
    return _spread(file, columns)


def _spread(file: Path, columns: Mapping[str, Any]) -> Table:
    """Give each entry of a column of lists, such as probabilities, a column of its own."""
    spread: dict[str, Sequence[Any]] = {}
    lengths = set()
    for name, values in columns.items():
        if not isinstance(values, list):
            raise InputError(f"{file}: {name!r} is a single value, expected one for each row")
        lengths.add(len(values))
        if values and isinstance(values[0], list):
            width = len(values[0])
            for number, row in enumerate(values):
                if not isinstance(row, list) or len(row) != width:
                    raise InputError(
                        f"{file.name}, row {number + 1}: {name!r} must hold {width} values"
                    )
            spread |= {f"{name}_{i}": [row[i] for row in values] for i in range(width)}
        else:
            spread[name] = values
    if len(lengths) > 1:
        raise InputError(f"{file}: its columns have {min(lengths)} to {max(lengths)} rows")
    return Table(file, spread)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
