"""Settings written as TOML."""

import json
import re
from collections.abc import Mapping
from typing import Any


def to_toml(tree: Mapping[str, Any], prefix: str = "") -> str:
    """Return nested settings as TOML."""
    lines = [
        f"{_toml_key(key)} = {_toml_value(value)}"
        for key, value in tree.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    text = "\n".join(lines) + "\n" if lines else ""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            path = f"{prefix}{_toml_key(key)}"
            text += f"\n[{path}]\n" + to_toml(value, f"{path}.")
    return text


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_value(key)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for surrogate pairs and the unescaped DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return repr(value)
