"""What people read in MLflow: names, notes, parameters and rounded numbers of runs."""

import json
import math
from collections.abc import Mapping, Sequence

from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Stage
from rcopt.core.cost import COSTS
from rcopt.core.trained_stage import TrainedStage
from rcopt.core.wording import cascade_name, duration, threshold_text
from rcopt.tracking.view import log_metric


def short_number(value: float) -> float:
    """Return a number with four significant digits, whole above 1,000: tables are narrow.

    Example:
        >>> short_number(461.40678), short_number(8213.77)
        (461.4, 8214.0)
    """
    return float(round(value)) if abs(value) >= 1000 else float(f"{value:.4g}")


def run_name(point: OperatingPoint) -> str:
    """Return ``r18@32 > r50@224  0.91``: the stages and the validation accuracy."""
    return f"{cascade_name(point.cascade, short=True)}  {point.validation.accuracy:.2f}"


def cascade_params(cascade: Cascade, resolutions: Sequence[int]) -> dict[str, str]:
    """Return ``backbone.<resolution>`` and ``threshold.<resolution>``.

    Args:
        cascade: Whose stages and thresholds.
        resolutions: All that the study knows; those left out become ``none``.
    """
    params = {f"backbone.{resolution}": "none" for resolution in resolutions}
    params |= {f"backbone.{s.resolution}": s.backbone for s in cascade.stages}
    for stage, threshold in zip(cascade.stages, cascade.thresholds, strict=False):
        params[f"threshold.{stage.resolution}"] = threshold_text(threshold)
    return params


def cascade_metrics(point: OperatingPoint) -> dict[str, float]:
    """Return the validation metrics, logarithms of costs and exit rates, rounded."""
    logs = {
        log_metric(cost.metric): round(math.log10(value / cost.per_unit), 3)
        for cost, value in reversed(point.validation.costs)
        if value > 0
    }
    rates = zip(_stages(point), point.validation.exit_rates, strict=True)
    return {
        **split_metrics("val", point.validation),
        **logs,
        **{f"exit/{stage.resolution}": round(rate, 4) for stage, rate in rates},
    }


def split_metrics(prefix: str, evaluation: Evaluation) -> dict[str, float]:
    """Return ``<prefix>/accuracy``, ``<prefix>/mflops`` and what is minimized, rounded."""
    return {
        f"{prefix}/accuracy": round(evaluation.accuracy, 4),
        **{
            f"{prefix}/{cost.metric}": short_number(value / cost.per_unit)
            for cost, value in reversed(evaluation.costs)
        },
    }


def exact_point(point: OperatingPoint) -> str:
    """Return the point's unrounded numbers as JSON, without where it was logged."""
    entry = point.to_dict()
    for key in ("test", "run_id"):
        del entry[key]
    return json.dumps(entry, separators=(",", ":"))


def trial_of(text: str) -> int | None:
    """Return the trial number in what `exact_point` gave; None where there is none."""
    try:
        trial = json.loads(text)["trial"]
    except (ValueError, LookupError, TypeError):
        return None
    return trial if isinstance(trial, int) else None


def cascade_note(point: OperatingPoint) -> str:
    """Return a cascade run's description: what answers what, in a table."""
    evaluation = point.validation
    costs = " and ".join(cost.text(value) for cost, value in reversed(evaluation.costs))
    rows = [
        f"| {stage.resolution} | {stage.backbone} | {_threshold(threshold)} "
        f"| {rate:.1%} | {COSTS['flops'].cell(stage.flops)} |"
        for stage, threshold, rate in zip(
            _stages(point),
            (*point.cascade.thresholds, None),
            evaluation.exit_rates,
            strict=True,
        )
    ]
    return "\n".join(
        [
            f"On validation {evaluation.accuracy:.2%} of {evaluation.n_images:,} images are "
            f"answered correctly at {costs} an image.",
            "",
            "| resolution | backbone | answers from confidence | images answered | MFLOPs |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def stage_metrics(trained: TrainedStage) -> dict[str, float]:
    """Return a stage run's final numbers."""
    metrics = {
        "mflops": short_number(trained.stage.flops / 1e6),
        "mmacs": short_number(trained.macs / 1e6),
        "parameters": float(trained.parameters),
        "seconds": round(trained.seconds, 1),
    }
    validation = trained.predictions.get("validation")
    if validation is not None:
        metrics["val/accuracy"] = round(validation.accuracy, 4)
    return metrics


def stage_note(trained: TrainedStage) -> str:
    """Return a stage run's description."""
    stage = trained.stage
    lines = [
        f"{stage.backbone} at {stage.resolution} x {stage.resolution} pixels: "
        f"{COSTS['flops'].text(stage.flops)} an image, {trained.parameters / 1e6:.3g} million "
        f"parameters, trained in {duration(trained.seconds)}."
    ]
    lines += [
        f"- {split}: {predictions.accuracy:.2%} of {len(predictions):,} images right"
        for split, predictions in trained.predictions.items()
        if split != "test"
    ]
    lines += [f"- {key}: {value}" for key, value in trained.details.items()]
    return "\n".join(lines)


def table_row(point: OperatingPoint) -> Mapping[str, str]:
    """Return one row of ``trials.csv``, numbers unrounded."""
    row = {
        "trial": str(point.trial),
        "source": point.source,
        "accuracy": repr(point.validation.accuracy),
        **{cost.mean_key: repr(value) for cost, value in reversed(point.validation.costs)},
    }
    for stage, threshold, rate in zip(
        _stages(point),
        (*point.cascade.thresholds, None),
        point.validation.exit_rates,
        strict=True,
    ):
        row[f"backbone.{stage.resolution}"] = stage.backbone
        row[f"threshold.{stage.resolution}"] = "" if threshold is None else repr(threshold)
        row[f"exit_rate.{stage.resolution}"] = repr(rate)
    return row


def same_numbers(row: Mapping[str, str], point: OperatingPoint) -> bool:
    """Return whether a row of ``trials.csv`` is of this point, up to rounding."""
    known = {"accuracy": point.validation.accuracy, "mean_flops": point.validation.mean_flops}
    try:
        return all(math.isclose(float(row[k]), v, rel_tol=1e-6) for k, v in known.items())
    except (ValueError, LookupError, TypeError):
        return False


def _stages(point: OperatingPoint) -> tuple[Stage, ...]:
    return point.cascade.stages


def _threshold(threshold: float | None) -> str:
    return "all the rest" if threshold is None else threshold_text(threshold)
