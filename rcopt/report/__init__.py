"""The report: one self-contained page, and its figures as files."""

from pathlib import Path

from rcopt.files import write_whole
from rcopt.report.analysis.report_data import ReportData
from rcopt.report.charts import charts
from rcopt.report.files import save_charts
from rcopt.report.page import page
from rcopt.report.sections import Thumbnail

__all__ = ["Thumbnail", "write_report"]


def write_report(
    data: ReportData, folder: Path, *, thumbnail: Thumbnail | None = None
) -> list[Path]:
    """Write ``report.html`` and ``figures/NAME.png`` and ``.svg`` into a folder, which is made.

    Args:
        data: From `rcopt.report.analysis.report_data.report_data`.
        folder: What it holds of these names is replaced, the page last.
        thumbnail: Returns a small PNG or JPEG of an image by its name, or None; names alone
            are shown without it.

    Returns:
        The files written, the page first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = save_charts(charts(data), folder / "figures")
    html = folder / "report.html"
    write_whole(html, page(data, thumbnail).encode())
    return [html, *figures]
