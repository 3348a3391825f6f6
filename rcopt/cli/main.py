"""The command line: parse, wire, exit codes."""

import argparse
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from rcopt import interruption
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

    run = _command(commands, "run", _run, "start, continue or extend a study")
    run.add_argument(
        "--trials", type=_count, help="the study's total of trials (default: the file's)"
    )
    run.add_argument("--quiet", action="store_true", help="no progress, only the result")
    run.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="local processes that share it"
    )
    _retry(run)
    _format(run)

    worker = _command(commands, "worker", _worker, "help with a study, beside other workers")
    worker.add_argument("--trials", type=_count, help="the study's total, over all workers")
    worker.add_argument("--device", help="where to train: cpu, cuda:1 (one worker per GPU)")
    worker.add_argument("--quiet", action="store_true", help="only errors")
    _retry(worker)

    train = _command(
        commands, "train", _train, "train every stage there is, not only what trials ask for"
    )
    train.add_argument(
        "--seeds",
        type=_count,
        default=1,
        metavar="N",
        help="N studies: the file's seed, then NAME-1 with the next one, and so on",
    )
    train.add_argument("--quiet", action="store_true", help="no progress, only the result")

    status = _command(commands, "status", _status, "what is done, and how close to exact")
    status.add_argument("--format", choices=["table", "json"], default="table")

    front = _command(commands, "front", _front, "the validation-picked front with test numbers")
    front.add_argument("--all", action="store_true", help="every point, not about 20 spread ones")
    _cost(front)
    _format(front)

    select = _command(commands, "select", _select, "pick one configuration of the front")
    _wishes(select, "what to pick by (exactly one)")
    _cost(select)
    select.add_argument(
        "--register", metavar="NAME", help="make it version N of this MLflow model"
    )
    select.add_argument("--format", choices=["table", "json"], default="table")

    predict = commands.add_parser(
        "predict", help="run a registered cascade on pictures, with real early exits"
    )
    predict.set_defaults(command=_predict)
    predict.add_argument("model", help="registered NAME, NAME@ALIAS, NAME/VERSION, or a folder")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="picture files or folders")
    predict.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    predict.add_argument("--uri", help="the MLflow store (default: this project's)")
    _format(predict)

    bench = commands.add_parser(
        "bench", help="time a registered or selected cascade and its top stage on this machine"
    )
    bench.set_defaults(command=_bench)
    bench.add_argument("model", help="as for predict; with a wish below, a study to pick from")
    bench.add_argument("images", help="folder of pictures like those it will see")
    bench.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    bench.add_argument("--uri", help="the MLflow store (default: this project's)")
    bench.add_argument("--count", type=_count, default=256, help="pictures to take")
    bench.add_argument(
        "--batch-sizes",
        type=_count,
        nargs="+",
        default=[1, 8, 64, 256],
        metavar="N",
        help="to measure throughput at (default: 1 8 64 256)",
    )
    _wishes(bench, "pick a cascade of a study, as rcopt select does (at most one)")

    report = _command(commands, "report", _report, "one self-contained page with the figures")
    report.add_argument("--output", metavar="FOLDER", help="default: reports/STUDY")

    repeats = commands.add_parser(
        "repeats", help="the median front and its band over studies that differ in their seed"
    )
    repeats.set_defaults(command=_repeats)
    repeats.add_argument("studies", nargs="+", metavar="STUDY", help="at least two")
    repeats.add_argument("--format", choices=["table", "json"], default="table")

    export = _command(commands, "export", _export, "write a study's predictions for others")
    export.add_argument("folder", help="gets one file per stage; source = 'predictions' reads it")

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


def _retry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="try the stages again whose training failed too often",
    )


