"""Commands on models: select, predict, bench."""

import argparse
import sys
from typing import Any

from rcopt.cli.arguments import (
    certificate_options,
    choice_options,
    cost_option,
    count,
    output_format,
    ranked,
    say,
    share,
    suggest,
    tell_looks,
    wanted,
    wants,
)
from rcopt.cli.command import Command


def select_command(arguments: argparse.Namespace) -> None:
    """Choose one point of a front; register it if asked to."""
    import json

    from rcopt.cli.choice_tables import choice_table
    from rcopt.models.families.own import VARIABLE as OWN_BACKBONES
    from rcopt.study import choosing, packing

    criterion = wanted(arguments)
    study, ranking = ranked(arguments)
    choice = choosing.select(study, criterion, None if ranking is None else ranking.points)
    if arguments.format == "json":
        print(json.dumps(choice.to_dict(), indent=1))
    else:
        print(choice_table(choice, by_class=arguments.by_class))
    if arguments.register:
        registered = packing.register(study, choice, arguments.register)
        say(f"registered {registered.name} version {registered.version}")
        # Stored models never run somebody's own code by themselves: whoever serves one says so.
        own = sorted({s.backbone for s in choice.point.cascade.stages if ":" in s.backbone})
        allowed = f"{OWN_BACKBONES}={','.join(own)} " if own else ""
        suggest(
            f"{allowed}rcopt predict {registered.name} IMAGE...",
            f"{allowed}mlflow models serve -m {registered.uri} --env-manager local",
        )
    elif arguments.format == "table":
        say("\nnext: the same command with --register NAME makes it an MLflow model")
    tell_looks(study)


def predict_command(arguments: argparse.Namespace) -> int:
    """Classify pictures by a cascade."""
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


def monitor_command(arguments: argparse.Namespace) -> int:
    """Say whether pictures are like those that a cascade was calibrated on."""
    import json
    from pathlib import Path

    from rcopt.errors import InputError
    from rcopt.serving.pictures import predict_files
    from rcopt.serving.watching import Watched

    loaded = _loaded(arguments)
    watched = Watched(loaded)
    if watched.monitor is None:
        raise InputError(
            f"{arguments.model}: packaged before cascades could be monitored; register it again"
        )
    first = sum(
        answer.stage == 0
        for answer in watched.seen(
            list(predict_files(loaded, [Path(image) for image in arguments.images]))
        )
    )
    monitor = watched.monitor
    if not monitor.seen:
        raise InputError("monitor: none of the pictures could be read")
    found = {
        "images": monitor.seen,
        "first_stage_answers": first / monitor.seen,
        "evidence": monitor.evidence,
        "alarm_after": monitor.alarm,
    }
    if arguments.format == "json":
        print(json.dumps(found, indent=1))
    else:
        print(
            f"{monitor.seen:,} pictures, the first stage answers {first / monitor.seen:.1%}\n"
            f"evidence that they are unlike those of calibration: {monitor.evidence:.3g} "
            "(alarm at 100)"
        )
        print(watched.alarm or "no alarm")
    return 0


def recalibrate_command(arguments: argparse.Namespace) -> None:
    """Choose a registered cascade's thresholds anew from labelled pictures."""
    import textwrap
    from pathlib import Path

    from rcopt.cli.tables import width
    from rcopt.core.wording import cascade_text, percent
    from rcopt.errors import InputError
    from rcopt.serving import registry
    from rcopt.serving.recalibration import recalibrate, weights_of

    tracker = _tracker(arguments)
    name = arguments.model.removeprefix("models:/").partition("@")[0].partition("/")[0]
    loaded = registry.load_cascade(f"models:/{arguments.model.removeprefix('models:/')}", tracker)
    if loaded.description["run_id"] is None:
        raise InputError(f"{arguments.model}: it has no run in MLflow, so it cannot be registered")
    found = recalibrate(
        loaded,
        Path(arguments.folder),
        max_drop=arguments.max_drop,
        confidence=arguments.certify,
        promise=arguments.promise,
    )
    point, (n, n_calibration) = found.package.point, found.n_images
    said = (
        f"Recalibrated on {n} pictures of {Path(arguments.folder).name}: accuracy "
        f"{percent(point.validation.accuracy)} there ({found.reference.name} alone "
        f"{percent(found.reference_accuracy)}), {percent(found.calibration_accuracy)} on "
        f"{n_calibration} others."
    )
    if found.certificate is not None:
        text = str(found.certificate)
        said += f" {text[0].upper()}{text[1:]}"
    weights = weights_of(loaded)
    registered = registry.register(
        tracker,
        found.package,
        {stage: weights[stage] for stage in point.cascade.stages},
        name,
        experiment_id=tracker.models.experiment_of(point.run_id or ""),
        alias=arguments.alias,
        note=said,
    )
    print(f"{name}: {cascade_text(point.cascade, short=True)}\n")
    print(textwrap.fill(said, min(width(), 80)))
    say(f"registered {registered.name} version {registered.version} as @{registered.alias}")
    suggest(f"rcopt predict {registered.name}@{registered.alias} IMAGE...")


