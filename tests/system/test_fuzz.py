"""Whatever is in a file, a command ends well or says in one line what is wrong with it.

`tests/damage.py` says how to repeat one case and how to run more of them.
"""

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from torch import nn

from rcopt.cli.main import main
from rcopt.errors import InputError
from rcopt.files import digest, file_digest
from rcopt.models.macs import Cost
from tests.support.damage import (
    damage_journal,
    damage_json,
    damage_safetensors,
    source,
    without_digest,
)
from tests.support.damaged_images import place_damaged
from tests.support.damaged_studies import damage_study
from tests.support.generated_images import make_images
from tests.support.study_helpers import STORED, TRAINED, start, store_predictions, write_study

#: Every case has its own bound, so the whole test needs none.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

#: Seconds one case may take; most take hundredths.
BOUND = 30.0

FACTOR = float(os.environ.get("RCOPT_FUZZ", "1"))
START = int(os.environ.get("RCOPT_FUZZ_START", "0"))
ONLY = os.environ.get("RCOPT_FUZZ_CASE", "")


class TooSlowError(BaseException):
    """A case took longer than its bound; no handler in the code under test takes it."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@contextlib.contextmanager
def bounded(seconds: float = BOUND) -> Iterator[None]:
    """Raise `TooSlowError` inside, even where a system call waits."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TooSlowError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    terminated = signal.getsignal(signal.SIGTERM)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGTERM, terminated)


def rcopt(*arguments: str) -> Ended:
    """Run a command here, its output encoded as a terminal's would be."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors)
        for errors in ("strict", "backslashreplace")
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(arguments))
        except SystemExit as left:
            code = int(left.code or 0)
    said = []
    for stream in (out, err):
        stream.flush()
        buffer = stream.buffer
        assert isinstance(buffer, io.BytesIO)
        said.append(buffer.getvalue().decode())
    return Ended(code, *said)


def complaint(ended: Ended, project: Path) -> str:
    """What is wrong with the way a command ended, '' if nothing is."""
    everything = ended.out + ended.err
    lines = ended.err.splitlines()
    refusals = [line for line in lines if line.startswith("rcopt: error: ")]
    left = [str(p) for kind in HALF_WRITTEN for p in project.rglob(kind)]
    if ended.code not in (0, 1, 2):
        return f"exit code {ended.code}"
    if "Traceback" in everything or "internal error" in everything:
        return "an internal error"
    if ended.code and (len(refusals) != 1 or lines[-1:] != refusals):
        return "not one clear line"
    if not ended.code and refusals:
        return "an error, but exit code 0"
    if any(len(line) > 1000 for line in refusals):
        return "a line too long to be read"
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", ended.err):
        return "control characters"
    if left:
        return f"left half-written: {left}"
    return ""


HALF_WRITTEN = ("*.part", "*.partial", "*.tmp")

Case = Callable[[random.Random], str]


def look_for_failures(kind: str, count: int, case: Case) -> None:
    """Run cases and fail with all that went wrong, each with what repeats it."""
    seeds = list(range(START, START + max(1, round(count * FACTOR))))
    if ONLY:
        wanted, _, number = ONLY.rpartition("-")
        seeds = [int(number)] if wanted == kind else []
    failures = []
    for seed in seeds:
        try:
            with bounded():
                wrong = case(source(kind, seed))
        except TooSlowError as late:
            wrong = str(late)
        if wrong:
            failures.append(f"{kind}-{seed}: {wrong}")
    assert not failures, f"{len(failures)} of {len(seeds)} cases:\n" + "\n".join(failures)


def judged(project: Path, *arguments: str) -> str:
    """Run a command and return its complaint together with what it said."""
    ended = rcopt(*arguments)
    wrong = complaint(ended, project)
    return wrong and f"{wrong}; {' '.join(arguments)[:80]} -> {ended.code} {ended.err[-600:]!r}"


def with_digest(content: bytes) -> bytes:
    """A cascade's description with the digest that belongs to it, if it is one."""
    try:
        tree = json.loads(content)
        tree.pop("sha256")
        return json.dumps(tree | {"sha256": digest(tree)}).encode("utf-8", "surrogatepass")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return content


def replace_folder(template: Path, folder: Path) -> None:
    """Make a folder what its template is."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)


# --- study files ---


class TrainingBeginsError(InputError):
    """The point where training would begin: what comes before is what a study file can break."""


@pytest.fixture(scope="module")
def both(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with stored predictions and images; for copying only."""
    project = tmp_path_factory.mktemp("both")
    (project / "mlruns").mkdir()
    shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
    store_predictions(project / "stored")
    make_images(project / "images", train=2, held_out=2)
    write_study(project, STORED)
    return project


