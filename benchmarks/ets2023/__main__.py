"""Repeat the original report's experiment on a folder of stored predictions, as one page.

    python -m benchmarks.ets2023 studies/imagenette-predictions --output reports/ets2023

It takes the three stages nearest to the report's, or three that are named, lays its grids over
their thresholds, counts cost as the report did (parameters x area) and in measured FLOPs, and
writes its tables and figures with the exact front beside them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ets2023.figures import claim_table, original_charts, stage_table
from benchmarks.ets2023.reproduction import nearest_stages, reproduce
from benchmarks.ets2023.summary import print_reproduction, reproduction
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import load_stage
from rcopt.report.files import save_charts
from rcopt.report.html import element


def main(argv: Sequence[str] | None = None) -> int:
    """Print the summary and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ets2023", description=__doc__)
    parser.add_argument("folder", type=Path, help="of *.safetensors files, as rcopt export writes")
    parser.add_argument("--output", type=Path, default=Path("reports/ets2023"))
    parser.add_argument("--stages", nargs=3, metavar="STAGE", help="such as resnet18@32")
    arguments = parser.parse_args(argv)
    pool = [load_stage(path) for path in sorted(arguments.folder.glob("*.safetensors"))]
    chosen = _chosen(pool, arguments.stages)
    if not chosen:
        print(f"{arguments.folder}: no three stages to repeat the report with", file=sys.stderr)
        return 2
    print_reproduction(reproduction(pool, chosen))
    print(f"\n{write_page(chosen, pool, arguments.output)}")
    return 0


def write_page(chosen: Sequence[TrainedStage], pool: Sequence[TrainedStage], folder: Path) -> Path:
    """Write ``index.html`` and its figures into a folder; return the page."""
    analyses = (reproduce(chosen, "parameters", pool=pool), reproduce(chosen, "flops", pool=pool))
    names = tuple(trained.stage.name for trained in chosen)
    charts = original_charts(analyses, names)
    save_charts(charts, folder)
    intro = (
        "The analysis of the report that rcopt comes from (ETS Montréal, 2023), repeated with "
        f"{', '.join(names)}. It laid grids over the two thresholds and counted cost in "
        "parameters × area; beside it stand measured FLOPs and the exact front."
    )
    figures = "".join(
        f'<figure><img src="{chart.name}.svg" alt="{chart.title}" width="500">'
        f"{element('figcaption', chart.title)}{element('p', chart.text)}</figure>"
        for chart in charts
    )
    page = folder / "index.html"
    page.write_text(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>The original report, repeated</title>"
        "<style>body{font:16px/1.5 system-ui;max-width:64rem;margin:2rem auto;padding:0 1rem}"
        "figure{display:inline-block;margin:1rem;vertical-align:top;max-width:500px}"
        ".scroll{overflow-x:auto}td,th{padding:.2rem .6rem;text-align:right}</style></head><body>"
        f"{element('h1', 'The original report, repeated')}{element('p', intro)}"
        f"{claim_table(analyses)}{stage_table(analyses)}{figures}</body></html>\n",
        encoding="utf-8",
    )
    return page


def _chosen(pool: Sequence[TrainedStage], names: Sequence[str] | None) -> Sequence[TrainedStage]:
    if names is None:
        return nearest_stages(pool)
    by_name = {trained.stage.name: trained for trained in pool}
    return [by_name[name] for name in names if name in by_name]


if __name__ == "__main__":
    sys.exit(main())
