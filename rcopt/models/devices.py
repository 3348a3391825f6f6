"""Devices by name, the threads of a CPU, and when memory is exhausted."""

from collections.abc import Iterator
from contextlib import contextmanager

from rcopt.errors import InputError


def known_device(setting: str, name: str) -> str:
    """Return the device that a setting names, ``auto`` resolved.

    Raises:
        InputError: If it is none, or is not there.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name)
    except RuntimeError:
        kind = None
    if kind is None or kind.type not in ("cpu", "cuda"):
        raise InputError(f"{setting}: {name!r} is no device; use auto, cpu, cuda:0")
    if kind.type == "cuda" and (
        not torch.cuda.is_available() or (kind.index or 0) >= torch.cuda.device_count()
    ):
        raise InputError(
            f"{setting}: {name} is not there ({torch.cuda.device_count()} CUDA devices); "
            "use auto or cpu"
        )
    return name


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that a device has no memory left."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch compute with so many threads inside, and with as many as before on leaving.

    Sums are split among the threads, so results of another number differ in their last bits.

    Args:
        count: As many as torch takes if None.
    """
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)
