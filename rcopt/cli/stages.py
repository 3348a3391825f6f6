"""The command that looks at stages before anything is trained: stages."""

import argparse
from typing import TYPE_CHECKING

from rcopt.cli.arguments import output_format, say, shown_progress
from rcopt.cli.command import Command

if TYPE_CHECKING:
    from rcopt.data.preprocessing import Preprocessing
    from rcopt.study.stages.preview import StagePreview


def stages_command(arguments: argparse.Namespace) -> int:
    """List every stage that a study may train; exit code 2 if one would be refused."""
    import csv
    import json
    import sys

    from rcopt.core.first_weights import seen_note
    from rcopt.study.file import load_study
    from rcopt.study.stages.preview import preview

    study = load_study(arguments.study, arguments.overrides)
    with shown_progress() as progress:
        found = preview(study, time=not arguments.no_time, progress=progress)
    trees = [one.to_dict() for one in found]
    if arguments.format == "json":
        print(json.dumps(trees, indent=1))
    elif arguments.format == "csv":
        writer = csv.DictWriter(sys.stdout, list(trees[0]), lineterminator="\n")
        writer.writeheader()
        for tree in trees:
            for key in ("preprocessing", "origin"):
                tree[key] = json.dumps(tree[key]) if tree[key] else ""
            writer.writerow(tree | {"notes": "; ".join(tree["notes"])})
    elif not all(one.refused for one in found):
        print(stages_table(found))
    note = seen_note({one.stage.name: one.origin for one in found}, study.settings.data.source)
    if note:
        say(f"note: {note}")
    refused = [one for one in found if one.refused]
    for one in refused:
        say(f"refused: {one.stage.name}: {one.refused}")
    return 2 if refused else 0


def stages_table(found: "list[StagePreview]") -> str:
    """Return the stages as a table, and below it what should be considered of each."""
    from rcopt.cli.tables import table
    from rcopt.core.wording import duration

    header = [
        *("stage", "MFLOPs", "torch's", "M params", "memory", "trains in", "sees all"),
        *("input", "weights"),
    ]
    rows = [
        [
            one.stage.name,
            f"{2 * one.macs / 1e6:.4g}",
            f"{2 * one.macs_torch / 1e6:.4g}",
            f"{one.parameters / 1e6:.3g}",
            f"{one.memory / 2**20:,.0f} MB",
            "" if one.seconds is None else duration(one.seconds),
            f"{one.share_beyond:.0%}" if one.layers else "",
            _input(one.preprocessing),
            one.weights,
        ]
        for one in found
        if not one.refused
    ]
    lines = [table(header, rows)]
    # What is said of several stages is said once.
    said: dict[str, list[str]] = {}
    for one in found:
        about = ", ".join(f"{key} {text}" for key, text in one.origin.items() if key != "source")
        origin = [f"weights of {one.origin['source']}: {about}"] if about else []
        for note in (*one.notes, *origin):
            said.setdefault(note, []).append(one.stage.name)
    lines += [f"{', '.join(names)}: {note}" for note, names in said.items()]
    return "\n".join(lines)


def _input(preprocessing: "Preprocessing | None") -> str:
    from rcopt.data.preprocessing import IMAGENET

    if preprocessing is None:
        return ""
    mean, std = preprocessing.mean, preprocessing.std
    if (mean, std) == (IMAGENET.mean, IMAGENET.std):
        scale = "ImageNet"
    else:
        low, high = -mean[0] / std[0], (255 - mean[0]) / std[0]
        scale = f"{low:.2g}..{high:.2g}"
    return f"{scale} {preprocessing.interpolation}"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-time", action="store_true", help="do not measure a few training steps of each"
    )
    output_format(parser)


COMMANDS = (
    Command(
        "stages",
        "list what a study may train, what it costs and what would be refused",
        stages_command,
        _options,
    ),
)
