"""Run a study: propose, train what is missing, evaluate, sweep exactly, report."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from rcopt import search, tracking
from rcopt.answers import AnswerRule, stage_answers
from rcopt.cascade import Cascade, OperatingPoint, evaluate, thresholds_for_rates
from rcopt.config import Study, identity
from rcopt.errors import InputError, WorkError
from rcopt.fronts import hypervolume, non_dominated, spread
from rcopt.material import Material, StageKey, open_material
from rcopt.outcomes import outcomes
from rcopt.pool import TrainedStage
from rcopt.progress import Progress
from rcopt.results import Results, StageSummary, load_results, save_results
from rcopt.sweep import extend_front, study_front

#: How many points of a front are shown, made trials and given runs of their own.
SHOWN = 20


def run(study: Study, *, trials: int | None = None, progress: Progress | None = None) -> Results:
    """Start, continue or extend a study until it has its number of trials.

    Args:
        study: From `rcopt.load_study`.
        trials: The study's total of sampled trials, over all restarts; the file's if None.
        progress: Shows what goes on; nothing by default.

    Returns:
        The front on validation with its test numbers, and what it rests on.

    Raises:
        InputError: If the file, the data or the store cannot be used.
        WorkError: If no cascade could be evaluated.
        KeyboardInterrupt: If interrupted; the same call goes on from there.
    """
    progress = progress or Progress()
    tracker = tracking.open_tracker(study.settings.tracking.uri, study.project, warn=progress.note)
    material = open_material(study, tracker, progress)
    stored = search.Trials(
        study.storage,
        study.name,
        study.folder,
        {**identity(study.settings), "data.digest": material.data.digest},
    )
    _keep_file(study)
    study_run = _open_run(study, tracker, material)
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
    reason = ""
    try:
        runner = _Runner(study, tracker, study_run, material, stored, progress)
        results = runner.run(trials or study.settings.search.trials)
        status = "FINISHED"
    except KeyboardInterrupt:
        status, reason = "KILLED", "interrupted; the same command continues the study"
        raise
    except Exception as error:
        reason = str(error)
        raise
    finally:
        tracker.end_study(study_run, status, reason)
    return results


def front(study: Study, *, everything: bool = False) -> list[OperatingPoint]:
    """Return a study's validation-picked Pareto front with its test numbers, cheapest first.

    Args:
        study: A study that was started.
        everything: The whole exact front instead of about 20 well-spread points.

    Raises:
        InputError: If the study has no front yet.
    """
    points = load_results(study.folder / "results.json").points
    return list(points if everything else shown(points))


def shown(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Return about 20 well-spread points of a front, the ends among them."""
    chosen = spread(
        np.array([p.validation.accuracy for p in points]),
        np.array([p.validation.mean_flops for p in points]),
        SHOWN,
    )
    return [points[i] for i in chosen.tolist()]


