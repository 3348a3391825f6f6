"""Everything a user can get wrong ends in one line, exit code 2, and nothing half-written."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rcopt.cli.main import main
from rcopt.errors import WorkError
from tests.support.generated_images import make_images
from tests.support.study_helpers import (
    STORED,
    TRAINED,
    Finished,
    runs_of,
    start,
    statuses,
    store_predictions,
    stored_runs,
    trials_of,
    without_run_ids,
    write_study,
)
from tests.support.tracking_helpers import free_port


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """The command line takes SIGTERM over; give it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def images(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project on images, nothing done yet; commands run in its folder."""
    make_images(project / "images", train=2, held_out=2)
    write_study(project, TRAINED)
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def predictions(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project on stored predictions, nothing done yet."""
    store_predictions(project / "stored")
    write_study(project, STORED)
    monkeypatch.chdir(project)
    return project


@pytest.fixture(scope="module")
def finished(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two trained stages and four trials; for copying only."""
    project = tmp_path_factory.mktemp("finished")
    (project / "mlruns").mkdir()
    shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
    make_images(project / "images", train=4, held_out=4)
    text = TRAINED.replace(', "mobilenet_v2-0.25"', "").replace("trials = 6", "trials = 4")
    write_study(project, text.replace("epochs = 2", "epochs = 1"))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert main(["run", "tiny", "--quiet"]) == 0
    signal.signal(signal.SIGTERM, before)
    return project


@pytest.fixture
def trained(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished project, somewhere else."""
    project = tmp_path / "moved"
    shutil.copytree(finished, project)
    monkeypatch.chdir(project)
    return project


def run_in(project: Path, *arguments: str) -> Finished:
    """Run a command in a process of its own, for MLflow remembers where a run's files lie."""
    return start(project, Path(tempfile.mkdtemp()) / "output", *arguments).wait()


def refusal(finished: Finished, code: int = 2) -> str:
    """Return the one line of a refused command, without ``rcopt: error:``."""
    assert (finished.code, finished.out) == (code, ""), finished.err
    lines = finished.err.splitlines()
    assert len(lines) == 1, finished.err
    assert lines[0].startswith("rcopt: error: ")
    return lines[0].removeprefix("rcopt: error: ")


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must be refused; returns its line without ``rcopt: error:``."""

    def check(*arguments: str) -> str:
        capsys.readouterr()
        try:
            code = main(list(arguments))
        except SystemExit as left:
            code = int(left.code or 0)
        return refusal(Finished(code, *capsys.readouterr()))

    return check


def assert_nothing_begun(project: Path) -> None:
    assert stored_runs(project) == []
    assert not (project / "mlruns" / "studies").exists()
    assert not (project / "mlruns" / "checkpoints").exists()
    assert_nothing_half_written(project)


def assert_nothing_half_written(project: Path) -> None:
    for kind in ("*.part", "*.partial", ".*.part", "*.tmp"):
        assert list((project / "mlruns").rglob(kind)) == []


# --- the command ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "tiny", "--trials", "0"], "argument --trials: expected at least 1, got 0"),
        (["run", "tiny", "--trials", "-3"], "argument --trials: expected at least 1, got -3"),
        (["run", "tiny", "--trials", "x"], "argument --trials: expected a whole number, got 'x'"),
        (["front", "tiny", "--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["status", "tiny", "--format", "csv"], "argument --format: invalid choice: 'csv'"),
        (["run"], "the following arguments are required: study"),
        ([], "the following arguments are required: COMMAND"),
        (["fornt", "tiny"], "argument COMMAND: invalid choice: 'fornt'"),
        (["run", "tiny", "--wrong"], "unrecognized arguments: --wrong"),
        (["select", "tiny", "--max-flops", "x"], "argument --max-flops: expected a number"),
    ],
)
def test_a_wrong_command_is_one_line(refused: Refused, arguments: list[str], message: str) -> None:
    line = refused(*arguments)
    assert line.startswith(message)
    assert line.endswith("--help")


@pytest.mark.parametrize("command", ["run", "front", "status", "select", "report"])
def test_an_unknown_study_name_lists_the_known_ones(
    images: Path, refused: Refused, command: str
) -> None:
    more = ["--knee"] if command == "select" else []
    line = refused(command, "other", *more)
    assert line.startswith("other: no study of that name in ")
    assert line.endswith("; known: digits, tiny")
    assert_nothing_begun(images)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("front", "tiny: no front yet; 'rcopt run' makes one"),
        ("status", "tiny: not started yet; 'rcopt run "),
    ],
)
def test_a_study_that_was_not_run_has_nothing_to_show(
    images: Path, refused: Refused, command: str, message: str
) -> None:
    assert refused(command, "tiny").startswith(message)
    assert_nothing_begun(images)


# --- the study file ---


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "training.epoch: unknown key; the nearest known one is 'epochs'"),
        ("training.epochs='two'", "training.epochs: expected a valid integer, got 'two'"),
        ("training.lr=-1", "training.lr: expected greater than 0, got -1"),
        ("stages.resolutions=[16, 8]", "stages: resolutions must rise, got [16, 8]"),
        ("data.validation=0.7", "data: validation + calibration + test must not exceed 1"),
        ("search.trials=0", "search.trials: expected greater than or equal to 1, got 0"),
        ("training", "--set training: expected section.key=value"),
        (
            "stages.backbones=['resnet19']",
            "stages.backbones: unknown backbone 'resnet19'; did you mean 'resnet18'?",
        ),
        (
            "training.override={'mobilnet*' = {lr = 0.1}}",
            "training.override: 'mobilnet*' matches none of the stages, which are mobilenet_v2-",
        ),
        ("training.device=tpu", "training.device: 'tpu' is no device; use auto, cpu, cuda:0"),
        ("training.weights=nothing.safetensors", "training.weights: "),
        ("training.weights=/dev/zero", "training.weights: /dev/zero is no file"),
        ("data.root='~nobody-at-all/x'", "data.root: there is no home folder ~nobody-at-all"),
        ("tracking.uri=postgresql://x", "tracking.uri: expected sqlite:///PATH or http(s)://"),
        ("search.storage=nonsense", "search.storage: "),
        ("search.storage='sqlite:////nowhere/at/all.db'", "search.storage: "),
    ],
)
def test_a_wrong_setting_is_named(
    images: Path, refused: Refused, override: str, message: str
) -> None:
    assert message in refused("run", "tiny", "--quiet", "--set", override)
    assert_nothing_half_written(images)
    assert stored_runs(images) == []


def test_a_study_file_that_is_no_toml_is_named_with_the_line(
    images: Path, refused: Refused
) -> None:
    write_study(images, "seed = 1\n[data\n")
    line = refused("run", "studies/tiny.toml")
    assert "tiny.toml: not valid TOML: " in line
    assert "line 2" in line
    assert_nothing_begun(images)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed = 1" + "0" * 5000, "tiny.toml: not valid TOML: Exceeds the limit (4300 digits)"),
        ("seed = " + "[" * 3000 + "]" * 3000, "tiny.toml: not valid TOML: "),
        (r'"a\u001b[31m" = 1', r"a\x1b[31m: unknown key; the nearest known one is "),
        ("seed = 1\n" + "k" * 5000 + " = 2", "kkk ... kkk"),
    ],
    ids=["digits", "levels", "escapes", "length"],
)
def test_a_study_file_of_strange_text_is_one_readable_line(
    images: Path, refused: Refused, line: str, message: str
) -> None:
    write_study(images, line)
    said = refused("run", "studies/tiny.toml")
    assert message in said
    assert said.isprintable()
    assert len(said) < 1000


def test_an_unreachable_tracking_server_is_told_at_once(images: Path, refused: Refused) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    line = refused("run", "tiny", "--set", f"tracking.uri={uri}")
    assert line == (
        f"tracking server {uri} cannot be reached (refused); "
        "start it (rcopt ui) or mend tracking.uri"
    )
    assert_nothing_begun(images)


def test_a_store_that_is_no_database_is_named(images: Path, refused: Refused) -> None:
    (images / "mlruns" / "mlflow.db").write_bytes(b"not a database at all, but long enough")
    assert "mlflow.db: not an MLflow database; move it away" in refused("run", "tiny")


# --- the images ---


def _remove_root(root: Path) -> None:
    shutil.rmtree(root)


def _remove_val(root: Path) -> None:
    shutil.rmtree(root / "val")


def _empty_class(root: Path) -> None:
    for image in (root / "train" / "disc").iterdir():
        image.unlink()


def _hidden_only(root: Path) -> None:
    _empty_class(root)
    (root / "train" / "disc" / ".DS_Store").write_bytes(b"x")


def _class_only_in_train(root: Path) -> None:
    shutil.rmtree(root / "val" / "disc")


def _class_only_in_val(root: Path) -> None:
    shutil.rmtree(root / "train" / "disc")


def _one_class(root: Path) -> None:
    for part in ("train", "val"):
        for name in ("bar", "disc"):
            shutil.rmtree(root / part / name)


def _truncate(root: Path) -> None:
    image = next((root / "train" / "square").glob("*.png"))
    image.write_bytes(image.read_bytes()[:-40])


def _not_an_image(root: Path) -> None:
    (root / "val" / "bar" / "notes.txt").write_text("these are no pixels")


def _empty_file(root: Path) -> None:
    (root / "val" / "bar" / "empty.png").write_bytes(b"")


def _one_held_out(root: Path) -> None:
    next((root / "val" / "disc").iterdir()).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove_root, "[data] root: no folder "),
        (_remove_val, "has no folder 'val' or 'test'"),
        (_empty_class, "train/disc is empty; add images or remove the class"),
        (_hidden_only, "train/disc is empty; add images or remove the class"),
        (_class_only_in_train, "class 'disc' is in "),
        (_class_only_in_val, "class 'disc' is in "),
        (_one_class, "has 1 class folders, at least 2 are needed"),
        (_truncate, "damaged or truncated image ("),
        (_not_an_image, "val/bar/notes.txt: not an image that can be read; remove the file"),
        (_empty_file, "val/bar/empty.png: not an image that can be read; remove the file"),
        (_one_held_out, "validation = 0.5 leaves class 'disc' without an image (it has 1 held"),
    ],
)
def test_images_that_cannot_be_used_are_named(
    images: Path, refused: Refused, damage: Callable[[Path], None], message: str
) -> None:
    damage(images / "images")
    assert message in refused("run", "tiny", "--quiet")
    assert_nothing_begun(images)


def test_a_truncated_image_is_named_by_its_path(images: Path, refused: Refused) -> None:
    _truncate(images / "images")
    assert "images/train/square/0.png: damaged or truncated" in refused("run", "tiny", "--quiet")


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe.png")
    return "pipe.png: not an ordinary file but a folder, a pipe or a device; remove it"


def _link_to_itself(folder: Path) -> str:
    (folder / "link.png").symlink_to("link.png")
    return "link.png cannot be read (Too many levels of symbolic links)"


def _link_to_nothing(folder: Path) -> str:
    (folder / "link.png").symlink_to("nothing.png")
    return "link.png: cannot be read (No such file or directory); remove it or replace it"


def _links_to_its_own_folder(folder: Path) -> str:
    # Two of them: following both at each of the forty levels a path may have never ends.
    for name in ("one", "two"):
        (folder / name).symlink_to(".", target_is_directory=True)
    return "is a link to a folder that it lies in; remove the link"


@pytest.mark.parametrize(
    "place", [_pipe, _link_to_itself, _link_to_nothing, _links_to_its_own_folder]
)
def test_what_is_no_file_among_the_images_is_named(
    images: Path, refused: Refused, place: Callable[[Path], str]
) -> None:
    message = place(images / "images" / "val" / "disc")
    assert message in refused("run", "tiny", "--quiet")
    assert_nothing_begun(images)


# --- stored predictions ---


def test_a_long_foreign_format_is_cut(predictions: Path, refused: Refused) -> None:
    path = predictions / "stored" / "resnet34@96.safetensors"
    save_file({"x": np.zeros(1)}, path, {"format": "y" * 5000})
    line = refused("run", "tiny")
    assert "not a stage's predictions (format 'yyy" in line
    assert line.endswith("name a file that rcopt wrote")
    assert len(line) < 1000


def test_a_damaged_predictions_file_is_named(predictions: Path, refused: Refused) -> None:
    path = predictions / "stored" / "resnet34@96.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    line = refused("run", "tiny")
    assert "resnet34@96.safetensors: damaged predictions file (" in line
    assert_nothing_begun(predictions)


def test_predictions_of_other_images_are_refused(predictions: Path, refused: Refused) -> None:
    store_predictions(predictions / "other", seed=1)
    name = "resnet34@96.safetensors"
    shutil.copyfile(predictions / "other" / name, predictions / "stored" / name)
    line = refused("run", "tiny")
    assert "does not belong with" in line
    assert "not of the same images" in line
    assert_nothing_begun(predictions)


def test_the_same_stage_twice_is_refused(predictions: Path, refused: Refused) -> None:
    stored = predictions / "stored"
    shutil.copyfile(stored / "resnet34@96.safetensors", stored / "zwei.safetensors")
    assert "resnet34@96 is in the folder twice; remove one" in refused("run", "tiny")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.root=nowhere",
            "nowhere is not a directory; set it to a directory of",
        ),
        ("data.root=studies", "studies holds no *.safetensors file"),
        ("stages.resolutions=[64]", "stages"),
    ],
)
def test_predictions_that_are_not_there_are_named(
    predictions: Path, refused: Refused, override: str, message: str
) -> None:
    assert message in refused("run", "tiny", "--set", override)
    assert_nothing_begun(predictions)


def test_a_stage_that_the_folder_lacks_is_named_with_what_it_holds(
    predictions: Path, refused: Refused
) -> None:
    wanted = ["--set", "stages.resolutions=[32]", "--set", "stages.backbones=['resnet50']"]
    line = refused("run", "tiny", *wanted)
    assert "holds no resnet50@32; it holds resnet18@32, resnet34@96, resnet50@224" in line


def test_one_exact_trial_after_each_stage_is_enough(predictions: Path) -> None:
    assert main(["run", "tiny", "--quiet", "--set", "search.exact_trials=1"]) == 0
    exact = [trial for trial in trials_of(predictions) if trial["source"] == "exact"]
    assert 1 <= len(exact) <= 3


# --- a study that was started ---


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lr=0.1", "training.lr was 0.05 when it was started and is 0.1 now"),
        ("training.epochs=3", "training.epochs was 1 when it was started and is 3 now"),
        ("seed=5", "was "),
        ("stages.resolutions=[8]", "stages.resolutions was [8, 16] "),
    ],
)
def test_a_changed_study_is_refused_with_the_way_out(
    trained: Path, override: str, message: str
) -> None:
    trials, front = trials_of(trained), (trained / "mlruns/studies/tiny/results.json").read_bytes()
    line = refusal(run_in(trained, "run", "tiny", "--quiet", "--set", override))
    assert message in line
    assert line.endswith("put it back, or give the study another name (--set name=NEW)")
    assert trials_of(trained) == trials
    assert (trained / "mlruns/studies/tiny/results.json").read_bytes() == front
    assert statuses(trained, "stage") == {"FINISHED": 2}


def test_changed_images_are_refused(trained: Path) -> None:
    next((trained / "images" / "train" / "bar").iterdir()).unlink()
    assert "data.digest was " in refusal(run_in(trained, "run", "tiny", "--quiet"))


def test_a_corrupt_journal_is_named_and_left_alone(trained: Path) -> None:
    path = trained / "mlruns/studies/tiny/trials.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:50] + b"\n"
    path.write_bytes(b"".join(lines))
    before = path.read_bytes()
    line = refusal(run_in(trained, "run", "tiny", "--quiet"))
    assert "trials.journal: corrupt journal (" in line
    assert "restore it from a copy, or delete it" in line
    assert path.read_bytes() == before
    path.unlink()
    assert run_in(trained, "run", "tiny", "--quiet").code == 0
    assert statuses(trained, "stage") == {"FINISHED": 2}


@pytest.fixture
def searched(predictions: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A study on stored predictions that is done."""
    assert main(["run", "tiny", "--quiet"]) == 0
    capsys.readouterr()
    return predictions


def _stages_are_a_number(entry: dict[str, Any]) -> None:
    entry["user_attrs"]["stages"] = 5


def _a_rate_too_many(entry: dict[str, Any]) -> None:
    entry["user_attrs"]["thresholds"] = [0.1] * 9


def _no_end(entry: dict[str, Any]) -> None:
    entry["datetime_complete"] = None


def _a_parameter_out_of_range(entry: dict[str, Any]) -> None:
    name = next(name for name in entry["params"] if name.startswith("deferral_rate"))
    entry["params"][name] = 7.0


def _attributes_are_a_number(entry: dict[str, Any]) -> None:
    entry["system_attrs"] = 0.5


@pytest.mark.parametrize(
    "damage",
    [
        _stages_are_a_number,
        _a_rate_too_many,
        _no_end,
        _a_parameter_out_of_range,
        _attributes_are_a_number,
    ],
)
@pytest.mark.parametrize("command", ["run", "status"])
def test_a_journal_whose_trial_makes_no_sense_is_corrupt(
    searched: Path, refused: Refused, damage: Callable[[dict[str, Any]], None], command: str
) -> None:
    path = searched / "mlruns/studies/tiny/trials.journal"
    lines = path.read_text().splitlines()
    place, entry = next(
        (place, entry)
        for place, entry in enumerate(map(json.loads, lines))
        if any(name.startswith("deferral_rate") for name in entry.get("params") or ())
    )
    damage(entry)
    lines[place] = json.dumps(entry)
    path.write_text("\n".join(lines) + "\n")
    assert "trials.journal: corrupt journal (" in refused(command, "tiny")


@pytest.mark.parametrize("identity", ["5", "nothing", "[1]"])
def test_a_journal_with_other_settings_than_a_table_is_corrupt(
    searched: Path, refused: Refused, identity: str
) -> None:
    path = searched / "mlruns/studies/tiny/trials.journal"
    lines = path.read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if "rcopt.identity" in line)
    entry = json.loads(lines[place])
    entry["user_attr"]["rcopt.identity"] = identity
    lines[place] = json.dumps(entry)
    path.write_text("\n".join(lines) + "\n")
    assert "trials.journal: corrupt journal (" in refused("run", "tiny", "--quiet")


def test_a_stored_trial_of_a_foreign_stage_is_named(searched: Path, refused: Refused) -> None:
    path = searched / "mlruns/studies/tiny/trials.journal"
    text = path.read_text()
    assert '[96,"resnet34"]' in text
    path.write_text(text.replace('[96,"resnet34"]', '[96,"resnet35"]'))
    line = refused("run", "tiny", "--quiet", "--trials", "9")
    assert "is of resnet35@96, which the study does not have" in line


def test_counted_macs_that_were_changed_are_counted_again(images: Path) -> None:
    path = images / "mlruns/studies/tiny/macs.json"
    path.parent.mkdir(parents=True)
    odd = {"mobilenet_v2-0.1@8/3": "x", "mobilenet_v2-0.25@8/3": {}, "mobilenet_v2-0.1@16/3": -5}
    path.write_text(json.dumps(odd))
    assert main(["run", "tiny", "--quiet", "--trials", "1"]) == 0
    counted = path.read_bytes()
    assert all(json.loads(counted)["macs"][name] > 1000 for name in odd)
    macs = json.loads(counted)["macs"]["mobilenet_v2-0.1@8/3"]
    path.write_bytes(counted.replace(b"%d" % macs, b"%d" % (macs + 1)))
    assert path.read_bytes() != counted
    assert main(["run", "tiny", "--quiet", "--trials", "1"]) == 0
    assert path.read_bytes() == counted


def test_damaged_results_are_named_and_made_again(trained: Path) -> None:
    path = trained / "mlruns/studies/tiny/results.json"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "results.json: damaged results (" in refusal(run_in(trained, "front", "tiny"))
    assert run_in(trained, "run", "tiny", "--quiet").code == 0
    assert path.read_bytes() == whole


def test_a_damaged_stage_in_the_store_is_told_and_made_again(trained: Path) -> None:
    trials = trials_of(trained)
    damaged = runs_of(trained, "stage")[0]
    folder = trained / "mlruns" / "artifacts" / "tiny" / damaged.run_id / "artifacts"
    path = folder / "stage.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + b"\xff" * 8)
    finished = run_in(trained, "run", "tiny")
    assert finished.code == 0, finished.err
    err = finished.err
    assert err.count("its SHA-256 is not the one its run") == 1
    assert "the stage is made again" in err
    assert statuses(trained, "stage") == {"FINISHED": 3}
    made = runs_of(trained, "stage")[-1].run_id
    again = (trained / "mlruns/studies/tiny/results.json").read_bytes()
    assert [p for p in (damaged.run_id, made) if p.encode() in again] == [made]
    # The same seed makes the same stage, so nothing else about the study changes.
    assert trials_of(trained) == trials


def test_damaged_weights_are_named_and_made_again(trained: Path) -> None:
    register = ("select", "tiny", "--min-accuracy", "0", "--register", "m")
    before = {run.run_id for run in runs_of(trained, "stage")}
    artifacts = trained / "mlruns" / "artifacts" / "tiny"
    for run_id in before:
        path = artifacts / run_id / "artifacts" / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-8])
    # The predictions are sound, so all that needs no weights still works.
    assert run_in(trained, "front", "tiny").code == 0
    refused = run_in(trained, *register)
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert "weights.safetensors: damaged, its SHA-256 is not the one its run" in line
    assert "; 'rcopt run tiny' trains mobilenet_v2-0.1@" in line
    assert line.endswith(" again, then repeat this")
    assert run_in(trained, "run", "tiny", "--quiet").code == 0
    done = run_in(trained, *register)
    assert done.code == 0, done.err
    picture = str(next((trained / "images" / "val" / "disc").iterdir()))
    assert run_in(trained, "predict", "m", picture).code == 0
    made = {run.run_id for run in runs_of(trained, "stage", "FINISHED")} - before
    assert len(made) == 1


