"""Digests that stored files carry, so that damage which leaves them readable is seen too."""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


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
