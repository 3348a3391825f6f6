"""A ready-made view of a study in the MLflow UI: its link and its content.

A plain experiment link lands on the wrong page of MLflow 3; a view stored as an experiment tag
does not. The tag's format is MLflow's own and undocumented (seen in 3.17): a changed format
costs the view, never the data.
"""

import json
from collections.abc import Sequence

from rcopt.core.cost import COSTS, CostName

#: The view's name in links; any text will do.
KEY = "rcopt-front"
TAG = f"mlflow.sharedViewState.{KEY}"

FRONT_FILTER = "tags.\"rcopt.pareto\" = 'true'"

#: The study run's artifact that notes show.
PICTURE = "front.png"

#: Tag of the runs that the view shows: the front's, and the study's with its pictures.
SHOWN = "rcopt.shown"
SHOWN_FILTER = f"tags.\"{SHOWN}\" = 'true'"

#: Metrics that a study's run tells its result by; each cost has two.
RESULT_METRICS = (
    "stages", "trials", "saving", "saving/low", "saving/high", "best/accuracy",
    "cheapest/accuracy",
    *(f"{point}/{cost.metric}" for point in ("best", "cheapest") for cost in COSTS.values()),
)  # fmt: skip


def view_link(base_url: str, experiment_id: str) -> str:
    """Return the address that opens the view with its charts.

    Args:
        base_url: The server, such as ``http://127.0.0.1:5000``; '' gives a link that works
            from within the UI.
        experiment_id: MLflow's id.
    """
    return (
        f"{base_url.rstrip('/')}{'/' if base_url else ''}#/experiments/{experiment_id}/runs"
        f"?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={KEY}"
    )


def run_link(base_url: str, experiment_id: str, run_id: str, artifact: str = "") -> str:
    """Return the address of a run's page, or of one of its files there.

    Args:
        base_url: As for `view_link`.
        experiment_id: MLflow's id.
        run_id: Its.
        artifact: Path of a file in the run.
    """
    return (
        f"{base_url.rstrip('/')}{'/' if base_url else ''}#/experiments/{experiment_id}/runs/"
        f"{run_id}{f'/artifacts/{artifact}' if artifact else ''}?workflowType=machine_learning"
    )


def picture_link(run_id: str) -> str:
    """Return the address of a study's front as a picture, for notes that the UI shows."""
    return f"get-artifact?path={PICTURE}&run_uuid={run_id}"


def view_state(resolutions: Sequence[int], created: int, cost: CostName = "flops") -> str:
    """Return the tag's value: the front's runs, a scatter, pictures, columns.

    Args:
        resolutions: All that the study may use, rising.
        created: When, ms since 1970.
        cost: What the study minimizes.
    """
    backbones = [f"backbone.{r}" for r in resolutions]
    thresholds = [f"threshold.{r}" for r in resolutions[:-1]]
    keys = list(dict.fromkeys((COSTS[cost].metric, "mflops")))
    metrics = [f"{split}/{key}" for split in ("val", "test") for key in ("accuracy", *keys)]
    minimized = f"val/{keys[0]}"
    logs = [log_metric(key) for key in keys]
    exits = [f"exit/{r}" for r in resolutions]
    charts: list[dict[str, object]] = [
        {
            "uuid": "scatter",
            "type": "SCATTER",
            "metricSectionId": "cascades",
            "xaxis": _axis(log_metric(COSTS[cost].metric)),
            "yaxis": _axis("val/accuracy"),
        },
        {
            "uuid": "parallel",
            "type": "PARALLEL",
            "metricSectionId": "cascades",
            "showAllRuns": True,
            "selectedParams": [*backbones, *thresholds],
            "selectedMetrics": [minimized, "val/accuracy"],
        },
    ]
    charts.insert(
        1,
        {
            "uuid": "progress",
            "type": "IMAGE",
            "metricSectionId": "cascades",
            "imageKeys": ["front"],
            "step": 0,
        },
    )
    # The UI adds a bar chart for every metric that no chart names, unless it is a deleted one.
    charts += [
        {
            "uuid": f"hidden{number}",
            "type": "BAR",
            "metricSectionId": "cascades",
            "metricKey": key,
            "deleted": True,
        }
        for number, key in enumerate([*metrics, *logs, *exits, *RESULT_METRICS])
    ]
    state = {
        "searchFilter": SHOWN_FILTER,
        "orderByKey": f"metrics.`{minimized}`",
        "orderByAsc": True,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": [
            *(f"metrics.`{key}`" for key in metrics),
            *(f"params.`{key}`" for key in [*backbones, *thresholds]),
        ],
        "isAccordionReordered": True,
        "compareRunSections": [
            {
                "uuid": "cascades",
                "name": "Cascades",
                "display": True,
                "isReordered": True,
                "columns": 1,
                "cardHeight": 420,
            }
        ],
        "compareRunCharts": charts,
    }
    return json.dumps({"name": "Pareto front", "createdAt": created, "state": json.dumps(state)})


def log_metric(metric: str) -> str:
    """Return the name of a cost's logarithm: MLflow draws no logarithmic axis of a scatter."""
    return f"val/log10_{metric}"


def _axis(key: str) -> dict[str, str]:
    return {"key": key, "type": "METRIC"}
