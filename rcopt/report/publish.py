"""Write a study's report and store it with the study's MLflow run."""

import platform
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rcopt.errors import InputError
from rcopt.progress import Progress
from rcopt.report import write_report
from rcopt.report.analysis.report_data import StudyFacts, report_data
from rcopt.report.thumbnails import thumbnails
from rcopt.study.file import Study
from rcopt.study.results_file import load_results
from rcopt.study.stages.lookup import trained_stages
from rcopt.study.stages.trainable import open_dataset
from rcopt.study.trial_records import trial_point, trial_source
from rcopt.study.trials import Trials

_SHOWN_VERSIONS = ("rcopt", "torch", "torchvision", "optuna", "mlflow", "ptflops")


@dataclass(frozen=True)
class PublishedReport:
    """A report that was written.

    Attributes:
        files: The page and its figures, the page first.
        run_id: The MLflow run that they are stored with; None where the study has none.
    """

    files: list[Path]
    run_id: str | None


def publish_report(
    study: Study, folder: Path, *, n_resamples: int = 1_000, progress: Progress | None = None
) -> PublishedReport:
    """Compute a study's report, write it, and log it to the study's run.

    Args:
        study: A study that has a front.
        folder: Where ``report.html`` and ``figures/`` are written.
        n_resamples: Of the bootstrap.
        progress: Shows what goes on.

    Raises:
        InputError: If the study has no front yet or minimizes time, or a stage is no longer
            stored, or its experiment was deleted in MLflow.
    """
    progress = progress or Progress()
    if study.settings.search.cost == "latency":
        raise InputError(
            f"{study.name}: the report's figures are of FLOPs, and this study minimizes time; "
            "'rcopt front' shows its front"
        )
    results = load_results(study.results_file)
    tracker = study.open_tracker(warn=progress.note)
    run = tracker.study_of(study.name)
    stages = trained_stages(study, tracker)
    by_name = {t.stage.id: t.stage for t in stages}
    with closing(Trials(study.storage, study.name, study.folder, None)) as stored:
        trials = [
            trial_point(trial, by_name.__getitem__)
            for trial in stored.all()
            if trial_source(trial)
        ]
    data = report_data(
        StudyFacts(
            name=study.name,
            data=stages[0].details.get("data", study.settings.data.source),
            classes=results.classes,
            settings=study.to_toml(),
            versions={"Python": platform.python_version()}
            | {name: version(name) for name in _SHOWN_VERSIONS},
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        ),
        stages,
        results.points,
        results.frame,
        rule=study.answer_rule,
        trials=trials,
        n_resamples=n_resamples,
        seed=study.settings.seed,
    )
    files = write_report(data, folder, thumbnail=_thumbnails(study, progress))
    if run is not None:
        tracker.log_files(run, files[:1], "report")
        tracker.log_files(run, files[1:], "report/figures")
    return PublishedReport(files, None if run is None else run.run_id)


def _thumbnails(study: Study, progress: Progress) -> Callable[[str], bytes | None] | None:
    if study.settings.data.source == "predictions":
        return None
    dataset = open_dataset(study, progress)
    return thumbnails(dataset.images, dataset.base)
