"""The command line: parse, wire, exit codes."""

import argparse
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from rcopt import interruption
from rcopt.cli.arguments import (
    choice_options,
    command,
    cost_option,
    count,
    output_format,
    retry_option,
)
from rcopt.cli.models import bench_command, predict_command, select_command
from rcopt.cli.run import run_command, train_command, worker_command
from rcopt.cli.show import (
    export_command,
    front_command,
    repeats_command,
    report_command,
    status_command,
    ui_command,
)
from rcopt.errors import InputError, WorkError
from rcopt.redaction import one_line

_EPILOG = """\
a study, from start to model:
  rcopt run studies/digits.toml          start it, continue it, extend it
  rcopt worker digits                    help with it, from another terminal or machine
  rcopt status digits                    what is trained, how much of the exact front is found
  rcopt front digits                     the validation-picked Pareto front with test numbers
  rcopt ui digits                        the MLflow UI on this project's store

A study is named by its file or, once started, by its name.
exit codes: 0 done, 1 the work failed, 2 the input was wrong, 130 interrupted (state kept)"""


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name need not be text, and the terminal may not know every letter. By lines,
        # for whoever pipes `rcopt ui` waits for its link.
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    if not arguments.debug:
        warnings.simplefilter("ignore")
    try:
        with _signals():
            return _carried_out(arguments)
    except KeyboardInterrupt:
        print(
            "\nrcopt: interrupted; what is done is kept, the same command goes on", file=sys.stderr
        )
        return 130


@contextmanager
def _signals() -> Iterator[None]:
    """Have signals stop the command soon; put back what was there before."""
    # Where a shell started it in the background, Ctrl-C is not for this process.
    numbers = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    interruption.forget()
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _carried_out(arguments: argparse.Namespace) -> int:
    try:
        with interruption.insisted():
            code: int = arguments.command(arguments) or 0
        sys.stdout.flush()
    except InputError as error:
        return _complain(error, 2, arguments.debug)
    except WorkError as error:
        return _complain(error, 1, arguments.debug)
    except BrokenPipeError:
        # The reader has left; Python flushes once more when it ends, and must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        told = _as_told(error)
        return _complain(told, 2 if isinstance(told, InputError) else 1, arguments.debug)
    return code


def _as_told(error: Exception) -> Exception:
    """Return an error that nothing foresaw in words for people."""
    from rcopt.tracking.opening import no_space

    told: Exception
    if no_space(error):
        place = getattr(error, "filename", None)
        where = f" at {place}" if place else ""
        told = InputError(f"no space left{where}; free some and run the same command again")
    elif isinstance(error, OSError):
        return error
    else:
        name = type(error).__name__
        told = WorkError(f"internal error: {name}: {error}; --debug shows where")
    told.__cause__ = error
    return told


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"rcopt: error: {one_line(message)}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rcopt",
        description="Optimize and track resolution cascades.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks and warnings")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = command(commands, "run", run_command, "start, continue or extend a study")
    run.add_argument(
        "--trials", type=count, help="the study's total of trials (default: the file's)"
    )
    run.add_argument("--quiet", action="store_true", help="no progress, only the result")
    run.add_argument(
        "--workers", type=count, default=1, metavar="N", help="local processes that share it"
    )
    retry_option(run)
    output_format(run)

    worker = command(commands, "worker", worker_command, "help with a study, beside other workers")
    worker.add_argument("--trials", type=count, help="the study's total, over all workers")
    worker.add_argument("--device", help="where to train: cpu, cuda:1 (one worker per GPU)")
    worker.add_argument("--quiet", action="store_true", help="only errors")
    retry_option(worker)

    train = command(
        commands,
        "train",
        train_command,
        "train every stage there is, not only what trials ask for",
    )
    train.add_argument(
        "--seeds",
        type=count,
        default=1,
        metavar="N",
        help="N studies: the file's seed, then NAME-1 with the next one, and so on",
    )
    train.add_argument("--quiet", action="store_true", help="no progress, only the result")

    status = command(commands, "status", status_command, "what is done, and how close to exact")
    status.add_argument("--format", choices=["table", "json"], default="table")

    front = command(
        commands, "front", front_command, "the validation-picked front with test numbers"
    )
    front.add_argument("--all", action="store_true", help="every point, not about 20 spread ones")
    cost_option(front)
    output_format(front)

    select = command(commands, "select", select_command, "pick one configuration of the front")
    choice_options(select, "what to pick by (exactly one)")
    cost_option(select)
    select.add_argument(
        "--register", metavar="NAME", help="make it version N of this MLflow model"
    )
    select.add_argument("--format", choices=["table", "json"], default="table")

    predict = commands.add_parser(
        "predict", help="run a registered cascade on pictures, with real early exits"
    )
    predict.set_defaults(command=predict_command)
    predict.add_argument("model", help="registered NAME, NAME@ALIAS, NAME/VERSION, or a folder")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="picture files or folders")
    predict.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    predict.add_argument("--uri", help="the MLflow store (default: this project's)")
    output_format(predict)

    bench = commands.add_parser(
        "bench", help="time a registered or selected cascade and its top stage on this machine"
    )
    bench.set_defaults(command=bench_command)
    bench.add_argument("model", help="as for predict; with a wish below, a study to pick from")
    bench.add_argument("images", help="folder of pictures like those it will see")
    bench.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    bench.add_argument("--uri", help="the MLflow store (default: this project's)")
    bench.add_argument("--count", type=count, default=256, help="pictures to take")
    bench.add_argument(
        "--batch-sizes",
        type=count,
        nargs="+",
        default=[1, 8, 64, 256],
        metavar="N",
        help="to measure throughput at (default: 1 8 64 256)",
    )
    choice_options(bench, "pick a cascade of a study, as rcopt select does (at most one)")

    report = command(
        commands, "report", report_command, "one self-contained page with the figures"
    )
    report.add_argument("--output", metavar="FOLDER", help="default: reports/STUDY")

    repeats = commands.add_parser(
        "repeats", help="the median front and its band over studies that differ in their seed"
    )
    repeats.set_defaults(command=repeats_command)
    repeats.add_argument("studies", nargs="+", metavar="STUDY", help="at least two")
    repeats.add_argument("--format", choices=["table", "json"], default="table")

    export = command(commands, "export", export_command, "write a study's predictions for others")
    export.add_argument("folder", help="gets one file per stage; source = 'predictions' reads it")

    ui = commands.add_parser("ui", help="the MLflow UI on this project's store, on loopback")
    ui.set_defaults(command=ui_command)
    ui.add_argument("study", nargs="?", help="open on this study's front")
    ui.add_argument("--port", type=int, default=5000, help="the next free one if it is in use")
    ui.add_argument("--host", default="127.0.0.1", help="loopback unless told otherwise")
    ui.add_argument("--dashboard", action="store_true", help="optuna-dashboard beside it")
    ui.add_argument("--no-browser", action="store_true", help="only print the link")
    return parser


def _interrupt(*_: object) -> None:
    """Stop soon at the first signal, at once at the second."""
    for number in _SIGNALS:
        signal.signal(number, _stop)
    # From now on no server is waited for: MLflow reads these at every request.
    interruption.ask()
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
    raise KeyboardInterrupt


def _stop(*_: object) -> None:
    # As safe as being killed, which every command survives.
    os.write(2, b"\nrcopt: stopped at once; the same command goes on\n")
    os._exit(130)


def _complain(error: Exception, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    print(f"rcopt: error: {one_line(str(error))}", file=sys.stderr)
    return code
