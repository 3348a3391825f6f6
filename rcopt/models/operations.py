"""Watch the operations that a network consists of while it runs."""

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

#: Called after each operation with its name in torch's core library, such as ``convolution``,
#: whether it only looks at its input in another way, its arguments, and what it gave.
Saw = Callable[[str, bool, Any, Any], None]


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """A context manager in which every operation is told."""

    def __init__(self, saw: Saw) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._saw = saw

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        """Run an operation, and tell of it; called by torch alone."""
        result = func(*args, **(kwargs or {}))
        # "aten.relu_.default", which works in place, is the same operation as "aten.relu.default".
        self._saw(str(func).split(".")[1].rstrip("_"), func.is_view, args, result)
        return result
