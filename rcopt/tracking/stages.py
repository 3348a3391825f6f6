"""The stage store: a stage exists iff a FINISHED run carries its content key.

Weights and predictions are that run's artifacts, so any worker that reaches the store finds
them, and deleting the run is how a stage is forgotten.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rcopt.core.cascade import Stage
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import load_stage
from rcopt.errors import AbsentError, DamagedError, InputError, UnseenError, WorkError
from rcopt.processes import this_owner
from rcopt.tracking import labels
from rcopt.tracking.connection import Connection, EndStatus, quoted
from rcopt.tracking.environment import environment_tags
from rcopt.tracking.faults import reported
from rcopt.tracking.records import StudyRun, dataset_input
from rcopt.tracking.run_files import RunFiles

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

#: The artifact that holds a stage's predictions; the other is its weights.
PREDICTIONS = "stage.safetensors"
WEIGHTS = "weights.safetensors"

#: How long a store that failed is left alone by logging that can wait, in seconds.
PAUSE = 300.0


class Epoch(Protocol):
    """What an epoch's record must offer to be logged."""

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 1."""

    @property
    def loss(self) -> float:
        """Mean training loss."""

    @property
    def accuracy(self) -> float:
        """Share of the training images answered correctly."""

    @property
    def lr(self) -> float:
        """Learning rate at the epoch's end."""


