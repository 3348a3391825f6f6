"""Damaged input, made from a kind and a seed: the same two always damage in the same way.

To repeat one failing case of ``test_fuzz.py``, named ``KIND-SEED`` in its message, run

    RCOPT_FUZZ_CASE=KIND-SEED python -m pytest tests/system/test_fuzz.py

and to look for more, with another number of cases than usual (a factor), run

    RCOPT_FUZZ=20 RCOPT_FUZZ_START=100000 python -m pytest tests/system/test_fuzz.py

where every kind counts its seeds from ``RCOPT_FUZZ_START`` on (0 if it is not set).
"""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

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
