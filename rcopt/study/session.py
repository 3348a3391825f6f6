"""A worker's session with a study: who else is there, and the study's run in MLflow meanwhile."""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from rcopt import tracking
from rcopt.errors import WorkError
from rcopt.processes import this_owner
from rcopt.study.file import Study
from rcopt.study.findings import about
from rcopt.study.results import Results
from rcopt.study.stages.base import StageProvider
from rcopt.study.workers import slots
from rcopt.study.workers.claims import shared_lock
from rcopt.study.workers.retrying import RetryPolicy


class StudySession:
    """A worker's session with a study, whose MLflow run is open while any worker is active.

    Who leaves last reports, and closes the run with whatever workers that died have left open.
    """

    def __init__(
        self,
        study: Study,
        tracker: tracking.Tracker,
        provider: StageProvider,
        slot: slots.WorkerSlot,
        retry: RetryPolicy,
    ) -> None:
        self._study, self._tracker, self._provider = study, tracker, provider
        self._slot, self._retry = slot, retry
        self._finished = False

    def __enter__(self) -> tracking.StudyRun:
        self._run = self._retry(self._open)
        return self._run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if self._finished:
            return
        # Whoever interrupts waits for no server, and an error is not replaced by the next one;
        # the next command closes what stays open.
        with suppress(WorkError):
            if isinstance(error, KeyboardInterrupt):
                self._leave("KILLED", "interrupted; the same command continues the study")
            else:
                self._leave("FAILED", str(error))

    def finish(self, report: Callable[[], Results]) -> Results | None:
        """Leave after the last trial.

        Returns:
            What ``report`` returned, or None if others are still at it and will report.
        """
        results = self._retry(self._leave, "FINISHED", "", report)
        self._finished = True
        return results

    def _open(self) -> tracking.StudyRun:
        with self._gate():
            run = _open_run(self._study, self._tracker, self._provider)
            self._tracker.close_stale(run, self._slot.works)
            return run

    def _leave(
        self,
        status: tracking.EndStatus,
        reason: str,
        report: Callable[[], Results] | None = None,
    ) -> Results | None:
        own = this_owner()
        with self._gate():
            others = self._slot.others()
            self._slot.leave()
            results = None if others or report is None else report()
            # With what dead workers left, and what an outage made this one open twice.
            self._tracker.close_stale(
                self._run, lambda owner: owner != own and self._slot.works(owner)
            )
            if not others:
                self._tracker.end_study(self._run, status, reason)
            return results

    def _gate(self) -> AbstractContextManager[None]:
        study = self._study
        return shared_lock(study.storage, study.folder, f"study.{study.name}")


def _open_run(
    study: Study, tracker: tracking.Tracker, provider: StageProvider
) -> tracking.StudyRun:
    data, space = provider.data, provider.space
    description, note = about(study, space, data)
    return tracker.open_study(
        study.name,
        description=description,
        note=note,
        params={"seed": study.settings.seed, "optional": space.optional},
        config_toml=study.to_toml(),
        resolutions=tuple(space.backbones),
        cost=study.settings.search.cost,
        data=tracking.DataInput(data.name, data.digest, data.source),
    )
