"""What a stranger's file must not do, and where a password must not appear."""

import io
import json
import os
import pickle
import random
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rcopt.cli.main import main
from rcopt.core.cascade import Stage
from rcopt.data.prediction_files import load_stage, save_stage
from rcopt.errors import InputError
from rcopt.files import digest, file_digest
from rcopt.models.checkpoints import load_checkpoint
from rcopt.serving.bundle import DESCRIPTION, open_cascade, save_cascade
from rcopt.tracking import Tracker, open_tracker
from rcopt.tracking.run_files import RunFiles
from rcopt.tracking.server import is_loopback, serve
from tests.support.generated_images import make_images
from tests.support.packaging_helpers import STAGES, make_package, save_stage_weights
from tests.support.study_helpers import (
    STORED,
    TRAINED,
    Finished,
    run_rcopt,
    store_predictions,
    write_study,
)
from tests.support.tracking_helpers import Server, open_study

# --- nothing stored is unpickled ---


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self._marker),))


def _raw(marker: Path) -> bytes:
    return pickle.dumps(Payload(marker))


def _torch_file(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"fc.weight": Payload(marker)}, buffer)
    return buffer.getvalue()


def _old_torch_file(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"fc.weight": Payload(marker)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _numpy_file(marker: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _zip_file(marker: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Payload(marker)))
        file.writestr("archive/version", "3\n")
    return buffer.getvalue()


FORMS = (_raw, _torch_file, _old_torch_file, _numpy_file, _zip_file)

pickled = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__.strip("_"))
Form = Callable[[Path], bytes]


@pytest.fixture
def marker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a payload makes; after the test it must not be there."""
    path = tmp_path_factory.mktemp("executed") / "marker"
    yield path
    assert not path.exists(), "a stored file was executed"


def test_the_payloads_would_run(tmp_path: Path) -> None:
    pickle.loads(_raw(tmp_path / "one"))
    torch.load(io.BytesIO(_torch_file(tmp_path / "two")), weights_only=False)
    np.load(io.BytesIO(_numpy_file(tmp_path / "three")), allow_pickle=True)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "three"}


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with one line; returns it."""

    def check(*arguments: str) -> str:
        capsys.readouterr()
        code = main(list(arguments))
        ended = Finished(code, *capsys.readouterr())
        assert ended.code in (1, 2), ended
        (line,) = ended.err.splitlines()
        assert line.startswith("rcopt: error: ")
        assert "internal error" not in line
        return line

    return check


@pickled
def test_pickled_predictions_are_refused(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., str],
    marker: Path,
    form: Form,
) -> None:
    store_predictions(project / "stored")
    write_study(project, STORED)
    (project / "stored" / "resnet34@96.safetensors").write_bytes(form(marker))
    monkeypatch.chdir(project)
    assert "resnet34@96.safetensors: damaged predictions file" in refused("run", "tiny")


@pickled
@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "safetensors"])
def test_pickled_weights_to_start_from_are_refused(
    tmp_path: Path, marker: Path, form: Form, suffix: str
) -> None:
    from rcopt.models.backbones import build

    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(form(marker))
    with pytest.raises(InputError, match="is not a readable weights file"):
        build("mobilenet_v2-0.1", 3, weights=path)


def test_a_study_whose_weights_are_a_pickle_fails_without_running_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], marker: Path
) -> None:
    make_images(project / "images", train=2, held_out=2)
    write_study(project, TRAINED)
    (project / "start.pth").write_bytes(_torch_file(marker))
    monkeypatch.chdir(project)
    line = refused("run", "tiny", "--quiet", "--set", "training.weights=start.pth")
    assert "start.pth is not a readable weights file" in line


@pickled
def test_a_pickled_checkpoint_is_set_aside(tmp_path: Path, marker: Path, form: Form) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(form(marker))
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    assert load_checkpoint(path, model, optimizer, belongs_to="x") == 0
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors.damaged"]


@pickled
def test_pickled_decoded_images_are_decoded_again(
    tmp_path: Path, marker: Path, form: Form
) -> None:
    from tests.support.datasets import load_pictures

    make_images(tmp_path / "images", train=2, held_out=2)

    def load() -> str:
        return load_pictures(tmp_path / "images", tmp_path / "cache").digest

    before = load()
    (kept,) = (tmp_path / "cache").glob("*/base.npy")
    kept.unlink()
    kept.write_bytes(form(marker))
    assert load() == before


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[Stage, Path]:
    return save_stage_weights(tmp_path_factory.mktemp("weights"))


