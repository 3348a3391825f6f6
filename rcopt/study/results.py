"""What a study came to: the front with its test numbers, and what it rests on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import OperatingPoint, Stage
from rcopt.core.fronts import non_dominated, spread
from rcopt.core.hypervolumes import Frame, frame_of, hypervolume_share
from rcopt.core.outcomes import with_test
from rcopt.core.statistics.cascade_gain import MeanGain, cascade_gain
from rcopt.core.study_front import StudyFront
from rcopt.core.trained_stage import TrainedStage
from rcopt.errors import WorkError
from rcopt.study.data_summary import DataSummary
from rcopt.study.file import Study

#: How many points of a front are shown, made trials and given runs of their own.
SHOWN = 20


@dataclass(frozen=True)
class StageSummary:
    """One stage of a study, as tables show it.

    Attributes:
        stage: Resolution, backbone, FLOPs.
        key: Content key, by which its predictions are found.
        macs: MACs of one image.
        parameters: Number of parameters.
        validation: Accuracy on validation.
        test: Accuracy on test.
        seconds: Training time.
        run_id: MLflow run.
    """

    stage: Stage
    key: str
    macs: int
    parameters: int
    validation: float
    test: float
    seconds: float
    run_id: str | None


@dataclass(frozen=True)
class Results:
    """What a study came to so far.

    Attributes:
        study: Its name.
        points: The whole front on validation, cheapest first, each with its test numbers.
        stages: The trained stages.
        frame: What the hypervolumes are shares of.
        hypervolume: Of the front.
        sampled_hypervolume: Of what the sampler's own trials found; None in results of before
            hypervolumes were shares.
        sampled: Number of sampled trials.
        exact: Whether the front is exact over all cascades and thresholds of the stages.
        split_sizes: Images by split.
        classes: Class names.
        experiment_id: MLflow's id of the study's experiment.
        timing: How the stages' times were measured; empty unless time is the cost.
        gain: What cascading brings; None where single stages cannot be mixed.
        notes: What a person should know of the data.
        limits: What the front leaves out; see `rcopt.core.study_front.StudyFront.limits`.
    """

    study: str
    points: tuple[OperatingPoint, ...]
    stages: tuple[StageSummary, ...]
    frame: Frame
    hypervolume: float
    sampled_hypervolume: float | None
    sampled: int
    exact: bool
    split_sizes: dict[str, int]
    classes: tuple[str, ...]
    experiment_id: str
    timing: str = ""
    gain: MeanGain | None = None
    notes: tuple[str, ...] = ()
    limits: str = ""


def well_spread(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Return about 20 well-spread points of a front, the ends among them."""
    chosen = spread(
        np.array([p.validation.accuracy for p in points]),
        np.array([p.validation.cost for p in points]),
        SHOWN,
    )
    return [points[i] for i in chosen.tolist()]


def build_results(
    study: Study,
    data: DataSummary,
    stages: Sequence[TrainedStage],
    front: StudyFront,
    trials: Sequence[OperatingPoint],
    *,
    rule: AnswerRule,
    experiment_id: str,
    timing: str,
) -> Results:
    """Return what a study came to so far, its front with test numbers.

    Args:
        study: The study file.
        data: What the numbers are measured on.
        stages: The trained stages that are known here.
        front: The exact front over them.
        trials: All of the study's; those of stages that are not known here are left out, for
            whoever trained them writes them.
        rule: How probabilities become answers.
        experiment_id: MLflow's id of the study's experiment.
        timing: How the stages' times were measured.

    Raises:
        WorkError: If nothing was evaluated.
    """
    known = {trained.stage for trained in stages}
    trials = [point for point in trials if known.issuperset(point.cascade.stages)]
    if not trials:
        raise WorkError("no cascade could be evaluated")
    # Of equal points the one with fewer stages wins, then the trial: a stage that answers
    # nothing on validation would only be carried along.
    everything = sorted([*trials, *front.points], key=lambda p: len(p.cascade.stages))
    accuracy, cost = numbers(everything)
    kept = np.flatnonzero(non_dominated(accuracy, cost))
    points = with_test([everything[i] for i in kept[np.argsort(cost[kept])]], stages, rule)
    sampled = [p for p in trials if p.source == "sampled"]
    gain = cascade_gain(points, stages, rule)
    frame = frame_of(
        [trained.predictions["validation"].accuracy for trained in stages],
        [trained.stage.cost for trained in stages],
    )
    return Results(
        study=study.name,
        points=points,
        stages=tuple(
            _summarized(trained)
            for trained in sorted(stages, key=lambda t: (t.stage.resolution, t.stage.flops))
        ),
        frame=frame,
        hypervolume=hypervolume_share(*numbers(points), frame),
        sampled_hypervolume=hypervolume_share(*numbers(sampled), frame),
        sampled=len(sampled),
        exact=study.settings.search.exact and front.exact and front.complete,
        split_sizes=dict(data.split_sizes),
        classes=data.classes,
        experiment_id=experiment_id,
        timing=timing,
        gain=None if gain is None else gain.over_all,
        notes=data.notes,
        limits=front.limits if study.settings.search.exact else "",
    )


def numbers(points: Sequence[OperatingPoint]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return accuracies and costs on validation."""
    return (
        np.array([p.validation.accuracy for p in points], dtype=np.float64),
        np.array([p.validation.cost for p in points], dtype=np.float64),
    )


def _summarized(trained: TrainedStage) -> StageSummary:
    return StageSummary(
        stage=trained.stage,
        key=trained.key,
        macs=trained.macs,
        parameters=trained.parameters,
        validation=trained.predictions["validation"].accuracy,
        test=trained.predictions["test"].accuracy,
        seconds=trained.seconds,
        run_id=trained.run_id,
    )
