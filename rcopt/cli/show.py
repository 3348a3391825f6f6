"""Commands that show: front, status, report, repeats, export, ui."""

import argparse

from rcopt.cli.arguments import ranked, say
from rcopt.cli.run import print_front
from rcopt.errors import InputError


def front_command(arguments: argparse.Namespace) -> None:
    """Print the front."""
    from dataclasses import replace

    from rcopt.cli import tables
    from rcopt.study.results import load_results, well_spread

    loaded, ranking = ranked(arguments)
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
        print_front(results, points)


def status_command(arguments: argparse.Namespace) -> None:
    """Print how far a study is."""
    import json

    from rcopt.cli import tables
    from rcopt.study.file import load_study
    from rcopt.study.status import status

    loaded = load_study(arguments.study, arguments.overrides)
    now = status(loaded)
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
    files = publish_report(study, folder)
    print(files[0])
    say(f"and {len(files) - 1} figures beside it; also stored with the study's MLflow run")


def repeats_command(arguments: argparse.Namespace) -> None:
    """Print the median front over seeds."""
    import json

    from rcopt.cli import tables
    from rcopt.study.file import load_study
    from rcopt.study.repeats import repeats

    found = repeats([load_study(name) for name in arguments.studies])
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
