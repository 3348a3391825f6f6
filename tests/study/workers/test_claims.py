import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import pytest

from rcopt.errors import UnreachableError, WorkError
from rcopt.study.workers.claim import ClaimLost, Claims
from rcopt.study.workers.claims import FileClaims, open_claims, shared_lock
from rcopt.study.workers.leases import LeaseClaims
from rcopt.study.workers.postgres import PostgresServer
from tests.support.postgres import PostgresProcess

# A forked child would inherit the parent's threads' locks.
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(params=["file", pytest.param("lease", marks=pytest.mark.postgres)])
def storage(request: pytest.FixtureRequest) -> str:
    """A storage of each kind."""
    if request.param == "file":
        return "journal"
    url: str = request.getfixturevalue("database")
    return url


@pytest.fixture
def claims(storage: str, tmp_path: Path) -> Claims:
    return open_claims(storage, tmp_path / "claims")


# Both kinds


def test_a_held_key_is_refused_to_others_until_released(claims: Claims) -> None:
    with claims.claim("a") as first:
        assert first is not None
        first()
        with claims.claim("a") as second, claims.claim("b") as other:
            assert second is None
            assert other is not None
        with claims.claim("a") as third:
            assert third is None, "a refused claim must not release the holder's"
    with claims.claim("a") as again:
        assert again is not None


def test_a_claim_is_released_when_its_block_fails(claims: Claims) -> None:
    with pytest.raises(ZeroDivisionError), claims.claim("a"):
        _ = 1 / 0
    with claims.claim("a") as again:
        assert again is not None


def test_a_refused_claim_lets_errors_of_its_block_through_unchanged(claims: Claims) -> None:
    with claims.claim("a"):
        with pytest.raises(ZeroDivisionError) as caught, claims.claim("a"):
            _ = 1 / 0
        assert caught.value.__context__ is None


def test_held_names_process_and_time_of_every_holder(claims: Claims) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    assert claims.held() == []
    with claims.claim("b"), claims.claim("timm/a:b@32"), claims.claim("B"):
        held = claims.held()
        assert [h.key for h in held] == ["B", "b", "timm/a:b@32"]
        for holder in held:
            assert holder.owner == f"{os.uname().nodename}:{os.getpid()}"
            assert before <= holder.since <= datetime.now(UTC) + timedelta(seconds=2)
            assert holder.since.utcoffset() == timedelta(0)
    assert claims.held() == []


@pytest.mark.parametrize("key", ["", ".gate", "../a", "/a", "a b", "ä", "a\n", "x" * 201])
def test_a_key_of_other_characters_is_refused(claims: Claims, key: str) -> None:
    with pytest.raises(ValueError, match="key must be at most 200 letters"), claims.claim(key):
        pass