class _Runner:
    """One command's work on a study."""

    def __init__(
        self,
        study: Study,
        tracker: tracking.Tracker,
        study_run: tracking.StudyRun,
        material: Material,
        stored: search.Trials,
        progress: Progress,
    ) -> None:
        settings = study.settings
        self._study, self._tracker, self._run = study, tracker, study_run
        self._material, self._stored, self._progress = material, stored, progress
        self._rule = AnswerRule(**settings.answers.model_dump())
        self._sampler = search.Sampler(settings.search.sampler, material.space, seed=settings.seed)
        self._pool: dict[StageKey, TrainedStage] = {}
        self._failed: dict[StageKey, str] = {}
        self._saved_stages = 0
        self._front = study_front(
            [],
            rule=self._rule,
            optional=material.space.optional,
            resolutions=tuple(material.space.backbones),
        )
        costs = material.costs
        # A bound no operating point of the space can pass: chance, at the cost of every
        # resolution's costliest stage. It depends on the study file alone.
        self._reference = (
            1 / len(material.data.classes),
            float(
                sum(
                    max(costs[(r, b)].flops for b in names)
                    for r, names in material.space.backbones.items()
                )
            ),
        )

    def run(self, total: int) -> Results:
        self._catch_up()
        log = tracking.CascadeLog(
            self._tracker, self._run, cascade_runs=self._study.settings.tracking.cascade_runs
        )
        try:
            self._backfill(log)
            while (done := self._sampled()) < total:
                self._progress.count("trials", done, total, self._detail())
                self._one_trial(done, total, log)
            self._progress.count("trials", total, total, self._detail())
            for exact in self._catch_up():
                log.add(exact)
        except BaseException:
            # Whoever interrupts wants to stop soon; what is left is logged at the next command.
            log.close(timeout=5)
            raise
        if left := log.close():
            self._progress.note(f"{left} cascades are not in MLflow yet; run again to log them")
        return self._report()

    def _catch_up(self) -> list[OperatingPoint]:
        """Have every stage that the stored trials name, also those of other workers."""
        for trial in self._stored.all():
            for key in _stage_keys(trial):
                if key not in self._material.costs:
                    raise InputError(
                        f"{self._study.name}: stored trial {trial.number} is of "
                        f"{key[1]}@{key[0]}, which the study does not have, so its storage is "
                        "damaged; restore it from a copy, or delete it to start the trials anew "
                        "(trained stages are kept)"
                    )
                self._adopt(key)
        return self._add_exact()

    def _backfill(self, log: tracking.CascadeLog) -> None:
        """Log what an earlier command could not."""
        points = {p.trial: p for p in self._points() if p.trial is not None}
        for number in log.missing(points):
            log.add(points[number])

    def _one_trial(self, done: int, total: int, log: tracking.CascadeLog) -> None:
        self._sampler.learn(self._stored.all())
        try:
            proposal = self._sampler.propose(done, self._acceptable)
        except LookupError:
            reasons = "; ".join(f"{b}@{r}: {why}" for (r, b), why in self._failed.items())
            raise WorkError(f"no cascade is left to evaluate: {reasons}") from None
        stages = []
        for key in proposal.stages:
            if not self._adopt(key):
                return
            stages.append(self._pool[key])
        point = operating_point(stages, proposal.deferral_rates, self._rule)
        with self._stored.adding() as add:
            # Another worker may have finished the last trial meanwhile.
            if self._sampled() >= total:
                return
            number = add(self._sampler.finished(proposal, point))
        self._sampler.stored(number)
        log.add(replace(point, trial=number))
        for exact in self._add_exact():
            log.add(exact)
        if len(self._pool) > self._saved_stages:
            # `rcopt front` and `rcopt status` show what is known while the search goes on.
            self._save(self._current())
            self._saved_stages = len(self._pool)

    def _acceptable(self, proposal: search.Proposal) -> bool:
        return not any(key in self._failed for key in proposal.stages)

    def _adopt(self, key: StageKey) -> bool:
        """Have a stage in the pool, training it if need be; False if that failed."""
        if key in self._pool:
            return True
        try:
            trained, _ = self._material.obtain(self._run, key)
        except WorkError as error:
            self._failed[key] = str(error)
            self._progress.note(f"{key[1]}@{key[0]} failed: {error}; the study goes on without")
            return False
        if self._study.settings.search.exact:
            self._front = extend_front(self._front, list(self._pool.values()), trained)
        self._pool[key] = trained
        return True

    def _add_exact(self) -> list[OperatingPoint]:
        """Put well-spread points of the exact front among the trials, each once."""
        limit = self._study.settings.search.exact_trials
        points = self._front.points
        if not limit or not points:
            return []
        chosen = spread(
            np.array([p.validation.accuracy for p in points]),
            np.array([p.validation.mean_flops for p in points]),
            max(limit, 2),
        )[-limit:]
        added = []
        with self._stored.adding() as add:
            known = {_identity(t.user_attrs) for t in self._stored.all()}
            for point in (points[i] for i in chosen.tolist()):
                trial = search.exact_trial(point, self._material.space)
                if _identity(trial.user_attrs) not in known:
                    added.append(replace(point, trial=add(trial)))
        return added

    def _sampled(self) -> int:
        return sum(search.trial_source(t) == "sampled" for t in self._stored.all())

    def _points(self) -> list[OperatingPoint]:
        costs = self._material.costs
        return [
            search.trial_point(trial, lambda r, b: costs[(r, b)])
            for trial in self._stored.all()
            if search.trial_source(trial)
        ]

    def _detail(self) -> str:
        return f"{len(self._pool)} stages"

    def _report(self) -> Results:
        """Store the results and mark the front in MLflow."""
        results = self._current()
        marked = {
            p.cascade: p.run_id for p in self._tracker.mark_front(self._run, shown(results.points))
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
        on_test = outcomes(
            [p.cascade for p in points], list(self._pool.values()), "test", self._rule
        )
        return self._results(
            [
                replace(point, test=outcome.evaluation)
                for point, outcome in zip(points, on_test, strict=True)
            ],
            trials,
        )

    def _front_points(self, trials: Sequence[OperatingPoint]) -> list[OperatingPoint]:
        """Return the front over all that is known.

        Of equal points the one with fewer stages wins, then the trial: a stage that answers
        nothing on validation would only be carried along.
        """
        everything = sorted([*trials, *self._front.points], key=lambda p: len(p.cascade.stages))
        accuracy, flops = _numbers(everything)
        kept = np.flatnonzero(non_dominated(accuracy, flops))
        return [everything[i] for i in kept[np.argsort(flops[kept])].tolist()]

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
        )


