"""Options that several commands share."""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rcopt.core.cost import COSTS, Amount, CostName
from rcopt.errors import InputError


def study_argument(parser: argparse.ArgumentParser) -> None:
    """Add the study that a command is about, and ``--set``."""
    parser.add_argument("study", help="study file, or the name of a started study")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a setting, such as data.root=images (repeatable)",
    )


def retry_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--retry-failed``."""
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="try the stages again whose training failed too often",
    )


def choice_options(parser: argparse.ArgumentParser, title: str, *, required: bool) -> None:
    """Add what may be asked of a choice."""
    asked = parser.add_argument_group(title).add_mutually_exclusive_group(required=required)
    asked.add_argument(
        "--max-flops", type=flops, metavar="N", help="most mean FLOPs: 9e8, 900M, 1.2G"
    )
    for cost in list(COSTS.values())[1:]:
        asked.add_argument(
            f"--{cost.limit.replace('_', '-')}",
            dest="max_cost",
            type=_amount_of(cost.name),
            metavar="N",
            help=f"most {cost.title} (cost = {cost.name})",
        )
    asked.add_argument("--min-accuracy", type=share, metavar="SHARE", help="such as 0.9 or 90%%")
    asked.add_argument(
        "--max-drop",
        type=share,
        metavar="SHARE",
        help="accuracy given up against the best single stage: 0.01 or 1%%",
    )
    asked.add_argument("--knee", action="store_true", help="the knee point of the front")
    asked.add_argument("--trial", type=int, metavar="N", help="the configuration of trial N")
    certificate_options(parser)


def certificate_options(parser: argparse.ArgumentParser) -> None:
    """Add what is to be guaranteed."""
    parser.add_argument(
        "--certify",
        type=share,
        metavar="CONFIDENCE",
        help="guarantee --max-drop with this confidence (0.9) on the calibration split",
    )
    parser.add_argument(
        "--promise",
        choices=["accuracy", "lost"],
        default="accuracy",
        help="with --certify, of what at most --max-drop: accuracy given up (default), or images "
        "lost that the best single stage gets right, whatever others are gained",
    )


def wanted(arguments: argparse.Namespace) -> Any:
    """Return what was asked of a choice."""
    from dataclasses import fields

    from rcopt.study.choice import Criterion

    return Criterion(**{field.name: getattr(arguments, field.name) for field in fields(Criterion)})


def _amount_of(cost: CostName) -> Callable[[str], Amount]:
    def amount(text: str) -> Amount:
        return Amount(cost, float(text))

    return amount


def cost_option(parser: argparse.ArgumentParser) -> None:
    """Add the options of ranking by another cost."""
    cost = parser.add_argument_group("rank by another cost than the study's")
    cost.add_argument(
        "--cost",
        choices=list(COSTS),
        help="what to minimize; latency: each stage is timed on this machine, once",
    )
    cost.add_argument("--device", help="to time on: cpu, cuda:1 (default: the study's [latency])")
    cost.add_argument("--batch-size", type=count, help="images per call (likewise; 1)")
    cost.add_argument("--measure-again", action="store_true", help="do not use kept times")


def ranked(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Return the study, and its front by the cost asked for, None if that is its own."""
    from rcopt.study.file import load_study

    given = {"device": arguments.device, "batch_size": arguments.batch_size}
    timing = [f"latency.{key}={value}" for key, value in given.items() if value is not None]
    study = load_study(arguments.study, [*arguments.overrides, *timing])
    measured = [cost.name for cost in COSTS.values() if cost.meter is not None]
    if arguments.cost not in measured and (timing or arguments.measure_again):
        raise InputError(
            "--device, --batch-size and --measure-again say how to measure: add --cost "
            + " or ".join(measured)
        )
    if arguments.cost is None:
        return study, None
    from rcopt.study.front_by_cost import rank

    with shown_progress() as progress:
        return study, rank(study, arguments.cost, again=arguments.measure_again, progress=progress)


def output_format(parser: argparse.ArgumentParser) -> None:
    """Add ``--format``."""
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table")


@contextmanager
def shown_progress(quiet: bool = False) -> Iterator[Any]:
    """Yield what shows progress, and end its bars whatever happens."""
    from rcopt.cli.progress import Shown
    from rcopt.progress import Progress

    shown = Shown()
    try:
        yield Progress() if quiet else shown
    finally:
        shown.close()


def wants(arguments: argparse.Namespace) -> bool:
    """Return whether anything was asked of a choice."""
    from dataclasses import fields

    from rcopt.study.choice import Criterion

    return any(
        getattr(arguments, field.name) != field.default
        for field in fields(Criterion)
        if field.name != "promise"
    )


def say(text: str) -> None:
    """Tell something that is not the result; standard output stays clean for it."""
    print(text, file=sys.stderr)


def suggest(*steps: str) -> None:
    """Tell what to do next, in commands that can be pasted as they are."""
    say("\nnext: " + "\n      ".join(_pasteable(step) for step in steps))


def _pasteable(command: str) -> str:
    """Put its path before a program of ours that the shell would not find, or find elsewhere."""
    program, _, rest = command.partition(" ")
    own = Path(sys.argv[0])
    if own.name != "rcopt" or program not in ("rcopt", "mlflow"):
        return command
    path = own.with_name(program)
    found = shutil.which(program)
    if found is not None and path.exists() and os.path.samefile(found, path):
        return command
    return f"{shlex.quote(_shortest(path))} {rest}"


def _shortest(path: Path) -> str:
    absolute = path.absolute()
    inside = absolute.is_relative_to(Path.cwd())
    return str(absolute.relative_to(Path.cwd()) if inside else absolute)


def device_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``, where stages are trained."""
    parser.add_argument("--device", help="where to train: cpu, cuda:1 (one worker per GPU)")


def overrides(arguments: argparse.Namespace) -> list[str]:
    """Return the settings that the command line overrides, ``--device`` among them."""
    given = list(arguments.overrides)
    if arguments.device is not None:
        given.append(f"training.device={arguments.device}")
    return given


def tell_looks(study: Any, *, quiet: bool = False) -> None:
    """Count a look at test numbers, and say the count after the first unless all is quiet."""
    from rcopt.study.looks import count_look

    looks = count_look(study)
    if looks > 1 and not quiet:
        say(
            f"note: test numbers of {study.name} were shown {looks} times; choose by validation, "
            "or they stop telling what to expect"
        )


def share(text: str) -> float:
    """Return a share of 1, given as such or in percent: 0.97, 97%."""
    percent = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%")) / (100 if percent else 1)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected a share such as 0.97 or 97%, got {text!r}"
        ) from error
    if not 0 <= value <= 1:
        meant = f"; did you mean {value:g}%?" if 1 < value <= 100 and not percent else ""
        raise argparse.ArgumentTypeError(
            f"expected a share from 0 to 1 or a percentage such as 97%, got {text!r}{meant}"
        )
    return value


def flops(text: str) -> float:
    """Return a number of FLOPs that may have a unit: 900M, 1.2G."""
    units = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    unit = units.get(text[-1:].upper(), 1.0)
    try:
        return float(text[:-1] if unit > 1 else text) * unit
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from error


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from error
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value