class StageStore:
    """The stages of an open store, by content key.

    Args:
        store: Where their runs are.
        files: Of those runs.
    """

    def __init__(self, store: Connection, files: RunFiles) -> None:
        self._store, self._files = store, files
        self._pending: dict[str, list[Metric]] = {}
        self._paused_until = 0.0

    def find_stage(self, key: str) -> TrainedStage | None:
        """Return the stage stored under a key, or None where it has to be made.

        One that is damaged or no longer there is told to ``warn``; a damaged one is marked.

        Raises:
            UnseenError: If this machine cannot see or read what is stored.
            WorkError: If the store does not answer.
        """
        return self._find([key], mark=True).get(key)

    def find_stages(self, keys: Iterable[str]) -> dict[str, TrainedStage]:
        """Return what is stored under several keys, with one query; nothing is changed.

        Raises:
            UnseenError: If this machine cannot see or read what is stored.
            WorkError: If the store does not answer.
        """
        return self._find(keys, mark=False)

    def _find(self, keys: Iterable[str], *, mark: bool) -> dict[str, TrainedStage]:
        wanted = set(keys)
        found: dict[str, TrainedStage] = {}
        absent: dict[str, AbsentError] = {}
        if not wanted:
            return found
        only = f"= {quoted(next(iter(wanted)))}" if len(wanted) == 1 else "LIKE '%'"
        where = f"attributes.status = 'FINISHED' AND tags.`rcopt.stage_key` {only}"
        with reported("looking for trained stages"):
            for run in self._store.search(
                [e.experiment_id for e in self._store.experiments()],
                where,
                ["attributes.end_time ASC"],
            ):
                tags = run.data.tags
                key = tags["rcopt.stage_key"]
                if key in wanted and key not in found and "rcopt.damaged" not in tags:
                    try:
                        trained = self._load(run, mark=mark)
                    except AbsentError as error:
                        absent[key] = error
                        continue
                    if trained is not None:
                        found[key] = trained
        # What is gone was often made again since, in another run.
        for key in absent.keys() - found.keys():
            self._store.warn(
                f"{absent[key]}; the stage is made again" if mark else str(absent[key])
            )
        return found

    def why_missing(self, key: str) -> str:
        """Return what was deleted that held a stage, and how it comes back; empty if nothing.

        Raises:
            WorkError: If the store does not answer.
        """
        where = f"attributes.status = 'FINISHED' AND tags.`rcopt.stage_key` = {quoted(key)}"
        restore = f"MLFLOW_TRACKING_URI={self._store.uri} mlflow"
        with reported("looking for deleted stages"):
            every = {e.experiment_id: e for e in self._store.experiments(deleted=True)}
            for run in self._store.search(list(every), where, deleted=True):
                experiment = every[run.info.experiment_id]
                if experiment.lifecycle_stage == "deleted":
                    number = experiment.experiment_id
                    return (
                        f"its experiment {experiment.name} was deleted in MLflow; {restore} "
                        f"experiments restore -x {number} brings it back"
                    )
                return (
                    f"its run {run.info.run_id} was deleted in MLflow; {restore} runs restore "
                    f"--run-id {run.info.run_id} brings it back"
                )
        return ""

    def start_stage(
        self,
        study: StudyRun,
        key: str,
        stage: Stage,
        params: Mapping[str, object],
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Open a run for a stage that is about to be trained; return its id.

        Args:
            study: Whose experiment shows it.
            key: Content key; it becomes findable only when the stage is finished.
            stage: What is trained.
            params: The recipe.
            tags: More tags.
        """
        all_params = {"backbone": stage.backbone, "resolution": stage.resolution, **params}
        if told := self.why_missing(key):
            self._store.warn(f"{stage.name}: {told}")
        with reported(f"opening the MLflow run of {stage.name}"):
            return self._create_run(
                study,
                "stage",
                stage.name,
                all_params,
                {"rcopt.pending_key": key, "rcopt.owner": this_owner(), **(tags or {})},
            )

    def log_epoch(self, run_id: str, record: Epoch) -> None:
        """Log one epoch's loss, accuracy and learning rate.

        A store that does not answer is told to ``warn`` once and left alone for a while; what
        could not be logged goes with a later epoch or with `finish_stage`.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        values = {
            "train/loss": record.loss,
            "train/accuracy": record.accuracy,
            "train/lr": record.lr,
        }
        pending = self._pending.setdefault(run_id, [])
        pending += [Metric(name, value, now, record.epoch) for name, value in values.items()]
        if time.monotonic() < self._paused_until:
            return
        try:
            with reported("logging an epoch"):
                self._flush(run_id)
        except (WorkError, InputError) as error:
            self._paused_until = time.monotonic() + PAUSE
            self._store.warn(f"{error}; training goes on, its curves follow later")

    def finish_stage(
        self, run_id: str, trained: TrainedStage, files: Mapping[str, Path]
    ) -> TrainedStage:
        """Publish a trained stage: files first, then numbers, then the key, then FINISHED.

        Args:
            run_id: From `start_stage`.
            trained: The stage; its ``key`` is what it will be found by.
            files: Artifact name to local file; `PREDICTIONS` is needed, `WEIGHTS` usual.

        Returns:
            The stage with its ``run_id``.

        Raises:
            WorkError: If the store refused or lost something; the stage is then not findable.
        """
        if PREDICTIONS not in files:
            raise ValueError(f"files must hold {PREDICTIONS!r}, got {sorted(files)}")
        name = trained.stage.name
        with reported(f"storing {name} in MLflow"):
            if self._store.client.get_run(run_id).info.lifecycle_stage == "deleted":
                self._store.client.restore_run(run_id)
                self._store.warn(
                    f"{name}: its run {run_id} was deleted in MLflow while it was trained; it is "
                    "restored, so that the training is not lost"
                )
            digests = {
                file: self._files.upload(run_id, file, path) for file, path in files.items()
            }
            self._flush(run_id)
            self._store.log(
                run_id,
                metrics=labels.stage_metrics(trained),
                tags={
                    "mlflow.note.content": labels.stage_note(trained),
                    **{f"rcopt.sha256.{file}": digest for file, digest in digests.items()},
                    "rcopt.stage_key": trained.key,
                },
            )
            self._store.client.set_terminated(run_id, "FINISHED")
        self._pending.pop(run_id, None)
        return replace(trained, run_id=run_id)

    def end_stage(self, run_id: str, status: EndStatus, reason: str = "") -> None:
        """Close a stage's run that did not come to its end."""
        self._store.end(run_id, status, reason)
        self._pending.pop(run_id, None)

    def reuse_stage(self, study: StudyRun, trained: TrainedStage) -> str:
        """Show a stage that another study trained in this study's experiment too.

        Returns:
            The run that shows it: its own if it lies in this experiment, otherwise a light one,
            made once, that names the original.
        """
        origin = trained.run_id
        if origin is None:
            raise ValueError("trained must have a run_id: only a stored stage can be shown")
        with reported(f"showing {trained.stage.name} in MLflow"):
            if self._store.client.get_run(origin).info.experiment_id == study.experiment_id:
                return origin
            where = f"tags.`rcopt.reused_from` = {quoted(origin)}"
            for run in self._store.search([study.experiment_id], where):
                return str(run.info.run_id)
            stage = trained.stage
            run_id = self._create_run(
                study,
                "stage",
                stage.name,
                {"backbone": stage.backbone, "resolution": stage.resolution},
                {
                    "rcopt.reused_from": origin,
                    "mlflow.note.content": f"Trained before, in run {origin}; used again.\n\n"
                    + labels.stage_note(trained),
                },
            )
            self._store.log(run_id, metrics=labels.stage_metrics(trained))
            self._store.client.set_terminated(run_id, "FINISHED")
            return run_id

    def weights_path(self, run_id: str) -> Path:
        """Return a local path of a stage's weights, verified.

        Raises:
            UnseenError: If this machine cannot see or read them.
            InputError: If they are missing or damaged; the stage is then marked, counts as
                missing from now on, and is made again by the next command that wants it.
            WorkError: If the store does not answer.
        """
        with reported("reading a stage's weights"):
            tags = self._store.client.get_run(run_id).data.tags
            digest = tags.get(f"rcopt.sha256.{WEIGHTS}")
            if digest is None:
                raise InputError(f"run {run_id}: holds no {WEIGHTS}; name a stage's run")
            try:
                return self._files.fetch(run_id, WEIGHTS, digest)
            except (DamagedError, AbsentError) as error:
                # Weights alone are asked for by whoever makes a model, and nobody else misses
                # them: the mark has the next run make the stage again.
                self._store.client.set_tag(run_id, "rcopt.damaged", str(error)[:500])
                raise

    def _load(self, run: "Run", *, mark: bool) -> TrainedStage | None:
        run_id = run.info.run_id
        try:
            digest = run.data.tags.get(f"rcopt.sha256.{PREDICTIONS}")
            if digest is None:
                raise DamagedError(f"run {run_id}: the SHA-256 of its predictions is missing")
            trained = load_stage(self._files.fetch(run_id, PREDICTIONS, digest), run_id=run_id)
            if trained.key != run.data.tags["rcopt.stage_key"]:
                raise DamagedError(f"run {run_id}: its predictions are of another stage")
            return trained
        except (UnseenError, AbsentError):
            # What is absent may come back with a backup; only damage is for good.
            raise
        except InputError as error:
            self._store.warn(f"{error}; the stage is made again" if mark else str(error))
            if mark:
                self._store.client.set_tag(run_id, "rcopt.damaged", str(error)[:500])
            return None

    def _create_run(
        self,
        study: StudyRun,
        kind: str,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
    ) -> str:
        """Make a run below the study's, with its parameters and data."""
        run = self._store.client.create_run(
            study.experiment_id,
            run_name=name,
            tags={
                **environment_tags(self._store.project),
                "rcopt.kind": kind,
                "rcopt.study": study.name,
                "mlflow.parentRunId": study.run_id,
                **tags,
            },
        )
        run_id = str(run.info.run_id)
        self._store.log(run_id, params=params)
        if study.data is not None:
            self._store.client.log_inputs(run_id, [dataset_input(study.data)])
        return run_id

    def _flush(self, run_id: str) -> None:
        pending = self._pending.get(run_id, [])
        while pending:
            self._store.client.log_batch(run_id, metrics=pending[:900])
            del pending[:900]
