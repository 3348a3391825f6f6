"""How far the search had come, against what it spent."""

import numpy as np
from numpy.typing import NDArray

from rcopt.core.wording import percent
from rcopt.report.analysis.report_data import ReportData
from rcopt.report.analysis.search_history import SearchHistory
from rcopt.report.chart import Plot, Series


def progress_by_trial(data: ReportData) -> Plot | None:
    """Return hypervolume against trials."""
    if data.history is None:
        return None
    return _progress(data.history, "trials", "trial", data.history.trials.astype(float))


def progress_by_stage(data: ReportData) -> Plot | None:
    """Return hypervolume against stages trained."""
    if data.history is None:
        return None
    stages = data.history.stages_trained.astype(float)
    return _progress(data.history, "stages", "stages trained", stages)


def progress_by_time(data: ReportData) -> Plot | None:
    """Return hypervolume against training time; None where none was spent here."""
    if data.history is None or not data.history.seconds[-1]:
        return None
    unit, name = (3600.0, "h") if data.history.seconds[-1] >= 7200 else (60.0, "min")
    hours = data.history.seconds / unit
    return _progress(data.history, "time", f"training time so far, {name}", hours)


def _progress(history: SearchHistory, kind: str, label: str, x: NDArray[np.float64]) -> Plot:
    maximum = history.maximum or 1.0
    sampled, everything = history.sampled / maximum, history.everything / maximum
    return Plot(
        name=f"progress-{kind}",
        title=f"Hypervolume against {label}",
        text="Share of the exact front's hypervolume. "
        f"{_passed('The sampled trials', sampled, x, label)} "
        f"{_passed('With the exact sweep they', everything, x, label)}",
        x_label=label,
        y_label="share of hypervolume",
        series=(
            Series("sampled trials", x.tolist(), sampled.tolist(), 4, kind="steps"),
            Series(
                "with the exact sweep",
                x.tolist(),
                everything.tolist(),
                1,
                kind="steps",
                dash="dashed",
            ),
        ),
        log_x=False,
        x_text=lambda x: f"{x:g}",
        y_text=lambda y: percent(y, 0),
    )


def _passed(who: str, shares: NDArray[np.float64], x: NDArray[np.float64], label: str) -> str:
    reached = f"{who} reach {percent(float(shares[-1]), 1)}"
    late = np.flatnonzero(shares >= 0.95)
    return f"{reached}, 95 % of it at {x[late[0]]:.3g} ({label})." if len(late) else f"{reached}."
