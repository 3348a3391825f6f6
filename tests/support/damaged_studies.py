"""Damaged study files, made from a seed; see `tests/damage.py` for how to repeat one."""

import json
import random
import tomllib
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from rcopt.study.settings import StudySettings
from tests.support.damage import damage_bytes

#: TOML values in place of the right one.
_ODD_TOML = (
    "true",
    "-1",
    "0",
    "1",
    "2",
    "0.5",
    "1e308",
    "-1e308",
    "nan",
    "inf",
    "-inf",
    "9223372036854775807",
    "9223372036854775808",
    "1" + "0" * 400,
    "1" + "0" * 5000,
    "0x7fffffffffffffff",
    "1979-05-27",
    "07:32:00",
    "1979-05-27T07:32:00Z",
    '""',
    '"x"',
    '" "',
    '"none"',
    '"pretrained"',
    '"cuda:99"',
    '"meta"',
    '"../../outside"',
    '"/proc/self/mem"',
    '"/dev/full/x"',
    '"/dev/zero"',
    '"studies"',
    '"stored/resnet34@96.safetensors"',
    '"~nobody-at-all/x"',
    '"~"',
    '"a\\u0000b"',
    '"a\\u001b[31mb"',
    '"\\ufeff"',
    '"ünïcödé/名前/😀"',
    '"' + "a" * 300 + '"',
    '"' + "a/" * 3000 + '"',
    "'''a\nb'''",
    "[]",
    "[[]]",
    "{}",
    "[1, 'a']",
    "[8, 16]",
    "[8, 8]",
    "[16, 8]",
    "[32, 96]",
    "[1" + ", 1" * 3000 + "]",
    "[" * 60 + "]" * 60,
    "[" * 3000 + "]" * 3000,
    "{ a = " * 200 + "1" + " }" * 200,
    '["resnet18"]',
    '["resnet18", "resnet18"]',
    '["resnet999"]',
    '["mobilenet_v2-0.05"]',
    '["mobilenet_v2-1e3"]',
    "{ 8 = ['resnet18'], 16 = ['resnet18'] }",
    "{ a = 1, a = 2 }",
    '"journal"',
    '"sqlite:///"',
    '"sqlite:///x.db"',
    '"sqlite:////dev/null/all.db"',
    '"sqlite:///a\\u0000b"',
    '"postgresql+psycopg://"',
    '"postgresql+psycopg://h:notaport/d"',
    '"mysql://h/d"',
    '"http://127.0.0.1:1"',
    '"http://127.0.0.1:99999"',
    '"http://["',
    '"digits"',
    '"folder"',
    '"predictions"',
    '"gp"',
    '"random"',
    '"nsga2"',
    '"margin"',
    '"entropy"',
)

_ODD_LINES = (
    "",
    "[",
    "]",
    "=",
    "= 1",
    "x",
    "x = ",
    "x = 1",
    "sead = 1",
    "name = 1",
    'name = "../x"',
    'name = "-x"',
    'name = ".."',
    'name = "a.b-c_d"',
    'name = "' + "n" * 100 + '"',
    'name = "' + "n" * 101 + '"',
    'name = "CON"',
    "[data]",
    "[[data]]",
    "[search]",
    "[data.deep." + "a." * 200 + "b]",
    "[unknown]",
    "[ünïcödé]",
    '"" = 1',
    '"a\\u0000" = 1',
    "a.b.c.d = 1",
    "data.source.x = 1",
    "\ufeffseed = 1",
    "\x00",
    "\x1b[31m",
    "# " + "c" * 10000,
    "seed = 1",
    "seed = 4294967295",
    "seed = 4294967296",
    "seed = 1_000",
    "seed = true",
    "seed = '0'",
    "seed = 0.0",
)


def damage_study(rng: random.Random, text: str) -> bytes:
    """Damage a study file: its lines, values, sections, keys, encoding or bytes.

    A third of them stay files that can be read, with some settings at or beyond their limits.
    """
    if rng.random() < 0.3:
        return _other_settings(rng, tomllib.loads(text)).encode()
    data = text
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_STUDY_DAMAGE)(rng, data)
    act = rng.random()
    if act < 0.08:
        return damage_bytes(rng, data.encode())
    if act < 0.16:
        return data.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "utf-16-le")))
    if act < 0.2:
        return data.encode("latin-1", "replace")
    if act < 0.24:
        return data.replace("\n", rng.choice(("\r\n", "\r", "\n\n", "\0"))).encode()
    return data.encode()


def _delete_line(rng: random.Random, text: str) -> str:
    lines = text.splitlines()
    if lines:
        del lines[rng.randrange(len(lines))]
    return "\n".join(lines)