def test_racing_processes_never_hold_one_key_together(storage: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    with _processes(_count_up, [(storage, tmp_path, 8)] * 4) as workers:
        _join(workers)
    # Any overlap would trip over the marker file, or lose an increment.
    assert counter.read_text() == "32"
    assert [w.exitcode for w in workers] == [0] * 4


@pytest.mark.slow
def test_no_stage_is_finished_twice_while_holders_are_killed(storage: str, tmp_path: Path) -> None:
    keys = [f"stage{i}" for i in range(8)]
    random = Random(0)
    killed = 0
    with ExitStack() as stack:
        worker = (storage, tmp_path, keys)
        workers = stack.enter_context(_processes(_train_all, [worker] * 3))

        def holders() -> list[BaseProcess]:
            return [w for w in workers if w.is_alive() and (tmp_path / f"{w.pid}.busy").exists()]

        def over() -> bool:
            return len(list(tmp_path.glob("*.done"))) >= len(keys)

        for _ in range(6):
            _wait_for(lambda: over() or bool(holders()), "a worker that holds a stage")
            time.sleep(random.uniform(0.0, 0.1))
            if victims := holders():
                victim = random.choice(victims)
                os.kill(_pid(victim), signal.SIGKILL)
                victim.join()
                killed += 1
                workers += stack.enter_context(_processes(_train_all, [worker]))
        _join(workers)
    assert killed >= 1
    assert sorted(path.name.split(".")[0] for path in tmp_path.glob("*.done")) == keys


# Files


def test_the_kernel_frees_the_claim_of_a_killed_process_at_once(tmp_path: Path) -> None:
    claims = FileClaims(tmp_path / "claims")
    with _processes(_hold, [("journal", tmp_path, "a")]) as (holder,):
        _wait_for((tmp_path / "held").exists, "the claim")
        with claims.claim("a") as refused:
            assert refused is None
        assert [h.owner.split(":")[1] for h in claims.held()] == [str(holder.pid)]
        os.kill(_pid(holder), signal.SIGKILL)
        holder.join()
        assert claims.held() == []
        with claims.claim("a") as alive:
            assert alive is not None


def test_a_forked_child_does_not_keep_the_claim_of_its_killed_parent(tmp_path: Path) -> None:
    with _processes(_hold_and_fork, [(tmp_path,)]) as (holder,):
        _wait_for((tmp_path / "child").exists, "the child")
        os.kill(_pid(holder), signal.SIGKILL)
        holder.join()
        child = int((tmp_path / "child").read_text())
        try:
            with FileClaims(tmp_path / "claims").claim("a") as alive:
                assert alive is not None
        finally:
            os.kill(child, signal.SIGKILL)  # raises if the child was not there


def test_asking_who_holds_refuses_nobody(tmp_path: Path) -> None:
    claims = FileClaims(tmp_path / "claims")
    with _processes(_ask_who_holds, [(tmp_path,)]):
        _wait_for((tmp_path / "asking").exists, "the asking process")
        refused = 0
        for i in range(300):
            with claims.claim(f"k{i % 20}") as alive:
                refused += alive is None
    assert refused == 0


def test_deleting_the_lock_file_loses_the_claim(tmp_path: Path) -> None:
    claims = FileClaims(tmp_path)
    with claims.claim("a") as alive:
        assert alive is not None
        alive()
        (tmp_path / "a.lock").unlink()
        with pytest.raises(ClaimLost, match="a: its lock file was deleted"):
            alive()
        with claims.claim("a") as second:
            assert second is not None
            second()
            with pytest.raises(ClaimLost):
                alive()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("in the way")
    claims = FileClaims(tmp_path / "claims")
    with pytest.raises(WorkError, match=r"claims: no lock can be kept there \(File exists\)"):
        claims.claim("a").__enter__()


def test_a_claim_whose_note_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    claims = FileClaims(tmp_path)
    (tmp_path / "a.owner").mkdir()
    with pytest.raises(WorkError, match="Is a directory") as caught:
        claims.claim("a").__enter__()
    (tmp_path / "a.owner").rmdir()
    with claims.claim("a") as alive:
        assert alive is not None
    assert caught.value.__traceback__ is not None, "it must not be the lock's end that frees it"


# Leases


@pytest.mark.postgres
def test_a_killed_holders_lease_is_free_once_its_row_has_expired(
    database: str, tmp_path: Path
) -> None:
    with _processes(_hold, [(database, tmp_path, "a", 1.5)]) as (holder,):
        _wait_for((tmp_path / "held").exists, "the claim")
        os.kill(_pid(holder), signal.SIGKILL)
        holder.join()
    until = _until(database, "a")
    claims = LeaseClaims(database, ttl=1.5)
    with ExitStack() as stack:
        _wait_for(lambda: stack.enter_context(claims.claim("a")) is not None, "the free lease")
        (taken,) = claims.held()
    assert taken.owner == f"{os.uname().nodename}:{os.getpid()}"
    assert taken.since > until, "taken before the dead holder's row had expired"
    assert taken.since < until + timedelta(seconds=10)


@pytest.mark.postgres
def test_renewal_keeps_a_lease_beyond_its_ttl(database: str) -> None:
    claims = LeaseClaims(database, ttl=2.0)
    with claims.claim("a") as alive:
        assert alive is not None
        first = _until(database, "a")
        _wait_for(lambda: _until(database, "a") > first + timedelta(seconds=2.0), "renewals")
        alive()
        with LeaseClaims(database).claim("a") as other:
            assert other is None


@pytest.mark.slow
@pytest.mark.postgres
def test_a_restart_of_the_server_loses_no_lease(
    database: str, postgres_server: PostgresProcess
) -> None:
    claims = LeaseClaims(database, ttl=3.0)
    with claims.claim("a") as alive:
        assert alive is not None
        postgres_server.stop()
        time.sleep(0.9)  # so that at least one renewal meets no server
        postgres_server.start()
        before = _until(database, "a")
        _wait_for(lambda: _until(database, "a") > before, "a renewal after the restart")
        alive()
        with claims.claim("a") as other:
            assert other is None
    with claims.claim("a") as again:
        assert again is not None


@pytest.mark.postgres
def test_an_outage_longer_than_the_ttl_loses_the_lease_for_good(
    database: str, postgres_server: PostgresProcess
) -> None:
    claims = LeaseClaims(database, ttl=0.8)
    with claims.claim("a") as alive:
        assert alive is not None
        postgres_server.stop()
        try:
            _wait_for(lambda: _lost(alive), "the loss")
            with pytest.raises(UnreachableError, match="PostgreSQL: connection"):
                claims.held()
        finally:
            postgres_server.start()
        with LeaseClaims(database).claim("a") as other:
            assert other is not None
            with pytest.raises(ClaimLost, match="claim on a: taken by another worker, or not"):
                alive()
        assert _lost(alive)


@pytest.mark.postgres
def test_a_lease_is_left_to_expire_when_it_cannot_be_released(
    database: str, postgres_server: PostgresProcess
) -> None:
    claims = LeaseClaims(database, ttl=1.0)
    try:
        with claims.claim("a") as alive:
            assert alive is not None
            postgres_server.stop()
    finally:
        postgres_server.start()
    with ExitStack() as stack:
        _wait_for(lambda: stack.enter_context(claims.claim("a")) is not None, "the free lease")


@pytest.mark.postgres
def test_a_holder_whose_row_another_took_notices_by_its_next_renewal(database: str) -> None:
    server = PostgresServer(database)
    with LeaseClaims(database, ttl=2.0).claim("a") as alive:
        assert alive is not None
        server.rows("update rcopt_claim set owner = 'x:1:1', until = now() + '1h' returning 1", {})
        _wait_for(lambda: _lost(alive), "the loss")
    assert server.rows("select owner from rcopt_claim", {}) == [("x:1:1",)], "not ours to delete"


@pytest.mark.postgres
def test_a_frozen_holder_loses_its_lease_and_notices_on_waking(
    database: str, tmp_path: Path
) -> None:
    claims = LeaseClaims(database, ttl=1.0)
    with _processes(_hold, [(database, tmp_path, "a", 1.0)]) as (holder,):
        _wait_for((tmp_path / "held").exists, "the claim")
        os.kill(_pid(holder), signal.SIGSTOP)
        with ExitStack() as stack:
            _wait_for(lambda: stack.enter_context(claims.claim("a")) is not None, "the lease")
            os.kill(_pid(holder), signal.SIGCONT)
            _join([holder])
            assert (tmp_path / "lost").exists()
            assert [h.owner.split(":")[1] for h in claims.held()] == [str(os.getpid())]


@pytest.mark.slow
@pytest.mark.postgres
def test_first_use_by_eight_processes_at_once_succeeds(database: str, tmp_path: Path) -> None:
    with _processes(_first_use, [(database, tmp_path, f"k{i}") for i in range(8)]) as workers:
        _wait_for(lambda: len(list(tmp_path.glob("*.ready"))) == 8, "eight processes")
        (tmp_path / "go").touch()
        _join(workers)
    assert [w.exitcode for w in workers] == [0] * 8


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("inf"), float("nan")])
def test_a_ttl_must_be_a_positive_number_of_seconds(ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl must be a positive number of seconds, got"):
        LeaseClaims("postgresql+psycopg://host/database", ttl)


# The choice


def test_the_storage_decides_how_claims_are_kept(tmp_path: Path) -> None:
    assert isinstance(open_claims("journal", tmp_path), FileClaims)
    assert isinstance(open_claims("sqlite:///trials.db", tmp_path), FileClaims)
    assert isinstance(open_claims("postgresql+psycopg://host/database", tmp_path), LeaseClaims)
    assert isinstance(open_claims("postgresql://host/database", tmp_path), LeaseClaims)
    assert list(tmp_path.iterdir()) == [], "opening touches nothing"


# Shared locks


def test_a_shared_lock_excludes_other_processes(storage: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    with _processes(_count_up_locked, [(storage, tmp_path, 8)] * 4) as workers:
        _join(workers)
    assert counter.read_text() == "32"


def test_shared_locks_of_different_names_do_not_meet(storage: str, tmp_path: Path) -> None:
    with (
        shared_lock(storage, tmp_path, "store", timeout=0.05),
        shared_lock(storage, tmp_path, "trials", timeout=0.05),
    ):
        pass


def test_waiting_for_a_shared_lock_has_an_end(storage: str, tmp_path: Path) -> None:
    with (
        shared_lock(storage, tmp_path, "store"),
        pytest.raises(WorkError, match=r"timed out after 0\.05 s"),
        shared_lock(storage, tmp_path, "store", timeout=0.05),
    ):
        pass


def test_a_shared_lock_is_free_after_its_block_failed(storage: str, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), shared_lock(storage, tmp_path, "store"):
        _ = 1 / 0
    with shared_lock(storage, tmp_path, "store", timeout=5.0):
        pass


def test_a_shared_lock_dies_with_its_holder(storage: str, tmp_path: Path) -> None:
    with _processes(_hold_lock, [(storage, tmp_path)]) as (holder,):
        _wait_for((tmp_path / "held").exists, "the lock")
        with (
            pytest.raises(WorkError, match="timed out after"),
            shared_lock(storage, tmp_path, "store", timeout=0.05),
        ):
            pass
        os.kill(_pid(holder), signal.SIGKILL)
        holder.join()
        with shared_lock(storage, tmp_path, "store", timeout=10.0):
            pass


@pytest.mark.postgres
def test_a_restart_under_a_shared_lock_leaves_the_block_alone(
    database: str, postgres_server: PostgresProcess, tmp_path: Path
) -> None:
    with shared_lock(database, tmp_path, "store"):
        postgres_server.stop()
        postgres_server.start()
    with shared_lock(database, tmp_path, "store", timeout=5.0):
        pass


def test_a_lock_name_that_is_no_plain_file_name_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="name must be at most 200"),
        shared_lock("journal", tmp_path, "../store"),
    ):
        pass


