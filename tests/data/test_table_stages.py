import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.table_stages import MADE, Reading, stages_of
from rcopt.data.tables import read_table, table_files
from rcopt.errors import InputError

N = 60
RNG = np.random.default_rng(0)
LABELS = [f"c{i}" for i in RNG.integers(0, 3, N)]
ANSWERS = {
    name: [a if RNG.random() < share else "c0" for a in LABELS]
    for name, share in (("small", 0.5), ("large", 0.9))
}
CONFIDENCES = {name: RNG.uniform(0.34, 1, N).round(4).tolist() for name in ANSWERS}
COSTS = {"small": 1.0, "large": 7.5}


def records(name: str) -> list[dict[str, Any]]:
    return [
        {
            "id": f"item {i}",
            "label": LABELS[i],
            "answer": ANSWERS[name][i],
            "confidence": CONFIDENCES[name][i],
            "cost": COSTS[name],
        }
        for i in range(N)
    ]


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with file.open("w", newline="") as text:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def read(folder: Path, **how: Any) -> tuple[list[TrainedStage], list[str]]:
    return stages_of([read_table(file) for file in table_files([folder])], Reading(**how))


def by_item(stage: TrainedStage) -> dict[str, tuple[bool, float]]:
    found = {}
    for predictions in stage.predictions.values():
        answers = stage_answers([predictions], AnswerRule())
        for i, item in enumerate(predictions.images):
            found[item] = (bool(answers.correct[0, i]), float(answers.confidence[0, i]))
    return found


def check(stages: Sequence[TrainedStage]) -> None:
    """Cheapest first, and each item's answer and confidence as they were written."""
    assert [t.stage.name for t in stages] == ["small", "large"]
    assert [t.stage.flops for t in stages] == [1e6, 7.5e6]
    for trained in stages:
        name = trained.stage.name
        found = by_item(trained)
        assert len(found) == N
        for i in range(N):
            right, sure = found[f"item {i}"]
            assert right == (ANSWERS[name][i] == LABELS[i])
            assert sure == pytest.approx(CONFIDENCES[name][i], abs=1e-6)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "npz", "long"])
def test_every_kind_of_table_says_the_same(kind: str, tmp_path: Path) -> None:
    if kind == "long":
        rows = [{"stage": name, **row} for name in ANSWERS for row in records(name)]
        random.Random(1).shuffle(rows)
        write_csv(tmp_path / "all.csv", rows)
    for name in ANSWERS if kind != "long" else ():
        rows = records(name)
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        if kind == "csv":
            write_csv(tmp_path / f"{name}.csv", rows)
        elif kind == "jsonl":
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        elif kind == "npz":
            np.savez(tmp_path / f"{name}.npz", **columns)  # type: ignore[arg-type]
        else:
            import pandas as pd

            pd.DataFrame(columns).to_parquet(tmp_path / f"{name}.parquet")
    stages, notes = read(tmp_path)
    check(stages)
    assert all(MADE in t.details for t in stages)
    assert any("no class probabilities" in note for note in notes)


