"""A cascade that runs: executor, bundle, timing, registry."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Models that were registered by rcopt 0.1 hold code that imports it from here.
    if name == "answer_rows":
        from rcopt.serving.pictures import answer_rows

        return answer_rows
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
