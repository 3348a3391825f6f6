"""Cascades in MLflow: runs, steps of the study's run, and the front among them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rcopt.core.cascade import OperatingPoint
from rcopt.processes import this_owner
from rcopt.tracking import labels, view
from rcopt.tracking.connection import Connection
from rcopt.tracking.faults import reported
from rcopt.tracking.records import StudyRun

if TYPE_CHECKING:
    from mlflow.entities import Run


class CascadeStore:
    """The operating points of an open store, as runs and steps.

    Args:
        store: Where the runs are.
    """

    def __init__(self, store: Connection) -> None:
        self._store = store

    def log_cascade(
        self, study: StudyRun, point: OperatingPoint, run_id: str | None = None
    ) -> str:
        """Log one cascade evaluation as a run of its own, in three calls.

        Args:
            study: Whose trial it is.
            point: The cascade with its validation numbers.
            run_id: A run that was left unfinished, to be completed.

        Returns:
            The run's id.
        """
        if run_id is None:
            run = self._store.client.create_run(
                study.experiment_id,
                run_name=labels.run_name(point),
                tags={
                    "mlflow.parentRunId": study.run_id,
                    "mlflow.source.name": "rcopt",
                    "mlflow.note.content": labels.cascade_note(point),
                    "rcopt.kind": "cascade",
                    "rcopt.study": study.name,
                    "rcopt.source": point.source,
                    "rcopt.point": labels.exact_point(point),
                    "rcopt.trial": "none" if point.trial is None else str(point.trial),
                    "rcopt.owner": this_owner(),
                },
            )
            run_id = str(run.info.run_id)
        self._store.log(
            run_id,
            metrics=labels.cascade_metrics(point),
            params=labels.cascade_params(point.cascade, study.resolutions),
            timestamp=study.started,
        )
        self._store.client.set_terminated(run_id, "FINISHED")
        return run_id

    def log_steps(self, study: StudyRun, points: Mapping[int, OperatingPoint]) -> None:
        """Log trials as steps of the study run: ``val/accuracy`` and ``val/mflops``.

        Each step's time follows from its number, so logging it again changes nothing.

        Args:
            study: Whose trials.
            points: Trial number to operating point.
        """
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, study.started + trial, trial)
            for trial, point in points.items()
            for key, value in labels.split_metrics("val", point.validation).items()
        ]
        for start in range(0, len(metrics), 1000):
            self._store.client.log_batch(study.run_id, metrics=metrics[start : start + 1000])

    def find_trials(self, study: StudyRun, trial: int | None = None) -> "list[Run]":
        """Return the cascade runs of the study's trials, or of one, oldest first."""
        which = "!= 'none'" if trial is None else f"= '{trial}'"
        where = f"tags.`rcopt.kind` = 'cascade' AND tags.`rcopt.trial` {which}"
        return list(self._store.search([study.experiment_id], where))

    def mark_front(
        self, study: StudyRun, points: Sequence[OperatingPoint]
    ) -> tuple[OperatingPoint, ...]:
        """Tag the runs of the front, and only those, and write their test numbers.

        A point that has no run yet gets one. A former member keeps its run, with
        ``rcopt.pareto`` = ``false``.

        Args:
            study: Whose front.
            points: Its members; a front of hundreds is better thinned first, each new member
                costs a run.

        Returns:
            The points with their ``run_id``.
        """
        with reported("marking the front in MLflow"):
            former = {
                str(run.info.run_id): run
                for run in self._store.search([study.experiment_id], view.FRONT_FILTER)
            }
            shown = self._without_trial(study)
            marked = tuple(self._mark(study, point, shown) for point in points)
            for run_id in former.keys() - {point.run_id for point in marked}:
                self._store.log(run_id, tags={"rcopt.pareto": "false", view.SHOWN: "false"})
        return marked

    def run_of(self, study: StudyRun, point: OperatingPoint) -> str:
        """Return the run of a point of the front, made where it was never or was deleted."""
        with reported("looking for a cascade in MLflow"):
            return self._run_of(study, point, self._without_trial(study))

    def _run_of(self, study: StudyRun, point: OperatingPoint, shown: Mapping[str, str]) -> str:
        """Return a point's run; ``shown`` has those of points without a trial."""
        run_id = shown.get(labels.exact_point(point))
        if point.trial is not None:
            run_id = next((r.info.run_id for r in self.find_trials(study, point.trial)), None)
        return self.log_cascade(study, point) if run_id is None else run_id

    def _without_trial(self, study: StudyRun) -> dict[str, str]:
        runs = self._store.search([study.experiment_id], "tags.`rcopt.trial` = 'none'")
        return {run.data.tags.get("rcopt.point", ""): str(run.info.run_id) for run in runs}

    def _mark(
        self, study: StudyRun, point: OperatingPoint, shown: Mapping[str, str]
    ) -> OperatingPoint:
        run_id = self._run_of(study, point, shown)
        tested = {} if point.test is None else labels.split_metrics("test", point.test)
        self._store.log(
            run_id,
            metrics=tested,
            tags={"rcopt.pareto": "true", view.SHOWN: "true"},
            timestamp=study.started,
        )
        return replace(point, run_id=run_id)
