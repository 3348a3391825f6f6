"""The command that takes in other people's predictions: import."""

import argparse

from rcopt.cli.arguments import say, suggest
from rcopt.cli.command import Command

_STUDY = """\
# {count} stages from tables: {stages}. Where rcopt writes MFLOPs it means the tables' cost.
name = "{name}"

[data]
source = "predictions"
root = "studies/{name}"

[search]
trials = 200
"""


def import_command(arguments: argparse.Namespace) -> None:
    """Write tables of predictions as a study."""
    from pathlib import Path

    from rcopt.data.prediction_files import save_stage
    from rcopt.data.table_stages import Reading, stages_of
    from rcopt.data.tables import read_table, table_files
    from rcopt.errors import InputError
    from rcopt.files import write_whole
    from rcopt.study.file import load_project

    folder = Path(arguments.to)
    project, _ = load_project()
    folder = folder if folder.parent != Path(".") else project / "studies" / folder
    folder = folder.absolute()
    file = folder.with_suffix(".toml")
    if folder.parent != project / "studies":
        raise InputError(f"--to {arguments.to}: expected studies/NAME in this project")
    if folder.exists() or file.exists():
        raise InputError(f"{folder}: is there already; give another --to, or remove it")
    tables = [read_table(path) for path in table_files([Path(p) for p in arguments.tables])]
    reading = Reading(
        columns=dict(_pair(text, "--column") for text in arguments.column),
        costs={
            name: _positive(text, f"--cost {name}")
            for name, text in (_pair(one, "--cost") for one in arguments.cost)
        },
        resolutions={
            name: int(_positive(text, f"--resolution {name}"))
            for name, text in (_pair(one, "--resolution") for one in arguments.resolution)
        },
        drop_missing=arguments.drop_missing,
        seed=arguments.seed,
    )
    stages, notes = stages_of(tables, reading)
    folder.mkdir(parents=True)
    for number, trained in enumerate(stages):
        save_stage(folder / f"stage-{number}.safetensors", trained)
    names = ", ".join(trained.stage.name for trained in stages)
    text = _STUDY.format(count=len(stages), stages=names, name=folder.name)
    write_whole(file, text.encode())
    for note in notes:
        say(f"note: {note}")
    for trained in stages:
        held_out = next(iter(trained.predictions.values()))
        say(
            f"{trained.stage.name}: cost {trained.stage.flops / 1e6:g}, "
            f"{100 * held_out.accuracy:.1f} % right on {len(held_out)} {held_out.split} items"
        )
    print(file.relative_to(project))
    suggest(f"rcopt run {file.relative_to(project)}", f"rcopt select {folder.name} --max-drop 1%")


def _pair(text: str, option: str) -> tuple[str, str]:
    from rcopt.errors import InputError

    name, equals, value = text.rpartition("=")
    if not equals or not name or not value:
        raise InputError(f"{option} {text}: expected NAME=VALUE")
    return name, value


def _positive(text: str, what: str) -> float:
    from rcopt.errors import InputError

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"{what}: expected a number above 0, got {text!r}")
    return value


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tables",
        nargs="+",
        metavar="TABLE",
        help="CSV, TSV, JSON lines, Parquet, npz; or a folder",
    )
    parser.add_argument("--to", required=True, metavar="studies/NAME", help="the study to write")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="ROLE=NAME",
        help="what a column is: stage, id, label, answer, correct, confidence, cost, split or "
        "group (repeatable; guessed where it is clear)",
    )
    parser.add_argument(
        "--cost",
        action="append",
        default=[],
        metavar="STAGE=NUMBER",
        help="cost of an item, in any unit, where the tables have none (repeatable)",
    )
    parser.add_argument(
        "--resolution", action="append", default=[], metavar="STAGE=PIXELS", help="if it has one"
    )
    parser.add_argument(
        "--drop-missing", action="store_true", help="leave out items that not every stage has"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the splits (default: 0)")


COMMANDS = (
    Command(
        "import",
        "write tables of anyone's predictions as a study",
        import_command,
        _options,
        takes_study=False,
    ),
)
