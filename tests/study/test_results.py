import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcopt.core.cascade import NEVER, Cascade, OperatingPoint, Stage
from rcopt.core.evaluating import evaluation
from rcopt.core.hypervolumes import Frame
from rcopt.errors import InputError
from rcopt.files import digest, sealed, unsealed
from rcopt.study.results import Results, StageSummary
from rcopt.study.results_file import load_results, save_results


def point(exits: tuple[int, ...], thresholds: tuple[float, ...]) -> OperatingPoint:
    known = (Stage(8, "small", 1 / 3), Stage(16, "large", 2e9), Stage(32, "huge", 1e11))
    stages = known[: len(exits)]
    counts = np.array(exits)
    reached = counts[::-1].cumsum()[::-1]
    flops = np.array([stage.flops for stage in stages])
    measured = evaluation(sum(exits) // 3, counts, reached, flops, sum(exits))
    return OperatingPoint(
        Cascade(stages, thresholds), measured, measured, source="sampled", trial=4, run_id="r"
    )


@pytest.fixture
def results() -> Results:
    # In the last point nobody reaches the third stage from the second: a rate is nan.
    first, last = point((7,), ()), point((7, 0, 0), (0.1 + 0.2, NEVER))
    return Results(
        study="s",
        points=(first, replace(last, source="exact", trial=None, run_id=None)),
        stages=(StageSummary(Stage(8, "small", 1 / 3), "k", 1, 2, 0.1, 0.2, 1.5, None),),
        frame=Frame(1 / 3, 1e11, 1 / 7),
        hypervolume=1 / 7,
        sampled_hypervolume=1 / 9,
        sampled=5,
        exact=True,
        split_sizes={"train": 3, "validation": 7},
        classes=("a", "ü"),
        experiment_id="1",
    )


def test_results_read_back_to_the_last_bit(tmp_path: Path, results: Results) -> None:
    save_results(tmp_path / "r.json", results)
    back = load_results(tmp_path / "r.json")
    # As text, for nan does not equal itself; it holds every bit of a float.
    assert repr(back) == repr(results)
    assert np.isnan(back.points[1].validation.deferral_rates[1])
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_results_of_before_hypervolumes_were_shares_are_read(
    tmp_path: Path, results: Results
) -> None:
    save_results(tmp_path / "r.json", results)
    tree = unsealed(json.loads((tmp_path / "r.json").read_text()))
    del tree["frame"]
    tree |= {"format": "rcopt-results-2", "reference": [0.1, 1e9], "hypervolume": 8e8}
    (tmp_path / "r.json").write_text(json.dumps(sealed(tree)))
    back = load_results(tmp_path / "r.json")
    assert back.frame == Frame(0.1, 1 / 3, 1 / 3)
    assert 0 <= back.hypervolume <= 1
    assert back.sampled_hypervolume is None
    assert repr(back.points) == repr(results.points)


def test_the_file_is_json_that_every_reader_takes(tmp_path: Path, results: Results) -> None:
    save_results(tmp_path / "r.json", results)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_results(tmp_path / "r.json", results)
    before = (tmp_path / "r.json").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_results(tmp_path / "r.json", replace(results, study="other"))
    assert (tmp_path / "r.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_study_without_results_is_told_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^mine: no front yet; 'rcopt run' makes one"):
        load_results(tmp_path / "mine" / "results.json")


def _without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda tree: tree.pop(key)


@pytest.mark.parametrize(
    "damage",
    [
        *map(_without, ("format", "study", "front", "stages", "frame", "split_sizes")),
        lambda tree: tree.update(format="rcopt-results-0"),
        lambda tree: tree.update(front=None),
        lambda tree: tree.update(frame=[1]),
        lambda tree: tree["front"][0].pop("validation"),
        lambda tree: tree["front"][0].update(validation=None),
        lambda tree: tree["front"][1]["stages"].clear(),
        lambda tree: tree["front"][1]["validation"].update(exit_rates="x"),
        lambda tree: tree["stages"][0].update(flops="many"),
        lambda tree: tree.update(split_sizes=[]),
    ],
)
def test_a_damaged_file_is_one_line_that_says_how_to_mend_it(
    tmp_path: Path, results: Results, damage: Callable[[dict[str, Any]], object]
) -> None:
    path = tmp_path / "r.json"
    save_results(path, results)
    tree = json.loads(path.read_text())
    damage(tree)
    tree.pop("sha256")
    path.write_text(json.dumps(tree | {"sha256": digest(tree)}))
    with pytest.raises(InputError, match=r"damaged results \(.*\); 'rcopt run' writes") as caught:
        load_results(path)
    assert "\n" not in str(caught.value)


def test_damage_that_leaves_sound_json_is_seen(tmp_path: Path, results: Results) -> None:
    path = tmp_path / "r.json"
    save_results(path, results)
    text = path.read_text()
    for old, new in (('"sampled": 5', '"sampled": 6'), ('"r"', '"s"'), ("null", "0")):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(InputError, match=r"damaged results \(its sha256 is another\)"):
            load_results(path)


def test_every_truncation_is_one_line(tmp_path: Path, results: Results) -> None:
    path = tmp_path / "r.json"
    save_results(path, results)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged results"):
            load_results(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"null", b"3", b'"x"', b"{}"])
def test_what_is_no_results_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(InputError, match="damaged results"):
        load_results(tmp_path / "r.json")
