"""Cascade evaluations on their way into MLflow, behind the search's back.

A thread feeds MLflow from a queue, so the search never waits for it. Nothing here is the only
copy of anything: every evaluation is a trial of the Optuna study, so what a slow or lost server
does not take, or a killed process did not send, is found missing and logged later.
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

from rcopt.core.cascade import OperatingPoint
from rcopt.errors import InputError, WorkError
from rcopt.tracking.faults import reported
from rcopt.tracking.ledger import Ledger
from rcopt.tracking.records import StudyRun
from rcopt.tracking.tracker import Tracker

#: Points that wait at most (about 30 MB); more are left to be found missing.
_CAPACITY = 20_000
#: Points sent together; MLflow takes 1,000 metrics a call, two a point.
_BATCH = 200
#: Seconds of pause after a failure: doubled up to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
#: Seconds that the call under way has when the log gives up.
_LAST = 3.0
#: Seconds between two uploads of the table while evaluations keep coming.
_TABLE_EVERY = 60.0


class CascadeLog:
    """Logs the operating points of trials, each once, in the background.

    Args:
        tracker: An open store.
        study: Whose trials.
        cascade_runs: Trials numbered below this get a run of their own; the others become
            steps of the study run. All get a row of ``trials.csv``.
        table_lock: Held while the table is read, completed and stored: it is one file for all
            workers.
    """

    def __init__(
        self,
        tracker: Tracker,
        study: StudyRun,
        *,
        cascade_runs: int,
        table_lock: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        if cascade_runs < 0:
            raise ValueError(f"cascade_runs must not be negative, got {cascade_runs}")
        self._tracker = tracker
        self._table_lock = table_lock
        self._ledger = Ledger(tracker, study, cascade_runs)
        self._using = threading.Lock()
        self._queue: queue.Queue[OperatingPoint] = queue.Queue(_CAPACITY)
        self._pending: list[OperatingPoint] = []
        self._dropped = 0
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name="cascade log", daemon=True)
        self._thread.start()

    def add(self, point: OperatingPoint) -> None:
        """Hand over one trial's operating point; returns at once."""
        if point.trial is None:
            raise ValueError("point must have a trial number, got None")
        if self._closing.is_set():
            raise ValueError("the log is closed, it takes no more points")
        try:
            self._queue.put_nowait(point)
        except queue.Full:
            self._dropped += 1

    def disown(self, points: Mapping[int, OperatingPoint]) -> None:
        """Let go of what MLflow holds as trials of these numbers and is not these points.

        A study whose trials were deleted begins anew with number 0.

        Raises:
            WorkError: If the store does not answer.
        """
        with self._using, reported("comparing MLflow's trials with the study's"):
            self._ledger.load()
            self._ledger.disown(points)

    def missing(self, trials: Iterable[int]) -> list[int]:
        """Return which of these trials MLflow does not hold yet.

        Ask before the first `add`, for the trials of earlier commands. A trial that another
        living worker is about to log may be among them; should it be logged twice, the next
        command takes the later run away.

        Raises:
            WorkError: If the store does not answer.
        """
        with self._using, reported("reading which trials MLflow holds"):
            self._ledger.load()
            return self._ledger.missing(trials)

    @property
    def waiting(self) -> int:
        """How many points are not in MLflow yet."""
        return self._queue.qsize() + len(self._pending) + self._dropped

    def close(
        self,
        timeout: float = 60.0,
        limit: float = math.inf,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Log what waits, then stop.

        Args:
            timeout: Seconds to wait at most for a server that is slow or lost.
            limit: Seconds to take at most, however well the log gets on; what waits may be much.
            progress: Called with the number of points that still wait, while it takes long.

        Returns:
            Number of points left unlogged; `missing` finds them at the next command.
        """
        self._closing.set()
        end = time.monotonic() + limit
        fewest, deadline = self.waiting, min(end, time.monotonic() + timeout)
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(max(0.0, min(0.2, deadline - time.monotonic())))
            if self.waiting < fewest:
                fewest, deadline = self.waiting, min(end, time.monotonic() + timeout)
            if progress is not None and self._thread.is_alive():
                progress(self.waiting)
        self._given_up.set()
        # What is being logged now is finished, or a run would stay open.
        self._thread.join(_LAST)
        return self.waiting or self._ledger.unsaved

    def _work(self) -> None:
        pause = _FIRST_PAUSE
        saved = time.monotonic()
        while not self._given_up.is_set():
            self._take()
            try:
                with self._using, reported("logging cascades in MLflow"):
                    if self._pending:
                        self._send()
                    due = self._closing.is_set() and self.waiting == self._dropped
                    if self._ledger.unsaved and (due or time.monotonic() - saved > _TABLE_EVERY):
                        with self._table_lock():
                            self._ledger.save()
                        saved = time.monotonic()
            except (WorkError, InputError) as error:
                self._ledger.invalidate()
                if pause == _FIRST_PAUSE:
                    self._tracker.store.warn(f"{error}; the search goes on, the log follows later")
                self._given_up.wait(min(pause, 2.0) if self._closing.is_set() else pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            if due:
                return

    def _send(self) -> None:
        """Log the first pending point if it gets a run, else those that share its call."""
        self._ledger.load()
        count = 1
        if not self._ledger.gets_run(self._pending[0]):
            runs = (n for n, point in enumerate(self._pending) if self._ledger.gets_run(point))
            count = next(runs, len(self._pending))
        self._ledger.send(self._pending[:count])
        del self._pending[:count]

    def _take(self) -> None:
        """Move waiting points to the pending ones; wait a little for the first."""
        try:
            while len(self._pending) < _BATCH:
                block = not self._pending and not self._closing.is_set()
                self._pending.append(self._queue.get(block, 0.2))
        except queue.Empty:
            return
