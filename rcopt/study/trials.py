"""The stored trials of a study, each written whole.

No trial is ever left running by a killed process: it enters the storage as one finished record.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Source, Stage, mean_flops
from rcopt.core.cost import CostName
from rcopt.errors import InputError, UnreachableError
from rcopt.study.workers.claims import shared_lock
from rcopt.study.workers.postgres import PATIENCE, is_postgres

DIRECTIONS: tuple[Literal["maximize"], Literal["minimize"]] = ("maximize", "minimize")
METRICS: Mapping[CostName, tuple[str, str]] = {
    "flops": ("accuracy", "mean_flops"),
    "latency": ("accuracy", "mean_milliseconds"),
}

_IDENTITY = "rcopt.identity"
_FAILED = "rcopt.failed."
_JOURNAL_LOCK = "journal.lock"


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
        InputError: If the storage is corrupt or cannot be reached, or if the study was made
            with other settings.
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
        self._place = (storage, folder, f"trials.{name}")
        # First use of an empty database by several processes at once fails for most of them.
        with shared_lock(storage, folder, "store"):
            self._storage = _open_storage(storage, name, folder)
            self.study = _open_study(self._storage, name, storage, METRICS[cost])
            self._counted = self._sampled = 0
            if identity is not None:
                self._check_identity(identity)

    def all(self) -> list[FrozenTrial]:
        """Return every trial, in order; the caller changes none of them."""
        with _reported():
            return self.study.get_trials(deepcopy=False)

    def close(self) -> None:
        """Let go of the database's connections, if there are any."""
        if isinstance(self._storage, RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    def failures(self) -> dict[tuple[int, str], Failure]:
        """Return the stages, by resolution and backbone, whose training failed so far."""
        with _reported():
            attributes = self.study.user_attrs
        found = {}
        for key, value in attributes.items():
            if key.startswith(_FAILED):
                backbone, _, resolution = key.removeprefix(_FAILED).rpartition("@")
                found[int(resolution), backbone] = Failure(value["attempts"], value["reason"])
        return found

    def add_failure(self, stage: tuple[int, str], reason: str) -> Failure:
        """Count one more failed training of a stage; all workers see it."""
        with shared_lock(*self._place):
            before = self.failures().get(stage)
            failure = Failure(1 + (before.attempts if before else 0), reason)
            self._set_failure(stage, failure)
        return failure

    def forget_failures(self) -> None:
        """Let every stage that was given up be tried again."""
        with shared_lock(*self._place):
            for stage, failure in self.failures().items():
                self._set_failure(stage, Failure(0, failure.reason))

    def _set_failure(self, stage: tuple[int, str], failure: Failure) -> None:
        resolution, backbone = stage
        value = {"attempts": failure.attempts, "reason": failure.reason[:500]}
        with _reported():
            self.study.set_user_attr(f"{_FAILED}{backbone}@{resolution}", value)

    def count_sampled(self) -> int:
        """Return the number of sampled trials; only those added since the last call are read."""
        trials = self.all()
        self._sampled += sum(trial_source(t) == "sampled" for t in trials[self._counted :])
        self._counted = len(trials)
        return self._sampled

    @contextmanager
    def adding(self) -> Iterator[Callable[[FrozenTrial], int]]:
        """Yield a function that stores a finished trial and returns its number.

        The lock is held meanwhile, so that what was counted inside stays true.
        """
        with shared_lock(*self._place):
            yield self._add

    def shared(self, key: str, make: Callable[[], str]) -> str:
        """Return a text that is the same for all of the study's trials, on every machine.

        Args:
            key: Its name.
            make: Makes it when it is first asked for; others who ask meanwhile wait.
        """
        storage, folder, name = self._place
        with shared_lock(storage, folder, f"{name}.{key}", timeout=3600.0):
            with _reported():
                found = self.study.user_attrs.get(f"rcopt.{key}")
            if found is None:
                found = make()
                with _reported():
                    self.study.set_user_attr(f"rcopt.{key}", found)
        return str(found)

    def _add(self, trial: FrozenTrial) -> int:
        with _reported():
            trial_id = self._storage.create_new_trial(self.study._study_id, template_trial=trial)
            return self._storage.get_trial_number_from_id(trial_id)

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        stored = self.study.user_attrs.get(_IDENTITY)
        if stored is None:
            self.study.set_user_attr(_IDENTITY, json.dumps(identity, sort_keys=True))
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
                f"study {self.study.study_name}: {key} was {_text(before.get(key))} when it was "
                f"started and is {_text(now.get(key))} now{more}, so its trials would not be "
                "comparable; put it back, or give the study another name (--set name=NEW)"
            )


def trial_source(trial: FrozenTrial) -> Source | None:
    """Return what made a trial, or None if it is not one of rcopt's finished trials."""
    source = trial.user_attrs.get("source")
    if trial.state != TrialState.COMPLETE or source not in ("sampled", "exact"):
        return None
    return "sampled" if source == "sampled" else "exact"


def trial_point(trial: FrozenTrial, stage_named: Callable[[int, str], Any]) -> OperatingPoint:
    """Return a stored trial as the operating point it was told with.

    Args:
        trial: One of rcopt's finished trials.
        stage_named: Returns the `Stage` of a resolution and a backbone; with its milliseconds
            if the study minimizes time.
    """
    attributes = trial.user_attrs
    stages = tuple(stage_named(int(r), b) for r, b in attributes["stages"])
    accuracy, cost = trial.values
    exits = tuple(attributes["exit_rates"])
    reach = tuple(attributes["reach_rates"])
    timed = any(stage.milliseconds is not None for stage in stages)
    return OperatingPoint(
        cascade=Cascade(stages, tuple(attributes["thresholds"])),
        validation=Evaluation(
            accuracy=accuracy,
            mean_flops=_mean_flops(stages, reach, attributes["n_images"]) if timed else cost,
            exit_rates=exits,
            reach_rates=reach,
            deferral_rates=tuple(
                after / before if before else float("nan") for before, after in pairwise(reach)
            ),
            n_images=attributes["n_images"],
            mean_milliseconds=cost if timed else None,
        ),
        source="sampled" if attributes["source"] == "sampled" else "exact",
        trial=trial.number,
    )