@pickled
def test_pickled_weights_of_a_packed_cascade_are_refused(
    tmp_path: Path, weights: dict[Stage, Path], marker: Path, form: Form
) -> None:
    folder = tmp_path / "cascade"
    save_cascade(folder, make_package(), weights)
    path = folder / "stage-0.safetensors"
    before = file_digest(path)
    path.write_bytes(form(marker))
    # The stranger has also written down the digests that belong to it.
    description = json.loads((folder / DESCRIPTION).read_text().replace(before, file_digest(path)))
    description.pop("sha256")
    (folder / DESCRIPTION).write_text(json.dumps(description | {"sha256": digest(description)}))
    with pytest.raises(InputError, match="damaged, or not a weights file of rcopt"):
        open_cascade(folder)
    # An MLflow model with a pickled python_model is no packed cascade either.
    (folder / DESCRIPTION).unlink()
    (folder / "python_model.pkl").write_bytes(form(marker))
    (folder / "MLmodel").write_text(
        "flavors:\n  python_function:\n    python_model: python_model.pkl\n"
    )
    with pytest.raises(InputError, match=r"cascade.json"):
        open_cascade(folder)


# --- paths stay in their folder ---


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "a/../b", "a//b", "..", "", "a\\b", "a\0b", "-x"]
)
def test_a_stage_named_like_a_path_is_refused(tmp_path: Path, name: str) -> None:
    store_predictions(tmp_path / "stored")
    whole = load_stage(tmp_path / "stored" / "resnet18@32.safetensors")
    path = tmp_path / "strange.safetensors"
    save_stage(path, replace(whole, stage=replace(whole.stage, backbone=name)))
    with pytest.raises(InputError, match=r"damaged predictions file \(backbone: String"):
        load_stage(path)


