"""Real faults on real servers: workers that are killed, outages, signals.

``RCOPT_FUZZ=4`` kills four times as often and has outages last four times as long; the figures
of ``docs/faults.md`` were measured so.
"""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.support.generated_images import make_images
from tests.support.postgres import PostgresProcess
from tests.support.sites import SPACE, NewSite, assert_complete, numbers, wait_until
from tests.support.study_helpers import start, statuses, stored_runs, write_study

FACTOR = float(os.environ.get("RCOPT_FUZZ", "1"))

pytestmark = [pytest.mark.slow, pytest.mark.postgres]


@pytest.fixture(scope="module")
def undisturbed(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One worker alone, in peace, with files only; it trains every stage of the space."""
    project = tmp_path_factory.mktemp("undisturbed")
    (project / "mlruns").mkdir()
    shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
    make_images(project / "images")
    write_study(project, SPACE)
    command = start(project, project / "run", "run", "tiny", "--trials", "60", "--quiet")
    finished = command.wait()
    assert finished.code == 0, finished.err
    assert statuses(project, "stage") == {"FINISHED": 6}
    return project


def test_workers_that_are_killed_all_the_time_finish_the_study(
    database: str, new_site: NewSite, undisturbed: Path
) -> None:
    kills = round(16 * FACTOR)
    site = new_site(database, "lease = 2.0")
    # The study ends after the kills, however fast the machine.
    work = ("worker", "tiny", "--trials", "100000")
    chance = random.Random(0)
    at_work = [site.begin(*work) for _ in range(4)]
    holding = 0
    for number in range(kills):
        time.sleep(chance.uniform(0.1, 0.7))
        victim = chance.choice(at_work)
        if number % 2 and (holder := site.holder(at_work)) is not None:
            victim = holder
            holding += 1
        victim.signal(signal.SIGKILL)
        victim.process.join()
        at_work.remove(victim)
        at_work.append(site.begin(*work))
    for worker in at_work:
        worker.signal(signal.SIGTERM)
    # The youngest may not have begun to listen.
    assert {worker.wait().code for worker in at_work} <= {130, -signal.SIGTERM}
    trials = site.sampled() + 20
    at_work = [site.begin("worker", "tiny", "--trials", str(trials)) for _ in range(4)]
    for worker in at_work:
        finished = worker.wait()
        assert finished.code == 0, finished.err
    # Some died while they held a stage, or little was shown.
    assert holding >= kills // 10
    assert_complete(site, trials)
    assert numbers(site.project) == numbers(undisturbed)


def test_workers_outlast_restarts_and_a_time_without_any_server(
    database: str, postgres_server: PostgresProcess, new_site: NewSite, undisturbed: Path
) -> None:
    # Enough for trials to be left when the long outage comes, on a fast machine too.
    trials = 2000
    site = new_site(database, cascade_runs=50)
    server = site.server
    assert server is not None
    at_work = [site.begin("worker", "tiny", "--trials", str(trials)) for _ in range(2)]
    wait_until(lambda: site.sampled() >= 3, "the first trials")
    postgres_server.stop()
    for worker in at_work:
        worker.wait_until_told("retrying for up to")
    postgres_server.start()
    before = site.sampled()
    wait_until(lambda: site.sampled() > before, "a trial after PostgreSQL's restart")
    server.kill()
    time.sleep(0.5)
    server.start()
    before = site.sampled()
    wait_until(lambda: site.sampled() > before, "a trial after the MLflow server's restart")
    assert before < trials, "the study must not be over when the long outage comes"
    postgres_server.stop()
    server.kill()
    time.sleep(15 * FACTOR)
    postgres_server.start()
    server.start()
    for worker in at_work:
        finished = worker.wait()
        assert finished.code == 0, finished.err
        assert "PostgreSQL" in finished.err or "search.storage" in finished.err
        assert "retrying for up to 3600 s" in finished.err
        assert "connection restored after" in finished.err
        assert "Traceback" not in finished.err
    assert_complete(site, trials)
    assert numbers(site.project) == numbers(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_worker_soon_also_when_no_server_answers(
    database: str,
    postgres_server: PostgresProcess,
    new_site: NewSite,
    number: signal.Signals,
) -> None:
    site = new_site(database, "lease = 2.0")
    assert site.server is not None
    worker = site.begin("worker", "tiny", "--trials", "100000")
    wait_until(lambda: site.sampled() >= 1, "a first trial")
    postgres_server.stop()
    site.server.kill()
    try:
        worker.wait_until_told("retrying for up to")
        worker.signal(number)
        # Ten seconds are promised; a busy machine gets some more.
        finished = worker.wait(30)
    finally:
        postgres_server.start()
    assert finished.code == 130
    assert "interrupted; what is done is kept" in finished.err
    assert "Traceback" not in finished.err
    site.server.start()
    last = site.begin("run", "tiny", "--trials", str(site.sampled() + 2), "--quiet").wait()
    assert last.code == 0, last.err
    assert "RUNNING" not in {run.status for run in stored_runs(site.project)}
