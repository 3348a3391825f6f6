import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from rcopt.core.cascade import Stage
from rcopt.errors import InputError
from rcopt.serving.bundle import DESCRIPTION
from rcopt.serving.pictures import answer_rows
from rcopt.serving.registry import RegisteredCascade, check_names, load_cascade, register
from rcopt.tracking import Tracker, open_tracker
from tests.serving.test_pictures import BAD_ROWS
from tests.support.packaging_helpers import (
    CLASSES,
    STAGES,
    base_images,
    make_package,
    picture,
    save_stage_weights,
)
from tests.support.tracking_helpers import URI, Server, free_port, open_study


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[Stage, Path]:
    return save_stage_weights(tmp_path_factory.mktemp("weights"))


@dataclass
class Registered:
    """A project folder with one registered cascade; shared, so only read."""

    project: Path
    tracker: Tracker
    experiment_id: str
    run_id: str
    cascade: RegisteredCascade

    @property
    def folder(self) -> Path:
        (mlmodel,) = (self.project / "mlruns").rglob("MLmodel")
        return mlmodel.parent


def make(tracker: Tracker, weights: dict[Stage, Path], name: str = "fruit") -> Registered:
    study = open_study(tracker)
    run_id = tracker.cascades.log_cascade(study, make_package().point)
    cascade = register(
        tracker,
        make_package(run_id=run_id),
        weights,
        name,
        experiment_id=study.experiment_id,
        note="Chosen by a test.",
    )
    return Registered(tracker.store.project, tracker, study.experiment_id, run_id, cascade)


@pytest.fixture(scope="session")
def registered(
    store_template: Path, tmp_path_factory: pytest.TempPathFactory, weights: dict[Stage, Path]
) -> Registered:
    project = tmp_path_factory.mktemp("registered")
    (project / "mlruns").mkdir()
    shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
    before = Path.cwd()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    os.chdir(elsewhere)
    try:
        made = make(open_tracker(URI, project), weights)
    finally:
        os.chdir(before)
    assert list(elsewhere.iterdir()) == [], "registering wrote into the working directory"
    return made


def test_the_registry_says_what_the_model_is(registered: Registered) -> None:
    client = registered.tracker.store.client
    assert registered.cascade.uri == "models:/fruit@champion"
    version = client.get_model_version_by_alias("fruit", "champion")
    assert (int(version.version), version.run_id) == (1, registered.run_id)
    assert str(version.description).startswith("Chosen by a test.\n\nOn validation 100.00%")
    assert version.tags["rcopt.validation_accuracy"] == "1.0000"
    assert version.tags["rcopt.split_digest"] == "e" * 64
    assert "mlflow models serve" in str(client.get_registered_model("fruit").description)
    model = client.get_logged_model(registered.cascade.model_id)
    assert (model.status, model.source_run_id) == ("READY", registered.run_id)
    assert client.get_run(registered.run_id).data.tags["rcopt.model"] == "fruit/1"


def test_the_cascades_run_keeps_its_end(tracker: Tracker, weights: dict[Stage, Path]) -> None:
    study = open_study(tracker)
    run_id = tracker.cascades.log_cascade(study, make_package().point)
    before = tracker.store.client.get_run(run_id).info
    time.sleep(0.01)
    package = make_package(run_id=run_id)
    register(tracker, package, weights, "m", experiment_id=study.experiment_id)
    after = tracker.store.client.get_run(run_id).info
    assert (after.status, after.end_time) == (before.status, before.end_time)
    assert after.end_time is not None


def test_registering_again_makes_a_version_and_moves_the_alias(
    tracker: Tracker, weights: dict[Stage, Path]
) -> None:
    first = make(tracker, weights)
    package = make_package(threshold=0.9, run_id=first.run_id)
    again = register(
        tracker, package, weights, "fruit", experiment_id=first.experiment_id, alias="champion"
    )
    assert again.version == 2
    assert load_cascade("fruit", tracker).cascade.thresholds == (0.9,)
    assert load_cascade("fruit/1", tracker).cascade.thresholds == (0.7,)


