"""What a command is: its name, its options, and the function that runs it."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass


def no_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    A module of `rcopt.cli` lists its own as ``COMMANDS``; `rcopt.cli.main` collects them.

    Attributes:
        name: As typed: ``rcopt NAME``.
        summary: One line for ``rcopt --help``.
        run: Carries it out; the exit code, None for 0.
        options: Adds its own arguments and options.
        takes_study: Whether the first argument is a study, with ``--set`` to override settings.
    """

    name: str
    summary: str
    run: Callable[[argparse.Namespace], int | None]
    options: Callable[[argparse.ArgumentParser], None] = no_options
    takes_study: bool = True
