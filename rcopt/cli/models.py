"""Commands on models: select, predict, bench."""

import argparse
import sys
from typing import Any

from rcopt.cli.arguments import ranked, say, wanted, wants


def select_command(arguments: argparse.Namespace) -> None:
    """Choose one point of a front; register it if asked to."""
    import json

    from rcopt.cli import tables
    from rcopt.study import choosing

    wish = wanted(arguments)
    study, ranking = ranked(arguments)
    choice = choosing.select(study, wish, None if ranking is None else ranking.points)
    if arguments.format == "json":
        print(json.dumps(choice.to_dict(), indent=1))
    else:
        print(tables.choice_table(choice))
    if arguments.register:
        registered = choosing.register(study, choice, arguments.register)
        say(f"registered {registered.name} version {registered.version}")
        say(f"next: rcopt predict {registered.name} IMAGE...")
        say(f"      mlflow models serve -m {registered.uri} --env-manager local")
    elif arguments.format == "table":
        say("\nnext: the same command with --register NAME makes it an MLflow model")


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
    base = np.stack([decode(file, loaded.base_side, str(file)) for file in files])
    result = benchmark(
        loaded.executor,
        torch.from_numpy(base),
        batch_sizes=arguments.batch_sizes,
        progress=say,
    )
    print(describe(result))


def _picked(arguments: argparse.Namespace) -> Any:
    from rcopt.study import choosing
    from rcopt.study.file import load_study

    study = load_study(arguments.model)
    choice = choosing.select(study, wanted(arguments))
    say(f"picked {choice.point.cascade}")
    return choosing.opened(study, choice, device=arguments.device)


def _loaded(arguments: argparse.Namespace) -> Any:
    from rcopt.serving.registry import load_cascade
    from rcopt.study.file import load_project
    from rcopt.tracking import open_tracker

    project, uri = load_project()
    tracker = open_tracker(arguments.uri or uri, project)
    return load_cascade(arguments.model, tracker, device=arguments.device)
