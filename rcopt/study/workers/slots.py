"""Who works on a study: each worker holds a numbered slot, freed when it dies."""

import platform
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime

from rcopt.errors import InputError, WorkError
from rcopt.processes import owner_alive, process_alive
from rcopt.study.file import Study
from rcopt.study.workers.claim import Claims

#: More workers than this on one study are refused.
MOST = 1000


@dataclass(frozen=True)
class Worker:
    """A worker of a study.

    Attributes:
        index: Its slot, from 0; with the study's seed it fixes its random stream.
        process: ``host:pid``.
        since: When it joined (UTC).
        training: Stages it is training now, as ``(name, since)``.
    """

    index: int
    process: str
    since: datetime
    training: tuple[tuple[str, datetime], ...] = ()


class WorkerSlot:
    """A worker's own slot among a study's workers; made by `join`."""

    def __init__(self, study: str, claims: Claims, index: int, held: ExitStack) -> None:
        self.index = index
        self._study, self._claims, self._held = study, claims, held

    def leave(self) -> None:
        """Give the slot back; may be called again."""
        self._held.close()

    def others(self) -> list[Worker]:
        """Return who else works on the study now.

        Raises:
            UnreachableError: If the database of the claims does not answer.
        """
        return [w for w in active_workers(self._study, self._claims) if w.index != self.index]

    def works(self, owner: str) -> bool:
        """Return whether the process that owns an MLflow run is at work.

        Args:
            owner: ``host:pid:start``, as runs are tagged. Of another host only the study's
                workers can be asked for.

        Raises:
            UnreachableError: If the database of the claims does not answer.
        """
        process = owner.rpartition(":")[0]
        if process.rpartition(":")[0] == platform.node():
            return owner_alive(owner)
        return process in {worker.process for worker in self.others()}


def check_shareable(study: Study) -> None:
    """Refuse more than one worker where the trials' storage serves only one.

    Raises:
        InputError: If trials lie in an SQLite file.
    """
    if study.storage.startswith("sqlite"):
        raise InputError(
            f"search.storage: {study.name} keeps its trials in SQLite, and an SQLite file serves "
            'one worker only; use "journal" (one machine) or a postgresql:// URL, or let one '
            "process work at a time"
        )


@contextmanager
def join(study: Study, claims: Claims) -> Iterator[WorkerSlot]:
    """Take the first free slot among a study's workers, and give it back at the end.

    Raises:
        InputError: If the study's storage serves only one worker, and there is one.
    """
    with ExitStack() as held:
        for index in range(MOST):
            if held.enter_context(claims.claim(_slot(study.name, index))) is not None:
                break
        else:
            raise WorkError(f"{study.name}: worker limit reached ({MOST})")
        if index:
            check_shareable(study)
        slot = WorkerSlot(study.name, claims, index, held)
        yield slot


def active_workers(study: str, claims: Claims) -> list[Worker]:
    """Return who works on a study now, in the order of their slots.

    A worker whose machine vanished counts until its lease ends; one of this machine that was
    killed does not.

    Raises:
        UnreachableError: If the database of the claims does not answer.
    """
    holders = claims.held()
    found = []
    for holder in holders:
        slot = re.fullmatch(rf"{re.escape(_slot(study, ''))}(\d+)", holder.key)
        if slot is None or not process_alive(holder.owner):
            continue
        training = tuple(
            (other.key.rpartition(".")[0], other.since)
            for other in holders
            if "@" in other.key and other.owner == holder.owner
        )
        found.append(Worker(int(slot[1]), holder.owner, holder.since, training))
    return sorted(found, key=lambda worker: worker.index)


def _slot(study: str, index: int | str) -> str:
    return f"worker.{study}.{index}"
