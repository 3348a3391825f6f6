import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcopt.cli import tables
from rcopt.core.cascade import NEVER, Cascade, OperatingPoint, Stage
from rcopt.core.evaluating import evaluation
from rcopt.core.hypervolumes import Frame
from rcopt.core.wording import cascade_text, duration, short_name
from rcopt.study.results import Results, StageSummary

NAMES = ("resnet18", "resnet152-s1", "mobilenet_v2", "mobilenet_v2-0.25")


def make_point(
    names: Sequence[str] = ("resnet18", "resnet50"),
    exits: Sequence[int] = (3, 7),
    thresholds: Sequence[float] = (0.913,),
    *,
    tested: bool = True,
    run_id: str | None = "r",
) -> OperatingPoint:
    """A point whose numbers follow from how many images each stage answers."""
    stages = tuple(
        Stage(resolution, name, 1e6 * resolution * resolution)
        for resolution, name in zip((32, 96, 224, 384, 1024), names, strict=False)
    )
    counts = np.array(exits)
    reached = counts[::-1].cumsum()[::-1]
    flops = np.array([stage.flops for stage in stages])
    n = int(counts.sum())
    measured = evaluation(int(counts[0] + counts[-1] // 2), counts, reached, flops, n)
    return OperatingPoint(
        Cascade(stages, tuple(thresholds)),
        measured,
        measured if tested else None,
        source="sampled",
        trial=3,
        run_id=run_id,
    )


@st.composite
def points(draw: st.DrawFn) -> OperatingPoint:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5))
    exits = draw(
        st.lists(st.integers(0, 5000), min_size=len(names), max_size=len(names)).filter(any)
    )
    levels = st.sampled_from([0.0, 0.5, 0.999999, 1.0, NEVER])
    thresholds = draw(st.lists(levels, min_size=len(names) - 1, max_size=len(names) - 1))
    return make_point(names, exits, thresholds, tested=draw(st.booleans()))


@pytest.fixture(autouse=True, scope="module")
def no_terminal() -> Iterator[None]:
    """pytest-xdist tells its workers the width of the terminal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield


@pytest.mark.parametrize("columns", [80, 100, 250])
@given(front=st.lists(points(), max_size=5))
def test_a_front_fits_the_terminal_and_loses_no_stage(
    columns: int, front: list[OperatingPoint]
) -> None:
    with patch.dict(os.environ, {"COLUMNS": str(columns)}):
        lines = tables.front_table(front).splitlines()
    assert max(map(len, lines)) <= min(columns, 120)
    printed = " ".join(lines)
    for point in front:
        for stage in point.cascade.stages:
            assert short_name(stage) in printed


def test_a_front_is_printed_with_its_numbers_in_percent_and_mflops() -> None:
    lines = tables.front_table([make_point(["resnet18"], [10], []), make_point()]).splitlines()
    assert lines[0].startswith("cascade (stage, threshold, next)")
    assert lines[0].split()[4:] == ["val", "%", "MFLOPs", "test", "%", "MFLOPs", "exits", "%"]
    assert lines[2].split() == ["r18@32", "150.00", "1024", "150.00", "1024", "100"]
    assert lines[3].split() == (
        ["r18@32", "0.913", ">", "r50@96", "60.00", "7475", "60.00", "7475", "30/70"]
    )


def test_a_cascade_too_long_for_a_line_goes_on_below() -> None:
    names = ["resnet152-s1"] * 5
    text = tables.front_table([make_point(names, [10] * 5, [0.5] * 4)])
    first, *others = text.splitlines()[2:]
    assert first.startswith("r152-s1@32 0.500 > r152-s1@96 0.500")
    assert first.endswith("20/20/20/20/20")
    assert all(line.startswith("  > ") for line in others)


def test_an_untested_front_has_empty_test_columns() -> None:
    row = tables.front_table([make_point(tested=False)]).splitlines()[2]
    assert row.split() == ["r18@32", "0.913", ">", "r50@96", "60.00", "7475", "30/70"]


def test_a_threshold_that_nothing_reaches_is_called_never() -> None:
    assert (
        cascade_text(make_point(thresholds=(NEVER,)).cascade, short=True)
        == "r18@32 never > r50@96"
    )
    assert (
        cascade_text(make_point(thresholds=(1.0,)).cascade, short=True) == "r18@32 1.000 > r50@96"
    )


def test_json_has_the_keys_of_the_contract_and_no_others() -> None:
    (entry,) = json.loads(tables.front_json([make_point()]))
    assert entry == {
        "stages": [
            {"resolution": 32, "backbone": "resnet18", "flops": 1.024e9, "threshold": 0.913},
            {"resolution": 96, "backbone": "resnet50", "flops": 9.216e9, "threshold": None},
        ],
        "validation": {"accuracy": 0.6, "mean_flops": 7.4752e9, "exit_rates": [0.3, 0.7]},
        "test": {"accuracy": 0.6, "mean_flops": 7.4752e9, "exit_rates": [0.3, 0.7]},
        "run_id": "r",
    }


@given(st.lists(points(), max_size=4))
def test_csv_and_json_say_the_same_to_the_last_bit(front: list[OperatingPoint]) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.front_csv(front))))
    entries = json.loads(tables.front_json(front))
    assert len(rows) == len(entries) == len(front)
    for row, entry in zip(rows, entries, strict=True):
        names = [f"{s['backbone']}@{s['resolution']}" for s in entry["stages"]]
        assert row["stages"].split() == names
        thresholds = [s["threshold"] for s in entry["stages"][:-1]]
        assert [float(t) for t in row["thresholds"].split()] == thresholds
        for short, split in (("val", "validation"), ("test", "test")):
            if entry[split] is None:
                assert row[f"{short}_accuracy"] == row[f"{short}_exit_rates"] == ""
                continue
            assert float(row[f"{short}_accuracy"]) == entry[split]["accuracy"]
            assert float(row[f"{short}_mean_flops"]) == entry[split]["mean_flops"]
            exits = [float(rate) for rate in row[f"{short}_exit_rates"].split()]
            assert exits == entry[split]["exit_rates"]
        assert (row["source"], row["trial"], row["run_id"]) == ("sampled", "3", "r")


def test_stages_are_listed_with_accuracies_costs_and_time() -> None:
    summary = StageSummary(
        stage=Stage(224, "mobilenet_v2-0.25", 8.2e7),
        key="k",
        macs=41_000_000,
        parameters=11_178_051,
        validation=0.87654,
        test=0.9,
        seconds=4000.0,
        run_id=None,
    )
    results = Results("s", (), (summary,), Frame(0.1, 1.0, 1.0), 0.0, 0.0, 0, True, {}, (), "1")
    rows = tables.stage_table(results).splitlines()
    assert max(map(len, rows)) <= 100
    cells = ["mobilenet_v2-0.25@224", "87.65", "82.0", "11.18", "67", "min"]
    assert rows[2].split() == cells


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (119.4, "119 s"), (121, "2 min"), (7199, "120 min"), (7200, "2.0 h")],
)
def test_durations_are_told_in_the_unit_one_would_use(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_columns_are_aligned_text_left_numbers_right_and_lines_have_no_trailing_blanks() -> None:
    assert tables.table(["a", "bb"], [["xxx", "1"], ["y", ""]]).splitlines() == [
        "a    bb",
        "---  --",
        "xxx   1",
        "y",
    ]