def test_the_model_holds_no_pickle_and_no_path_of_this_machine(registered: Registered) -> None:
    files = [path for path in registered.folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {
        "MLmodel",
        "served_model.py",
        "requirements.txt",
        "input_example.json",
        DESCRIPTION,
        "stage-0.safetensors",
        "stage-1.safetensors",
    }
    for path in files:
        content = path.read_bytes()
        assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib")
        assert not content.startswith((b"\x80", b"PK")), path
        if path.suffix != ".safetensors":
            text = content.decode()
            assert str(Path.home()) not in text, path
            assert str(Path(__file__).parents[2]) not in text, path
            assert "/tmp" not in text, path
            assert "http" not in text, path


def test_a_loaded_model_answers_as_the_packed_networks(
    registered: Registered, weights: dict[Stage, Path]
) -> None:
    by_name = load_cascade("fruit", registered.tracker)
    images = base_images(40)
    expected = by_name.executor(images)
    assert set(expected.stages.tolist()) == {0, 1}
    for source in (
        "fruit@champion",
        "fruit/1",
        "models:/fruit/1",
        "models:/fruit@champion",
        registered.folder,
        str(registered.folder / "artifacts" / "cascade"),
    ):
        output = load_cascade(source, registered.tracker).executor(images)
        assert torch.equal(output.probabilities, expected.probabilities)
        assert torch.equal(output.stages, expected.stages)


@pytest.mark.parametrize(
    "source", ["pear", "fruit@nobody", "fruit/7", "fruit/x", "models:/pear/1", "models:/"]
)
def test_an_unknown_model_is_told_with_the_known_ones(registered: Registered, source: str) -> None:
    with pytest.raises(InputError, match="known models: fruit") as error:
        load_cascade(source, registered.tracker)
    assert "\n" not in str(error.value)


def test_folders_that_are_no_model_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no cascade.json"):
        load_cascade(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        load_cascade(tmp_path / "gone")


def test_a_folder_of_the_same_name_does_not_hide_a_model(
    registered: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fruit").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_cascade("fruit", registered.tracker).classes == CLASSES


def test_a_tampered_model_is_refused(registered: Registered, tmp_path: Path) -> None:
    copied = tmp_path / "model"
    shutil.copytree(registered.folder, copied)
    path = copied / "artifacts" / "cascade" / "stage-0.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"stage-0.safetensors: changed since it was packaged"):
        load_cascade(copied)


def test_a_moved_project_finds_its_model(registered: Registered, tmp_path: Path) -> None:
    shutil.copytree(registered.project, tmp_path / "moved")
    tracker = open_tracker(URI, tmp_path / "moved")
    version = tracker.store.client.get_model_version("fruit", "1")
    assert str(tmp_path / "moved") in str(version.source)
    assert load_cascade("fruit", tracker).classes == CLASSES


def test_damaged_weights_are_not_registered(
    tracker: Tracker, weights: dict[Stage, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(weights[STAGES[0]].read_bytes()[:1000])
    study = open_study(tracker)
    with pytest.raises(InputError, match="damaged"):
        register(
            tracker,
            make_package(run_id="r"),
            {**weights, STAGES[0]: bad},
            "fruit",
            experiment_id=study.experiment_id,
        )
    assert tracker.store.client.search_registered_models() == []
    assert tracker.store.client.search_logged_models([study.experiment_id]) == []


def test_a_cascade_without_a_run_is_refused(tracker: Tracker, weights: dict[Stage, Path]) -> None:
    with pytest.raises(ValueError, match=r"package.point must have a run_id, got None"):
        register(tracker, make_package(), weights, "fruit", experiment_id="0")


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        *[(name, "champion") for name in ("", "a/b", "a@b", "a:b", "x" * 101)],
        *[("fruit", alias) for alias in ("", "latest", "v3", "a b")],
    ],
)
def test_names_that_mlflow_refuses_are_told(name: str, alias: str) -> None:
    with pytest.raises(InputError, match="expected"):
        check_names(name, alias)


@pytest.mark.slow
def test_a_model_goes_through_a_tracking_server_and_back(
    server: Server, tmp_path: Path, weights: dict[Stage, Path]
) -> None:
    tracker = open_tracker(server.uri, tmp_path)
    made = make(tracker, weights, "remote fruit")
    assert made.cascade.version == 1
    first = load_cascade("remote fruit", tracker).executor(base_images(8))
    again = load_cascade("remote fruit/1", tracker).executor(base_images(8))  # not downloaded
    assert torch.equal(first.probabilities, again.probabilities)
    (kept,) = (tmp_path / "mlruns" / "downloads" / "models").iterdir()
    path = next(kept.rglob("stage-0.safetensors"))
    path.write_bytes(path.read_bytes()[:-8])
    again = load_cascade("remote fruit", tracker).executor(base_images(8))  # downloaded anew
    assert torch.equal(first.probabilities, again.probabilities)
    assert list((tmp_path / "mlruns" / "downloads" / "models").iterdir()) == [kept]


@dataclass
class Served:
    """``mlflow models serve`` as a user starts it."""

    url: str
    group: int

    def post(self, body: bytes, kind: str = "application/json") -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            f"{self.url}/invocations", data=body, headers={"Content-Type": kind}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status), json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode()
            return error.code, json.loads(text) if text.startswith("{") else {"message": text}

    def rows(self, *rows: object) -> tuple[int, dict[str, Any]]:
        return self.post(json.dumps({"dataframe_records": [{"image": r} for r in rows]}).encode())

    def memory(self) -> int:
        """Return the resident bytes of the server's processes."""
        total = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == self.group:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        return total


@pytest.fixture(scope="session")
def served(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    port = free_port()
    folder = tmp_path_factory.mktemp("serving")
    programs = str(Path(sys.executable).parent)
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": registered.tracker.store.uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": programs + os.pathsep + os.environ.get("PATH", ""),
    }
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", registered.cascade.uri, "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{url}/ping", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                time.sleep(0.1)
        yield Served(url, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.slow
def test_the_served_model_answers_as_the_loaded_one(
    served: Served, registered: Registered
) -> None:
    rows = [encoded(picture(i, kind=kind)) for i in range(6) for kind in ("PNG", "JPEG")]
    status, answer = served.rows(*rows)
    expected = answer_rows(load_cascade("fruit", registered.tracker), rows)
    assert status == 200
    for got, wanted in zip(answer["predictions"], expected, strict=True):
        assert got["class"] == wanted.class_name
        assert (got["stage"], got["stage_name"]) == (wanted.stage, wanted.stage_name)
        assert got["flops"] == wanted.flops
        assert got["probability"] == pytest.approx(wanted.probability, abs=1e-4)
        assert got["error"] is None


@pytest.mark.slow
def test_other_forms_of_a_request_are_answered(served: Served) -> None:
    row = encoded(picture(1))
    expected = served.rows(row)[1]["predictions"][0]["class"]
    for body in (
        {"dataframe_split": {"columns": ["image"], "data": [[row]]}},
        {"inputs": [{"image": row}]},
        {"instances": [{"image": row}]},
    ):
        status, answer = served.post(json.dumps(body).encode())
        assert status == 200
        assert answer["predictions"][0]["class"] == expected


@pytest.mark.slow
@pytest.mark.parametrize("row", [*BAD_ROWS, None], ids=lambda r: repr(r)[:12])
def test_a_bad_picture_alone_is_a_400_that_says_why(served: Served, row: str | None) -> None:
    status, answer = served.rows(row)
    assert status == 400
    assert "row 0: " in answer["message"]
    assert BAD_ROWS.get(row or "", "empty") in answer["message"]
    assert "stack_trace" not in answer


@pytest.mark.slow
def test_a_bad_row_among_good_ones_has_its_error(served: Served) -> None:
    status, answer = served.rows(encoded(picture(1)), "!!!", encoded(picture(2)))
    assert status == 200
    errors = [row["error"] for row in answer["predictions"]]
    assert errors == [None, "row 1: not base64; send a JPEG or PNG file in base64", None]
    assert answer["predictions"][1]["class"] is None


BAD_BODIES: list[Callable[[Served], tuple[int, dict[str, Any]]]] = [
    lambda s: s.post(b""),
    lambda s: s.post(b"{not json"),
    lambda s: s.post(b"[1, 2]"),
    lambda s: s.post(b'{"pictures": []}'),
    lambda s: s.post(b'{"dataframe_records": [{"photo": "AAAA"}]}'),
    lambda s: s.post(b'{"dataframe_records": [{"image": {"a": 1}}]}'),
    lambda s: s.post(b'{"dataframe_records": 7}'),
    lambda s: s.post(picture(1), kind="image/png"),
    lambda s: s.post(b"\xff\xfe\x00", kind="application/json"),
]


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(BAD_BODIES)))
def test_a_wrong_request_is_a_4xx(served: Served, place: int) -> None:
    status, answer = BAD_BODIES[place](served)
    assert 400 <= status < 500
    assert answer["message"]


@pytest.mark.slow
def test_a_thousand_requests_leave_the_server_as_it_was(served: Served) -> None:
    bad = [lambda s, row=row: s.rows(row) for row in BAD_ROWS] + BAD_BODIES
    good = [[encoded(picture(i * 4 + j)) for j in range(1 + i % 3)] for i in range(8)]

    def requests(count: int) -> None:
        for i in range(count):
            if i % 5 == 4:
                status, _ = bad[i // 5 % len(bad)](served)
                assert 400 <= status < 500
            else:
                status, answer = served.rows(*good[i % len(good)])
                assert status == 200
                assert all(row["error"] is None for row in answer["predictions"])

    requests(200)  # caches fill
    before = served.memory()
    requests(1000)
    grown = served.memory() - before
    assert before > 100e6, "memory was not measured"
    assert grown < 20e6
