"""Studies: run one, or help with it, and ask for its front."""

from contextlib import closing

from rcopt import interruption
from rcopt.errors import WorkError
from rcopt.files import write_whole
from rcopt.progress import Progress
from rcopt.study.file import Study
from rcopt.study.frames import Front
from rcopt.study.results import Results, well_spread
from rcopt.study.results_file import load_results
from rcopt.study.runner import Runner
from rcopt.study.session import StudySession
from rcopt.study.settings import identity
from rcopt.study.stages.candidates import own_versions
from rcopt.study.stages.opening import open_stages
from rcopt.study.stages.times import fixed
from rcopt.study.trials import Trials
from rcopt.study.workers import slots
from rcopt.study.workers.claims import open_claims
from rcopt.study.workers.retrying import RetryPolicy


def run(
    study: Study,
    *,
    trials: int | None = None,
    retry_failed: bool = False,
    every_stage: bool = False,
    progress: Progress | None = None,
) -> Results:
    """Start, continue, extend or join a study until it has its number of trials.

    Args:
        study: From `rcopt.load_study`.
        trials: The study's total of sampled trials, over all workers and restarts; the file's
            if None.
        retry_failed: Whether stages that were given up are tried again.
        every_stage: Train all stages of the space first, cheapest first, whether or not a trial
            will ask for them.
        progress: Shows what goes on; nothing by default.

    Returns:
        The front on validation with its test numbers, and what it rests on.

    Raises:
        InputError: If the file, the data or the store cannot be used.
        WorkError: If no cascade could be evaluated, or a server stayed away for too long; with
            ``every_stage`` also if a stage could not be trained, when all else is done.
        KeyboardInterrupt: If interrupted; the same call goes on from there.
    """
    progress = progress or Progress()
    settings = study.settings
    retry = RetryPolicy(settings.search.patience, progress)
    claims = open_claims(study.storage, study.claims, settings.search.lease)
    with slots.join(study, claims) as slot:
        if slot.index:
            progress.note(
                f"{study.name}: joining as worker {slot.index} (other workers are running)"
            )
        tracker = study.open_tracker(warn=progress.note)
        # Before anything is decoded or made: its experiment may have been deleted in MLflow.
        retry(tracker.experiment_of, study.name)
        provider = open_stages(study, tracker, progress, claims=claims, retry=retry)
        versions = {} if settings.data.source == "predictions" else own_versions(study)
        shared = {**identity(settings), **versions, "data.digest": provider.data.digest}
        trials_of = Trials(study.storage, study.name, study.folder, shared, settings.search.cost)
        with closing(trials_of) as stored:
            times = fixed(study, provider, stored, progress)
            if retry_failed:
                stored.forget_failures()
            _keep_file(study)
            session = StudySession(study, tracker, provider, slot, retry)
            with session as study_run, interruption.insisted():
                runner = Runner(
                    study, tracker, study_run, provider, stored, times, slot, retry, progress
                )
                results = runner.run(trials or settings.search.trials, every_stage=every_stage)
                results = session.finish(runner.report) or results
    if every_stage and runner.failed:
        raise WorkError(f"not every stage could be trained: {runner.failed}")
    return results


def front(study: Study, *, everything: bool = False) -> Front:
    """Return a study's validation-picked Pareto front with its test numbers, cheapest first.

    Args:
        study: A study that was started.
        everything: The whole exact front instead of about 20 well-spread points.

    Raises:
        InputError: If the study has no front yet.
    """
    points = load_results(study.results_file).points
    return Front(points if everything else well_spread(points))


def _keep_file(study: Study) -> None:
    """Keep the resolved study file, by which the study is found by its name."""
    write_whole(study.folder / "study.toml", study.to_toml().encode())
