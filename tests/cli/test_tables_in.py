import json
from pathlib import Path

import pytest

from rcopt.cli.main import main
from tests.data.test_table_stages import ANSWERS, records, write_csv


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "theirs").mkdir()
    for name in ANSWERS:
        write_csv(tmp_path / "theirs" / f"{name}.csv", records(name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_tables_to_a_choice_in_two_commands(
    tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "theirs", "--to", "studies/mine"]) == 0
    out, err = capsys.readouterr()
    assert out == "studies/mine.toml\n"
    assert "next: rcopt run studies/mine.toml" in err
    assert main(["run", "studies/mine.toml", "--quiet", "--format", "json"]) == 0
    front = json.loads(capsys.readouterr().out)
    assert {stage["backbone"] for point in front for stage in point["stages"]} == set(ANSWERS)
    assert main(["select", "mine", "--max-drop", "10%"]) == 0
    assert "large" in capsys.readouterr().out


def test_what_needs_probabilities_is_refused(
    tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "theirs", "--to", "mine"]) == 0
    for setting in ("temperature=true", "average=true", "confidence='margin'"):
        assert main(["run", "mine", "--set", f"answers.{setting}"]) == 2
        assert "needs class probabilities" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "--to", "mine"], "no such file or folder"),
        (["theirs", "--to", "/tmp/elsewhere"], "expected studies/NAME"),
        (["theirs", "--to", "mine", "--cost", "small"], "expected NAME=VALUE"),
        (["theirs", "--to", "mine", "--cost", "small=cheap"], "expected a number above 0"),
        (["theirs", "--to", "mine", "--column", "id=key"], "no column 'key' for id"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(
    tables: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", *arguments]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not (tables / "studies" / "mine").exists()
    assert not (tables / "studies" / "mine.toml").exists()