def test_probabilities_and_logits_are_kept(tmp_path: Path) -> None:
    logits = RNG.normal(size=(N, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = RNG.integers(0, 3, N)
    for name, values, prefix in (("a", p, "p"), ("b", logits, "logit_")):
        rows = [
            {
                "label": labels[i],
                "cost": 1 + (name == "b"),
                **{f"{prefix}{k}": values[i, k] for k in range(3)},
            }
            for i in range(N)
        ]
        write_csv(tmp_path / f"{name}.csv", rows)
    first, second = read(tmp_path)[0]
    for split, predictions in first.predictions.items():
        np.testing.assert_allclose(
            predictions.probabilities, second.predictions[split].probabilities, atol=1e-6
        )
        at = [int(item) - 1 for item in predictions.images]
        np.testing.assert_allclose(predictions.probabilities, p[at], atol=1e-6)
        assert predictions.labels.tolist() == labels[at].tolist()
    assert MADE not in first.details


def test_right_or_wrong_is_enough_and_scores_may_have_any_scale(tmp_path: Path) -> None:
    scores = RNG.normal(-40, 9, N).round(3)
    for name in ANSWERS:
        rows = [
            {"id": i, "correct": ANSWERS[name][i] == LABELS[i], "score": scores[i]}
            for i in range(N)
        ]
        write_csv(tmp_path / f"{name}.csv", rows)
    stages, notes = read(tmp_path, costs=COSTS)
    found = by_item(stages[0])
    order = sorted(range(N), key=lambda i: scores[i])
    assert sorted(range(N), key=lambda i: found[str(i)][1]) == order
    assert [found[str(i)][0] for i in range(N)] == [
        ANSWERS["small"][i] == LABELS[i] for i in range(N)
    ]
    assert any("are shown as 0.5 to 1" in note for note in notes)


def test_a_table_of_right_and_wrong_by_stage_has_no_confidence(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"question {i}", **{n: ANSWERS[n][i] == LABELS[i] for n in ANSWERS}}
        for i in range(N)
    ]
    for part, name in ((rows[:40], "one"), (rows[40:], "two")):
        write_csv(tmp_path / f"{name}.csv", part)
    stages, notes = read(tmp_path, costs=COSTS)
    assert [t.stage.name for t in stages] == ["small", "large"]
    assert sum(len(p) for p in stages[0].predictions.values()) == N
    assert sum("only be passed on by chance" in note for note in notes) == 2


def test_splits_and_groups_are_kept(tmp_path: Path) -> None:
    names = ("val", "calibration", "test")
    for name in ANSWERS:
        rows = [{**row, "split": names[i % 3]} for i, row in enumerate(records(name))]
        write_csv(tmp_path / f"{name}.csv", rows)
    first = read(tmp_path)[0][0]
    assert {k: len(v) for k, v in first.predictions.items()} == {
        "validation": 20, "calibration": 20, "test": 20,
    }  # fmt: skip
    for name in ANSWERS:
        rows = [{**row, "group": i // 5} for i, row in enumerate(records(name))]
        write_csv(tmp_path / f"{name}.csv", rows)
    split_of = {
        item: split
        for split, predictions in read(tmp_path)[0][0].predictions.items()
        for item in predictions.images
    }
    for group in range(N // 5):
        assert len({split_of[f"item {i}"] for i in range(5 * group, 5 * group + 5)}) == 1


def test_splits_dealt_at_random_are_of_the_right_size_and_the_same_again(tmp_path: Path) -> None:
    for name in ANSWERS:
        write_csv(tmp_path / f"{name}.csv", records(name))
    sizes = {k: len(v) for k, v in read(tmp_path)[0][0].predictions.items()}
    assert sizes == {"validation": 24, "calibration": 12, "test": 24}
    first, again, other = (read(tmp_path, seed=seed)[0][0].predictions for seed in (0, 0, 1))
    assert first["test"].images == again["test"].images != other["test"].images


def test_costs_by_item_are_averaged_and_said(tmp_path: Path) -> None:
    for name in ANSWERS:
        rows = [{**row, "cost": COSTS[name] + i % 2} for i, row in enumerate(records(name))]
        write_csv(tmp_path / f"{name}.csv", rows)
    stages, notes = read(tmp_path)
    assert [t.stage.flops for t in stages] == [1.5e6, 8e6]
    assert sum("costs differ by item" in note for note in notes) == 2


def test_items_that_some_stages_lack_are_counted_and_left_out_if_asked(tmp_path: Path) -> None:
    write_csv(tmp_path / "small.csv", records("small"))
    write_csv(tmp_path / "large.csv", records("large")[3:])
    with pytest.raises(
        InputError, match=r"3 of 60 items are not in every stage, such as 'item 0'"
    ):
        read(tmp_path)
    stages, notes = read(tmp_path, drop_missing=True)
    assert sum(len(p) for p in stages[0].predictions.values()) == N - 3
    assert any(note.startswith("left out: 3 of 60") for note in notes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"confidence": "high"}, r"large.csv, row 5: 'confidence' is 'high', expected a number"),
        ({"confidence": "nan"}, r"row 5: 'confidence' is 'nan'"),
        ({"id": "item 0"}, r"row 5: item 'item 0' is there twice, first in \S+, row 2"),
        ({"id": ""}, r"row 5: 'id' is empty"),
        ({"label": "c9"}, r"item 'item 3' is labelled"),
        ({"cost": "-3"}, r"'cost'|cost"),
        ({"answer": ""}, r"row 5: 'answer' is empty"),
    ],
)
def test_a_cell_that_cannot_be_used_is_named_with_its_row(
    change: dict[str, str], told: str, tmp_path: Path
) -> None:
    write_csv(tmp_path / "small.csv", records("small"))
    rows = records("large")
    rows[3] |= change
    if "cost" in change:
        rows = [row | change for row in rows]
    write_csv(tmp_path / "large.csv", rows)
    with pytest.raises(InputError, match=told):
        read(tmp_path)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (
            {"columns": {"confidence": "sureness"}},
            "no column 'sureness' for confidence; it has 'id'",
        ),
        ({"costs": {"huge": 3.0}}, "there is no stage 'huge'; the tables have large, small"),
    ],
)
def test_what_is_named_must_be_there(how: dict[str, Any], told: str, tmp_path: Path) -> None:
    for name in ANSWERS:
        write_csv(tmp_path / f"{name}.csv", records(name))
    with pytest.raises(InputError, match=told):
        read(tmp_path, **how)


