"""What stands on the command line, parsed; and streams that are not there."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

import rcopt
from rcopt.cli.arguments import count, flops, share, suggest
from rcopt.cli.command import Command
from rcopt.cli.main import COMMANDS, main


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (share, "0.97", 0.97),
        (share, "97%", 0.97),
        (share, " 1 % ", 0.01),
        (share, "0", 0.0),
        (share, "1", 1.0),
        (flops, "1.2G", 1.2e9),
        (flops, "900m", 9e8),
        (flops, "12", 12.0),
        (count, "3", 3),
    ],
)
def test_what_is_read(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("parse", "text", "told"),
    [
        (share, "97", "did you mean 97%?"),
        (share, "-0.1", "a share from 0 to 1"),
        (share, "101%", "a share from 0 to 1"),
        (share, "nan", "a share from 0 to 1"),
        (share, "much", "such as 0.97 or 97%"),
        (flops, "fast", "expected a number"),
        (count, "0", "at least 1"),
        (count, "1.5", "a whole number"),
    ],
)
def test_what_is_refused(parse: Callable[[str], float], text: str, told: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=told.replace("?", r"\?")):
        parse(text)


def test_a_share_above_one_names_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["select", "digits", "--min-accuracy", "97"])
    assert stopped.value.code == 2
    assert "--min-accuracy: expected a share" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"rcopt {version('rcopt')}\n"
    assert rcopt.__version__ == version("rcopt")


@pytest.mark.parametrize("arguments", [["--debug", "status"], ["status", "--debug"]])
def test_debug_stands_before_or_after_the_command(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "no-such-study"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(["status", "no-such-study"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command.name, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: rcopt {command.name}")
    assert " ".join(command.summary.split()) in " ".join(shown.split())


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="closes streams as a POSIX shell does")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("arguments", "code"), [("--version", 0), ("status no-such-study", 2)])
def test_a_closed_stream_changes_nothing_else(closed: str, arguments: str, code: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m rcopt.cli {arguments} {closed}', sys.executable],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rcopt and mlflow in it, below the working folder; rcopt was called there."""
    folder = tmp_path / "an env" / "bin"
    folder.mkdir(parents=True)
    for name in ("rcopt", "mlflow"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(folder / "rcopt"), "run"])
    return folder


def test_next_steps_can_be_pasted_where_no_environment_is_active(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    suggest("rcopt front x", "mlflow models serve", "and then open")
    assert capsys.readouterr().err.splitlines()[1:] == [
        "next: 'an env/bin/rcopt' front x",
        "      'an env/bin/mlflow' models serve",
        "      and then open",
    ]


def test_next_steps_are_short_where_the_shell_finds_the_programs(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(programs))
    suggest("rcopt front x")
    assert capsys.readouterr().err == "\nnext: rcopt front x\n"
