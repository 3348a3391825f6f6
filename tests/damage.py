"""Damaged input, made from a kind and a seed: the same two always damage in the same way.

To repeat one failing case of ``tests/test_fuzz.py``, named ``KIND-SEED`` in its message, run

    RCOPT_FUZZ_CASE=KIND-SEED python -m pytest tests/test_fuzz.py

and to look for more, with another number of cases than usual (a factor), run

    RCOPT_FUZZ=20 RCOPT_FUZZ_START=100000 python -m pytest tests/test_fuzz.py

where every kind counts its seeds from ``RCOPT_FUZZ_START`` on (0 if it is not set).
"""

import json
import random
import struct
import tomllib
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from rcopt.config import StudySettings

Damage = Callable[[random.Random, bytes], bytes]


def source(kind: str, seed: int) -> random.Random:
    """The random numbers of one case."""
    return random.Random(f"{kind}-{seed}")


# --- any file ---


def _flip_bits(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set_bytes(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 4))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice((0, 0xFF, 0x7F, 0x80, 0x22, 0x0A))
    return bytes(changed)


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.choice((0, 1, 7, 8, 9, len(data) - 1, rng.randrange(len(data) + 1)))]


def _cut_out(rng: random.Random, data: bytes) -> bytes:
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[min(stop, start + 1000) :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:stop] + data[start:]


def _zero_out(rng: random.Random, data: bytes) -> bytes:
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + b"\0" * (stop - start) + data[stop:]


