"""Operating points as Optuna's trials, and back."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint, Source, Stage, StageId
from rcopt.core.cost import COSTS, Amount, CostName
from rcopt.core.evaluating import evaluate_stages, mean_cost, thresholds_for_rates
from rcopt.core.trained_stage import TrainedStage
from rcopt.core.wording import cascade_text, percent
from rcopt.study.space import NONE, Space


def operating_point(
    stages: Sequence[TrainedStage], rates: Sequence[float], rule: AnswerRule
) -> OperatingPoint:
    """Evaluate a proposal on validation.

    Args:
        stages: From cheap to costly.
        rates: Deferral rate of each stage but the last, mapped to observed confidences.
        rule: How probabilities become answers.
    """
    answers = stage_answers([t.predictions["validation"] for t in stages], rule)
    thresholds = thresholds_for_rates(answers.confidence, rates)
    cascade = Cascade(tuple(t.stage for t in stages), thresholds)
    return OperatingPoint(
        cascade=cascade,
        validation=evaluate_stages(
            answers.confidence, answers.correct, cascade.stages, thresholds
        ),
        source="sampled",
    )


def exact_trial(point: OperatingPoint, space: Space) -> FrozenTrial:
    """Return a point of the exact front as a finished trial of the study.

    Its deferral rates are those observed on validation, so the sampler can learn from it.
    """
    stages = {stage.resolution: stage.backbone for stage in point.cascade.stages}
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for resolution in space.backbones:
        key = f"backbone.{resolution}"
        params[key] = stages.get(resolution, NONE)
        distributions[key] = space.choices(resolution)
    rates = point.validation.deferral_rates
    for stage, rate in zip(point.cascade.stages[:-1], rates, strict=True):
        key = f"deferral_rate.{stage.resolution}"
        params[key] = 0.0 if np.isnan(rate) else rate
        distributions[key] = FloatDistribution(0.0, 1.0)
    return create_trial(
        values=(point.validation.accuracy, point.validation.cost),
        params=params,
        distributions=distributions,
        user_attrs=trial_attributes(point, "exact"),
    )


DIRECTIONS: tuple[Literal["maximize"], Literal["minimize"]] = ("maximize", "minimize")


METRICS: Mapping[CostName, tuple[str, str]] = {
    name: ("accuracy", cost.mean_key) for name, cost in COSTS.items()
}


def trial_source(trial: FrozenTrial) -> Source | None:
    """Return what made a trial, or None if it is not one of rcopt's finished trials."""
    source = trial.user_attrs.get("source")
    if trial.state != TrialState.COMPLETE or source not in ("sampled", "exact"):
        return None
    return "sampled" if source == "sampled" else "exact"


def trial_point(trial: FrozenTrial, stage_named: Callable[[StageId], Stage]) -> OperatingPoint:
    """Return a stored trial as the operating point it was told with.

    Args:
        trial: One of rcopt's finished trials.
        stage_named: Returns the `Stage` of a name, with its cost if the study minimizes another
            than FLOPs.
    """
    attributes = trial.user_attrs
    stages = tuple(stage_named(StageId(int(r), str(b))) for r, b in attributes["stages"])
    accuracy, cost = trial.values
    exits = tuple(attributes["exit_rates"])
    reach = tuple(attributes["reach_rates"])
    minimized = stages[0].minimized
    return OperatingPoint(
        cascade=Cascade(stages, tuple(attributes["thresholds"])),
        validation=Evaluation(
            accuracy=accuracy,
            mean_flops=cost
            if minimized is None
            else _mean_flops(stages, reach, attributes["n_images"]),
            exit_rates=exits,
            reach_rates=reach,
            deferral_rates=tuple(
                after / before if before else float("nan") for before, after in pairwise(reach)
            ),
            n_images=attributes["n_images"],
            minimized=None if minimized is None else Amount(minimized.cost, cost),
        ),
        source="sampled" if attributes["source"] == "sampled" else "exact",
        trial=trial.number,
    )


def _mean_flops(stages: Sequence[Stage], reach: Sequence[float], n_images: int) -> float:
    reached = np.rint(np.array(reach) * n_images).astype(np.int64)
    return mean_cost(reached, np.array([stage.flops for stage in stages]), n_images)


def trial_attributes(point: OperatingPoint, source: Source) -> dict[str, Any]:
    """Return what a trial says beside its parameters, so that `trial_point` can read it."""
    return {
        "source": source,
        "stages": [[s.resolution, s.backbone] for s in point.cascade.stages],
        "thresholds": list(point.cascade.thresholds),
        "exit_rates": list(point.validation.exit_rates),
        "reach_rates": list(point.validation.reach_rates),
        "n_images": point.validation.n_images,
        # For people, in optuna-dashboard.
        "cascade": cascade_text(point.cascade, short=True),
        "answered by each": ", ".join(percent(rate, 0) for rate in point.validation.exit_rates),
    }


def same_point(attributes: Mapping[str, Any]) -> tuple[str, str]:
    """Return what two trials of one cascade with the same thresholds share."""
    return str(attributes.get("stages")), str(attributes.get("thresholds"))