def test_a_damaged_checkpoint_is_told_and_the_training_starts_over(
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise WorkError("stopped here")

    one = ("--set", "stages.resolutions=[8]", "--set", "stages.backbones=['mobilenet_v2-0.1']")
    with monkeypatch.context() as patch:
        patch.setattr("rcopt.models.prediction.predict", fail)
        assert main(["run", "tiny", "--quiet", *one]) == 1
        assert "stopped here" in capsys.readouterr().err
    (path,) = (images / "mlruns" / "checkpoints").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert main(["run", "tiny", "--quiet", "--retry-failed", *one]) == 0
    said = caplog.text
    assert f"{path}: not a sound checkpoint of this training (its sha256 is another)" in said
    assert "the training starts over" in said
    (stage,) = runs_of(images, "stage", "FINISHED")
    assert len(stage.metrics["train/loss"]) == 2  # both epochs


def test_a_moved_project_goes_on_where_it_was(trained: Path) -> None:
    assert run_in(trained, "run", "tiny", "--quiet", "--trials", "5").code == 0
    assert statuses(trained, "stage") == {"FINISHED": 2}


# --- a full disk ---


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, str], None]]:
    """Mounts a tiny file system over a folder."""
    mounted: list[Path] = []

    def mount(folder: Path, size: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount program")
        if done.returncode:
            pytest.skip(f"mounting needs rights: {done.stderr.decode().strip()}")
        mounted.append(folder)

    yield mount
    for folder in reversed(mounted):
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    ("folder", "size", "where"),
    [
        ("data", "8k", "mlruns/data: no space left on the disk"),
        ("studies/tiny", "4k", "no space left"),
        ("checkpoints", "8k", "no space left"),
        ("artifacts", "8k", "no space left"),
    ],
)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    images: Path,
    refused: Refused,
    small_disk: Callable[[Path, str], None],
    folder: str,
    size: str,
    where: str,
) -> None:
    place = images / "mlruns" / folder
    small_disk(place, size)
    assert where in refused("run", "tiny", "--quiet")
    assert "RUNNING" not in {run.status for run in stored_runs(images)}
    assert_nothing_half_written(images)
    subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
    assert main(["run", "tiny", "--quiet"]) == 0
    assert len(trials_of(images)) >= 6


