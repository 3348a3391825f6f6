"""Files that appear whole or not at all."""

import secrets
from pathlib import Path


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
