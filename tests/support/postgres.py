"""A private PostgreSQL server for tests: own folder, own socket, no network, no password."""

import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class PostgresProcess:
    """A running server that can be stopped and started again."""

    def __init__(self, programs: Path, root: Path, run_as: dict[str, Any]) -> None:
        self._programs = programs
        self._root = root
        self._run_as = run_as

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self._root}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create an empty database, yield its URL, and drop it whoever is still connected."""
        name = f"test_{uuid.uuid4().hex}"
        to = ["-h", str(self._root), "-U", "postgres", name]
        self._run("createdb", *to)
        yield self.url(name)
        # Now, not with the server: 300 young files go quickly, 10,000 old ones take a minute.
        self._run("dropdb", "--force", *to)

    def start(self) -> None:
        # No TCP, and no fsync: nothing here needs to survive a crash of the machine.
        options = f"-k {self._root} -h '' -F"
        log = str(self._root / "log")
        self._run(
            "pg_ctl", "-D", str(self._root / "data"), "-w", "-l", log, "-o", options, "start"
        )

    def stop(self) -> None:
        """Stop at once, as a crash would."""
        data = str(self._root / "data")
        self._run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")

    def initialize(self) -> None:
        options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-N"]
        self._run("initdb", "-D", str(self._root / "data"), *options)

    def _run(self, program: str, *arguments: str) -> None:
        # The server inherits these streams; a pipe would never see its end.
        with (self._root / "out").open("ab") as out:
            done = subprocess.run(
                [self._programs / program, *arguments],
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                check=False,
                **self._run_as,
            )
        if done.returncode:
            text = (self._root / "out").read_text()
            raise RuntimeError(f"{program} ended with {done.returncode}:\n{text}")


@contextmanager
def running_postgres() -> Iterator[PostgresProcess]:
    """Start a server of its own; skip the test when PostgreSQL's programs are missing."""
    programs = _programs()
    # A socket's path may have 107 characters, which leaves no room for pytest's folders.
    root = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    run_as = _run_as(root)
    server = PostgresProcess(programs, root, run_as)
    try:
        server.initialize()
        server.start()
        try:
            yield server
        finally:
            if (root / "data" / "postmaster.pid").exists():
                server.stop()
    finally:
        shutil.rmtree(root)


def _programs() -> Path:
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    # Debian keeps them off the PATH, one folder for each version.
    versions = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not versions:
        pytest.skip("PostgreSQL's initdb is not installed (Debian: apt-get install postgresql)")
    return max(versions, key=lambda folder: float(re.sub(r"[^\d.]", "", folder.parent.name)))


def _run_as(root: Path) -> dict[str, Any]:
    """Return how to start programs that refuse to run as root, and give the folder away."""
    if os.geteuid() != 0:
        return {}
    try:
        shutil.chown(root, "postgres", "postgres")
    except LookupError:
        shutil.rmtree(root)
        pytest.skip("PostgreSQL refuses to run as root and there is no user postgres")
    return {"user": "postgres", "group": "postgres", "extra_groups": []}
