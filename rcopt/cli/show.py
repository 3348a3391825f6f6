"""Commands that show: front, status, report, repeats, export, ui."""

import argparse

from rcopt.cli.arguments import cost_option, output_format, ranked, say, tell_looks
from rcopt.cli.command import Command
from rcopt.cli.run import print_front
from rcopt.errors import InputError


def front_command(arguments: argparse.Namespace) -> None:
    """Print the front."""
    from dataclasses import replace

    from rcopt.cli import tables
    from rcopt.study.results import well_spread
    from rcopt.study.results_file import load_results

    loaded, ranking = ranked(arguments)
    results = load_results(loaded.results_file)
    if ranking is not None:
        results = replace(
            results,
            points=ranking.points,
            exact=ranking.exact,
            limits=ranking.limits,
            gain=ranking.gain,
            timing="" if ranking.times is None else str(ranking.times),
        )
    points = list(results.points) if arguments.all else well_spread(results.points)
    tell_looks(loaded)
    if arguments.format == "json":
        print(tables.front_json(points))
    elif arguments.format == "csv":
        print(tables.front_csv(points))
    else:
        print_front(results, points)


def status_command(arguments: argparse.Namespace) -> None:
    """Print how far a study is."""
    import json

    from rcopt.cli import tables
    from rcopt.study.file import load_study
    from rcopt.study.status import read_status

    loaded = load_study(arguments.study, arguments.overrides)
    now = read_status(loaded)
    if arguments.format == "json":
        print(json.dumps(tables.status_tree(loaded.name, now), indent=1))
    else:
        print(tables.status_table(loaded.name, now))


def report_command(arguments: argparse.Namespace) -> None:
    """Write the report page."""
    from pathlib import Path

    from rcopt.report.publish import publish_report
    from rcopt.study.file import load_study

    study = load_study(arguments.study, arguments.overrides)
    folder = Path(arguments.output or study.project / "reports" / study.name)
    report = publish_report(study, folder)
    tell_looks(study)
    print(report.files[0])
    stored = "also stored with the study's MLflow run"
    if report.run_id is None:
        stored = (
            "not stored in MLflow, where the study has no run (deleted?): "
            f"'rcopt run {study.name}' makes it again, then repeat this"
        )
    say(f"and {len(report.files) - 1} figures beside it; {stored}")


def repeats_command(arguments: argparse.Namespace) -> None:
    """Print the median front over seeds."""
    import json

    from rcopt.cli import tables
    from rcopt.study.file import load_study
    from rcopt.study.repeats import repeats

    studies = [load_study(name) for name in arguments.studies]
    found = repeats(studies)
    for study in studies:
        tell_looks(study)
    if arguments.format == "json":
        print(json.dumps(found.to_dict(), indent=1))
    else:
        print(tables.repeats_table(found))


def export_command(arguments: argparse.Namespace) -> None:
    """Write the stored predictions as files."""
    from pathlib import Path

    from rcopt.study.file import load_study
    from rcopt.study.stages.lookup import export_predictions

    for path in export_predictions(
        load_study(arguments.study, arguments.overrides), Path(arguments.folder)
    ):
        print(path)


def ui_command(arguments: argparse.Namespace) -> None:
    """Serve the MLflow UI."""
    from rcopt.study.file import load_project, load_study
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


def _front_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="every point, not about 20 spread ones")
    cost_option(parser)
    output_format(parser)


def _table_or_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=["table", "json"], default="table")


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FOLDER", help="default: reports/STUDY")


def _repeats_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("studies", nargs="+", metavar="STUDY", help="at least two")
    _table_or_json(parser)


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="gets one file per stage; source = 'predictions' reads it")


def _ui_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="?", help="open on this study's front")
    parser.add_argument("--port", type=int, default=5000, help="the next free one if it is in use")
    parser.add_argument("--host", default="127.0.0.1", help="loopback unless told otherwise")
    parser.add_argument("--dashboard", action="store_true", help="optuna-dashboard beside it")
    parser.add_argument("--no-browser", action="store_true", help="only print the link")


COMMANDS = (
    Command(
        "status",
        "show progress and how much of the exact front has been found",
        status_command,
        _table_or_json,
    ),
    Command(
        "front", "the validation-picked front with test numbers", front_command, _front_options
    ),
    Command("report", "one self-contained page with the figures", report_command, _report_options),
    Command(
        "repeats",
        "the median front and its band over studies that differ in their seed",
        repeats_command,
        _repeats_options,
        takes_study=False,
    ),
    Command("export", "write a study's predictions for others", export_command, _export_options),
    Command(
        "ui",
        "the MLflow UI on this project's store, on loopback",
        ui_command,
        _ui_options,
        takes_study=False,
    ),
)