def _mean_flops(stages: Sequence[Stage], reach: Sequence[float], n_images: int) -> float:
    reached = np.rint(np.array(reach) * n_images).astype(np.int64)
    return mean_flops(reached, np.array([stage.flops for stage in stages]), n_images)


def trial_attributes(point: OperatingPoint, source: Source) -> dict[str, Any]:
    """Return what a trial says beside its parameters, so that `trial_point` can read it."""
    return {
        "source": source,
        "stages": [[s.resolution, s.backbone] for s in point.cascade.stages],
        "thresholds": list(point.cascade.thresholds),
        "exit_rates": list(point.validation.exit_rates),
        "reach_rates": list(point.validation.reach_rates),
        "n_images": point.validation.n_images,
    }


def _open_storage(storage: str, name: str, folder: Path) -> BaseStorage:
    if storage == "journal":
        path = folder / "trials.journal"
        try:
            with FileLock(folder / _JOURNAL_LOCK):
                _drop_torn_line(path)
                return _open_journal(path, name)
        except OSError:
            raise
        except Exception as error:
            # Optuna replays the lines with lookups and asserts, so damage raises anything.
            raise InputError(
                f"{path}: corrupt journal ({_text(str(error))}); restore it from a copy, or "
                "delete it to start the study's trials anew (trained stages are kept)"
            ) from None
    settings: dict[str, Any] = {"connect_args": {"timeout": 20}}
    if is_postgres(storage):
        # The ping notices a restart between statements, at no trial's cost.
        settings = {"connect_args": dict(PATIENCE), "pool_pre_ping": True}
    try:
        return RDBStorage(storage, engine_kwargs=settings)
    except Exception as error:
        # SQLAlchemy and the database drivers share no narrower base; the text is cut to its
        # first line, which names host and reason, and holds no password.
        reason = str(error.__cause__ or error).strip().splitlines()[:1]
        raise InputError(
            f"search.storage: the database cannot be opened ({' '.join(reason)}); check the "
            'URL, or use storage = "journal"'
        ) from None


@contextmanager
def _reported() -> Iterator[None]:
    """Tell a database that is away from everything else that Optuna raises."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    try:
        yield
    except Exception as error:
        # While a trial is finished, Optuna's own handler fails on the same connection and
        # raises other kinds; the database's error is then found beneath.
        link: BaseException | None = error
        while link is not None:
            if isinstance(link, (OperationalError, InterfaceError)):
                raise UnreachableError(f"search.storage: {_text(_first_line(link))}") from error
            link = link.__cause__ or link.__context__
        raise


def _first_line(error: Any) -> str:
    # The driver's own words: SQLAlchemy adds the statement, with the values in it.
    return (str(getattr(error, "orig", None) or error).strip() or "no answer").splitlines()[0]


def _open_journal(path: Path, name: str) -> JournalStorage:
    backend = JournalFileBackend(str(path), lock_obj=_KernelLock(path.parent / _JOURNAL_LOCK))
    storage = JournalStorage(backend)
    lines = path.read_bytes().splitlines()
    if lines and name not in {study.study_name for study in storage.get_all_studies()}:
        raise ValueError(f"it holds no study {name}")
    # Optuna overlooks a damaged line as long as it is the last one.
    for line in lines[-1:]:
        json.loads(line)
    for study in storage.get_all_studies():
        json.loads(study.user_attrs.get(_IDENTITY, "{}")).items()
        for trial in storage.get_all_trials(study._study_id, deepcopy=False):
            _check_trial(trial)
    return storage


def _check_trial(trial: FrozenTrial) -> None:
    """Raise anything on what Optuna takes from a damaged line and later trips over."""
    create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        system_attrs=dict(trial.system_attrs.items()),
    )
    if not all(isinstance(bound, float | int) for bound in trial.constraints.values()):
        raise ValueError(f"trial {trial.number} has constraints that are no numbers")
    if trial.state.is_finished() != (trial.datetime_complete is not None):
        raise ValueError(f"trial {trial.number} is half finished")
    for resolution, backbone in trial.user_attrs.get("stages", ()):
        Stage(int(resolution), str(backbone), 0.0)
    if trial_source(trial):
        trial_point(trial, lambda resolution, backbone: Stage(resolution, backbone, 0.0))


def _open_study(
    storage: BaseStorage, name: str, shown: str, metrics: Sequence[str]
) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        study = optuna.create_study(
            storage=storage, study_name=name, directions=DIRECTIONS, load_if_exists=True
        )
    if [d.name.lower() for d in study.directions] != list(DIRECTIONS):
        raise InputError(
            f"search.storage = {shown!r}: a study {name!r} with other directions is stored "
            "there; give this one another name (--set name=NEW)"
        )
    if study.metric_names is None:
        study._storage.set_study_system_attr(study._study_id, "study:metric_names", list(metrics))
    return study


class _KernelLock(JournalFileOpenLock):
    """Optuna's own journal locks outlive a killed process by 30 s; the kernel's do not."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def _drop_torn_line(path: Path) -> None:
    # A line without its end was never acknowledged; glued to the next it would corrupt both.
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)


def _text(value: object) -> str:
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    return text if len(text) <= 80 else text[:77] + "..."
