"""Artifacts that go through the tracking server, and what may happen to them there."""

import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rcopt.errors import AbsentError, InputError, RefusedError, UnreachableError
from rcopt.tracking import Tracker, open_tracker
from tests.support.faulty_proxy import Fault, faulty_proxy
from tests.support.tracking_helpers import (
    Server,
    make_stage,
    open_study,
    publish,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def fault() -> Fault:
    return Fault()


@pytest.fixture
def remote(server: Server, tmp_path: Path, fault: Fault) -> Iterator[Tracker]:
    with faulty_proxy(server.uri, fault) as address:
        yield open_tracker(address, tmp_path)


def fails(fault: Fault, status: int | None, method: str = "PUT") -> None:
    fault.method, fault.path, fault.status = method, "mlflow-artifacts", status


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (413, "takes no file of this size: raise its limit"),
        (403, "have this user allowed to write there"),
        (401, "set the login"),
    ],
)
def test_a_refused_upload_is_one_line_and_no_failed_training(
    remote: Tracker, fault: Fault, tmp_path: Path, status: int, told: str
) -> None:
    study = open_study(remote, f"refused {status}")
    fails(fault, status)
    with pytest.raises(RefusedError, match=rf"storing resnet18@32 .* HTTP {status}; ") as error:
        publish(remote, study, make_stage(key=f"refused {status}"), tmp_path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, None])
def test_an_upload_that_may_work_later_is_told_apart(
    remote: Tracker, fault: Fault, tmp_path: Path, status: int | None
) -> None:
    key = f"later {status}"
    study = open_study(remote, key)
    fails(fault, status)
    with pytest.raises(UnreachableError, match="storing resnet18@32 in MLflow: ") as error:
        publish(remote, study, make_stage(key=key), tmp_path)
    assert "\n" not in str(error.value)
    fault.left = 0
    assert remote.stages.find_stage(key) is None, "nothing half stored is found"
    publish(remote, study, make_stage(key=key), tmp_path)
    assert remote.stages.find_stage(key) is not None


def test_a_download_that_may_work_later_marks_nothing(
    remote: Tracker, fault: Fault, tmp_path: Path
) -> None:
    publish(remote, open_study(remote, "down"), make_stage(key="down"), tmp_path)
    fails(fault, 503, "GET")
    with pytest.raises(UnreachableError, match="looking for trained stages"):
        remote.stages.find_stage("down")
    fault.left = 0
    assert remote.stages.find_stage("down") is not None


def test_a_file_that_the_server_lost_is_absent(
    remote: Tracker, server: Server, tmp_path: Path
) -> None:
    stored = publish(remote, open_study(remote, "lost"), make_stage(key="lost"), tmp_path)
    (file,) = (server.folder / "artifacts").rglob(f"{stored.run_id}/artifacts/weights.safetensors")
    file.unlink()
    with pytest.raises(AbsentError, match=r"weights\.safetensors"):
        remote.stages.weights_path(str(stored.run_id))


def test_artifacts_that_cannot_be_written_here_are_one_line(
    tracker: Tracker, project: Path
) -> None:
    (project / "mlruns" / "artifacts" / "s").write_text("in the way")
    with pytest.raises(RefusedError, match="opening study s in MLflow: ") as error:
        open_study(tracker)
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------------- at the door


@contextmanager
def answering(
    status: int, body: bytes = b"", context: ssl.SSLContext | None = None
) -> Iterator[str]:
    """A server that gives everybody the same answer."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, b"", r"asks for a login \(HTTP 401\); set MLFLOW_TRACKING_USERNAME"),
        (403, b"Permission denied", r"refuses this user \(HTTP 403\); ask its owner"),
        (403, b"Invalid Host header", r"does not answer to this name .*--allowed-hosts"),
        (404, b"", r"does not answer as MLflow does \(HTTP 404\); mend tracking.uri"),
        (200, b"<html>", r"does not answer as MLflow does \(a page, no data\); mend"),
        (503, b"", r"is not ready \(HTTP 503\); repeat in a moment"),
    ],
)
def test_each_refusal_at_the_door_has_its_own_way_out(
    tmp_path: Path, status: int, body: bytes, told: str
) -> None:
    with answering(status, body) as address, pytest.raises(InputError, match=told) as error:
        open_tracker(address, tmp_path)
    assert "rcopt ui" not in str(error.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_an_untrusted_certificate_says_where_to_name_its_authority(tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext"
    command += f" subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with answering(200, b"{}", context) as address:
        with pytest.raises(InputError, match="certificate that is not trusted here") as error:
            open_tracker(address, tmp_path)
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in str(error.value)
        assert "rcopt ui" not in str(error.value)


def test_a_server_without_encryption_says_so(tmp_path: Path) -> None:
    with answering(200, b"{}") as address:
        with pytest.raises(InputError, match=r"speaks no HTTPS; write http://") as error:
            open_tracker(address.replace("http://", "https://"), tmp_path)
        assert "rcopt ui" not in str(error.value)


def test_only_this_machine_is_offered_to_be_started(tmp_path: Path) -> None:
    for address, offered in (("http://127.0.0.1:9", True), ("http://store.invalid:5000", False)):
        with pytest.raises(InputError, match=re.escape(address)) as error:
            open_tracker(address, tmp_path)
        assert ("rcopt ui" in str(error.value)) == offered