def test_a_stage_without_a_cost_is_refused(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "cost"} for row in records("small")]
    write_csv(tmp_path / "small.csv", rows)
    with pytest.raises(InputError, match=r"--cost small=NUMBER"):
        read(tmp_path)


def test_tables_that_are_damaged_end_in_one_line(tmp_path: Path) -> None:
    """300 tables with bytes exchanged, left out or added: read, or refused in one line."""
    for name in ANSWERS:
        write_csv(tmp_path / f"{name}.csv", records(name))
    sound = (tmp_path / "large.csv").read_bytes()
    refused = 0
    for seed in range(300):
        draw = random.Random(seed)
        content = bytearray(sound)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(content))
            kind = draw.randrange(3)
            if kind == 0:
                content[at] = draw.choice(b'\x00\xff,"\n-.eE9 ')
            elif kind == 1:
                del content[at : at + draw.randint(1, 200)]
            else:
                content[at:at] = draw.randbytes(draw.randint(1, 9))
        (tmp_path / "large.csv").write_bytes(content)
        try:
            read(tmp_path)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 100 < refused < 300


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".npz", ".tsv"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"a,b\n", b"{}\n[", b"PK\x03\x04"])
def test_files_that_are_no_tables_are_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"x{suffix}"
    file.write_bytes(content)
    with pytest.raises(InputError):
        stages_of([read_table(file)], Reading())


@pytest.mark.parametrize(("part", "row"), [(0, 0), (0, 29), (1, 0), (1, 29)])
def test_a_bad_cell_is_named_by_its_own_file_where_a_stage_goes_on_in_a_second(
    tmp_path: Path, part: int, row: int
) -> None:
    rows = [{"stage": name, **row} for name in COSTS for row in records(name)]
    parts = [rows[:30], rows[30:60]]
    parts[part][row] = {**parts[part][row], "confidence": "high"}
    files = [write_csv(tmp_path / f"part_{i}.csv", found) for i, found in enumerate(parts)]
    files.append(write_csv(tmp_path / "rest.csv", rows[60:]))
    with pytest.raises(InputError, match=rf"part_{part}\.csv, row {row + 2}: "):
        stages_of([read_table(file) for file in files], Reading())