def operating_point(
    stages: Sequence[TrainedStage], rates: Sequence[float], rule: AnswerRule
) -> OperatingPoint:
    """Evaluate a proposal on validation.

    Args:
        stages: From cheap to costly.
        rates: Deferral rate of each stage but the last, mapped to observed confidences.
        rule: How probabilities become answers.
    """
    answers = stage_answers([t.predictions["validation"] for t in stages], rule)
    thresholds = thresholds_for_rates(answers.confidence, rates)
    flops = [t.stage.flops for t in stages]
    return OperatingPoint(
        cascade=Cascade(tuple(t.stage for t in stages), thresholds),
        validation=evaluate(answers.confidence, answers.correct, flops, thresholds),
        source="sampled",
    )


def _keep_file(study: Study) -> None:
    """Keep the resolved study file, by which the study is found by its name."""
    path = study.folder / "study.toml"
    partial = path.with_name(f"study.toml.{os.getpid()}.partial")
    try:
        partial.write_text(study.to_toml(), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _open_run(study: Study, tracker: tracking.Tracker, material: Material) -> tracking.StudyRun:
    data = material.data
    space = material.space
    sizes = ", ".join(f"{count} {split}" for split, count in data.split_sizes.items())
    table = "\n".join(
        f"| {resolution} | {', '.join(names)} |" for resolution, names in space.backbones.items()
    )
    description = (
        "Which backbone at which resolution, and when to stop: a resolution cascade on "
        f"{data.name} ({len(data.classes)} classes; {sizes} images)."
    )
    note = (
        "Accuracy is maximized and mean FLOPs per image minimized on validation; test numbers "
        "are on the front's runs only.\n\n| resolution | backbones |\n|---|---|\n"
        f"{table}\n\n"
        "Runs: `stage` = one trained network, `cascade` = one evaluated cascade. Filters: "
        "`tags.\"rcopt.pareto\" = 'true'`, `tags.\"rcopt.kind\" = 'stage'`."
    )
    run = tracker.open_study(
        study.name,
        description=description,
        note=note,
        params={"seed": study.settings.seed, "optional": space.optional},
        config_toml=study.to_toml(),
        resolutions=tuple(space.backbones),
        data=tracking.DataInput(data.name, data.digest, data.source),
    )
    tracker.close_stale(run)
    return run


def _stage_keys(trial: FrozenTrial) -> list[StageKey]:
    return [(int(r), str(b)) for r, b in trial.user_attrs.get("stages", ())]


def _identity(attributes: dict[str, object]) -> tuple[str, str]:
    return str(attributes.get("stages")), str(attributes.get("thresholds"))


def _numbers(points: Sequence[OperatingPoint]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return (
        np.array([p.validation.accuracy for p in points], dtype=np.float64),
        np.array([p.validation.mean_flops for p in points], dtype=np.float64),
    )
