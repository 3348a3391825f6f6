"""Digests that stored files carry, so that damage which leaves them readable is seen too."""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray


def digest(value: object) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a JSON file is to hold: a tree with its digest as ``sha256``."""
    return {"sha256": digest(tree), **tree}


def unsealed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree without its digest.

    Raises:
        ValueError: If it changed since it was `sealed`, or never was.
    """
    content = {key: value for key, value in tree.items() if key != "sha256"}
    if tree.get("sha256") != digest(content):
        raise ValueError("its sha256 is another")
    return content


def tensors_digest(tensors: Mapping[str, NDArray[np.generic]], text: str) -> str:
    """Return the SHA-256 of tensors, whatever their order, and of a text that goes with them.

    Args:
        tensors: Contiguous arrays by name; name, type, shape and bytes count.
        text: Anything else the file says.
    """
    content = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = tensors[name]
        content.update(f"\0{name}\0{array.dtype.str}{array.shape}\0".encode())
        content.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return content.hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it: readers see the old file or the new one.

    Where that fails, as on a full disk, nothing is left of the new one.
    """
    # Not the process's number: another machine may write to the same drive.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def odd_in_url(path: str) -> str:
    """Return what of a path would be read as something else in a database's address, if any.

    SQLAlchemy and MLflow take ``sqlite:///PATH`` apart: a question mark begins its options, and
    a percent sign before two hexadecimal digits stands for a letter.
    """
    found = re.search(r"[?]|%[0-9A-Fa-f]{2}", path)
    return found[0] if found else ""


def file_name(name: str) -> str:
    """Return a name as a file can have it: what file systems refuse, such as ``/``, as ``%2F``.

    Example:
        >>> file_name("timm/resnet18@32")
        'timm%2Fresnet18@32'
    """
    return quote(name, safe="@ +,=()")


def named_by(file_name: str) -> str:
    """Return the name that `file_name` made a file's name of."""
    return unquote(file_name)
