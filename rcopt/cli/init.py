"""Commands to begin with: init, settings."""

import argparse

from rcopt.cli.arguments import say, suggest
from rcopt.cli.command import Command


def init_command(arguments: argparse.Namespace) -> None:
    """Write a study file for a folder of pictures."""
    import re
    from pathlib import Path

    from rcopt.data.survey import survey
    from rcopt.errors import InputError
    from rcopt.files import write_whole
    from rcopt.study.file import load_project
    from rcopt.study.settings import NAME, NAME_IN_WORDS
    from rcopt.study.starting import study_file

    root = Path(arguments.folder).expanduser().absolute()
    name = arguments.name or re.sub(r"[^A-Za-z0-9._-]+", "-", root.name).strip("-._") or "mine"
    project, _ = load_project()
    if not re.fullmatch(NAME, name):
        raise InputError(f"--name {name}: expected {NAME_IN_WORDS}")
    file = project / "studies" / f"{name}.toml"
    if file.exists():
        raise InputError(f"{file} is there already; give the new study a --name of its own")
    found = survey(root)
    place = root.relative_to(project) if root.is_relative_to(project) else root
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, study_file(name, place.as_posix(), found).encode())
    for note in found.notes:
        say(f"note: {note}")
    print(file.relative_to(project))
    name = str(file.relative_to(project))
    suggest(f"rcopt stages {name}", f"rcopt run {name}")


def settings_command(arguments: argparse.Namespace) -> None:
    """Print what a study file may hold."""
    import json

    from rcopt.study.describing import markdown
    from rcopt.study.settings import StudySettings

    if arguments.format == "json":
        print(json.dumps(StudySettings.model_json_schema(), indent=1))
    else:
        print(markdown())


def _settings_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=["markdown", "json"], default="markdown")


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="pictures: FOLDER/{train,val}/CLASS/IMAGE or FOLDER/CLASS/")
    parser.add_argument("--name", help="of the study (default: the folder's)")


COMMANDS = (
    Command(
        "init",
        "look at a folder of pictures and write a study file for it",
        init_command,
        _options,
        takes_study=False,
    ),
    Command(
        "settings",
        "list every setting of a study file: key, default, meaning",
        settings_command,
        _settings_options,
        takes_study=False,
    ),
)
