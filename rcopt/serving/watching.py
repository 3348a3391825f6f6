"""A cascade that notices when its images are no longer like those it was calibrated on."""

import logging
from collections.abc import Sequence

from rcopt.core.statistics.drift import DriftMonitor
from rcopt.serving.bundle import LoadedCascade
from rcopt.serving.pictures import Answer

_log = logging.getLogger(__name__)


class Watched:
    """Watches a cascade's answers; an alarm that is false comes with a chance of 1 % at most.

    Args:
        loaded: The cascade; one packaged without confidences is not watched.
        false_alarms: Chance of an alarm, ever, while images stay as they were.

    Attributes:
        monitor: None where nothing can be watched.
    """

    def __init__(self, loaded: LoadedCascade, *, false_alarms: float = 0.01) -> None:
        self.monitor: DriftMonitor | None = None
        if loaded.seen_before:
            self.monitor = DriftMonitor(loaded.seen_before, false_alarms=false_alarms)
        self._name = str(loaded.cascade)

    def seen(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        """Take in answers in the order in which the images came, and return them."""
        if self.monitor is None:
            return answers
        before = self.monitor.alarm
        self.monitor.see([a.first_confidence for a in answers if a.first_confidence is not None])
        if self.monitor.alarm is not None and before is None:
            _log.warning("%s: %s", self._name, self.alarm)
        return answers

    @property
    def alarm(self) -> str | None:
        """What to tell, None while there is nothing to."""
        if self.monitor is None or self.monitor.alarm is None:
            return None
        return (
            f"after {self.monitor.alarm} images: they are not like those of calibration, so "
            "accuracy, savings and certificate may no longer hold"
        )
