"""Wait for servers that are away: longer each time, saying so, and not for ever."""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from rcopt import interruption
from rcopt.errors import OutageError, UnreachableError
from rcopt.progress import Progress

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds of the first pause and of the longest; each is twice the one before.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class RetryPolicy:
    """Repeats calls that a server which does not answer made fail.

    Args:
        limit: Longest outage that is waited for, in seconds.
        progress: Told once per outage what is waited for, and when it is over.
        sleep: Waits some seconds.
        clock: Tells seconds; its origin does not matter.
    """

    def __init__(
        self,
        limit: float,
        progress: Progress,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._progress = progress
        self._sleep = sleep
        self._clock = clock

    def __call__(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a call returns, repeating it while a server is away.

        Args:
            call: Raises `UnreachableError` if a server does not answer; harmless to repeat.
            args: Its arguments.
            kwargs: Its named arguments.

        Raises:
            OutageError: If the outage lasts longer than the limit; the last reason is named.
        """
        pause, began = FIRST_PAUSE, None
        while True:
            try:
                result = call(*args, **kwargs)
            except UnreachableError as error:
                interruption.check()
                now = self._clock()
                if began is None:
                    began = now
                    self._progress.note(f"{error}; retrying for up to {self._limit:g} s")
                left = self._limit - (now - began)
                if left <= 0:
                    raise OutageError(
                        f"{error}; waited {now - began:.0f} s; what is done is kept, the same "
                        "command goes on when the server answers again"
                    ) from error
                self._sleep(min(pause, left))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if began is not None:
                    self._progress.note(f"connection restored after {self._clock() - began:.0f} s")
                return result
