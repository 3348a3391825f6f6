"""What was written before the packages were rearranged is still read, digit for digit.

README.md beside this file says what each stored file is and how it was made. Only the public
surface is used: commands, names of `rcopt` itself, and formats (JSON, safetensors, SQLite).
"""

import base64
import gzip
import hashlib
import json
import lzma
import os
import platform
import shutil
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import rcopt
from rcopt.cli.main import main

HERE = Path(__file__).parent
REPOSITORY = next((p for p in HERE.parents if (p / "studies" / "digits.toml").is_file()), HERE)

#: Stands in the stored databases and claims for the machine that wrote them.
_HOST = "before-host"

#: Of Optuna's journal.
_CREATE_TRIAL = 4

Rcopt = Callable[..., str]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of floats depend on how they are divided among threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished study by FLOPs and one by time, as they were left; the current folder."""
    return _placed("project", tmp_path, monkeypatch)


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study whose process was killed in the second epoch of its only stage."""
    return _placed("killed", tmp_path, monkeypatch)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Rcopt:
    """Run a command in this process; return what it printed, its error if it is to end so."""

    def run(*arguments: object, told: list[str] | None = None, code: int = 0) -> str:
        capsys.readouterr()
        ended = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert ended == code, err
        if told is not None:
            told.append(err)
        return err if code else out

    return run


def _placed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a stored project to where nobody minds that it changes, and enter it.

    Its database says ``/project`` where it lay; rcopt itself points a moved store at its files.
    """
    folder = tmp_path / name
    shutil.copytree(HERE / name, folder)
    packed = folder / "mlruns" / "mlflow.db.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    with closing(sqlite3.connect(packed.with_suffix(""))) as db, db:
        db.execute(
            "update tags set value = replace(value, ?, ?) where key = 'rcopt.owner'",
            (f"{_HOST}:", f"{platform.node()}:"),
        )
    for owner in (folder / "mlruns").glob("claims/*.owner"):
        owner.write_text(owner.read_text().replace(_HOST, platform.node()))
    monkeypatch.chdir(folder)
    return folder


def _expected(name: str) -> Any:
    return json.loads((HERE / "expected" / name).read_text(encoding="utf-8"))


def _same_arithmetic() -> bool:
    """Return whether torch computes here as it did where the numbers were written down."""
    return bool(_expected("conditions.json") == conditions())


def conditions() -> dict[str, str]:
    """Return what the last digits of a network's answers depend on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return {
        "processor": next(
            x.partition(":")[2].strip() for x in lines if x.startswith("model name")
        ),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def trials(journal: Path) -> list[dict[str, Any]]:
    """Return what the trials of a journal are, without times."""
    entries = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    return [
        {
            "values": entry.get("values"),
            "params": entry.get("params"),
            **{k: entry["user_attrs"][k] for k in ("source", "stages", "thresholds")},
        }
        for entry in entries
        if entry["op_code"] == _CREATE_TRIAL
    ]


def described(trained: rcopt.TrainedStage) -> dict[str, Any]:
    """Return all that a stage file says, its arrays as digests."""
    return {
        "stage": trained.stage.name,
        "flops": trained.stage.flops,
        "key": trained.key,
        "macs": trained.macs,
        "parameters": trained.parameters,
        "details": {k: v for k, v in trained.details.items() if k not in ("seconds", "hardware")},
        "splits": {
            split: {
                "images": hashlib.sha256("\n".join(p.images).encode()).hexdigest(),
                "labels": hashlib.sha256(p.labels.tobytes()).hexdigest(),
                "probabilities": hashlib.sha256(p.probabilities.tobytes()).hexdigest(),
                "accuracy": p.accuracy,
            }
            for split, p in trained.predictions.items()
        },
    }


def trained_runs(folder: Path) -> dict[str, list[int]]:
    """Return the stages that were trained to their end: key, and which epochs were logged."""
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as db:
        runs = db.execute(
            "select t.value, r.run_uuid from tags t join runs r using (run_uuid) "
            "where t.key = 'rcopt.stage_key' and r.status = 'FINISHED'"
        ).fetchall()
        return {
            key: [
                step
                for (step,) in db.execute(
                    "select step from metrics where run_uuid = ? and key = 'train/loss' "
                    "order by step",
                    [run],
                )
            ]
            for key, run in runs
        }


def without_run_ids(front: str) -> list[dict[str, Any]]:
    """Return a front's JSON, but for what differs from store to store."""
    return [{k: v for k, v in point.items() if k != "run_id"} for point in json.loads(front)]


@pytest.mark.parametrize("name", ["tiny", "tiny-latency"])
def test_results_are_read_as_they_were(project: Path, command: Rcopt, name: str) -> None:
    front = command("front", name, "--all", "--format", "json")
    assert json.loads(front) == _expected(f"{name}-front.json")
    numbers = [point["validation"] for point in json.loads(front)]
    shown = [point.to_dict()["validation"] for point in rcopt.front(rcopt.load_study(name))]
    assert [point for point in numbers if point in shown] == shown
    assert len(shown) == min(20, len(numbers))