def _wishes(parser: argparse.ArgumentParser, title: str) -> None:
    wish = parser.add_argument_group(title)
    wish.add_argument(
        "--max-flops", type=_flops, metavar="N", help="most mean FLOPs: 9e8, 900M, 1.2G"
    )
    wish.add_argument(
        "--max-milliseconds", type=float, metavar="N", help="most mean time (cost = latency)"
    )
    wish.add_argument("--min-accuracy", type=float, metavar="SHARE", help="such as 0.9")
    wish.add_argument(
        "--max-drop",
        type=float,
        metavar="SHARE",
        help="against the best single stage: 0.01 is a point",
    )
    wish.add_argument("--knee", action="store_true", help="the front's bend")
    wish.add_argument("--trial", type=int, metavar="N", help="what this trial found")
    parser.add_argument(
        "--certify",
        type=float,
        metavar="CONFIDENCE",
        help="guarantee --max-drop with this confidence (0.9) on the calibration split",
    )


def _wish(arguments: argparse.Namespace) -> Any:
    from dataclasses import fields

    from rcopt.study.choosing import Wish

    return Wish(**{field.name: getattr(arguments, field.name) for field in fields(Wish)})


def _cost(parser: argparse.ArgumentParser) -> None:
    cost = parser.add_argument_group("rank by another cost than the study's")
    cost.add_argument(
        "--cost",
        choices=["flops", "latency"],
        help="latency: each stage is timed on this machine, once",
    )
    cost.add_argument("--device", help="to time on: cpu, cuda:1 (default: the study's [latency])")
    cost.add_argument("--batch-size", type=_count, help="images per call (likewise; 1)")
    cost.add_argument("--measure-again", action="store_true", help="do not use kept times")


