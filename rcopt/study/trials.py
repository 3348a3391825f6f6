"""The stored trials of a study, each written whole.

No trial is ever left running by a killed process: it enters the storage as one finished record.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from rcopt.core.cascade import StageId
from rcopt.core.cost import CostName
from rcopt.errors import InputError
from rcopt.study.dashboard import show_result
from rcopt.study.foreign_trials import ANSWERS, SKIPPED, TAKEN
from rcopt.study.storage import (
    IDENTITY,
    check_stored,
    open_optuna_study,
    open_storage,
    reported,
    short_text,
)
from rcopt.study.trial_records import METRICS, trial_source
from rcopt.study.workers.claims import shared_lock

_FAILED = "rcopt.failed."


@dataclass(frozen=True)
class Failure:
    """What became of a stage whose training failed.

    Attributes:
        attempts: How often it was tried, by all workers together.
        reason: Of the last failure.
    """

    attempts: int
    reason: str


class Trials:
    """The stored trials of one study; every write is one whole finished trial.

    Once it is open, every method raises `UnreachableError` if the storage does not answer.

    Args:
        storage: ``journal`` or an SQLAlchemy URL.
        name: The study's name.
        folder: Where the journal and the lock lie.
        identity: The settings that all trials share, flat; kept with the study. None to
            read the trials whatever they were made with.
        cost: What the trials minimize; names their second value.

    Raises:
        InputError: If the storage is corrupt or cannot be reached, if the study was made with
            other settings, or if it is to be read and is not there.
    """

    def __init__(
        self,
        storage: str,
        name: str,
        folder: Path,
        identity: Mapping[str, Any] | None,
        cost: CostName = "flops",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock_args = (storage, folder, f"trials.{name}")
        # First use of an empty database by several processes at once fails for most of them.
        with shared_lock(storage, folder, "store"):
            self._storage = open_storage(storage, folder)
            if identity is None:
                check_stored(self._storage, name, storage)
            self.study = open_optuna_study(self._storage, name, storage, METRICS[cost])
            self._counted = self._sampled = self._seen = 0
            self._finished: list[FrozenTrial] = []
            self._open: set[int] = set()
            if identity is not None:
                self._check_identity(identity)

    def all(self) -> list[FrozenTrial]:
        """Return every trial, in order; the caller changes none of them."""
        with reported():
            return self.study.get_trials(deepcopy=False)

    def finished(self) -> list[FrozenTrial]:
        """Return the finished trials, each new one at the end.

        That is the order of their numbers, but for trials that others enqueued: those come when
        they are answered.
        """
        trials = self.all()
        done = sorted(n for n in self._open if trials[n].state.is_finished())
        self._open -= set(done)
        self._finished += [trials[n] for n in done]
        for trial in trials[self._seen :]:
            if trial.state.is_finished():
                self._finished.append(trial)
            else:
                self._open.add(trial.number)
        self._seen = len(trials)
        return self._finished

    def close(self) -> None:
        """Let go of the database's connections, if there are any."""
        if isinstance(self._storage, RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    def failures(self) -> dict[StageId, Failure]:
        """Return the stages, by resolution and backbone, whose training failed so far."""
        with reported():
            attributes = self.study.user_attrs
        found = {}
        for key, value in attributes.items():
            if key.startswith(_FAILED):
                backbone, _, resolution = key.removeprefix(_FAILED).rpartition("@")
                # One that another program wrote over counts as no failure.
                with suppress(ValueError, LookupError, TypeError):
                    found[StageId(int(resolution), backbone)] = Failure(
                        int(value["attempts"]), str(value["reason"])
                    )
        return found

    def add_failure(self, stage: StageId, reason: str) -> Failure:
        """Count one more failed training of a stage; all workers see it."""
        with shared_lock(*self._lock_args):
            before = self.failures().get(stage)
            failure = Failure(1 + (before.attempts if before else 0), reason)
            self._set_failure(stage, failure)
        return failure

    def forget_failures(self) -> None:
        """Let every stage that was given up be tried again."""
        with shared_lock(*self._lock_args):
            for stage, failure in self.failures().items():
                self._set_failure(stage, Failure(0, failure.reason))

    def _set_failure(self, stage: StageId, failure: Failure) -> None:
        resolution, backbone = stage
        value = {"attempts": failure.attempts, "reason": failure.reason[:500]}
        with reported():
            self.study.set_user_attr(f"{_FAILED}{backbone}@{resolution}", value)

    def count_sampled(self) -> int:
        """Return the number of sampled trials; only those added since the last call are read."""
        trials = self.finished()
        self._sampled += sum(trial_source(t) == "sampled" for t in trials[self._counted :])
        self._counted = len(trials)
        return self._sampled

    @contextmanager
    def adding(self) -> Iterator[Callable[[FrozenTrial], int]]:
        """Yield a function that stores a finished trial and returns its number.

        The lock is held meanwhile, so that what was counted inside stays true.
        """
        with shared_lock(*self._lock_args):
            yield self._add

    def shared(self, key: str, make: Callable[[], str]) -> str:
        """Return a text that is the same for all of the study's trials, on every machine.

        Args:
            key: Its name.
            make: Makes it when it is first asked for; others who ask meanwhile wait.
        """
        storage, folder, name = self._lock_args
        with shared_lock(storage, folder, f"{name}.{key}", timeout=3600.0):
            with reported():
                found = self.study.user_attrs.get(f"rcopt.{key}")
            if found is None:
                found = make()
                with reported():
                    self.study.set_user_attr(f"rcopt.{key}", found)
        return str(found)

    def show_result(self, note: str, plot: str) -> None:
        """Put a note (Markdown) and a plot (Plotly's JSON) on optuna-dashboard's first page."""
        with shared_lock(*self._lock_args), reported():
            show_result(self.study, note, plot)

    def skip(self, number: int, reason: str) -> bool:
        """Mark a trial of others as left out; return whether it was not yet."""
        with shared_lock(*self._lock_args), reported():
            trial = self.all()[number]
            if SKIPPED in trial.user_attrs or "source" in trial.user_attrs:
                return False
            if trial.state.is_finished():
                # Optuna changes no finished trial, so the study says it.
                told = self.study.user_attrs.get(SKIPPED, {})
                if str(number) in told:
                    return False
                self.study.set_user_attr(SKIPPED, {**told, str(number): reason})
                return True
            self._take(trial)
            self._storage.set_trial_user_attr(trial._trial_id, SKIPPED, reason)
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        return True

    def skipped(self) -> set[int]:
        """Return the finished trials of others that were left out."""
        with reported():
            return {int(number) for number in self.study.user_attrs.get(SKIPPED, {})}

    def answer(self, number: int, answer: FrozenTrial) -> int | None:
        """Store what a trial of others came to, once over all workers.

        Args:
            number: Of the trial: a waiting one takes the answer over, a finished one gets it in
                a trial beside it.
            answer: Parameters, values and attributes.

        Returns:
            The number of the trial that holds the answer; None if another worker was faster.
        """
        with shared_lock(*self._lock_args), reported():
            trials = self.all()
            asked = trials[number]
            if asked.state.is_finished():
                if any(trial.user_attrs.get(ANSWERS) == number for trial in trials):
                    return None
                answer.set_user_attr(ANSWERS, number)
                return self._add(answer)
            trial_id = self._take(asked)
            for name, distribution in answer.distributions.items():
                value = distribution.to_internal_repr(answer.params[name])
                self._storage.set_trial_param(trial_id, name, value, distribution)
            for key, value in answer.user_attrs.items():
                self._storage.set_trial_user_attr(trial_id, key, value)
            self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, answer.values)
        return number

    def _take(self, trial: FrozenTrial) -> int:
        """Begin a waiting trial, as Optuna wants it; whoever is killed here leaves it taken."""
        number = int(trial._trial_id)
        if trial.state == TrialState.WAITING:
            self._storage.set_trial_user_attr(number, TAKEN, True)
            self._storage.set_trial_state_values(number, TrialState.RUNNING)
        return number

    def _add(self, trial: FrozenTrial) -> int:
        with reported():
            trial_id = self._storage.create_new_trial(self.study._study_id, template_trial=trial)
            return self._storage.get_trial_number_from_id(trial_id)

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        stored = self.study.user_attrs.get(IDENTITY)
        if stored is None:
            self.study.set_user_attr(IDENTITY, json.dumps(identity, sort_keys=True))
            return
        # Studies begun before there was a choice do not name it.
        cost = {"search.cost": "flops"}
        before = cost | json.loads(stored)
        now = cost | json.loads(json.dumps(identity))
        changed = [k for k in {*before, *now} if before.get(k) != now.get(k)]
        # The data's digest often follows from another setting, which says more; how time is
        # measured matters only where it is the cost.
        changed.sort(key=lambda k: (k == "data.digest", k != "search.cost", k))
        if changed:
            key = changed[0]
            more = f" (and {', '.join(changed[1:4])})" if len(changed) > 1 else ""
            raise InputError(
                f"study {self.study.study_name}: {key} was {short_text(before.get(key))} when "
                f"it was started and is {short_text(now.get(key))} now{more}, so its trials would "
                "not be comparable; put it back, or give the study another name (--set name=NEW)"
            )