@pytest.mark.parametrize("name", ["tiny", "tiny-latency"])
def test_the_status_of_stored_trials_and_stages_is_as_it_was(
    project: Path, command: Rcopt, name: str
) -> None:
    now = json.loads(command("status", name, "--format", "json"))
    before = _expected(f"{name}-status.json")
    # The hypervolume is measured in another frame since.
    same = before.keys() - {"reference", "hypervolume", "sampled_hypervolume", "sampled_share"}
    assert {key: now[key] for key in same} == {key: before[key] for key in same}


def test_the_same_configuration_is_selected(project: Path, command: Rcopt) -> None:
    chosen = command("select", "tiny", "--max-flops", "700K", "--format", "json")
    _check_choice(json.loads(chosen), _expected("select-flops.json"))


def test_stage_files_hold_what_they_held(project: Path) -> None:
    found = [described(rcopt.load_stage(path)) for path in _stage_files(project)]
    assert sorted(found, key=lambda stage: str(stage["stage"])) == _expected("stages.json")


def test_a_study_of_stored_stage_files_has_the_front_they_had(
    project: Path, command: Rcopt
) -> None:
    (project / "stored").mkdir()
    for number, path in enumerate(_stage_files(project)):
        shutil.copy(path, project / "stored" / f"{number}.safetensors")
    study = '[data]\nsource = "predictions"\nroot = "stored"\n\n[stages]\noptional = true\n'
    (project / "studies" / "stored.toml").write_text(study)
    command("run", "studies/stored.toml", "--trials", 6, "--quiet")
    front = command("front", "stored", "--all", "--format", "json")
    before = json.dumps(_expected("tiny-front.json"))
    assert without_run_ids(front) == without_run_ids(before)


@pytest.mark.parametrize("name", ["tiny", "tiny-latency"])
def test_a_finished_study_is_extended_by_the_same_trials(
    project: Path, command: Rcopt, name: str
) -> None:
    """The journal is read; macs.json spares counting, the store training, its table rows."""
    before = trained_runs(project)
    told: list[str] = []
    command("run", name, "--trials", 9, told=told)
    journal = project / "mlruns" / "studies" / name / "trials.journal"
    assert trials(journal) == _expected(f"{name}-trials-9.json")
    assert trained_runs(project) == before
    (table,) = project.glob(f"mlruns/artifacts/{name}/*/artifacts/trials.csv")
    assert len(table.read_text(encoding="utf-8").splitlines()) == 1 + len(trials(journal))
    assert "count MACs" not in told[0]
    assert "train " not in told[0]
    assert "time stages" not in told[0]
    front = command("front", name, "--all", "--format", "json")
    assert without_run_ids(front) == without_run_ids(json.dumps(_expected(f"{name}-front.json")))


def test_another_study_finds_the_stages_that_were_trained(project: Path, command: Rcopt) -> None:
    before = trained_runs(project)
    assert {key: [1, 2, 3] for key in before} == before
    assert len(before) == 2
    told: list[str] = []
    command("run", "studies/tiny.toml", "--set", "name=again", told=told)
    assert trained_runs(project) == before
    assert "train " not in told[0]
    front = command("front", "again", "--all", "--format", "json")
    assert without_run_ids(front) == without_run_ids(json.dumps(_expected("tiny-front.json")))


def test_stored_times_of_stages_rank_a_front(project: Path, command: Rcopt) -> None:
    """They count under the conditions that they were measured under; others are added."""
    path = project / "mlruns" / "studies" / "tiny-latency" / "latency.json"
    ranked = ["front", "tiny-latency", "--cost", "latency", "--all", "--format", "json"]
    written = path.read_text(encoding="utf-8")
    (measured,) = json.loads(written)["measurements"]
    command(*ranked)
    now = json.loads(path.read_text(encoding="utf-8"))["measurements"]
    assert now[0] == measured
    if len(now) == 1:
        assert path.read_text(encoding="utf-8") == written
    else:
        # Another machine: as if it had been this one.
        measured["conditions"] = now[1]["conditions"]
        _write_sealed(path, {"format": json.loads(written)["format"], "measurements": [measured]})
    told: list[str] = []
    assert json.loads(command(*ranked, told=told)) == _expected("tiny-latency-ranked.json")
    assert "time stages" not in told[0]


@pytest.mark.parametrize("source", ["tiny-cascade", "models:/tiny-cascade/1", "folder"])
def test_a_registered_cascade_answers_as_it_did(
    project: Path, command: Rcopt, source: str
) -> None:
    found = json.loads(
        command(
            "predict",
            _model(project) if source == "folder" else source,
            *sorted((HERE / "pictures").iterdir()),
            "--format",
            "json",
        )
    )
    _check_answers([{**answer, "file": Path(answer["file"]).name} for answer in found])