def test_image_names_that_are_paths_are_only_names(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store_predictions(project / "stored")
    for path in (project / "stored").iterdir():
        trained = load_stage(path)
        named = {
            split: replace(p, images=tuple(f"../../{name}<script>" for name in p.images))
            for split, p in trained.predictions.items()
        }
        save_stage(path, replace(trained, predictions=named))
    write_study(project, STORED)
    monkeypatch.chdir(project)
    before = {path for path in project.parent.rglob("*") if project not in path.parents}
    for arguments in (["run", "tiny", "--quiet"], ["report", "tiny"], ["export", "tiny", "out"]):
        assert main(arguments) == 0, capsys.readouterr().err
    assert {path for path in project.parent.rglob("*") if project not in path.parents} == before
    page = (project / "reports" / "tiny" / "report.html").read_text()
    assert "<script>" not in page.replace("<script>\n", "").split("<body")[1].split("<script")[0]


@pytest.mark.slow
@pytest.mark.parametrize("run_id", ["../../../outside", "/tmp/outside", "a/b", ".."])
def test_a_server_cannot_name_a_place_outside_the_downloads(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_id: str
) -> None:
    tracker = open_tracker(server.uri, tmp_path)
    monkeypatch.setattr(RunFiles, "_local", lambda *_: None)
    with pytest.raises(InputError, match="not an id that MLflow gives"):
        tracker.files.fetch(run_id, "stage.safetensors")
    assert not list(tmp_path.rglob("outside"))


def test_packed_weights_named_like_a_path_are_refused(
    tmp_path: Path, weights: dict[Stage, Path]
) -> None:
    folder = tmp_path / "cascade"
    save_cascade(folder, make_package(), weights)
    shutil.copyfile(weights[STAGES[0]], tmp_path / "stage-0.safetensors")
    description = json.loads((folder / DESCRIPTION).read_text())
    description.pop("sha256")
    description["stages"][0]["weights"] = "../stage-0.safetensors"
    (folder / DESCRIPTION).write_text(json.dumps(description | {"sha256": digest(description)}))
    with pytest.raises(InputError, match="is not the name of a file beside it"):
        open_cascade(folder)


# --- servers ---


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_hosts_that_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "", "gpu-box", "8.8.8.8"])
def test_hosts_that_others_reach(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_a_server_that_others_reach_is_warned_of(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, host: str, warned: bool
) -> None:
    open_study(tracker)
    told: list[str] = []

    def stop(*_: object, **__: object) -> None:
        raise InputError("here the server would start")

    monkeypatch.setattr("rcopt.tracking.server.mlflow_server", stop)
    with pytest.raises(InputError, match="would start"):
        serve(
            tracker.store.uri,
            tracker.store.project,
            host=host,
            open_browser=False,
            warn=told.append,
        )
    assert len(told) == warned
    assert all("there is no login: whoever reaches 0.0.0.0 can read" in line for line in told)


# --- passwords ---

TOKEN = "hunter2kJ8"


def everything_in(folder: Path) -> bytes:
    """All that is stored below a folder, databases with what their journals hold."""
    for database in folder.rglob("*.db"):
        with closing(sqlite3.connect(database)) as db:
            db.execute("pragma wal_checkpoint(truncate)")
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def addresses_with(token: str, count: int, rng: random.Random) -> list[str]:
    """Addresses that hold a password, well formed and not."""
    schemes = ("postgresql+psycopg", "postgresql", "mysql+pymysql", "http", "https", "sqlite", "x")
    users = ("me", "", "m%40e", "m e", "mé")
    hosts = ("host", "127.0.0.1:1", "[::1]:1", "", "host:port", "host:99999", "a b", "@host")
    ends = ("/db", "", "/", "/db?x=1", "?host=/tmp", "/d b", "/db#x")
    marks = ("", "@", "/", ":", "%", "%zz", "?", "#", " ", "\\", "'", "é")
    found = []
    for _ in range(count):
        password = rng.choice(marks) + token + rng.choice(marks)
        login = f"{rng.choice(users)}:{password}@"
        address = f"{rng.choice(schemes)}://{login}{rng.choice(hosts)}{rng.choice(ends)}"
        if rng.random() < 0.15:
            address = f"{rng.choice(schemes)}://host/db?user=me&password={token}"
        found.append(address)
    return found


def test_a_password_in_an_address_is_nowhere_to_be_seen(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(0)
    store_predictions(project / "stored")
    monkeypatch.chdir(project)
    for number, address in enumerate(addresses_with(TOKEN, 300, rng)):
        quoted = json.dumps(address, ensure_ascii=False)
        section, key = rng.choice((("search", "storage"), ("tracking", "uri")))
        text = STORED.replace("[tracking]\n", "").replace("cascade_runs = 0\n", "")
        path = write_study(project, text)
        command = rng.choice(("run", "status", "front", "report", "select"))
        more = ["--knee"] if command == "select" else []
        if number % 2:
            more += ["--set", f"{section}.{key}={quoted}"]
        else:
            head = f"[{section}]\n"
            text = text.replace(head, "") if head in text else text
            text = text.replace("trials = 8\nexact_trials = 3\n", "")
            write_study(project, f"{text}\n{head}{key} = {quoted}\n")
        code = main([command, "studies/tiny.toml", *more])
        said = capsys.readouterr()
        assert code in (1, 2), (address, said)
        assert TOKEN not in said.out + said.err, (address, said.err)
        assert "internal error" not in said.err, (address, said.err)
        path.unlink()
        assert TOKEN.encode() not in everything_in(project), address


def test_a_password_for_predict_is_not_shown(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    for address in addresses_with(TOKEN, 100, random.Random(1)):
        assert main(["predict", "m", "x.png", "--uri", address]) == 2
        said = capsys.readouterr()
        assert TOKEN not in said.out + said.err, address


@pytest.mark.slow
@pytest.mark.postgres
def test_passwords_from_the_environment_are_not_stored(
    database: str,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PGPASSWORD", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, TOKEN)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    store_predictions(tmp_path / "stored")
    text = STORED.replace("[search]\n", f"[search]\nstorage = '{database}'\n")
    write_study(tmp_path, text.replace("[tracking]\n", f"[tracking]\nuri = '{server.uri}'\n"))
    said = ""
    for arguments in (
        ["run", "tiny"],
        ["status", "tiny"],
        ["select", "tiny", "--knee", "--register", "m"],
        ["run", "tiny", "--set", "answers.average=true"],
    ):
        ended = run_rcopt(tmp_path, *arguments)
        said += ended.out + ended.err
    assert "exact front" in said
    assert "answers.average was False when it was started" in said
    assert TOKEN not in said
    assert TOKEN.encode() not in everything_in(tmp_path)
    assert TOKEN.encode() not in everything_in(server.folder)