# What runs in the other processes


def _count_up(storage: str, folder: Path, times: int) -> None:
    claims = open_claims(storage, folder / "claims")
    while times:
        with claims.claim("a") as alive:
            if alive is not None:
                _increment(folder)
                alive()
                times -= 1
        time.sleep(0.001)


def _count_up_locked(storage: str, folder: Path, times: int) -> None:
    for _ in range(times):
        with shared_lock(storage, folder, "store"):
            _increment(folder)


def _increment(folder: Path) -> None:
    marker = folder / "inside"
    marker.touch(exist_ok=False)
    count = int((folder / "counter").read_text())
    time.sleep(0.002)
    (folder / "counter").write_text(str(count + 1))
    marker.unlink()


def _train_all(storage: str, folder: Path, keys: list[str]) -> None:
    lease = storage.startswith("postgresql")
    claims = LeaseClaims(storage, ttl=1.0) if lease else open_claims(storage, folder / "claims")
    random = Random(os.getpid())
    busy = folder / f"{os.getpid()}.busy"
    while todo := [key for key in keys if not list(folder.glob(f"{key}.*.done"))]:
        key = random.choice(todo)
        with suppress(ClaimLost), claims.claim(key) as alive:
            if alive is None or list(folder.glob(f"{key}.*.done")):
                time.sleep(0.02)
                continue
            busy.touch()
            time.sleep(random.uniform(0.1, 0.5))
            busy.unlink()
            alive()
            # Each finish leaves a file of its own, so that a second one would show.
            (folder / f"{key}.{os.getpid()}.done").touch()