def test_a_stored_cascade_is_described_as_it_was(project: Path) -> None:
    loaded = rcopt.load_cascade(_model(project))
    bundle = json.loads(
        (_model(project) / "artifacts" / "cascade" / "cascade.json").read_text(encoding="utf-8")
    )
    assert bundle["format"] == "rcopt-cascade-2"
    assert loaded.description == {k: v for k, v in bundle.items() if k != "sha256"}
    assert [stage.name for stage in loaded.cascade.stages] == [
        "mobilenet_v2-0.1@16",
        "mobilenet_v2-0.1@24",
    ]


def test_mlflow_serves_a_cascade_that_was_registered(project: Path) -> None:
    """It holds code of its time: that imports `rcopt.cascade_files` and `rcopt.serving`."""
    pictures = sorted((HERE / "pictures").iterdir())
    rows = [base64.b64encode(path.read_bytes()).decode() for path in pictures]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own
        import mlflow.pyfunc
        import pandas as pd

        model = mlflow.pyfunc.load_model(str(_model(project)))
        answers = model.predict(pd.DataFrame({"image": rows}))
    _check_answers(
        [{"file": path.name, **answer} for path, answer in zip(pictures, answers, strict=True)]
    )


def test_a_training_goes_on_from_a_stored_checkpoint(killed: Path, command: Rcopt) -> None:
    expected = _expected("killed.json")
    told: list[str] = []
    front = command("run", "cut", "--format", "json", told=told)
    ((key, epochs),) = trained_runs(killed).items()
    assert key == expected["stage"]["key"]
    assert epochs == [2, 3]
    assert "damaged" not in told[0]
    assert list((killed / "mlruns" / "checkpoints").iterdir()) == []
    command("export", "cut", "exported")
    (path,) = (killed / "exported").iterdir()
    found = described(rcopt.load_stage(path))
    if _same_arithmetic():
        assert found == expected["stage"]
        assert without_run_ids(front) == expected["front"]
    with closing(sqlite3.connect(killed / "mlruns" / "mlflow.db")) as db:
        assert db.execute("select count(*) from runs where status = 'RUNNING'").fetchone() == (0,)


@pytest.mark.slow
def test_the_study_of_stored_predictions_has_the_front_it_had(
    tmp_path: Path, command: Rcopt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Imagenette replay: arithmetic alone, so every digit is the same on any machine."""
    studies = REPOSITORY / "studies"
    (tmp_path / "studies").mkdir()
    shutil.copy(studies / "imagenette-predictions.toml", tmp_path / "studies")
    shutil.copytree(
        studies / "imagenette-predictions", tmp_path / "studies" / "imagenette-predictions"
    )
    monkeypatch.chdir(tmp_path)
    command("run", "studies/imagenette-predictions.toml", "--quiet")
    front = command("front", "imagenette-predictions", "--all", "--format", "json")
    assert without_run_ids(front) == without_run_ids(_unpacked("imagenette-front.json.xz"))
    chosen = command("select", "imagenette-predictions", "--knee", "--format", "json")
    _check_choice(json.loads(chosen), _expected("imagenette-select-knee.json"))


@pytest.mark.skipif(
    "RCOPT_DEMO_PROJECT" not in os.environ,
    reason="RCOPT_DEMO_PROJECT names no project in which the demo has been run",
)
def test_the_demo_has_the_front_it_had(command: Rcopt, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stages are trained in bfloat16 where the processor can: compare on one machine."""
    monkeypatch.chdir(os.environ["RCOPT_DEMO_PROJECT"])
    file = os.environ.get("RCOPT_DEMO_FRONT", "digits-front.json")
    front = command("front", "digits", "--all", "--format", "json")
    assert without_run_ids(front) == without_run_ids((HERE / file).read_text())


def _check_choice(chosen: dict[str, Any], before: dict[str, Any]) -> None:
    """Compare all that was told then; more is told now."""
    for key in before.keys() - {"run_id", "test"}:
        assert chosen[key] == before[key], key
    assert {key: chosen["test"][key] for key in before["test"]} == before["test"]


def _unpacked(name: str) -> str:
    return lzma.decompress((HERE / name).read_bytes()).decode()


def _stage_files(project: Path) -> list[Path]:
    return sorted(project.glob("mlruns/artifacts/tiny/*/artifacts/stage.safetensors"))


def _model(project: Path) -> Path:
    (folder,) = project.glob("mlruns/artifacts/tiny/models/*/artifacts")
    return folder


def _check_answers(found: list[dict[str, Any]]) -> None:
    expected = _expected("answers.json")
    if not _same_arithmetic():
        expected = [
            {**answer, "probability": pytest.approx(answer["probability"], abs=1e-5)}
            for answer in expected
        ]
    assert found == expected


def _write_sealed(path: Path, tree: dict[str, Any]) -> None:
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    sealed = {"sha256": hashlib.sha256(text.encode()).hexdigest(), **tree}
    path.write_text(json.dumps(sealed, indent=1), encoding="utf-8")
