"""One worker's search: propose, train what is missing, evaluate, sweep exactly, report.

Any number of workers may do so at once. What they share are the stored trials, the stages in
MLflow and the claims on both; each has an exact front of its own, of the stages it knows.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from rcopt import interruption, tracking
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import OperatingPoint
from rcopt.core.fronts import hypervolume, non_dominated, spread
from rcopt.core.outcomes import with_test
from rcopt.core.study_front import StudyFront, extend_front, study_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.errors import InputError, OutageError, UnreachableError, WorkError
from rcopt.progress import Progress
from rcopt.study import samplers
from rcopt.study.file import Study
from rcopt.study.results import Results, StageSummary, save_results, well_spread
from rcopt.study.space import Proposal
from rcopt.study.stages.base import Material, StageKey
from rcopt.study.stages.times import StageTimes, priced
from rcopt.study.trial_records import exact_trial, operating_point, trial_point, trial_source
from rcopt.study.trials import Trials
from rcopt.study.workers import places
from rcopt.study.workers.claims import shared_lock
from rcopt.study.workers.outages import Patience

#: Seconds between looks when all that is left to train is being trained by other workers.
POLL = 1.0


class Runner:
    """One worker's work on a study.

    Args:
        study: The study file.
        tracker: MLflow.
        study_run: The study's run in it.
        material: Where stages come from.
        stored: The study's trials.
        times: Of the stages, if time is the cost.
        place: This worker's place among all.
        patient: Waits for servers that are away.
        progress: Shows what goes on.
    """

    def __init__(
        self,
        study: Study,
        tracker: tracking.Tracker,
        study_run: tracking.StudyRun,
        material: Material,
        stored: Trials,
        times: StageTimes | None,
        place: places.Place,
        patient: Patience,
        progress: Progress,
    ) -> None:
        settings = study.settings
        self._study, self._tracker, self._run = study, tracker, study_run
        self._material, self._stored, self._progress = material, stored, progress
        self._place, self._patient = place, patient
        self._rule = AnswerRule(**settings.answers.model_dump())
        self._sampler = samplers.Sampler(
            settings.search.sampler, material.space, seed=settings.seed, worker=place.index
        )
        self._pool: dict[StageKey, TrainedStage] = {}
        self._failed: dict[StageKey, str] = {}
        self._busy: frozenset[StageKey] = frozenset()
        self._told_waiting = False
        #: How many stored trials this worker has looked at for stages, and which it logged.
        self._looked = 0
        self._logged: set[int] = set()
        self._saved_stages = 0
        self._told: StudyFront | None = None
        self._front = study_front(
            [],
            rule=self._rule,
            optional=material.space.optional,
            resolutions=tuple(material.space.backbones),
        )
        self._times = times
        cost = study.settings.search.cost
        self._costs = {key: priced(s, cost, times) for key, s in material.costs.items()}
        # A bound no operating point of the space can pass: chance, at the cost of every
        # resolution's costliest stage. It depends on the study file alone.
        self._reference = (
            1 / len(material.data.classes),
            float(
                sum(
                    max(self._costs[(r, b)].cost for b in names)
                    for r, names in material.space.backbones.items()
                )
            ),
        )

    @property
    def failed(self) -> str:
        """The stages that could not be trained, and why; empty if there are none."""
        return "; ".join(f"{b}@{r}: {why}" for (r, b), why in self._failed.items())

    def run(self, total: int, *, every_stage: bool) -> Results:
        """Work until the study has so many sampled trials.

        Args:
            total: Over all workers.
            every_stage: Train all stages of the space before.
        """
        self._patient(self._catch_up)
        with self._log() as log:
            # While others are at it, what MLflow lacks may be on its way; the last one looks.
            if not self._patient(self._place.others):
                self._patient(self._backfill, log)
            if every_stage:
                self._patient(self._train_all, log)
            while (done := self._patient(self._stored.count_sampled)) < total:
                interruption.check()
                self._progress.count("trials", done, total, self._detail())
                # Whatever an outage undid is proposed or added again.
                self._patient(self._one_trial, total, log)
            self._progress.count("trials", total, total, self._detail())
            for exact in self._patient(self._catch_up):
                self._hand_over(log, exact)
        results = self._current()
        self._save(results)
        return results

    def report(self) -> Results:
        """Log what dead workers could not, and mark the front in MLflow; for one at a time."""
        if any(trial.number not in self._logged for trial in self._stored.all()):
            with self._log() as log:
                self._backfill(log)
        results = self._current()
        marked = {
            p.cascade: p.run_id
            for p in self._tracker.mark_front(self._run, well_spread(results.points))
        }
        points = tuple(replace(p, run_id=marked.get(p.cascade)) for p in results.points)
        results = replace(results, points=points)
        self._save(results)
        self._tracker.log_files(self._run, [self._study.folder / "results.json"])
        self._tracker.set_study_metrics(
            self._run,
            {
                "hypervolume": results.hypervolume,
                "hypervolume/sampled": results.sampled_hypervolume,
                "stages": len(self._pool),
                "trials": results.sampled,
            },
        )
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
        self._look(self._stored.all(), wait=True)
        return self._add_exact()

    def _look(self, trials: Sequence[FrozenTrial], *, wait: bool) -> None:
        """Have the stages that trials name which were not looked at before."""
        for trial in trials[self._looked :]:
            for key in _stage_keys(trial):
                if key not in self._material.costs:
                    raise InputError(
                        f"{self._study.name}: stored trial {trial.number} is of "
                        f"{key[1]}@{key[0]}, which the study does not have, so its storage is "
                        "damaged; restore it from a copy, or delete it to start the trials anew "
                        "(trained stages are kept)"
                    )
                if not self._adopt(key, wait=wait) and key not in self._failed:
                    return
            self._looked += 1

    def _backfill(self, log: tracking.CascadeLog) -> None:
        """Log what an earlier command, or a worker that was killed, could not."""
        points = {p.trial: p for p in self._points() if p.trial is not None}
        for number in log.missing(points):
            self._hand_over(log, points[number])
        self._logged |= points.keys()

    def _hand_over(self, log: tracking.CascadeLog, point: OperatingPoint) -> None:
        log.add(point)
        if point.trial is not None:
            self._logged.add(point.trial)

    def _one_trial(self, total: int, log: tracking.CascadeLog) -> None:
        trials = self._stored.all()
        self._look(trials, wait=False)
        self._sampler.learn(trials)
        self._busy = frozenset()
        if len(self._pool) < len(self._material.costs):
            self._busy = self._material.busy() - self._pool.keys()
        proposal = self._propose(self._stored.count_sampled())
        if proposal is None:
            return
        stages = []
        for key in proposal.stages:
            if not self._adopt(key, wait=False):
                # Failed for good, or another worker was faster: on with something else.
                return
            stages.append(self._pool[key])
        point = operating_point(stages, proposal.deferral_rates, self._rule)
        with self._stored.adding() as add:
            # Other workers may have finished the last trial meanwhile.
            if self._stored.count_sampled() >= total:
                return
            number = add(self._sampler.finished(proposal, point))
        self._sampler.stored(number)
        self._hand_over(log, replace(point, trial=number))
        self._tell(log)

    def _train_all(self, log: tracking.CascadeLog) -> None:
        """Have every stage of the space; the search then only has to combine them."""
        costs = self._material.costs
        while left := [key for key in costs if key not in self._pool.keys() | self._failed.keys()]:
            interruption.check()
            self._progress.count("stages", len(costs) - len(left), len(costs))
            # The cheapest that no other worker is training.
            for key in sorted(left, key=lambda key: costs[key].flops):
                if self._adopt(key, wait=False) or key in self._failed:
                    self._tell(log)
                    break
            else:
                self._wait_for_others()
        self._progress.count("stages", len(costs), len(costs))

    def _tell(self, log: tracking.CascadeLog) -> None:
        """Let the study, its log and other commands know what a new stage brought."""
        for exact in self._add_exact():
            self._hand_over(log, exact)
        if len(self._pool) > self._saved_stages and self._points():
            # `rcopt front` and `rcopt status` show what is known while the search goes on.
            self._save(self._current())
            self._saved_stages = len(self._pool)

    def _propose(self, done: int) -> Proposal | None:
        """Return what to do next; None after a pause if others are training all that is left."""
        try:
            if self._feasible():
                return self._sampler.propose(done, self._acceptable)
        except LookupError:
            pass
        if not self._busy:
            raise WorkError(
                f"no cascade is left to evaluate: {self.failed}; --retry-failed tries again"
            )
        self._wait_for_others()
        return None

    def _wait_for_others(self) -> None:
        if not self._told_waiting:
            self._told_waiting = True
            self._progress.note("all that is left to train is being trained by others; waiting")
        time.sleep(POLL)

    def _feasible(self) -> bool:
        """Return whether any cascade is left that needs no failed and no busy stage."""
        barred = self._failed.keys() | self._busy
        space = self._material.space
        left = [
            any((resolution, name) not in barred for name in names)
            for resolution, names in space.backbones.items()
        ]
        return any(left) if space.optional else all(left)

    def _acceptable(self, proposal: Proposal) -> bool:
        return not any(key in self._failed or key in self._busy for key in proposal.stages)

    def _adopt(self, key: StageKey, *, wait: bool) -> bool:
        """Have a stage in the pool, training it if need be.

        Returns:
            False if its training failed too often, or if another worker is training it and
            ``wait`` is false.
        """
        if key in self._pool:
            return True
        if key in self._failed:
            return False
        attempts = self._study.settings.training.attempts
        name = f"{key[1]}@{key[0]}"
        failure = self._patient(self._stored.failures).get(key)
        while failure is None or failure.attempts < attempts:
            try:
                with interruption.insisted():
                    obtained = self._material.obtain(self._run, key, wait=wait)
            except (UnreachableError, OutageError):
                raise
            except WorkError as error:
                failure = self._patient(self._stored.add_failure, key, str(error))
                self._progress.note(
                    f"{name} failed, attempt {failure.attempts} of {attempts}: {error}"
                )
                continue
            if obtained is None:
                return False
            found, _ = obtained
            cost = self._study.settings.search.cost
            trained = replace(found, stage=priced(found.stage, cost, self._times))
            if self._study.settings.search.exact:
                self._front = extend_front(self._front, list(self._pool.values()), trained)
            self._pool[key] = trained
            return True
        self._failed[key] = failure.reason
        self._progress.note(
            f"{name} is given up, --retry-failed tries it again; the study goes on without it"
        )
        return False

    def _add_exact(self) -> list[OperatingPoint]:
        """Put well-spread points of the exact front among the trials, each once."""
        limit = self._study.settings.search.exact_trials
        points = self._front.points
        if not limit or not points or self._front is self._told:
            return []
        # A spread has two ends; of one point only the most accurate is worth having.
        chosen = spread(*_numbers(points), max(limit, 2))[-limit:]
        added = []
        with self._stored.adding() as add:
            known = {_identity(t.user_attrs) for t in self._stored.all()}
            for point in (points[i] for i in chosen.tolist()):
                trial = exact_trial(point, self._material.space)
                if _identity(trial.user_attrs) not in known:
                    added.append(replace(point, trial=add(trial)))
        self._told = self._front
        return added

    def _points(self) -> list[OperatingPoint]:
        return [
            trial_point(trial, lambda r, b: self._costs[(r, b)])
            for trial in self._stored.all()
            if trial_source(trial)
        ]

    def _detail(self) -> str:
        return f"{len(self._pool)} stages"

    def _save(self, results: Results) -> None:
        save_results(self._study.folder / "results.json", results)

    def _current(self) -> Results:
        """Return the front over what is known now, with its test numbers."""
        # What another worker adds from now on is in the results that it writes itself.
        known = {trained.stage for trained in self._pool.values()}
        trials = [p for p in self._points() if known.issuperset(p.cascade.stages)]
        if not trials:
            raise WorkError("no cascade could be evaluated")
        points = self._front_points(trials)
        return self._results(with_test(points, list(self._pool.values()), self._rule), trials)

    def _front_points(self, trials: Sequence[OperatingPoint]) -> list[OperatingPoint]:
        """Return the front over all that is known.

        Of equal points the one with fewer stages wins, then the trial: a stage that answers
        nothing on validation would only be carried along.
        """
        everything = sorted([*trials, *self._front.points], key=lambda p: len(p.cascade.stages))
        accuracy, cost = _numbers(everything)
        kept = np.flatnonzero(non_dominated(accuracy, cost))
        return [everything[i] for i in kept[np.argsort(cost[kept])].tolist()]

    def _results(
        self, points: Sequence[OperatingPoint], trials: Sequence[OperatingPoint]
    ) -> Results:
        sampled = [p for p in trials if p.source == "sampled"]
        data = self._material.data
        return Results(
            study=self._study.name,
            points=tuple(points),
            stages=tuple(
                StageSummary(
                    stage=t.stage,
                    key=t.key,
                    macs=t.macs,
                    parameters=t.parameters,
                    validation=t.predictions["validation"].accuracy,
                    test=t.predictions["test"].accuracy,
                    seconds=t.seconds,
                    run_id=t.run_id,
                )
                for t in sorted(
                    self._pool.values(), key=lambda t: (t.stage.resolution, t.stage.flops)
                )
            ),
            reference=self._reference,
            hypervolume=hypervolume(*_numbers(points), reference=self._reference),
            sampled_hypervolume=hypervolume(*_numbers(sampled), reference=self._reference),
            sampled=len(sampled),
            exact=self._study.settings.search.exact and self._front.exact and self._front.complete,
            split_sizes=dict(data.split_sizes),
            classes=data.classes,
            experiment_id=self._run.experiment_id,
            timing="" if self._times is None else str(self._times),
        )


def _stage_keys(trial: FrozenTrial) -> list[StageKey]:
    return [(int(r), str(b)) for r, b in trial.user_attrs.get("stages", ())]


def _identity(attributes: dict[str, object]) -> tuple[str, str]:
    return str(attributes.get("stages")), str(attributes.get("thresholds"))


def _numbers(points: Sequence[OperatingPoint]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return (
        np.array([p.validation.accuracy for p in points], dtype=np.float64),
        np.array([p.validation.cost for p in points], dtype=np.float64),
    )
