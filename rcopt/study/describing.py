"""Every setting of a study file in words, from the schema that checks it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from rcopt.models.recipe import Recipe
from rcopt.study.settings import StudySettings

_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}

_HEAD = """\
# Settings of a study file

Every key, written by `rcopt settings`; a key that is left out has its default. On the command
line, `--set section.key=value` wins over the file. `rcopt settings --format json` is the same as a
JSON Schema, for editors.
"""


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        section: Such as ``data``; empty for those at the top of the file.
        name: Within its section.
        kind: Type and bounds in words.
        default: As it would be written in the file; empty where there is none.
        meaning: What it does.
    """

    section: str
    name: str
    kind: str
    default: str
    meaning: str


def settings() -> tuple[Setting, ...]:
    """Return every setting, in the order of the schema."""
    schema = StudySettings.model_json_schema()
    return tuple(_of_table(schema, schema["$defs"], ""))


def markdown() -> str:
    """Return a page of every setting in Markdown, a table a section."""
    parts = [_HEAD]
    section = None
    for one in settings():
        if one.section != section:
            section = one.section
            title = f"## `[{section}]`" if section else "## At the top of the file"
            parts.append(f"\n{title}\n\n| key | value | default | meaning |\n|---|---|---|---|")
        default = f"`{one.default}`" if one.default else ""
        parts.append(f"| `{one.name}` | {one.kind} | {default} | {one.meaning} |")
    return "\n".join(parts)


def _of_table(
    table: Mapping[str, Any], known: Mapping[str, Any], section: str
) -> Iterator[Setting]:
    tables = []
    for name, entry in table["properties"].items():
        entry = _resolved(entry, known)
        if "properties" in entry:
            tables.append((name, entry))
            continue
        meaning, default = entry.get("description"), entry.get("default")
        if meaning is None:
            # The recipe's settings are described, and have their defaults, where it is declared.
            meaning, default = _recipe_meanings()[name], _recipe_defaults()[name]
        yield Setting(section, name, _kind(entry), _written(default), _one_line(meaning))
    for name, entry in tables:
        yield from _of_table(entry, known, name)


def _resolved(entry: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Follow a reference, and take the one way of two that is not null."""
    found = dict(entry)
    if "$ref" in found:
        found = {**known[found.pop("$ref").rsplit("/", 1)[1]], **found}
    ways = [way for way in found.get("anyOf", ()) if way.get("type") != "null"]
    if len(ways) == 1:
        del found["anyOf"]
        found = {**ways[0], **found}
    return found


def _kind(entry: Mapping[str, Any]) -> str:
    if "enum" in entry:
        return " or ".join(f"`{_written(value)}`" for value in entry["enum"])
    if "anyOf" in entry:
        return " or ".join(_kind(way) for way in entry["anyOf"])
    words = {"integer": "whole number", "boolean": "true or false", "string": "text"}
    kind = str(entry["type"])
    if kind == "array":
        return f"list, each: {_kind(entry['items'])}"
    if kind == "object":
        return "table"
    bounds = [text.format(f"{entry[key]:g}") for key, text in _BOUNDS.items() if key in entry]
    return ", ".join([words.get(kind, kind), *bounds])


def _written(value: object) -> str:
    if value is None or value in ([], (), {}):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value}"


def _recipe_defaults() -> dict[str, Any]:
    return {f.name: None if f.default is MISSING else f.default for f in fields(Recipe)}


def _recipe_meanings() -> dict[str, str]:
    """Return what the docstring of `Recipe` says of each setting."""
    _, _, listed = (Recipe.__doc__ or "").partition("Attributes:\n")
    listed, _, _ = listed.partition("\n\n")
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {9,}.*)*)", listed, re.MULTILINE)
    return {name: text for name, text in found}


def _one_line(text: str) -> str:
    text = re.sub(r"`rcopt\.[\w.]*?(\w+)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`").replace("|", "\\|")
