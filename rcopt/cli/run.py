"""Commands that search: run, train, worker."""

import argparse
from collections.abc import Sequence
from typing import Any

from rcopt.cli.arguments import (
    count,
    device_option,
    output_format,
    overrides,
    retry_option,
    say,
    shown_progress,
    suggest,
    tell_looks,
)
from rcopt.cli.command import Command


def run_command(arguments: argparse.Namespace) -> None:
    """Start, continue or extend a study."""
    from rcopt.cli import tables
    from rcopt.study import run_study
    from rcopt.study.file import load_study
    from rcopt.study.results import well_spread

    loaded = load_study(arguments.study, overrides(arguments))
    with shown_progress(arguments.quiet) as progress:
        if arguments.workers > 1:
            from rcopt.study.workers.local import run_local_workers

            run_local_workers(
                loaded,
                arguments.workers,
                _worker_options(arguments),
                progress=progress,
            )
        results = run_study.run(
            loaded,
            trials=arguments.trials,
            # Those of local workers, who have had it already.
            retry_failed=arguments.retry_failed and arguments.workers == 1,
            progress=progress,
        )
    points = well_spread(results.points)
    tell_looks(loaded, quiet=arguments.quiet)
    if arguments.format != "table":
        print(
            tables.front_json(points) if arguments.format == "json" else tables.front_csv(points)
        )
        return
    print_front(results, points)
    name = loaded.name
    if not arguments.quiet:
        from rcopt.tracking import view_link

        uri = loaded.settings.tracking.uri
        server = uri if uri.startswith("http") else "http://127.0.0.1:5000"
        report = [] if results.timing else [f"rcopt report {name}"]
        suggest(f"rcopt status {name}", *report, f"rcopt ui {name}", "and then open")
        say(f"      {view_link(server, results.experiment_id)}")


def train_command(arguments: argparse.Namespace) -> None:
    """Train every stage of a study."""
    from rcopt.study import run_study
    from rcopt.study.file import load_study

    given = overrides(arguments)
    first = load_study(arguments.study, given)
    repeats = [first]
    for number in range(1, arguments.seeds):
        own = [f"name='{first.name}-{number}'", f"seed={first.settings.seed + number}"]
        repeats.append(load_study(arguments.study, [*given, *own]))
    for one in repeats:
        with shown_progress(arguments.quiet) as progress:
            results = run_study.run(one, every_stage=True, progress=progress)
        print(f"{one.name}: seed {one.settings.seed}, {len(results.stages)} trained stages")
    if arguments.quiet:
        return
    more = [f"rcopt repeats {' '.join(one.name for one in repeats)}"] if len(repeats) > 1 else []
    suggest(f"rcopt front {first.name}", f"rcopt export {first.name} FOLDER", *more)


def _worker_options(arguments: argparse.Namespace) -> list[str]:
    options = [part for override in overrides(arguments) for part in ("--set", override)]
    if arguments.trials is not None:
        options += ["--trials", str(arguments.trials)]
    if arguments.retry_failed:
        options.append("--retry-failed")
    return options


def worker_command(arguments: argparse.Namespace) -> None:
    """Join a running study."""
    from rcopt.study import run_study
    from rcopt.study.file import load_study

    loaded = load_study(arguments.study, overrides(arguments))
    with shown_progress(arguments.quiet) as progress:
        results = run_study.run(
            loaded,
            trials=arguments.trials,
            retry_failed=arguments.retry_failed,
            progress=progress,
        )
    if not arguments.quiet:
        say(
            f"{loaded.name}: {results.sampled} trials, {len(results.stages)} stages, "
            f"{len(results.points)} points on the front"
        )
        suggest(f"rcopt front {loaded.name}")


def print_front(results: Any, points: Sequence[Any]) -> None:
    """Print a front as a table."""
    import textwrap

    from rcopt.cli import tables

    sizes = ", ".join(f"{count} {split}" for split, count in results.split_sizes.items() if count)
    kind = "exact front" if results.exact else "front"
    print(
        f"{results.study}: {kind}, picked on validation, reported on test\n"
        f"{len(points)} of {len(results.points)} points, {len(results.stages)} trained stages\n"
        f"images: {sizes}\n"
        + (f"not exact: {results.limits}\n" if results.limits else "")
        + "".join(f"data: {note}\n" for note in results.notes)
        + (f"{_minimized(points)} an image: {results.timing}\n" if results.timing else "")
    )
    print(tables.front_table(points))
    if results.gain is not None:
        print("\n" + "\n".join(textwrap.wrap(str(results.gain), tables.width())))


def _minimized(points: Sequence[Any]) -> str:
    return str(points[0].validation.costs[0][0].unit)


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trials", type=count, help="the study's total of trials (default: the file's)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result")
    parser.add_argument(
        "--workers", type=count, default=1, metavar="N", help="local processes that share it"
    )
    device_option(parser)
    retry_option(parser)
    output_format(parser)


def _worker_command_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=count, help="the study's total, over all workers")
    device_option(parser)
    parser.add_argument("--quiet", action="store_true", help="only errors")
    retry_option(parser)


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds",
        type=count,
        default=1,
        metavar="N",
        help="N studies: the file's seed, then NAME-1 with the next one, and so on",
    )
    device_option(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result")


COMMANDS = (
    Command("run", "start, continue or extend a study", run_command, _run_options),
    Command(
        "worker",
        "join a running study as an additional worker",
        worker_command,
        _worker_command_options,
    ),
    Command("train", "train all candidate stages up front", train_command, _train_options),
)
