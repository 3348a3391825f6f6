"""What the pages say can be done: links lead somewhere, commands and options are there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from rcopt.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = {command.name for command in COMMANDS}


def shown_commands(page: Path) -> Iterator[list[str]]:
    """The calls of rcopt in a page, split as a shell would."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(rcopt [a-z][^`]*)`", text)
    for line in lines:
        if line.startswith("rcopt "):
            call = re.split(r" {2,}| #|[|&;]", line)[0]
            yield [part for part in shlex.split(call.replace("…", ""))[1:] if part != "..."]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_are_there(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, *arguments in shown_commands(page):
        if name.startswith("-"):
            continue
        assert name in NAMES, name
        with pytest.raises(SystemExit):
            main([name, "--help"])
        known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
        given = {part.partition("=")[0] for part in arguments if re.match(r"--[a-z]", part)}
        assert given <= known | {"--debug"}, f"{page.name}: rcopt {name} {' '.join(arguments)}"


def test_python_of_the_pages_is_python_and_the_arithmetic_runs() -> None:
    blocks = [
        block
        for page in PAGES
        for block in re.findall(
            r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
    ]
    assert len(blocks) >= 3
    for block in blocks:
        compile(block, "page", "exec")
    (arithmetic,) = [block for block in blocks if "threshold_front(confidence" in block]
    exec(arithmetic, {})
