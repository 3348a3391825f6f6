"""Errors of stores of artifacts: one line each, waited for where they may come back."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rcopt.errors import InputError, UnreachableError, UnseenError, WorkError
from rcopt.tracking import Tracker, open_tracker
from tests.support.tracking_helpers import Server, free_port, open_study

pytest.importorskip("boto3")

S3 = "s3://models-of-nobody/rcopt"


@contextmanager
def s3_that_answers(status: int, code: str) -> Iterator[str]:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>told so</Message></Error>'

    class Answer(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def in_s3(tracker: Tracker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tracker:
    """A store whose study's artifacts lie in S3, with credentials."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    tracker.store.client.create_experiment("s", artifact_location=S3)
    return tracker


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert "secret" not in text
    return text


def test_without_the_stores_package_it_is_named(
    in_s3: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(InputError, match="boto3") as refused:
        open_study(in_s3)
    assert "needs a package that is not installed" in one_line(refused.value)


@pytest.mark.slow
def test_without_credentials_it_says_so(in_s3: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(WorkError, match="credentials") as refused:
        open_study(in_s3)
    assert not isinstance(refused.value, UnreachableError)
    one_line(refused.value)


@pytest.mark.slow
def test_an_endpoint_that_is_away_may_come_back(
    in_s3: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UnreachableError, match="opening study s in MLflow") as away:
        open_study(in_s3)
    one_line(away.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "later", "told"),
    [
        (404, "NoSuchBucket", False, "make the bucket"),
        (403, "AccessDenied", False, "allow this user"),
        (503, "SlowDown", True, ""),
        (500, "InternalError", True, ""),
    ],
)
def test_what_the_store_answers_is_told_apart(
    in_s3: Tracker,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    later: bool,
    told: str,
) -> None:
    with s3_that_answers(status, code) as address:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", address)
        with pytest.raises(WorkError) as refused:
            open_study(in_s3)
    assert isinstance(refused.value, UnreachableError) == later
    assert told in one_line(refused.value)


@pytest.mark.slow
def test_a_folder_that_another_machine_does_not_see_is_refused_at_opening(
    tmp_path: Path,
) -> None:
    shared = tmp_path / "shared"
    server = Server(tmp_path, free_port(), artifacts=shared)
    server.start()
    try:
        tracker = open_tracker(server.uri, tmp_path)
        study = open_study(tracker)
        open_study(tracker)  # the same machine again
        # As another machine has it: a folder of that name, with nothing of this one in it.
        shared.rename(tmp_path / "elsewhere")
        with pytest.raises(UnseenError, match="this machine does not see"):
            open_study(open_tracker(server.uri, tmp_path))
        assert tracker.store.client.get_run(study.run_id).data.tags["rcopt.artifacts"]
    finally:
        server.kill()