def _ranking(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Return the study, and its front by the cost asked for, None if that is its own."""
    from rcopt.study.settings import load_study

    given = {"device": arguments.device, "batch_size": arguments.batch_size}
    timing = [f"latency.{key}={value}" for key, value in given.items() if value is not None]
    study = load_study(arguments.study, [*arguments.overrides, *timing])
    if arguments.cost != "latency" and (timing or arguments.measure_again):
        raise InputError(
            "--device, --batch-size and --measure-again say how to time: add --cost latency"
        )
    if arguments.cost is None:
        return study, None
    from rcopt.study.front_by_cost import rank

    with _progress() as progress:
        return study, rank(study, arguments.cost, again=arguments.measure_again, progress=progress)


def _format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table")


@contextmanager
def _progress(quiet: bool = False) -> Iterator[Any]:
    """Yield what shows progress, and end its bars whatever happens."""
    from rcopt.progress import Progress, Shown

    shown = Shown()
    try:
        yield Progress() if quiet else shown
    finally:
        shown.close()


def _run(arguments: argparse.Namespace) -> None:
    from rcopt.cli import tables
    from rcopt.study import run_study
    from rcopt.study.results import well_spread
    from rcopt.study.settings import load_study

    loaded = load_study(arguments.study, arguments.overrides)
    with _progress(arguments.quiet) as progress:
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
    if arguments.format != "table":
        print(
            tables.front_json(points) if arguments.format == "json" else tables.front_csv(points)
        )
        return
    _print_front(results, points)
    name = loaded.name
    if not arguments.quiet:
        from rcopt.tracking import view_link

        uri = loaded.settings.tracking.uri
        server = uri if uri.startswith("http") else "http://127.0.0.1:5000"
        report = "" if results.timing else f"      rcopt report {name}\n"
        _say(f"\nnext: rcopt status {name}\n{report}      rcopt ui {name}, then")
        _say(f"      {view_link(server, results.experiment_id)}")


def _train(arguments: argparse.Namespace) -> None:
    from rcopt.study import run_study
    from rcopt.study.settings import load_study

    first = load_study(arguments.study, arguments.overrides)
    repeats = [first]
    for number in range(1, arguments.seeds):
        own = [f"name='{first.name}-{number}'", f"seed={first.settings.seed + number}"]
        repeats.append(load_study(arguments.study, [*arguments.overrides, *own]))
    for one in repeats:
        with _progress(arguments.quiet) as progress:
            results = run_study.run(one, every_stage=True, progress=progress)
        print(f"{one.name}: seed {one.settings.seed}, {len(results.stages)} trained stages")
    if arguments.quiet:
        return
    _say(f"\nnext: rcopt front {first.name}\n      rcopt export {first.name} FOLDER")
    if len(repeats) > 1:
        _say(f"      rcopt repeats {' '.join(one.name for one in repeats)}")


def _worker_options(arguments: argparse.Namespace) -> list[str]:
    options = [part for override in arguments.overrides for part in ("--set", override)]
    if arguments.trials is not None:
        options += ["--trials", str(arguments.trials)]
    if arguments.retry_failed:
        options.append("--retry-failed")
    return options


def _worker(arguments: argparse.Namespace) -> None:
    from rcopt.study import run_study
    from rcopt.study.settings import load_study

    overrides = list(arguments.overrides)
    if arguments.device is not None:
        overrides.append(f"training.device={arguments.device}")
    loaded = load_study(arguments.study, overrides)
    with _progress(arguments.quiet) as progress:
        results = run_study.run(
            loaded,
            trials=arguments.trials,
            retry_failed=arguments.retry_failed,
            progress=progress,
        )
    if not arguments.quiet:
        _say(
            f"{loaded.name}: {results.sampled} trials, {len(results.stages)} stages, "
            f"{len(results.points)} points on the front; next: rcopt front {loaded.name}"
        )


def _front(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from rcopt.cli import tables
    from rcopt.study.results import load_results, well_spread

    loaded, ranking = _ranking(arguments)
    results = load_results(loaded.folder / "results.json")
    if ranking is not None:
        results = replace(
            results,
            points=ranking.points,
            exact=ranking.exact,
            timing="" if ranking.times is None else str(ranking.times),
        )
    points = list(results.points) if arguments.all else well_spread(results.points)
    if arguments.format == "json":
        print(tables.front_json(points))
    elif arguments.format == "csv":
        print(tables.front_csv(points))
    else:
        _print_front(results, points)


def _print_front(results: Any, points: Sequence[Any]) -> None:
    from rcopt.cli import tables

    sizes = ", ".join(f"{count} {split}" for split, count in results.split_sizes.items() if count)
    kind = "exact front" if results.exact else "front"
    print(
        f"{results.study}: {kind}, picked on validation, reported on test\n"
        f"{len(points)} of {len(results.points)} points, {len(results.stages)} trained stages\n"
        f"images: {sizes}\n" + (f"ms an image: {results.timing}\n" if results.timing else "")
    )
    print(tables.front_table(points))


def _status(arguments: argparse.Namespace) -> None:
    import json

    from rcopt.cli import tables
    from rcopt.study.settings import load_study
    from rcopt.study.status import status

    loaded = load_study(arguments.study, arguments.overrides)
    now = status(loaded)
    if arguments.format == "json":
        print(json.dumps(tables.status_tree(loaded.name, now), indent=1))
    else:
        print(tables.status_table(loaded.name, now))


def _select(arguments: argparse.Namespace) -> None:
    import json

    from rcopt.cli import tables
    from rcopt.study import choosing

    wish = _wish(arguments)
    study, ranking = _ranking(arguments)
    choice = choosing.select(study, wish, None if ranking is None else ranking.points)
    if arguments.format == "json":
        print(json.dumps(choice.to_dict(), indent=1))
    else:
        print(tables.choice_table(choice))
    if arguments.register:
        registered = choosing.register(study, choice, arguments.register)
        _say(f"registered {registered.name} version {registered.version}")
        _say(f"next: rcopt predict {registered.name} IMAGE...")
        _say(f"      mlflow models serve -m {registered.uri} --env-manager local")
    elif arguments.format == "table":
        _say("\nnext: the same command with --register NAME makes it an MLflow model")


def _predict(arguments: argparse.Namespace) -> int:
    import csv
    import json
    from pathlib import Path

    from rcopt.cli import tables
    from rcopt.serving.pictures import predict_files

    loaded = _loaded(arguments)
    answers = predict_files(loaded, [Path(image) for image in arguments.images])
    failed = False
    if arguments.format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        for number, answer in enumerate(answers):
            entry = answer.to_dict()
            if not number:
                writer.writerow(entry)
            writer.writerow("" if value is None else value for value in entry.values())
            failed |= answer.error is not None
    else:
        everything = list(answers)
        failed = any(answer.error is not None for answer in everything)
        if arguments.format == "json":
            print(json.dumps([answer.to_dict() for answer in everything], indent=1))
        else:
            print(tables.answer_table(everything))
    return 2 if failed else 0


def _bench(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    import numpy as np
    import torch

    from rcopt.data.images import decode
    from rcopt.serving.benchmark import benchmark, describe
    from rcopt.serving.pictures import picture_files

    loaded = _picked(arguments) if _wants(arguments) else _loaded(arguments)
    files = picture_files(Path(arguments.images))[: arguments.count]
    base = np.stack([decode(file, loaded.base_side, str(file)) for file in files])
    result = benchmark(
        loaded.executor,
        torch.from_numpy(base),
        batch_sizes=arguments.batch_sizes,
        progress=_say,
    )
    print(describe(result))


def _report(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from rcopt.report.publish import publish_report
    from rcopt.study.settings import load_study

    study = load_study(arguments.study, arguments.overrides)
    folder = Path(arguments.output or study.project / "reports" / study.name)
    files = publish_report(study, folder)
    print(files[0])
    _say(f"and {len(files) - 1} figures beside it; also stored with the study's MLflow run")


def _repeats(arguments: argparse.Namespace) -> None:
    import json

    from rcopt.cli import tables
    from rcopt.study.repeats import repeats
    from rcopt.study.settings import load_study

    found = repeats([load_study(name) for name in arguments.studies])
    if arguments.format == "json":
        print(json.dumps(found.to_dict(), indent=1))
    else:
        print(tables.repeats_table(found))


def _export(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from rcopt.study.settings import load_study
    from rcopt.study.stages.lookup import export_predictions

    for path in export_predictions(
        load_study(arguments.study, arguments.overrides), Path(arguments.folder)
    ):
        print(path)


def _ui(arguments: argparse.Namespace) -> None:
    from rcopt.study.settings import load_project, load_study
    from rcopt.tracking.server import serve

    storage = None
    if arguments.study is None:
        if arguments.dashboard:
            raise InputError("ui: --dashboard needs a study: rcopt ui STUDY --dashboard")
        project, uri = load_project()
        name = None
    else:
        study = load_study(arguments.study)
        project, uri, name = study.project, study.settings.tracking.uri, study.name
        if arguments.dashboard:
            storage = study.storage
            if storage == "journal":
                storage = str(study.folder / "trials.journal")
    serve(
        uri,
        project,
        study=name,
        dashboard=storage,
        host=arguments.host,
        port=arguments.port,
        open_browser=not arguments.no_browser,
    )


def _wants(arguments: argparse.Namespace) -> bool:
    from dataclasses import fields

    from rcopt.study.choosing import Wish

    return any(getattr(arguments, field.name) != field.default for field in fields(Wish))


def _picked(arguments: argparse.Namespace) -> Any:
    from rcopt.study import choosing
    from rcopt.study.settings import load_study

    study = load_study(arguments.model)
    choice = choosing.select(study, _wish(arguments))
    _say(f"picked {choice.point.cascade}")
    return choosing.opened(study, choice, device=arguments.device)


def _loaded(arguments: argparse.Namespace) -> Any:
    from rcopt.serving.registry import load_cascade
    from rcopt.study.settings import load_project
    from rcopt.tracking import open_tracker

    project, uri = load_project()
    tracker = open_tracker(arguments.uri or uri, project)
    return load_cascade(arguments.model, tracker, device=arguments.device)


def _say(text: str) -> None:
    """Tell something that is not the result; standard output stays clean for it."""
    print(text, file=sys.stderr)


def _flops(text: str) -> float:
    units = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    unit = units.get(text[-1:].upper(), 1.0)
    try:
        return float(text[:-1] if unit > 1 else text) * unit
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


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