def bench_command(arguments: argparse.Namespace) -> None:
    """Show the time of a cascade beside its FLOPs."""
    from pathlib import Path

    import numpy as np
    import torch

    from rcopt.data.images import decode
    from rcopt.serving.benchmark import benchmark, describe
    from rcopt.serving.pictures import picture_files

    loaded = _picked(arguments) if wants(arguments) else _loaded(arguments)
    files = picture_files(Path(arguments.images))[: arguments.count]
    base = np.stack([decode(file, loaded.base_side, str(file), loaded.levels) for file in files])
    result = benchmark(
        loaded.executor,
        torch.from_numpy(base),
        batch_sizes=arguments.batch_sizes,
        progress=say,
    )
    print(describe(result))


def _picked(arguments: argparse.Namespace) -> Any:
    from rcopt.study import choosing, packing
    from rcopt.study.file import load_study

    study = load_study(arguments.model)
    choice = choosing.select(study, wanted(arguments))
    say(f"picked {choice.point.cascade}")
    return packing.opened(study, choice, device=arguments.device)


def _loaded(arguments: argparse.Namespace) -> Any:
    from rcopt.serving.registry import load_cascade

    return load_cascade(arguments.model, _tracker(arguments), device=arguments.device)


def _tracker(arguments: argparse.Namespace) -> Any:
    from rcopt.study.file import load_project
    from rcopt.tracking import open_tracker

    project, uri = load_project()
    return open_tracker(arguments.uri or uri, project)


def _select_options(parser: argparse.ArgumentParser) -> None:
    choice_options(parser, "what to pick by (exactly one)", required=True)
    cost_option(parser)
    parser.add_argument(
        "--by-class", action="store_true", help="what it does to each class, the worst first"
    )
    parser.add_argument(
        "--register", metavar="NAME", help="make it version N of this MLflow model"
    )
    parser.add_argument("--format", choices=["table", "json"], default="table")


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--uri", help="the MLflow store (default: this project's)")


def _predict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="registered NAME, NAME@ALIAS, NAME/VERSION, or a folder")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files or folders")
    _model_options(parser)
    output_format(parser)


def _monitor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="as for predict")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, in their order")
    _model_options(parser)
    parser.add_argument("--format", choices=["table", "json"], default="table")


def _recalibrate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="registered NAME, NAME@ALIAS or NAME/VERSION")
    parser.add_argument("folder", help="labelled pictures: FOLDER/CLASS/IMAGE")
    parser.add_argument(
        "--max-drop", type=share, required=True, help="accuracy given up: 0.01 or 1%%"
    )
    certificate_options(parser)
    parser.add_argument(
        "--alias", default="recalibrated", help="of the new version (default: recalibrated)"
    )
    parser.add_argument("--uri", help="the MLflow store (default: this project's)")


def _bench_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="as for predict; with one of the options below, a study to pick from"
    )
    parser.add_argument("images", help="folder of pictures like those it will see")
    _model_options(parser)
    parser.add_argument("--count", type=count, default=256, help="pictures to take")
    parser.add_argument(
        "--batch-sizes",
        type=count,
        nargs="+",
        default=[1, 8, 64, 256],
        metavar="N",
        help="to measure throughput at (default: 1 8 64 256)",
    )
    choice_options(
        parser, "pick a cascade of a study, as rcopt select does (at most one)", required=False
    )


COMMANDS = (
    Command("select", "pick one configuration of the front", select_command, _select_options),
    Command(
        "predict",
        "run a registered cascade on pictures, with real early exits",
        predict_command,
        _predict_options,
        takes_study=False,
    ),
    Command(
        "monitor",
        "say whether pictures are still like those that a cascade was calibrated on",
        monitor_command,
        _monitor_options,
        takes_study=False,
    ),
    Command(
        "recalibrate",
        "choose a registered cascade's thresholds anew from labelled pictures",
        recalibrate_command,
        _recalibrate_options,
        takes_study=False,
    ),
    Command(
        "bench",
        "time a registered or selected cascade and its top stage on this machine",
        bench_command,
        _bench_options,
        takes_study=False,
    ),
)