@pytest.mark.parametrize("size", ["64k", "512k", "900k"])
def test_a_disk_that_is_full_at_first_use_is_one_line_and_the_same_command_goes_on(
    predictions: Path,
    refused: Refused,
    small_disk: Callable[[Path, str], None],
    size: str,
) -> None:
    small_disk(predictions / "mlruns", size)
    assert "no space left" in refused("run", "tiny", "--quiet")
    assert_nothing_half_written(predictions)
    subprocess.run(["mount", "-o", "remount,size=64m", str(predictions / "mlruns")], check=True)
    # Elsewhere, for MLflow keeps connections to the file that is made anew.
    assert run_in(predictions, "run", "tiny", "--quiet").code == 0
    assert len(trials_of(predictions)) >= 8


@pytest.mark.parametrize(
    ("size", "arguments"),
    [
        ("8k", ("export", "tiny", "small/out")),
        ("64k", ("report", "tiny", "--output", "small/out")),
        ("600k", ("report", "tiny", "--output", "small/out")),
    ],
)
def test_what_does_not_fit_is_not_left_half_written(
    searched: Path,
    refused: Refused,
    small_disk: Callable[[Path, str], None],
    size: str,
    arguments: tuple[str, ...],
) -> None:
    small_disk(searched / "small", size)
    assert "no space left" in refused(*arguments)
    assert_nothing_half_written(searched)
    assert not [p for p in (searched / "small").rglob("*") if p.suffix in (".partial", ".html")]
    subprocess.run(["mount", "-o", "remount,size=64m", str(searched / "small")], check=True)
    assert main(list(arguments)) == 0


