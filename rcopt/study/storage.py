"""Open Optuna's storages, and say in one line why one cannot be."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, create_trial

from rcopt.core.cascade import Stage
from rcopt.errors import InputError, UnreachableError
from rcopt.files import odd_in_url
from rcopt.study.trial_records import DIRECTIONS, trial_point, trial_source
from rcopt.study.workers.postgres import PATIENCE, is_postgres

IDENTITY = "rcopt.identity"
_DELETE_STUDY = 1  # among the operations of Optuna's journal
#: User attribute: the name that a study has in its study file.
NAME = "rcopt.study"


JOURNAL_LOCK = "journal.lock"


def open_storage(storage: str, folder: Path) -> BaseStorage:
    """Open where trials are kept."""
    if storage == "journal":
        path = folder / "trials.journal"
        try:
            with FileLock(folder / JOURNAL_LOCK):
                _drop_torn_line(path)
                return _open_journal(path)
        except OSError:
            raise
        except Exception as error:
            # Optuna replays the lines with lookups and asserts, so damage raises anything.
            raise InputError(
                f"{path}: corrupt journal ({short_text(str(error))}); restore it from a copy, or "
                "delete it to start the study's trials anew (trained stages are kept)"
            ) from error
    if storage.startswith("sqlite") and (odd := odd_in_url(storage)):
        raise InputError(
            f"search.storage: {storage} holds {odd!r}, which means something else in the address "
            "of a database; move the project to a folder without it, or use "
            'storage = "journal"'
        )
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
        ) from error


@contextmanager
def reported() -> Iterator[None]:
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
                raise UnreachableError(
                    f"search.storage: {short_text(_first_line(link))}"
                ) from error
            link = link.__cause__ or link.__context__
        raise


def _first_line(error: Any) -> str:
    # The driver's own words: SQLAlchemy adds the statement, with the values in it.
    return (str(getattr(error, "orig", None) or error).strip() or "no answer").splitlines()[0]


def _open_journal(path: Path) -> JournalStorage:
    backend = JournalFileBackend(str(path), lock_obj=_KernelLock(path.parent / JOURNAL_LOCK))
    storage = JournalStorage(backend)
    lines = path.read_bytes().splitlines()
    if lines and not storage.get_all_studies() and not _deleted(lines):
        raise ValueError("it holds no study")
    # Optuna overlooks a damaged line as long as it is the last one.
    for line in lines[-1:]:
        json.loads(line)
    for study in storage.get_all_studies():
        json.loads(study.user_attrs.get(IDENTITY, "{}")).items()
        for trial in storage.get_all_trials(study._study_id, deepcopy=False):
            _check_trial(trial)
    return storage


def _deleted(lines: Sequence[bytes]) -> bool:
    """Return whether a study was deleted, as in optuna-dashboard, rather than lost."""
    return any(json.loads(line).get("op_code") == _DELETE_STUDY for line in lines)


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
        trial_point(trial, lambda key: Stage(key.resolution, key.backbone, 0.0))


def open_optuna_study(
    storage: BaseStorage, name: str, shown: str, metrics: Sequence[str]
) -> optuna.Study:
    """Open a study in a storage, or create it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.load_study(study_name=_stored_name(storage, name), storage=storage)
    except KeyError:
        study = optuna.create_study(
            storage=storage, study_name=name, directions=DIRECTIONS, load_if_exists=True
        )
        study.set_user_attr(NAME, name)
    if [d.name.lower() for d in study.directions] != list(DIRECTIONS):
        raise InputError(
            f"search.storage = {shown!r}: a study {name!r} with other directions is stored "
            "there; give this one another name (--set name=NEW)"
        )
    if study.metric_names is None:
        study._storage.set_study_system_attr(study._study_id, "study:metric_names", list(metrics))
    return study


def check_stored(storage: BaseStorage, name: str, shown: str) -> None:
    """Refuse a study that is to be read and is not in its storage.

    Raises:
        InputError: Saying how its trials begin anew.
    """
    if _stored_name(storage, name) not in {s.study_name for s in storage.get_all_studies()}:
        raise InputError(
            f"{name}: its trials are not in search.storage = {shown!r} (deleted, as in "
            f"optuna-dashboard?); 'rcopt run {name}' begins them anew, trained stages are kept"
        )


def _stored_name(storage: BaseStorage, name: str) -> str:
    """Return what a study is called in its storage: by another name if it was renamed there."""
    stored = storage.get_all_studies()
    if name in {study.study_name for study in stored}:
        return name
    renamed = [s.study_name for s in stored if s.user_attrs.get(NAME) == name]
    if not renamed and isinstance(storage, JournalStorage):
        # A journal lies in the study's folder and is of no other; older ones hold no name.
        renamed = [s.study_name for s in stored if IDENTITY in s.user_attrs]
    return renamed[0] if len(renamed) == 1 else name


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


def short_text(value: object) -> str:
    """Return a value in at most 80 characters."""
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    return text if len(text) <= 80 else text[:77] + "..."