def _repeat_line(rng: random.Random, text: str) -> str:
    lines = text.splitlines() or [""]
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return "\n".join(lines)


def _swap_lines(rng: random.Random, text: str) -> str:
    lines = text.splitlines()
    rng.shuffle(lines)
    return "\n".join(lines)


def _add_line(rng: random.Random, text: str) -> str:
    lines = text.splitlines()
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(_ODD_LINES))
    return "\n".join(lines)


def _change_value(rng: random.Random, text: str) -> str:
    lines = text.splitlines()
    with_value = [place for place, line in enumerate(lines) if "=" in line]
    if with_value:
        place = rng.choice(with_value)
        key = lines[place].partition("=")[0]
        lines[place] = f"{key}= {rng.choice(_ODD_TOML)}"
    return "\n".join(lines)


def _change_key(rng: random.Random, text: str) -> str:
    lines = text.splitlines()
    with_value = [place for place, line in enumerate(lines) if "=" in line]
    if with_value:
        place = rng.choice(with_value)
        key, _, value = lines[place].partition("=")
        key = key.strip()
        new = rng.choice((key + "s", key[:-1], key.upper(), f"{key}.x", f'"{key}"', ""))
        lines[place] = f"{new} = {value}"
    return "\n".join(lines)


def _set_known_key(rng: random.Random, text: str) -> str:
    section, key = rng.choice(KNOWN_KEYS)
    value = rng.choice(_ODD_TOML)
    if not section:
        return f"{key} = {value}\n{text}"
    head = f"[{section}]"
    if head in text:
        return text.replace(head, f"{head}\n{key} = {value}", 1)
    return f"{text}\n{head}\n{key} = {value}\n"


def _other_settings(rng: random.Random, tree: dict[str, Any]) -> str:
    """A study file with other values of the right kind for a few keys."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        section, key = rng.choice(KNOWN_KEYS)
        model: Any = (
            StudySettings if not section else StudySettings.model_fields[section].annotation
        )
        table = tree.setdefault(section, {}) if section else tree
        table[key] = _value_like(rng, model.model_fields[key])
    plain = [f"{key} = {value}" for key, value in _toml_items(tree)]
    for section, table in tree.items():
        if isinstance(table, dict):
            plain += [f"[{section}]", *(f"{key} = {value}" for key, value in _toml_items(table))]
    return "\n".join(plain) + "\n"


def _toml_items(table: dict[str, Any]) -> list[tuple[str, str]]:
    return [(k, json.dumps(v)) for k, v in table.items() if not isinstance(v, dict)]


def _value_like(rng: random.Random, field: Any) -> Any:
    """A value of a field's kind, often at its limits."""
    choices = get_args(field.annotation)
    if get_origin(field.annotation) is Literal:
        # One of them is downloaded where it is missing.
        return rng.choice([choice for choice in choices if choice != "imagenette"])
    default = field.default
    if isinstance(default, bool):
        return rng.random() < 0.5
    if isinstance(default, float) or float in choices:
        return rng.choice((0.0, 1e-9, 0.01, 0.2, 0.4, 0.5, 0.6, 0.99, 1.0, 1.5, 100.0, -0.1))
    if isinstance(default, int) or int in choices:
        return rng.choice((0, 1, 2, 3, 8, 16, 24, 64, 999, 1000, 1024, 10_000, 2**32 - 1, -1))
    if isinstance(default, tuple):
        lists: tuple[list[Any], ...] = (
            [8],
            [8, 16],
            [32, 96],
            [16],
            ["mobilenet_v2-0.1"],
            ["resnet34"],
            [],
            ["", "a"],
        )
        return rng.choice(lists)
    words = [json.loads(value) for value in _ODD_TOML if value.startswith('"')]
    return rng.choice([*words, "cpu", "cuda", "stored", "images", "t-1.0", "sqlite:///y.db"])


def _known_keys() -> list[tuple[str, str]]:
    """Every key of a study file after its section, which is "" at the top."""
    keys: list[tuple[str, str]] = []
    for name, field in StudySettings.model_fields.items():
        model: Any = field.annotation
        inner = getattr(model, "model_fields", None)
        keys += [("", name)] if inner is None else [(name, key) for key in inner]
    return keys


KNOWN_KEYS = _known_keys()

_STUDY_DAMAGE: tuple[Callable[[random.Random, str], str], ...] = (
    _delete_line,
    _repeat_line,
    _swap_lines,
    _add_line,
    _add_line,
    _change_value,
    _change_value,
    _change_key,
    _set_known_key,
    _set_known_key,
    _set_known_key,
)
