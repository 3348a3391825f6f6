"""Time as a study's cost: measured once, kept, and never mixed with FLOPs."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rcopt.cli.main import main
from rcopt.core.cascade import Stage
from rcopt.data.prediction_files import save_stage
from rcopt.errors import InputError
from rcopt.study.file import Study, load_study
from rcopt.study.front_by_cost import rank
from rcopt.study.results_file import load_results
from rcopt.study.run_study import front
from rcopt.study.stages.times import Conditions, StageTimes, stage_times
from rcopt.study.stored_json import DamagedError
from tests.support.simulated import simulated_stages
from tests.support.study_helpers import (
    SIZES,
    STORED,
    Finished,
    start,
    stored_runs,
    trials_of,
    write_study,
)

# The first test runs two studies.

#: Backbones that rcopt can build, small enough to be timed in a moment; their FLOPs are
#: made up, so that no order by time is one by FLOPs.
STAGES = (
    Stage(8, "mobilenet_v2-0.1", 5e9),
    Stage(12, "mobilenet_v2-0.1", 6e9),
    Stage(16, "resnet18", 7e9),
)
TIMED = STORED.replace("[search]", '[search]\ncost = "latency"')


def stored_stages(folder: Path, stages: Sequence[Stage] = STAGES) -> None:
    folder.mkdir()
    for stage, trained in zip(stages, simulated_stages(SIZES, decimals=2), strict=True):
        save_stage(folder / f"{stage.name}.safetensors", replace(trained, stage=stage))


def new_project(project: Path, store_template: Path, text: str = TIMED) -> Study:
    (project / "mlruns").mkdir(parents=True)
    shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
    stored_stages(project / "stored")
    return load_study(write_study(project, text))


@pytest.fixture(scope="module")
def done(store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a study that minimizes time and one that minimizes FLOPs."""
    project = tmp_path_factory.mktemp("done") / "project"
    file = str(new_project(project, store_template).file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert main(["run", file, "--quiet"]) == 0
        by_flops = ["--set", "name=flops", "--set", "search.cost=flops"]
        assert main(["run", file, "--quiet", *by_flops]) == 0
    return project


@pytest.fixture
def project(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is also where the test stands."""
    copied = shutil.copytree(done, tmp_path / "copied")
    monkeypatch.chdir(copied)
    return copied


def rcopt(capsys: pytest.CaptureFixture[str], *arguments: str) -> Finished:
    capsys.readouterr()
    code = main(list(arguments))
    return Finished(code, *capsys.readouterr())


def times_of(project: Path, study: str = "tiny") -> dict[str, float]:
    results = load_results(project / "mlruns" / "studies" / study / "results.json")
    return {s.stage.name: s.stage.cost for s in results.stages}


def mean_time(entry: dict[str, Any], split: str) -> float:
    """What the contract's numbers say an image takes: reach rate times time, summed."""
    reached, total = 1.0, 0.0
    for stage, exits in zip(entry["stages"], entry[split]["exit_rates"], strict=True):
        total += reached * stage["milliseconds"]
        reached -= exits
    return total


# --- a study that minimizes time ---


def test_its_trials_are_told_by_time_and_named_so(project: Path) -> None:
    times = times_of(project)
    for trial in trials_of(project):
        _, cost = trial["values"]
        names = [f"{backbone}@{resolution}" for resolution, backbone in trial["stages"]]
        assert times[names[0]] <= cost <= sum(times[name] for name in names) * (1 + 1e-12)
    journal = (project / "mlruns/studies/tiny/trials.journal").read_text()
    assert '["accuracy","mean_milliseconds"]' in journal
    other = (project / "mlruns/studies/flops/trials.journal").read_text()
    assert '["accuracy","mean_flops"]' in other
    assert "milliseconds" not in other


def test_its_front_is_exact_by_time_and_keeps_true_flops(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = json.loads(rcopt(capsys, "front", "tiny", "--all", "--format", "json").out)
    costs = [point["validation"]["mean_milliseconds"] for point in points]
    assert costs == sorted(costs)
    flops = {stage.name: stage.flops for stage in STAGES}
    for point in points:
        for split in ("validation", "test"):
            found = point[split]
            assert found["mean_milliseconds"] == pytest.approx(mean_time(point, split))
        for stage in point["stages"]:
            assert stage["flops"] == flops[f"{stage['backbone']}@{stage['resolution']}"]
    # The cheapest point by time is the fastest stage that is alone on the front.
    assert points[0]["validation"]["mean_milliseconds"] == min(times_of(project).values())


def test_a_front_by_flops_says_nothing_of_time(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("json", "csv", "table"):
        out = rcopt(capsys, "front", "flops", "--format", form).out
        assert "milliseconds" not in out
        assert " ms" not in out


def test_tables_name_time_and_how_it_was_measured(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = rcopt(capsys, "front", "tiny").out
    assert "batch 1, torch" in out
    header = ["ms", "MFLOPs", "test", "%", "ms", "MFLOPs", "exits", "%"]
    assert out.splitlines()[5].split()[-8:] == header
    csv = rcopt(capsys, "front", "tiny", "--format", "csv").out.splitlines()
    assert csv[0].endswith("val_mean_milliseconds,test_mean_milliseconds")
    assert all(float(line.split(",")[-1]) > 0 for line in csv[1:])
    status = rcopt(capsys, "status", "tiny").out
    assert "ms" in status.split()


def test_the_store_holds_time_beside_flops(project: Path) -> None:
    fronts = {"tiny": 0, "flops": 0}
    for run in stored_runs(project):
        if run.tags.get("rcopt.pareto") != "true":
            continue
        study = run.tags["rcopt.study"]
        fronts[study] += 1
        assert {"val/accuracy", "val/mflops", "test/mflops"} <= run.metrics.keys()
        assert ({"val/ms", "test/ms"} <= run.metrics.keys()) == (study == "tiny")
    assert min(fronts.values()) > 0


def test_the_sampled_trials_of_both_studies_propose_alike_at_first(project: Path) -> None:
    """What differs is the cost alone: the same cascades have the same accuracy."""
    timed, plain = (
        {
            (str(t["stages"]), str(t["thresholds"])): t["values"][0]
            for t in trials_of(project, name)
        }
        for name in ("tiny", "flops")
    )
    assert timed.keys() & plain.keys()
    assert all(timed[key] == plain[key] for key in timed.keys() & plain.keys())


def test_its_times_stay_whatever_is_measured_later(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = times_of(project)
    assert rcopt(capsys, "front", "tiny", "--cost", "latency", "--measure-again").code == 0
    kept = json.loads((project / "mlruns/studies/tiny/latency.json").read_text())["measurements"]
    assert kept[0]["milliseconds"] != before
    extended = start(project, tmp_path / "extended", "run", "tiny", "--trials", "12", "--quiet")
    assert extended.wait().code == 0, extended.err
    assert times_of(project) == before
    assert len([t for t in trials_of(project) if t["source"] == "sampled"]) == 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("search.cost=flops", "search.cost was latency when it was started and is flops now"),
        ("latency.batch_size=2", "latency.batch_size was 1 when it was started and is 2 now"),
    ],
)
def test_another_cost_is_refused(
    change: str, said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = rcopt(capsys, "run", "tiny", "--set", change, "--quiet")
    assert finished.code == 2
    assert said in finished.err


def test_how_time_is_measured_may_change_where_flops_count(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rcopt(capsys, "run", "flops", "--set", "latency.batch_size=8", "--quiet").code == 0


def test_a_choice_is_made_by_time(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = json.loads(rcopt(capsys, "front", "tiny", "--all", "--format", "json").out)
    wanted = points[len(points) // 2]
    budget = str(wanted["validation"]["mean_milliseconds"])
    picked = rcopt(capsys, "select", "tiny", "--max-milliseconds", budget, "--format", "json")
    chosen = json.loads(picked.out)
    assert chosen["stages"] == wanted["stages"]
    assert chosen["validation"]["mean_milliseconds"] == float(budget)
    assert "ms" in rcopt(capsys, "select", "tiny", "--knee").out.split()


def test_what_speaks_of_flops_alone_refuses_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = rcopt(capsys, "report", "tiny")
    assert (report.code, report.out) == (2, "")
    assert "this study minimizes time" in report.err
    repeats = rcopt(capsys, "repeats", "tiny", "flops")
    assert repeats.code == 2
    assert "cannot be put in one front" in repeats.err


def test_damaged_times_are_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = project / "mlruns/studies/tiny/trials.journal"
    text = journal.read_text()
    assert '\\"calls\\"' in text
    journal.write_text(text.replace('\\"calls\\"', '\\"colls\\"'))
    finished = rcopt(capsys, "run", "tiny", "--quiet")
    assert finished.code == 2
    assert "times in the study's storage are damaged" in finished.err


# --- ranking a front by another cost ---


def test_a_front_ranked_by_time_is_that_of_a_study_by_time(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load_study("flops")
    # With the times of the other study there is no difference left but who searched.
    shutil.copyfile(
        project / "mlruns/studies/tiny/latency.json", project / "mlruns/studies/flops/latency.json"
    )
    ranked = rank(study, "latency")
    own = front(load_study("tiny"), everything=True)
    assert ranked.exact
    assert [(p.validation.accuracy, p.validation.cost) for p in ranked.points] == [
        (p.validation.accuracy, p.validation.cost) for p in own
    ]
    assert [p.test for p in ranked.points] == [p.test for p in own]
    printed = rcopt(capsys, "front", "flops", "--cost", "latency", "--format", "json", "--all")
    assert len(json.loads(printed.out)) == len(own)


def test_a_front_ranked_by_flops_is_that_of_a_study_by_flops(project: Path) -> None:
    ranked = rank(load_study("tiny"), "flops")
    own = front(load_study("flops"), everything=True)
    assert ranked.times is None
    assert [(p.validation, p.test) for p in ranked.points] == [(p.validation, p.test) for p in own]


def test_a_choice_from_a_ranked_front(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--knee", "--format", "json"]
    finished = rcopt(capsys, "select", "flops", "--cost", "latency", "--batch-size", "2", *asked)
    assert json.loads(finished.out)["validation"]["mean_milliseconds"] > 0
    finished = rcopt(capsys, "select", "flops", "--max-milliseconds", "1")
    assert finished.code == 2
    assert "needs points by this cost" in finished.err


def test_how_to_time_is_refused_where_nothing_is_timed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for cost in ([], ["--cost", "flops"]):
        finished = rcopt(capsys, "front", "tiny", *cost, "--device", "cpu")
        assert finished.code == 2
        assert "add --cost latency" in finished.err


# --- measuring ---


@pytest.fixture
def study(tmp_path: Path, store_template: Path) -> Study:
    study = new_project(tmp_path / "fresh", store_template)
    study.folder.mkdir(parents=True)
    return study


def conditions_kept(study: Study) -> list[int]:
    entries = json.loads((study.folder / "latency.json").read_text())["measurements"]
    return [entry["conditions"]["batch_size"] for entry in entries]


def test_times_are_measured_once_for_the_same_conditions(study: Study) -> None:
    first = stage_times(study, STAGES, 2)
    assert set(first.amounts) == {stage.name for stage in STAGES}
    assert first.calls == 32
    assert stage_times(study, STAGES, 2) == first
    assert stage_times(study, STAGES[2:], 2) == first
    assert stage_times(study, STAGES, 2, again=True) != first
    assert conditions_kept(study) == [1]


def test_times_of_other_conditions_are_kept_beside(study: Study) -> None:
    first = stage_times(study, STAGES, 2)
    latency = study.settings.latency.model_copy(update={"batch_size": 16})
    batch = replace(study, settings=study.settings.model_copy(update={"latency": latency}))
    assert stage_times(batch, STAGES, 2).calls == 5
    assert stage_times(study, STAGES, 2) == first
    assert conditions_kept(study) == [1, 16]


def test_one_missing_stage_has_all_measured_together(study: Study) -> None:
    first = stage_times(study, STAGES[1:], 2)
    both = stage_times(study, STAGES, 2)
    assert set(both.amounts) == {stage.name for stage in STAGES}
    assert all(both.amounts[name] != first.amounts[name] for name in first.amounts)


def test_a_backbone_that_nobody_can_build_is_named(study: Study) -> None:
    with pytest.raises(InputError, match="vit_b@16 cannot be timed: unknown backbone 'vit_b'"):
        stage_times(study, [*STAGES[:2], Stage(16, "vit_b", 1.0)], 2)
    assert not (study.folder / "latency.json").exists()


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda:99", "cuda:99 is not there"),
        ("meta", "'meta' is no"),
        ("toaster", "'toaster' is no"),
    ],
)
def test_a_device_that_is_not_there_is_named(study: Study, device: str, said: str) -> None:
    latency = study.settings.latency.model_copy(update={"device": device})
    elsewhere = replace(study, settings=study.settings.model_copy(update={"latency": latency}))
    with pytest.raises(InputError, match=rf"latency\.device: {said}"):
        stage_times(elsewhere, STAGES, 2)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"format": "other"}', '{"format": "rcopt-latency-1", "measurements": [1]}'],
)
def test_damaged_measurements_are_named(text: str, study: Study) -> None:
    (study.folder / "latency.json").write_text(text)
    with pytest.raises(InputError, match=r"latency\.json: damaged measurements .* delete it"):
        stage_times(study, STAGES, 2)


def test_measurements_say_how_they_were_made() -> None:
    times = StageTimes(
        "latency", Conditions("CPU", 2, 8, "auto", 32, 10, "2.0"), 5, {"a@8": 1.0}, 0.04
    )
    assert str(times) == (
        "CPU, 2 threads, batch 8, torch 2.0; median of 5 calls a stage, middle half within 4%"
    )
    assert StageTimes.from_json("latency", json.dumps(times.to_json())) == times
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        damaged = {**times.to_json(), "milliseconds": {"a@8": wrong}}
        with pytest.raises(DamagedError, match=r"milliseconds\.a@8: Input should be"):
            StageTimes.from_json("latency", json.dumps(damaged))