def test_study_files(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(both)

    def stop(*_: object, **__: object) -> None:
        raise TrainingBeginsError("training would begin here")

    monkeypatch.setattr("rcopt.study.stages.trainable.obtain_stage", stop)
    # Counting MACs takes longer than all the rest.
    monkeypatch.setattr("rcopt.models.backbones.build", lambda *_, **__: nn.Identity())
    monkeypatch.setattr("rcopt.models.macs.count_macs", lambda *_: Cost(1_000_000, 1000))
    write_study(both, TRAINED)
    assert "training would begin" in rcopt("run", "tiny", "--quiet").err

    def case(rng: random.Random) -> str:
        text = rng.choice((STORED, STORED, TRAINED))
        shutil.rmtree(both / "mlruns" / "studies", ignore_errors=True)
        path = write_study(both, "")
        path.write_bytes(damage_study(rng, text))
        return judged(both, "run", "studies/tiny.toml", "--quiet", "--trials", "1")

    look_for_failures("study", 1000, case)


# --- what a study keeps ---


@pytest.fixture(scope="module")
def finished(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose study on stored predictions is done; damaged and mended in place."""
    project = tmp_path_factory.mktemp("done")
    (project / "mlruns").mkdir()
    shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
    store_predictions(project / "stored")
    write_study(project, STORED)
    with pytest.MonkeyPatch.context() as patch, bounded(100):
        patch.chdir(project)
        assert rcopt("run", "tiny", "--quiet").code == 0
    return project


def test_predictions_files(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(both)
    write_study(both, STORED)
    files = {path: path.read_bytes() for path in sorted((both / "stored").iterdir())}

    def case(rng: random.Random) -> str:
        shutil.rmtree(both / "mlruns" / "studies", ignore_errors=True)
        for path, content in files.items():
            path.write_bytes(content)
        path = rng.choice(list(files))
        # Files of other makers carry no digest that would tell.
        content = without_digest(files[path]) if rng.random() < 0.7 else files[path]
        path.write_bytes(damage_safetensors(rng, content))
        return judged(both, "run", "studies/tiny.toml", "--quiet", "--trials", "1")

    try:
        look_for_failures("predictions", 200, case)
    finally:
        for path, content in files.items():
            path.write_bytes(content)


KEPT = {
    "journal": ("trials.journal", damage_journal, 120),
    "results": ("results.json", damage_json, 120),
    "copy": ("study.toml", lambda rng, data: damage_study(rng, data.decode()), 100),
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_a_study_keeps(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    monkeypatch.chdir(finished)
    folder = finished / "mlruns/studies/tiny"
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    name, damage, count = KEPT[kind]
    commands = (
        ("status", "tiny"),
        ("status", "tiny", "--format", "json"),
        ("front", "tiny"),
        ("front", "tiny", "--format", "csv", "--all"),
        ("select", "tiny", "--knee"),
        ("select", "tiny", "--max-drop", "0.1", "--format", "json"),
        ("run", "tiny", "--quiet", "--trials", "9"),
        ("repeats", "tiny", "studies/tiny.toml"),
        ("export", "tiny", "exported"),
    )

    def case(rng: random.Random) -> str:
        replace_folder(whole, folder)
        (folder / name).write_bytes(damage(rng, (whole / name).read_bytes()))
        for arguments in rng.sample(commands, 3):
            if wrong := judged(finished, *arguments):
                return wrong
        return ""

    try:
        look_for_failures(kind, count, case)
    finally:
        replace_folder(whole, folder)


# --- what training leaves and packs ---


@pytest.fixture(scope="module")
def trained(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one trained stage in a registered cascade, kept as the folder ``model``."""
    project = tmp_path_factory.mktemp("trained")
    (project / "mlruns").mkdir()
    shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
    make_images(project / "images", train=2, held_out=2)
    text = TRAINED.replace(', "mobilenet_v2-0.25"', "").replace("epochs = 2", "epochs = 1")
    write_study(project, text)
    with pytest.MonkeyPatch.context() as patch, bounded(100):
        patch.chdir(project)
        assert rcopt("run", "tiny", "--quiet").code == 0
        assert rcopt("select", "tiny", "--min-accuracy", "0", "--register", "m").code == 0
        described = next((project / "mlruns" / "artifacts").rglob("cascade.json"))
        shutil.copytree(described.parent, project / "model")
    return project


def test_counted_macs(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    path = trained / "mlruns/studies/tiny/macs.json"
    whole = path.read_bytes()

    def case(rng: random.Random) -> str:
        path.write_bytes(damage_json(rng, whole))
        return judged(trained, "run", "tiny", "--quiet")

    try:
        look_for_failures("macs", 15, case)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("kind", ["description", "packed"])
def test_packed_cascades(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    monkeypatch.chdir(trained)
    folder = tmp_path / "model"
    picture = next((trained / "images" / "val" / "disc").iterdir())

    def case(rng: random.Random) -> str:
        replace_folder(trained / "model", folder)
        described = folder / "cascade.json"
        if kind == "description":
            changed = damage_json(rng, described.read_bytes())
            described.write_bytes(with_digest(changed) if rng.random() < 0.8 else changed)
        else:
            path = folder / "stage-0.safetensors"
            before = file_digest(path)
            path.write_bytes(damage_safetensors(rng, path.read_bytes()))
            if rng.random() < 0.8:  # as somebody would who means it
                text = described.read_text().replace(before, file_digest(path))
                described.write_bytes(with_digest(text.encode()))
        return judged(trained, "predict", str(folder), str(picture))

    look_for_failures(kind, 100, case)


def test_weights_to_start_from(trained: Path, tmp_path: Path) -> None:
    from rcopt.models.backbones import build

    whole = (trained / "model" / "stage-0.safetensors").read_bytes()
    backbone = "mobilenet_v2-0.1"

    def case(rng: random.Random) -> str:
        path = tmp_path / f"weights.{rng.choice(('safetensors', 'pth'))}"
        path.write_bytes(damage_safetensors(rng, whole))
        try:
            build(backbone, 3, weights=path)
        except InputError as error:
            return "" if len(str(error).splitlines()) == 1 else str(error)
        except Exception as error:
            return repr(error)[:300]
        return ""

    look_for_failures("weights", 150, case)


def test_checkpoints(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from rcopt.models.checkpoints import load_checkpoint, save_checkpoint

    path = tmp_path / "state.safetensors"

    def fresh() -> tuple[nn.Module, torch.optim.SGD]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    model, optimizer = fresh()
    loss = model(torch.ones(2, 3, 3, 3)).sum()
    loss.backward()
    optimizer.step()
    save_checkpoint(path, model, optimizer, epoch=3, belongs_to="this")
    whole = path.read_bytes()

    def case(rng: random.Random) -> str:
        for left in tmp_path.iterdir():
            left.unlink()
        path.write_bytes(damage_safetensors(rng, whole))
        model, optimizer = fresh()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        try:
            epoch = load_checkpoint(path, model, optimizer, belongs_to="this")
        except Exception as error:
            return repr(error)[:300]
        if epoch:
            return ""
        after = model.state_dict()
        if not all(torch.equal(before[name], after[name]) for name in before):
            return "the model was changed by a checkpoint that was not taken"
        return "" if not path.exists() else "not set aside"

    look_for_failures("checkpoint", 200, case)


# --- images ---


def test_images_of_a_folder(both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture at its place in a data set: the data set is there, or one line names it."""
    from tests.support.datasets import load_pictures

    monkeypatch.chdir(tmp_path)

    def case(rng: random.Random) -> str:
        shutil.rmtree(tmp_path / "images", ignore_errors=True)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        shutil.copytree(both / "images", tmp_path / "images")
        place_damaged(rng, tmp_path / "images" / rng.choice(("train", "val")) / "bar", "odd")
        try:
            data = load_pictures(tmp_path / "images", tmp_path / "cache")
        except InputError as error:
            if len(str(error).splitlines()) != 1 or "bar" not in str(error):
                return f"not one line that names it: {error}"
        except Exception as error:
            return repr(error)[:300]
        else:
            if data.base.shape != (len(data.images), 16, 16, 3):
                return f"shape {data.base.shape}"
        left = [p.name for p in (tmp_path / "cache").glob("*.part")]
        return f"left {left}" if left else ""

    look_for_failures("image", 200, case)


def test_images_to_predict(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few pictures a command: each has an answer, or its own line that names it."""
    monkeypatch.chdir(trained)

    def case(rng: random.Random) -> str:
        shutil.rmtree(tmp_path / "photos", ignore_errors=True)
        (tmp_path / "photos").mkdir()
        paths = [place_damaged(rng, tmp_path / "photos", f"odd{number}") for number in range(5)]
        given = rng.choice(([str(path) for path in paths], [str(tmp_path / "photos")]))
        form = rng.choice(("table", "json", "csv"))
        ended = rcopt("predict", "model", *given, "--format", form)
        wrong = complaint(ended, trained)
        if wrong == "not one clear line" and ended.code == 2 and ended.out and not ended.err:
            wrong = ""  # each picture's own line says what is wrong with it
        if not wrong and form == "json" and ended.out:
            wrong = answers_without_reason(json.loads(ended.out))
        return wrong and f"{wrong}: {given} {ended}"[:600]

    look_for_failures("photo", 50, case)


def answers_without_reason(answers: list[dict[str, Any]]) -> str:
    """What is wrong with the answers to pictures, '' if nothing is."""
    for answer in answers:
        if (answer["class"] is None) == (answer["error"] is None):
            return f"neither answer nor reason: {answer}"
        if answer["error"] is not None and len(answer["error"].splitlines()) > 2:
            return f"a reason of several lines: {answer}"
    return ""


# --- the real command ---


def test_in_processes_of_their_own(both: Path, tmp_path: Path) -> None:
    """What is tested in this process holds for the real command too."""

    def case(rng: random.Random) -> str:
        number = rng.randrange(10**9)
        path = write_study(both, "", f"own{number}")
        path.write_bytes(damage_study(rng, STORED))
        arguments = ("run", str(path), "--quiet", "--trials", "1")
        try:
            ended = start(both, tmp_path / str(number), *arguments).wait(120)
        finally:
            path.unlink()
        wrong = complaint(Ended(ended.code, ended.out, ended.err), both)
        return wrong and f"{wrong}: {ended}"[:600]

    look_for_failures("process", 12, case)