def _append(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice((b"\0", b"\n", b"}", b"\xff" * 9, rng.randbytes(100)))


def _replace(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(
        (b"", b"\0", b"\n", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 10**5, rng.randbytes(300))
    )


ANY_BYTES: tuple[Damage, ...] = (
    _flip_bits,
    _flip_bits,
    _set_bytes,
    _truncate,
    _cut_out,
    _repeat,
    _zero_out,
    _append,
    _replace,
)


def damage_bytes(rng: random.Random, data: bytes) -> bytes:
    """Damage any file somewhere."""
    return rng.choice(ANY_BYTES)(rng, data)


# --- JSON ---

#: Values that one kind of file or another does not expect.
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53 + 1,
    2**63,
    -(2**63) - 1,
    10**400,
    0.5,
    -0.0,
    1e308,
    -1e308,
    5e-324,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "x",
    "none",
    "0",
    "1e999",
    "nan",
    "../../../etc/passwd",
    "/etc/passwd",
    "\0",
    "\x1b[31mred\x1b[0m",
    "line\nbreak",
    "ünïcödé 名前 😀",
    "\ud800",
    "a" * 5000,
    [],
    [[]],
    {},
    {"": {}},
    [0.5, 0.5],
    ["resnet18"],
)


def damage_json(rng: random.Random, data: bytes) -> bytes:
    """Change a value, a key or the shape somewhere in a JSON file; or damage its bytes."""
    if rng.random() < 0.25:
        return damage_bytes(rng, data)
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        tree = change_tree(rng, tree)
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def change_tree(rng: random.Random, tree: Any) -> Any:
    """Change one place of a tree of dicts and lists."""
    places = list(_places(tree))
    if not places or rng.random() < 0.03:
        return nested(rng) if rng.random() < 0.3 else rng.choice(ODD_VALUES)
    owner, key = rng.choice(places)
    act = rng.randrange(7)
    if act == 0:
        del owner[key]
    elif act == 1 and isinstance(owner, list):
        owner.insert(key, owner[key])
    elif act == 1:
        owner[f"{key}{rng.choice(('x', ' ', '.', chr(0xE9)))}"] = owner.pop(key)
    elif act == 2:
        other, place = rng.choice(places)
        owner[key] = json.loads(json.dumps(other[place])) if _has(other, place) else None
    elif act == 3 and isinstance(owner[key], int | float) and not isinstance(owner[key], bool):
        owner[key] = rng.choice((-owner[key], owner[key] * 10, str(owner[key]), [owner[key]]))
    elif act == 4:
        owner[key] = nested(rng)
    else:
        owner[key] = rng.choice(ODD_VALUES)
    return tree


def nested(rng: random.Random) -> Any:
    """Lists or tables within each other, some too deep for a recursive reader."""
    value: Any = None
    in_lists = rng.random() < 0.5
    for _ in range(rng.choice((3, 50, 400))):
        value = [value] if in_lists else {"a": value}
    return value


def _places(tree: Any) -> "list[tuple[Any, Any]]":
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        here = waiting.pop()
        keys: list[Any] = []
        if isinstance(here, dict):
            keys = list(here)
        elif isinstance(here, list):
            keys = list(range(len(here)))
        found += [(here, key) for key in keys]
        waiting += [here[key] for key in keys]
    return found


def _has(owner: Any, key: Any) -> bool:
    return key in owner if isinstance(owner, dict) else key < len(owner)


# --- study files ---

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


# --- safetensors: predictions, weights, checkpoints ---


def damage_safetensors(rng: random.Random, data: bytes) -> bytes:
    """Damage a safetensors file: its bytes, its header, its metadata, or its numbers."""
    return rng.choice(_SAFETENSORS_DAMAGE)(rng, data)


def without_digest(data: bytes) -> bytes:
    """The same file without the digest in its metadata."""
    header, body = _parts(data)
    del header["__metadata__"]["sha256"]
    return _file(header, body)


def _header_length_lies(rng: random.Random, data: bytes) -> bytes:
    length = rng.choice((0, 1, 2**63, 2**64 - 1, 2**31, 100_000_001, len(data), len(data) - 8))
    return struct.pack("<Q", length) + data[8:]


def _header_lies(rng: random.Random, data: bytes) -> bytes:
    header, body = _parts(data)
    return _file(change_tree(rng, header), body)


def _tensor_lies(rng: random.Random, data: bytes) -> bytes:
    header, body = _parts(data)
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    what = rng.choice(("dtype", "shape", "data_offsets"))
    if what == "dtype":
        entry["dtype"] = rng.choice(("F16", "BF16", "F64", "I32", "U8", "BOOL", "F8_E4M3", "C64"))
    elif what == "shape":
        entry["shape"] = rng.choice(([], [0], [1], entry["shape"][::-1], [2**62, 4], [-1]))
    else:
        low, high = entry["data_offsets"]
        entry["data_offsets"] = rng.choice(([high, low], [low, high + 8], [0, 0], [low, 2**63]))
    return _file(header, body)


def _metadata_lies(rng: random.Random, data: bytes) -> bytes:
    header, body = _parts(data)
    metadata = header["__metadata__"]
    key = rng.choice(list(metadata))
    act = rng.randrange(4)
    if act == 0:
        del metadata[key]
    elif act == 1 and metadata[key].startswith("{"):
        metadata[key] = json.dumps(change_tree(rng, json.loads(metadata[key])))
    elif act == 2 and metadata[key].startswith("{"):
        tree = json.loads(metadata[key])
        name = rng.choice(list(tree))
        tree[name] = rng.choice(ODD_VALUES)
        metadata[key] = json.dumps(tree)
    else:
        metadata[key] = rng.choice(("", "0", "-1", "1e9", "resnet152", "x" * 3000, "null", "[]"))
    return _file(header, body)


def _numbers_lie(rng: random.Random, data: bytes) -> bytes:
    """Other numbers in a tensor of the same size: the file is sound, what it says is not."""
    header, body = _parts(data)
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    low, high = entry["data_offsets"]
    size = {"F32": 4, "I64": 8}.get(entry["dtype"], 1)
    code = {"F32": "<f", "I64": "<q"}.get(entry["dtype"], "<b")
    if high - low < size:
        return data
    odd = {
        "F32": (float("nan"), float("inf"), -1.0, 2.0, 1e30, 0.0),
        "I64": (-1, 2**62, -(2**63), 1, 0),
    }.get(entry["dtype"], (-1, 0, 1))
    changed = bytearray(body)
    for _ in range(rng.choice((1, 3))):
        place = low + size * rng.randrange((high - low) // size)
        changed[place : place + size] = struct.pack(code, rng.choice(odd))
    return _file(header, bytes(changed))


def _drop_tensor(rng: random.Random, data: bytes) -> bytes:
    header, body = _parts(data)
    del header[rng.choice(list(header))]
    return _file(header, body)


_SAFETENSORS_DAMAGE: tuple[Damage, ...] = (
    damage_bytes,
    damage_bytes,
    _header_length_lies,
    _header_lies,
    _tensor_lies,
    _metadata_lies,
    _metadata_lies,
    _numbers_lie,
    _numbers_lie,
    _drop_tensor,
)


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _file(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


# --- journals: one JSON object a line ---


def damage_journal(rng: random.Random, data: bytes) -> bytes:
    """Damage an Optuna journal: its bytes, its lines, or a value in a line."""
    lines = data.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    act = rng.randrange(8)
    if act == 0:
        del lines[place]
    elif act == 1:
        lines.insert(rng.randrange(len(lines) + 1), lines[place])
    elif act == 2:
        rng.shuffle(lines)
    elif act == 3:
        foreign = (b"hello\n", b"\n", b"{}\n", b"[]\n", b"null\n", b"1\n", b"\xff\xfe\n", b"\0\n")
        huge = (b'{"op_code": ' + b"9" * 5000 + b"}\n", b'"' + b"x" * 2_000_000 + b'"\n')
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(foreign + huge))
    elif act == 4:
        lines[place] = b"[" * 100_000 + b"\n"
    elif act in (5, 6):
        tree = change_tree(rng, json.loads(lines[place]))
        lines[place] = json.dumps(tree).encode("utf-8", "surrogatepass") + b"\n"
    else:
        return damage_bytes(rng, data)
    return b"".join(lines)
