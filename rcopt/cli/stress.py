"""The command that looks beyond clean images: stress."""

import argparse

from rcopt.cli.arguments import choice_options, say, shown_progress, tell_looks, wanted
from rcopt.cli.command import Command


def stress_command(arguments: argparse.Namespace) -> None:
    """Run a chosen cascade on degraded images."""
    import json

    from rcopt.cli.stress_tables import stress_csv, stress_table
    from rcopt.study import choosing
    from rcopt.study.file import load_study
    from rcopt.study.stress import stress

    study = load_study(arguments.study, arguments.overrides)
    choice = choosing.select(study, wanted(arguments))
    names = None if arguments.corruptions is None else arguments.corruptions.split(",")
    with shown_progress(arguments.format != "table") as progress:
        found = stress(
            study,
            choice,
            split=arguments.on,
            corruptions=names,
            drop=arguments.max_drop,
            device=arguments.device,
            progress=progress,
        )
    if arguments.format == "json":
        print(json.dumps(found.to_dict(), indent=1))
    elif arguments.format == "csv":
        print(stress_csv(found))
    else:
        print(stress_table(found))
    if arguments.on == "test":
        tell_looks(study)
    else:
        say("\nnote: thresholds were chosen on clean images; nothing was chosen by these numbers")


def _options(parser: argparse.ArgumentParser) -> None:
    choice_options(parser, "which cascade (exactly one)", required=True)
    parser.add_argument(
        "--on",
        choices=["calibration", "test"],
        default="calibration",
        help="which images are degraded (default: calibration)",
    )
    parser.add_argument(
        "--corruptions",
        metavar="NAMES",
        help="some of blur,noise,jpeg,contrast,brightness,rotation,resolution (default: all)",
    )
    parser.add_argument("--device", default="cpu", help="where the networks answer: cpu, cuda:1")
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table")


COMMANDS = (
    Command(
        "stress",
        "what blur, noise, JPEG and others do to a chosen cascade",
        stress_command,
        _options,
    ),
)
