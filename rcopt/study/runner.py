"""One worker's search: propose, train what is missing, evaluate, sweep exactly, report.

Any number of workers may do so at once. What they share are the stored trials, the stages in
MLflow and the claims on both; each has an exact front of its own, of the stages it knows.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace

from rcopt import interruption, tracking
from rcopt.core.cascade import OperatingPoint
from rcopt.core.fronts import spread
from rcopt.core.study_front import StudyFront
from rcopt.errors import WorkError
from rcopt.progress import Progress
from rcopt.study import samplers
from rcopt.study.file import Study
from rcopt.study.findings import about, choosing_text, front_table, result_metrics, verdict
from rcopt.study.foreign_trials import requests
from rcopt.study.front_picture import front_picture, front_plotly
from rcopt.study.results import Results, build_results, numbers, well_spread
from rcopt.study.results_file import save_results
from rcopt.study.space import Proposal
from rcopt.study.stage_pool import StagePool
from rcopt.study.stages.base import StageProvider
from rcopt.study.stages.times import StageTimes
from rcopt.study.trial_records import (
    exact_trial,
    operating_point,
    same_point,
    trial_point,
    trial_source,
)
from rcopt.study.trials import Trials
from rcopt.study.workers import slots
from rcopt.study.workers.claims import shared_lock
from rcopt.study.workers.retrying import RetryPolicy

#: Seconds between looks when all that is left to train is being trained by other workers.
POLL = 1.0
#: Seconds between two pictures of the front in MLflow at least.
_PICTURE_EVERY = 5.0


class Runner:
    """One worker's work on a study.

    Args:
        study: The study file.
        tracker: MLflow.
        study_run: The study's run in it.
        provider: Where stages come from.
        stored: The study's trials.
        times: Of the stages, if time is the cost.
        slot: This worker's slot among all.
        retry: Waits for servers that are away.
        progress: Shows what goes on.
    """

    def __init__(
        self,
        study: Study,
        tracker: tracking.Tracker,
        study_run: tracking.StudyRun,
        provider: StageProvider,
        stored: Trials,
        times: StageTimes | None,
        slot: slots.WorkerSlot,
        retry: RetryPolicy,
        progress: Progress,
    ) -> None:
        settings = study.settings
        self._study, self._tracker, self._run = study, tracker, study_run
        self._data, self._space, self._times = provider.data, provider.space, times
        self._stored, self._slot, self._retry = stored, slot, retry
        self._progress = progress
        self._rule = study.answer_rule
        self._pool = StagePool(
            study, study_run, provider, stored, times, self._rule, retry, progress
        )
        self._sampler = samplers.Sampler(
            settings.search.sampler, provider.space, seed=settings.seed, worker=slot.index
        )
        #: What was done already: trials in MLflow, the front among the trials, stages in results.
        self._logged: set[int] = set()
        self._added: StudyFront | None = None
        self._saved_stages = 0
        self._told_waiting = False
        self._shown = time.monotonic()

    @property
    def failed(self) -> str:
        """The stages that could not be trained, and why; empty if there are none."""
        return self._pool.failures

    def run(self, total: int, *, every_stage: bool) -> Results:
        """Work until the study has so many sampled trials.

        Args:
            total: Over all workers.
            every_stage: Train all stages of the space before.
        """
        self._retry(self._catch_up)
        with self._log() as log:
            # While others are at it, what MLflow lacks may be on its way; the last one looks.
            if not self._retry(self._slot.others):
                self._retry(self._backfill, log)
            if every_stage:
                self._retry(self._train_all, log)
            self._retry(self._do_requests, log)
            while (done := self._retry(self._stored.count_sampled)) < total:
                interruption.check()
                self._progress.count("trials", done, total, f"{len(self._pool)} stages")
                # Whatever an outage undid is proposed or added again.
                self._retry(self._do_requests, log)
                self._retry(self._one_trial, total, log)
            self._progress.count("trials", total, total, f"{len(self._pool)} stages")
            for exact in self._retry(self._catch_up):
                self._hand_over(log, exact)
        return self._save()

    def report(self) -> Results:
        """Log what dead workers could not, and mark the front in MLflow; for one at a time."""
        if any(trial.number not in self._logged for trial in self._stored.finished()):
            with self._log() as log:
                self._backfill(log)
        results = self._current()
        marked = {
            p.cascade: p.run_id
            for p in self._tracker.cascades.mark_front(self._run, well_spread(results.points))
        }
        points = tuple(replace(p, run_id=marked.get(p.cascade)) for p in results.points)
        results = replace(results, points=points)
        save_results(self._study.results_file, results)
        self._tracker.log_files(self._run, [self._study.results_file])
        self._tracker.set_study_metrics(self._run, result_metrics(results))
        description, note = about(self._study, self._space, self._data)
        headline = verdict(results)
        found = f"{choosing_text(self._study.name)}\n\n{front_table(results)}"
        picture = front_picture(results)
        self._tracker.show_progress(self._run, picture, len(self._pool))
        self._tracker.tell_result(self._run, headline, f"{found}\n\n{description} {note}", picture)
        self._stored.show_result(f"{headline}\n\n{found}", front_plotly(results))
        return results

    @contextmanager
    def _log(self) -> Iterator[tracking.CascadeLog]:
        log = tracking.CascadeLog(
            self._tracker,
            self._run,
            cascade_runs=self._study.settings.tracking.cascade_runs,
            table_lock=lambda: self._lock("table"),
        )
        try:
            yield log
        except BaseException:
            # Whoever interrupts wants to stop soon; what is left is logged at the next command.
            log.close(limit=5)
            raise
        total = log.waiting
        if left := log.close(
            progress=lambda waiting: self._progress.count("log cascades", total - waiting, total)
        ):
            self._progress.note(f"{left} cascades are not in MLflow yet; run again to log them")

    def _lock(self, name: str) -> AbstractContextManager[None]:
        study = self._study
        return shared_lock(study.storage, study.folder, f"{name}.{study.name}")

    def _catch_up(self) -> list[OperatingPoint]:
        """Have every stage that the stored trials name, also those of other workers."""
        self._pool.look(self._stored.finished(), wait=True)
        return self._add_exact()

    def _backfill(self, log: tracking.CascadeLog) -> None:
        """Log what an earlier command, or a worker that was killed, could not."""
        points = {p.trial: p for p in self._points() if p.trial is not None}
        log.disown(points)
        for number in log.missing(points):
            self._hand_over(log, points[number])
        self._logged |= points.keys()

    def _hand_over(self, log: tracking.CascadeLog, point: OperatingPoint) -> None:
        log.add(point)
        if point.trial is not None:
            self._logged.add(point.trial)

    def _do_requests(self, log: tracking.CascadeLog) -> None:
        """Evaluate the trials that others enqueued or added, each once; skip those that misfit."""
        trials, skipped = self._stored.all(), self._stored.skipped()
        for request in requests(trials, self._space, skipped):
            self._sampler.learn(self._stored.finished())
            self._pool.refresh()
            if request.misfit:
                if self._stored.skip(request.number, request.misfit):
                    self._progress.note(
                        f"trial {request.number}, added by another program, is skipped: "
                        f"{request.misfit}"
                    )
                continue
            proposal = self._sampler.complete(request.params)
            if proposal is None:
                self._stored.skip(request.number, "it has no stage")
            elif self._pool.adopt_all(proposal.stages):
                point = self._evaluated(proposal)
                trial = self._sampler.finished(proposal, point)
                number = self._stored.answer(request.number, trial)
                if number is not None:
                    self._sampler.stored(number)
                    self._tell(log, replace(point, trial=number))
            elif all(self._pool.given_up(key) for key in proposal.stages):
                self._stored.skip(request.number, "its stages could not be trained")

    def _one_trial(self, total: int, log: tracking.CascadeLog) -> None:
        trials = self._stored.finished()
        self._pool.look(trials, wait=False)
        self._sampler.learn(trials)
        self._pool.refresh()
        proposal = self._propose(self._stored.count_sampled())
        # Failed for good, or another worker was faster: on with something else.
        if proposal is None or not self._pool.adopt_all(proposal.stages):
            return
        point = self._evaluated(proposal)
        with self._stored.adding() as add:
            # Other workers may have finished the last trial meanwhile.
            if self._stored.count_sampled() >= total:
                return
            number = add(self._sampler.finished(proposal, point))
        self._sampler.stored(number)
        self._tell(log, replace(point, trial=number))

    def _evaluated(self, proposal: Proposal) -> OperatingPoint:
        stages = [self._pool[key] for key in proposal.stages]
        return operating_point(stages, proposal.deferral_rates, self._rule)

    def _train_all(self, log: tracking.CascadeLog) -> None:
        """Have every stage of the space; the search then only has to combine them."""
        total = len(self._pool.costs)
        while left := self._pool.left:
            interruption.check()
            self._progress.count("stages", total - len(left), total)
            # The cheapest that no other worker is training.
            for key in left:
                if self._pool.adopt(key, wait=False) or self._pool.given_up(key):
                    self._tell(log)
                    break
            else:
                self._wait_for_others()
        self._progress.count("stages", total, total)

    def _tell(self, log: tracking.CascadeLog, *points: OperatingPoint) -> None:
        """Let the study, its log and other commands know what came in."""
        for point in (*points, *self._add_exact()):
            self._hand_over(log, point)
        if len(self._pool) > self._saved_stages and self._points():
            # `rcopt front` and `rcopt status` show what is known while the search goes on.
            self._show(self._save())
            self._saved_stages = len(self._pool)

    def _show(self, results: Results) -> None:
        """Add the front to the pictures in MLflow, unless stages come in faster than seen."""
        now = time.monotonic()
        if now - self._shown < _PICTURE_EVERY:
            return
        self._shown = now
        # A picture that a server which is away does not get is nobody's loss.
        with suppress(WorkError):
            picture = front_picture(results, tested=False)
            self._tracker.show_progress(self._run, picture, len(self._pool))

    def _propose(self, done: int) -> Proposal | None:
        """Return what to do next; None after a pause if others are training all that is left."""
        try:
            if self._pool.possible():
                return self._sampler.propose(done, self._pool.accepts)
        except LookupError:
            pass
        if not self._pool.others_are_training:
            raise WorkError(
                f"no cascade is left to evaluate: {self.failed}; --retry-failed tries again"
            )
        self._wait_for_others()
        return None

    def _wait_for_others(self) -> None:
        if not self._told_waiting:
            self._told_waiting = True
            self._progress.note(
                "waiting for other workers: they are training every stage that is left"
            )
        time.sleep(POLL)

    def _add_exact(self) -> list[OperatingPoint]:
        """Put well-spread points of the exact front among the trials, each once."""
        limit = self._study.settings.search.exact_trials
        points = self._pool.front.points
        if not limit or not points or self._pool.front is self._added:
            return []
        # A spread has two ends; of one point only the most accurate is worth having.
        chosen = spread(*numbers(points), max(limit, 2))[-limit:]
        added = []
        with self._stored.adding() as add:
            known = {same_point(t.user_attrs) for t in self._stored.finished()}
            for point in (points[i] for i in chosen.tolist()):
                trial = exact_trial(point, self._space)
                if same_point(trial.user_attrs) not in known:
                    added.append(replace(point, trial=add(trial)))
        self._added = self._pool.front
        return added

    def _points(self) -> list[OperatingPoint]:
        return [
            trial_point(trial, self._pool.costs.__getitem__)
            for trial in self._stored.finished()
            if trial_source(trial)
        ]

    def _current(self) -> Results:
        return build_results(
            self._study,
            self._data,
            self._pool.trained,
            self._pool.front,
            self._points(),
            rule=self._rule,
            experiment_id=self._run.experiment_id,
            timing="" if self._times is None else str(self._times),
        )

    def _save(self) -> Results:
        results = self._current()
        save_results(self._study.results_file, results)
        return results
