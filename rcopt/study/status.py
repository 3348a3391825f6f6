"""How far a study is, also while it runs elsewhere."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from rcopt.core.cascade import StageId
from rcopt.errors import InputError
from rcopt.study.file import Study
from rcopt.study.results import Results
from rcopt.study.results_file import load_results
from rcopt.study.stages.trainable import known_macs
from rcopt.study.trial_records import trial_source
from rcopt.study.trials import Failure, Trials
from rcopt.study.workers import slots
from rcopt.study.workers.claims import open_claims


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Attributes:
        sampled: Sampled trials that are stored now.
        exact: Points of exact fronts among the trials.
        total: Sampled trials the study is to have.
        workers: Who works on it now, and which stages each is training.
        failed: Stages that were given up, by resolution and backbone.
        stages: Number of stages the study may train; None where that is not known without
            reading the stored predictions.
        seconds_left: Estimate of the longest that training may still take: all stages that are
            left, at the pace of those that are done, shared among the workers. None without a
            trained stage, and 0 once the study has its trials.
        results: What is known of the front; None before the first cascade.
    """

    sampled: int
    exact: int
    total: int
    workers: tuple[slots.Worker, ...]
    failed: Mapping[StageId, Failure]
    stages: int | None
    seconds_left: float | None
    results: Results | None

    @property
    def running(self) -> int:
        """Number of stages that are being trained."""
        return sum(len(worker.training) for worker in self.workers)

    @property
    def done(self) -> int:
        """Number of trained stages."""
        return 0 if self.results is None else len(self.results.stages)

    @property
    def queued(self) -> int | None:
        """Number of stages that nobody has asked for yet; the search may never ask."""
        if self.stages is None:
            return None
        return max(0, self.stages - self.done - self.running - len(self.failed))

    @property
    def sampled_share(self) -> float | None:
        """Hypervolume of the sampled trials as a share of the front's, for the same stages."""
        if self.results is None or not self.results.hypervolume:
            return None
        sampled = self.results.sampled_hypervolume
        return None if sampled is None else sampled / self.results.hypervolume


def read_status(study: Study) -> Status:
    """Say how far a study is, also while it runs elsewhere; nothing is loaded but numbers.

    Raises:
        InputError: If the study was never started.
        UnreachableError: If its database does not answer.
    """
    if not (study.folder / "study.toml").is_file():
        raise InputError(f"{study.name}: not started yet; 'rcopt run {study.file}' starts it")
    settings = study.settings
    with closing(Trials(study.storage, study.name, study.folder, None)) as stored:
        sources = [trial_source(trial) for trial in stored.all()]
        failures = stored.failures()
    claims = open_claims(study.storage, study.claims, settings.search.lease)
    at_work = tuple(slots.active_workers(study.name, claims))
    attempts = settings.training.attempts
    failed = {stage: f for stage, f in failures.items() if f.attempts >= attempts}
    results = load_results(study.results_file) if study.results_file.is_file() else None
    sampled, total = sources.count("sampled"), settings.search.trials
    table = settings.stages.table()
    return Status(
        sampled=sampled,
        exact=sources.count("exact"),
        total=total,
        workers=at_work,
        failed=failed,
        stages=sum(map(len, table.values())) if table and all(table.values()) else None,
        seconds_left=0.0
        if sampled >= total
        else _seconds_left(study, results, failed, len(at_work)),
        results=results,
    )


def _seconds_left(
    study: Study,
    results: Results | None,
    failed: Mapping[StageId, Failure],
    n_workers: int,
) -> float | None:
    """Return how long training every stage that is left would take.

    A stage's training time is taken to be in proportion to its MACs.
    """
    done = () if results is None else results.stages
    trained = {f"{s.stage.name}/{len(results.classes)}" for s in done} if results else set()
    given_up = {key.name for key in failed}
    work = sum(summary.macs for summary in done)
    seconds = sum(summary.seconds for summary in done)
    if not work or not seconds:
        return None
    left = sum(
        count
        for name, count in known_macs(study).items()
        if name not in trained and name.rpartition("/")[0] not in given_up
    )
    return seconds / work * left / max(1, n_workers)