def _hold(storage: str, folder: Path, key: str, ttl: float | None = None) -> None:
    claims = open_claims(storage, folder / "claims") if ttl is None else LeaseClaims(storage, ttl)
    with claims.claim(key) as alive:
        assert alive is not None
        (folder / "held").touch()
        try:
            while True:
                time.sleep(0.01)
                alive()
        except ClaimLost:
            (folder / "lost").touch()


def _hold_and_fork(folder: Path) -> None:
    with FileClaims(folder / "claims").claim("a") as alive:
        assert alive is not None
        child = os.fork()
        if child:
            # Whole at once, for the reader waits for the name only.
            (folder / "new").write_text(str(child))
            (folder / "new").rename(folder / "child")
        time.sleep(60)


def _hold_lock(storage: str, folder: Path) -> None:
    with shared_lock(storage, folder, "store"):
        (folder / "held").touch()
        time.sleep(60)


def _ask_who_holds(folder: Path) -> None:
    claims = FileClaims(folder / "claims")
    (folder / "claims").mkdir()
    (folder / "asking").touch()
    while True:
        for i in range(20):
            # What a killed holder leaves behind, so that asking has to try the lock.
            (folder / "claims" / f"k{i}.owner").write_text("host:1")
        claims.held()


def _first_use(storage: str, folder: Path, key: str) -> None:
    claims = LeaseClaims(storage)
    (folder / f"{key}.ready").touch()
    _wait_for((folder / "go").exists, "the start")
    with claims.claim(key) as alive:
        assert alive is not None


# Helpers


@contextmanager
def _processes(
    target: Callable[..., None], arguments: list[tuple[object, ...]]
) -> Iterator[list[BaseProcess]]:
    """Run a function in new processes, which do not outlive the block."""
    processes: list[BaseProcess] = [SPAWN.Process(target=target, args=a) for a in arguments]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def _join(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.join(60)
        assert process.exitcode is not None, "a process does not end"


def _pid(process: BaseProcess) -> int:
    assert process.pid is not None
    return process.pid


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.01)


def _lost(alive: Callable[[], None]) -> bool:
    try:
        alive()
    except ClaimLost:
        return True
    return False


def _until(url: str, key: str) -> datetime:
    statement = "select until from rcopt_claim where key = %(key)s"
    until: datetime = PostgresServer(url).rows(statement, {"key": key})[0][0]
    return until
