"""The command line: parse, wire, exit codes."""

import argparse
import errno
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from rcopt.errors import InputError, WorkError

_EPILOG = """\
a study, from start to model:
  rcopt run studies/digits.toml          start it, continue it, extend it
  rcopt status digits                    what is trained, how much of the exact front is found
  rcopt front digits                     the validation-picked Pareto front with test numbers
  rcopt ui digits                        the MLflow UI on this project's store

A study is named by its file or, once started, by its name.
exit codes: 0 done, 1 the work failed, 2 the input was wrong, 130 interrupted (state kept)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    if not arguments.debug:
        warnings.simplefilter("ignore")
    try:
        code: int = arguments.command(arguments) or 0
    except InputError as error:
        return _complain(error, 2, arguments.debug)
    except WorkError as error:
        return _complain(error, 1, arguments.debug)
    except KeyboardInterrupt:
        print(
            "\nrcopt: interrupted; what is done is kept, the same command goes on", file=sys.stderr
        )
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return _complain(error, 1, arguments.debug)
        where = f" at {error.filename}" if error.filename else ""
        text = f"no space left{where}; free some and run the same command again"
        return _complain(InputError(text), 2, arguments.debug)
    except Exception as error:
        text = f"internal error: {type(error).__name__}: {error}; --debug shows where"
        return _complain(WorkError(text), 1, arguments.debug)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rcopt",
        description="Optimize and track resolution cascades.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks and warnings")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = _command(commands, "run", _run, "start, continue or extend a study")
    run.add_argument(
        "--trials", type=_count, help="the study's total of trials (default: the file's)"
    )
    run.add_argument("--quiet", action="store_true", help="no progress, only the result")
    _format(run)

    status = _command(commands, "status", _status, "what is done, and how close to exact")
    status.add_argument("--format", choices=["table", "json"], default="table")

    front = _command(commands, "front", _front, "the validation-picked front with test numbers")
    front.add_argument("--all", action="store_true", help="every point, not about 20 spread ones")
    _format(front)

    ui = commands.add_parser("ui", help="the MLflow UI on this project's store, on loopback")
    ui.set_defaults(command=_ui)
    ui.add_argument("study", nargs="?", help="open on this study's front")
    ui.add_argument("--port", type=int, default=5000, help="the next free one if it is in use")
    ui.add_argument("--host", default="127.0.0.1", help="loopback unless told otherwise")
    ui.add_argument("--dashboard", action="store_true", help="optuna-dashboard beside it")
    ui.add_argument("--no-browser", action="store_true", help="only print the link")
    return parser


def _command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=function)
    parser.add_argument("study", help="study file, or the name of a started study")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a setting, such as data.root=images (repeatable)",
    )
    return parser


def _format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table")


def _run(arguments: argparse.Namespace) -> None:
    from rcopt import study, tables
    from rcopt.config import load_study
    from rcopt.progress import Progress, Shown

    loaded = load_study(arguments.study, arguments.overrides)
    shown = Shown()
    try:
        results = study.run(
            loaded,
            trials=arguments.trials,
            progress=Progress() if arguments.quiet else shown,
        )
    finally:
        shown.close()
    points = study.shown(results.points)
    if arguments.format != "table":
        print(
            tables.front_json(points) if arguments.format == "json" else tables.front_csv(points)
        )
        return
    _print_front(results, points)
    name = loaded.name
    print(f"\nnext: rcopt status {name}    rcopt front {name} --all    rcopt ui {name}")


def _front(arguments: argparse.Namespace) -> None:
    from rcopt import study, tables
    from rcopt.config import load_study
    from rcopt.results import load_results

    loaded = load_study(arguments.study, arguments.overrides)
    results = load_results(loaded.folder / "results.json")
    points = list(results.points) if arguments.all else study.shown(results.points)
    if arguments.format == "json":
        print(tables.front_json(points))
    elif arguments.format == "csv":
        print(tables.front_csv(points))
    else:
        _print_front(results, points)


def _print_front(results: Any, points: Sequence[Any]) -> None:
    from rcopt import tables

    sizes = ", ".join(f"{count} {split}" for split, count in results.split_sizes.items())
    kind = "exact front" if results.exact else "front"
    print(
        f"{results.study}: {kind}, picked on validation, reported on test ({sizes} images)\n"
        f"{len(points)} of {len(results.points)} points, {len(results.stages)} trained stages\n"
    )
    print(tables.front_table(points))


def _status(arguments: argparse.Namespace) -> None:
    import json

    from rcopt import tables
    from rcopt.config import load_study
    from rcopt.results import load_results

    loaded = load_study(arguments.study, arguments.overrides)
    results = load_results(loaded.folder / "results.json")
    total = loaded.settings.search.trials
    share = results.sampled_hypervolume / results.hypervolume if results.hypervolume else 0.0
    if arguments.format == "json":
        print(
            json.dumps(
                {
                    "study": results.study,
                    "trials": results.sampled,
                    "trials_total": total,
                    "stages": [s.stage.name for s in results.stages],
                    "front_points": len(results.points),
                    "reference": list(results.reference),
                    "hypervolume": results.hypervolume,
                    "sampled_hypervolume": results.sampled_hypervolume,
                    "sampled_share": share,
                },
                indent=1,
            )
        )
        return
    done = f"{results.sampled} of {total} trials, {len(results.stages)} stages trained"
    print(f"{results.study}: {done}\n")
    print(tables.stage_table(results))
    accuracy, flops = results.reference
    print(
        f"\nfront: {len(results.points)} points, hypervolume {results.hypervolume:.4g} "
        f"(reference {100 * accuracy:.1f} %, {tables.mflops(flops)} MFLOPs)\n"
        f"sampled trials alone reach {100 * share:.1f} % of it"
    )


def _ui(arguments: argparse.Namespace) -> int:
    raise WorkError("not wired yet")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _complain(error: Exception, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    print(f"rcopt: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
