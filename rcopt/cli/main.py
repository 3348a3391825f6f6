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

import rcopt
from rcopt import interruption
from rcopt.cli import init, models, run, show, stages, stress, tables_in
from rcopt.cli.arguments import study_argument
from rcopt.cli.command import Command
from rcopt.errors import InputError, WorkError
from rcopt.redaction import one_line

_EPILOG = """\
a study, from start to model:
  rcopt run digits                       start it, continue it, extend it
  rcopt worker digits                    help with it, from another terminal or machine
  rcopt status digits                    what is trained, how much of the exact front is found
  rcopt front digits                     the validation-picked Pareto front with test numbers
  rcopt ui digits                        the MLflow UI on this project's store

A study is named by its file or, once started, by its name.
exit codes: 0 done, 1 the work failed, 2 the input was wrong, 130 interrupted (state kept)"""


#: Of the modules that hold them, in the order of ``rcopt --help``.
COMMANDS: tuple[Command, ...] = (
    *init.COMMANDS,
    *stages.COMMANDS,
    *run.COMMANDS,
    *show.COMMANDS,
    *models.COMMANDS,
    *stress.COMMANDS,
    *tables_in.COMMANDS,
)

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    _open_streams()
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


def _open_streams() -> None:
    """Put the null device where a standard stream is closed.

    The next file that is opened would otherwise take its number, and what libraries write to
    standard error would land in that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


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
    from rcopt.tracking.faults import no_space

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
    parser.add_argument("--version", action="version", version=f"rcopt {rcopt.__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and warnings")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for one in COMMANDS:
        own: argparse.ArgumentParser = commands.add_parser(
            one.name, help=one.summary, description=one.summary
        )
        own.set_defaults(command=one.run)
        # After the command too; left out there, what stands before it holds.
        own.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        if one.takes_study:
            study_argument(own)
        one.options(own)
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
