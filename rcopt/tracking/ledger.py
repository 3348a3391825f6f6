"""Which trials MLflow holds, and how one gets there exactly once."""

import csv
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rcopt.core.cascade import OperatingPoint
from rcopt.core.cost import COSTS
from rcopt.processes import owner_alive, this_owner
from rcopt.tracking import labels
from rcopt.tracking.records import StudyRun
from rcopt.tracking.tracker import Tracker

if TYPE_CHECKING:
    from mlflow.entities import Run

#: The study run's artifact with a row per trial.
TABLE = "trials.csv"


class Ledger:
    """What MLflow holds of a study's trials; `send` adds to it and may be repeated safely.

    A trial numbered below ``cascade_runs`` is a run tagged ``rcopt.trial`` and a row of
    ``trials.csv``; any other is a step of the study run's ``val/*`` metrics and a row.

    Args:
        tracker: An open store.
        study: Whose trials.
        cascade_runs: See above.
    """

    def __init__(self, tracker: Tracker, study: StudyRun, cascade_runs: int) -> None:
        self._tracker, self._study, self._limit = tracker, study, cascade_runs
        self._loaded = False
        self._runs: dict[int, str] = {}
        self._unfinished: dict[int, str] = {}
        self._rows: dict[int, Mapping[str, str]] = {}
        #: Rows that the stored table does not have yet.
        self.unsaved = 0

    def load(self) -> None:
        """Read what is there, once; trials that were logged twice lose the later run."""
        if self._loaded:
            return
        self._runs, self._unfinished = {}, {}
        for run in self._tracker.cascades.find_trials(self._study):
            trial, run_id = self._trial_of(run), str(run.info.run_id)
            if trial is None:
                continue
            owner = run.data.tags.get("rcopt.owner", "")
            busy = run.info.status == "RUNNING" and owner != this_owner() and owner_alive(owner)
            if run.info.status != "FINISHED" and not busy:
                self._unfinished[trial] = run_id
            elif trial not in self._runs:
                self._runs[trial] = run_id
            elif not busy:
                self._tracker.store.client.delete_run(run_id)
        for trial in self._unfinished.keys() & self._runs.keys():
            self._tracker.store.client.delete_run(self._unfinished.pop(trial))
        self._rows = {**self._stored_rows(), **self._rows}
        self._loaded = True

    def invalidate(self) -> None:
        """Read again before the next use: a call failed, and may have been carried out."""
        self._loaded = False

    def disown(self, points: Mapping[int, OperatingPoint]) -> None:
        """Let go of trials of these numbers that are others: the study was begun anew.

        Their runs stay, as those of cascades without a trial.
        """
        for trial, point in points.items():
            row = self._rows.get(trial)
            if row is None or labels.same_numbers(row, point):
                continue
            del self._rows[trial]
            if trial in self._runs:
                self._tracker.store.client.set_tag(self._runs[trial], "rcopt.trial", "none")
                del self._runs[trial]

    def missing(self, trials: Iterable[int]) -> list[int]:
        """Return which of these trials are not wholly there."""
        return [
            trial
            for trial in trials
            if trial not in self._rows or (trial < self._limit and trial not in self._runs)
        ]

    def gets_run(self, point: OperatingPoint) -> bool:
        """Return whether a point with a trial number gets a run of its own."""
        return point.trial is not None and point.trial < self._limit

    def send(self, points: Sequence[OperatingPoint]) -> None:
        """Log points that have a trial number; what is there already costs nothing."""
        steps: dict[int, OperatingPoint] = {}
        for point in points:
            trial = point.trial
            if trial is None:
                raise ValueError("points must have trial numbers, got None")
            self.disown({trial: point})
            if not self.gets_run(point):
                if trial not in self._rows:
                    steps[trial] = point
                continue
            if trial not in self._runs:
                self._runs[trial] = self._tracker.cascades.log_cascade(
                    self._study, point, self._unfinished.pop(trial, None)
                )
            self._add_row(trial, point)
        if steps:
            self._tracker.cascades.log_steps(self._study, steps)
            for trial, point in steps.items():
                self._add_row(trial, point)

    def save(self) -> None:
        """Store the table, with the rows that other workers have stored meanwhile."""
        self._rows = {**self._stored_rows(), **self._rows}
        columns = ["trial", "source", "accuracy"]
        columns += [
            cost.mean_key
            for cost in COSTS.values()
            if cost.name == "flops" or any(cost.mean_key in row for row in self._rows.values())
        ]
        resolutions = {
            int(column.rpartition(".")[2])
            for row in self._rows.values()
            for column in row
            if column.startswith("backbone.")
        }
        for resolution in sorted(resolutions):
            columns += [f"{part}.{resolution}" for part in ("backbone", "threshold", "exit_rate")]
        with tempfile.TemporaryDirectory(prefix="rcopt-") as folder:
            path = Path(folder) / TABLE
            with path.open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
                table.writeheader()
                table.writerows(self._rows[trial] for trial in sorted(self._rows))
            self._tracker.files.upload(self._study.run_id, TABLE, path)
        self.unsaved = 0

    def _trial_of(self, run: "Run") -> int | None:
        """Return a run's trial, put back where somebody wrote a word in its place."""
        tag, run_id = run.data.tags["rcopt.trial"], str(run.info.run_id)
        if tag.isdecimal():
            return int(tag)
        said = f"run {run_id}: its tag rcopt.trial is {tag!r}, not the number of a trial"
        trial = labels.trial_of(run.data.tags.get("rcopt.point", ""))
        if trial is None:
            self._tracker.store.warn(f"{said}; it is left out, its trial is logged again")
            return None
        self._tracker.store.client.set_tag(run_id, "rcopt.trial", str(trial))
        self._tracker.store.warn(f"{said}; {trial} is put back")
        return trial

    def _add_row(self, trial: int, point: OperatingPoint) -> None:
        if trial not in self._rows:
            self._rows[trial] = labels.table_row(point)
            self.unsaved += 1

    def _stored_rows(self) -> dict[int, Mapping[str, str]]:
        if TABLE not in self._tracker.files.artifact_names(self._study.run_id):
            return {}
        path = self._tracker.files.fetch(self._study.run_id, TABLE)
        try:
            with path.open(newline="", encoding="utf-8") as file:
                return {int(row["trial"]): row for row in csv.DictReader(file)}
        except (ValueError, KeyError, TypeError, csv.Error):
            # Everything in it can be made again from the trials.
            self._tracker.store.warn(f"{path}: damaged table of trials; it is made again")
            return {}
