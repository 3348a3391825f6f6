"""JSON that a study keeps: read with its checksum, parsed by pydantic, damage told in a few words.

Only what a file's content makes fail is damage; a mistake in rcopt's own code is not, and shows.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rcopt.files import unsealed

T = TypeVar("T")


class DamagedError(Exception):
    """A file is there, but it does not hold what was written; says why in a few words."""


def read_json(path: Path, schema: TypeAdapter[T]) -> T:
    """Read a JSON file that carries its checksum.

    Raises:
        FileNotFoundError: If there is none.
        DamagedError: If it cannot be read, or holds anything but what the schema describes.
    """
    try:
        tree = json.loads(path.read_bytes())
        if not isinstance(tree, dict):
            raise ValueError("expected a JSON object")
        content = unsealed(tree)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(_short(str(error))) from error
    return _parsed(content, schema)


def parse_json(text: str, schema: TypeAdapter[T]) -> T:
    """Parse JSON that is kept elsewhere, without a checksum.

    Raises:
        DamagedError: If it is anything but what the schema describes.
    """
    try:
        return schema.validate_json(text)
    except ValidationError as error:
        raise DamagedError(_first(error)) from error


def _parsed(content: dict[str, Any], schema: TypeAdapter[T]) -> T:
    try:
        return schema.validate_python(content)
    except ValidationError as error:
        raise DamagedError(_first(error)) from error


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return _short(f"{where}: {first['msg']}" if where else first["msg"])


def _short(text: str) -> str:
    return " ".join(text.split())[:120]