# --- a folder that cannot be written ---


def test_a_read_only_project_is_one_line_a_command_and_stays_as_it_was(
    searched: Path,
    small_disk: Callable[[Path, str], None],
    tmp_path: Path,
) -> None:
    shown = tmp_path / "shown"
    small_disk(shown, "64m")
    for name in ("mlruns", "studies", "stored"):
        shutil.copytree(searched / name, shown / name)
    before = {path: path.read_bytes() for path in shown.rglob("*") if path.is_file()}
    subprocess.run(["mount", "-o", "remount,ro", str(shown)], check=True)
    assert run_in(shown, "front", "tiny").code == 0
    for arguments in (
        ("run", "tiny", "--quiet"),
        ("run", "tiny", "--quiet", "--trials", "20"),
        ("select", "tiny", "--knee"),
        ("report", "tiny"),
        ("export", "tiny", "out"),
        ("predict", "m", "x.png"),
    ):
        ended = run_in(shown, *arguments)
        assert ended.code in (1, 2), (arguments, ended)
        line = refusal(ended, ended.code)
        assert "internal error" not in line
        assert str(shown) in line
    assert {path: path.read_bytes() for path in shown.rglob("*") if path.is_file()} == before
    subprocess.run(["mount", "-o", "remount,rw", str(shown)], check=True)
    assert run_in(shown, "run", "tiny", "--quiet", "--trials", "10").code == 0


# --- a clock that jumps ---


def test_a_clock_that_jumps_changes_nothing(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ["run", "tiny", "--quiet", "--set", "stages.backbones=['mobilenet_v2-0.1']"]
    shutil.copytree(images, images / "jumping")
    assert main([*one, "--format", "json"]) == 0
    steady = without_run_ids(capsys.readouterr().out)
    monkeypatch.chdir(images / "jumping")
    rng = np.random.default_rng(0)
    real = time.time
    jumps = iter(rng.integers(-10, 10, 100_000) * 86_400.0)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + next(jumps))
        patch.setattr(time, "time_ns", lambda: int((real() + next(jumps)) * 1e9))
        assert main([*one, "--trials", "3"]) == 0
        assert main([*one, "--format", "json"]) == 0
    front = capsys.readouterr().out
    assert without_run_ids(front[front.index("\n[") :]) == steady
    assert statuses(images / "jumping", "stage") == {"FINISHED": 2}
    assert next(jumps, None) is not None
