"""Studies in MLflow: the experiment and the study's run."""

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rcopt.core.cost import CostName
from rcopt.processes import owner_alive, this_owner
from rcopt.tracking import experiments, view
from rcopt.tracking.cascades import CascadeStore
from rcopt.tracking.connection import Connection, EndStatus, Warn, quiet_warning
from rcopt.tracking.environment import environment_tags
from rcopt.tracking.faults import reported
from rcopt.tracking.models import ModelStore
from rcopt.tracking.records import DataInput, StudyRun, dataset_input
from rcopt.tracking.run_files import RunFiles
from rcopt.tracking.stages import StageStore


def open_tracker(uri: str, project: Path, *, warn: Warn = quiet_warning) -> "Tracker":
    """Open a study's MLflow store, making a SQLite one where it is missing.

    Args:
        uri: ``sqlite:///PATH``, relative to the project, or ``http(s)://HOST:PORT``.
        project: The folder that holds ``studies/``.
        warn: Called with one line for each thing that was mended or must be known.

    Raises:
        InputError: If the server cannot be reached or the file is no MLflow store.
    """
    return Tracker(Connection(uri, project, warn))


class Tracker:
    """Studies in an open MLflow store, and the rooms for what belongs to them.

    Args:
        store: The open store.

    Attributes:
        store: The same.
        files: Artifacts of runs.
        stages: Trained stages, by content key.
        cascades: Operating points.
        models: Registered models.
    """

    def __init__(self, store: Connection) -> None:
        self.store = store
        self.files = RunFiles(store)
        self.stages = StageStore(store, self.files)
        self.cascades = CascadeStore(store)
        self.models = ModelStore(store)

    def open_study(
        self,
        name: str,
        *,
        description: str,
        note: str = "",
        params: Mapping[str, object],
        config_toml: str,
        tags: Mapping[str, str] | None = None,
        resolutions: Sequence[int] = (),
        cost: CostName = "flops",
        data: DataInput | None = None,
    ) -> StudyRun:
        """Make a study's experiment and its one run, or open them again.

        Args:
            name: The study's name.
            description: One plain sentence; behind a link to the view it becomes the first
                line of the experiment's note, the only one that MLflow shows unasked.
            note: Markdown below it: what is searched, on what data, how to read it.
            params: Settings that never change while the study lives; MLflow keeps the first.
            config_toml: The resolved study file; stored as ``study.toml``.
            tags: More tags of the study's run.
            resolutions: All that the study may use.
            cost: What the view sorts by.
            data: The data set all its runs name.

        Raises:
            InputError: If an experiment of that name was deleted in MLflow.
            WorkError: If the store refused.
        """
        with reported(f"opening study {name} in MLflow"):
            experiment_id = str(experiments.make_experiment(self.store, name).experiment_id)
            run = experiments.make_study_run(self.store, experiment_id, name)
            run_id = str(run.info.run_id)
            study = StudyRun(
                name, experiment_id, run_id, run.info.start_time, tuple(sorted(resolutions)), data
            )
            if run.info.status != "RUNNING":
                self.store.client.update_run(run_id, status="RUNNING")
            known = run.data.params
            self.store.log(
                run_id,
                params={key: value for key, value in params.items() if key not in known},
                tags={
                    **environment_tags(self.store.project),
                    "mlflow.note.content": f"{description}\n\n{note}".strip(),
                    "rcopt.owner": this_owner(),
                    view.SHOWN: "true",
                    **(tags or {}),
                },
            )
            if data is not None:
                self.store.client.log_inputs(run_id, [dataset_input(data)])
            self.files.check_writable(run_id)
            self._log_text(run_id, "study.toml", config_toml)
            self._describe(study, description, note, cost)
        return study

    def experiment_of(self, name: str) -> str | None:
        """Return the id of a study's experiment, None where it was never started.

        Raises:
            InputError: If it was deleted, or another study's experiment has its name.
        """
        with reported(f"looking for study {name} in MLflow"):
            found = experiments.find_experiment(self.store, name)
        return None if found is None else str(found.experiment_id)

    def study_of(self, name: str, resolutions: Sequence[int] = ()) -> StudyRun | None:
        """Return where a study is logged without opening its run again, None if nowhere."""
        experiment_id = self.experiment_of(name)
        if experiment_id is None:
            return None
        with reported(f"looking for study {name} in MLflow"):
            run = experiments.find_study_run(self.store, experiment_id, name)
        if run is None:
            return None
        return StudyRun(
            name, experiment_id, run.info.run_id, run.info.start_time, tuple(sorted(resolutions))
        )

    def end_study(self, study: StudyRun, status: EndStatus, reason: str = "") -> None:
        """Close the study's run with what became of the command."""
        self.store.end(study.run_id, status, reason)

    def close_stale(
        self, study: StudyRun, is_alive: Callable[[str], bool] = owner_alive
    ) -> list[str]:
        """Mark the runs below the study's that a dead process left open as KILLED.

        Args:
            study: Whose experiment; its own run belongs to whoever works on it now.
            is_alive: Says whether the process named by a run's ``rcopt.owner`` still runs.

        Returns:
            The runs that were closed.
        """
        where = "attributes.status = 'RUNNING' AND tags.`rcopt.owner` LIKE '%'"
        with reported("closing what an earlier command left open"):
            stale = [
                str(run.info.run_id)
                for run in self.store.search([study.experiment_id], where)
                if run.info.run_id != study.run_id and not is_alive(run.data.tags["rcopt.owner"])
            ]
            for run_id in stale:
                self.store.end(run_id, "KILLED", "the process that made this run is gone")
        return stale

    def log_files(self, study: StudyRun, paths: Sequence[Path], folder: str = "") -> None:
        """Store files, such as the report, with the study's run."""
        with reported("storing files in MLflow"):
            for path in paths:
                self.files.upload(
                    study.run_id, f"{folder}/{path.name}" if folder else path.name, path
                )

    def set_study_metrics(
        self, study: StudyRun, metrics: Mapping[str, float], step: int = 0
    ) -> None:
        """Log numbers of the whole study, such as its hypervolume after a trial."""
        with reported("logging the study's metrics"):
            self.store.log(study.run_id, metrics=metrics, step=step)

    def tell_result(self, study: StudyRun, headline: str, note: str, picture: bytes) -> None:
        """Let the notes of the study's run and experiment begin with what was found.

        Args:
            study: Whose.
            headline: The verdict; the experiment shows the first line of its note unasked.
            note: Markdown below it.
            picture: PNG of the front, shown in both notes.
        """
        with reported("telling the study's result in MLflow"):
            with tempfile.TemporaryDirectory(prefix="rcopt-") as folder:
                path = Path(folder) / view.PICTURE
                path.write_bytes(picture)
                self.files.upload(study.run_id, view.PICTURE, path)
            # Relative to the UI's page, so that it works behind any address.
            shown = f"![front]({view.picture_link(study.run_id)})"
            report = view.run_link("", study.experiment_id, study.run_id, "report/report.html")
            links = f"{_front_link(study)} [Report]({report}) (once `rcopt report` made it)."
            # MLflow folds what is below some lines.
            text = f"{headline}\n\n{links}\n\n{shown}\n\n{note}"
            self.store.log(study.run_id, tags={"mlflow.note.content": text})
            self._note(study, f"{headline}\n\n{shown}\n\n{note}")

    def show_progress(self, study: StudyRun, picture: bytes, step: int) -> None:
        """Add a PNG of the front to those that MLflow shows with a slider.

        Args:
            study: Whose.
            picture: PNG.
            step: Number of stages.
        """
        from PIL import Image

        with reported("showing the front in MLflow"), Image.open(io.BytesIO(picture)) as image:
            self.store.client.log_image(
                study.run_id, image.convert("RGB"), key="front", step=step, synchronous=True
            )

    def _describe(self, study: StudyRun, description: str, note: str, cost: CostName) -> None:
        self._note(study, f"{description}\n\n{note}")
        state = view.view_state(study.resolutions, study.started, cost)
        self.store.client.set_experiment_tag(study.experiment_id, view.TAG, state)

    def _note(self, study: StudyRun, text: str) -> None:
        # MLflow shows the first line unasked, cut where the page ends.
        self.store.client.set_experiment_tag(
            study.experiment_id,
            "mlflow.note.content",
            f"{_front_link(study)} {text}".strip()[:20_000],
        )

    def _log_text(self, run_id: str, name: str, text: str) -> None:
        with tempfile.TemporaryDirectory(prefix="rcopt-") as folder:
            path = Path(folder) / name
            path.write_text(text, encoding="utf-8")
            self.store.client.log_artifact(run_id, str(path))


def _front_link(study: StudyRun) -> str:
    return f"[Open the Pareto front]({view.view_link('', study.experiment_id)})."
