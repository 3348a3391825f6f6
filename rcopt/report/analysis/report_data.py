"""Everything a study's report shows, computed before anything is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rcopt.core.answering import Answering, split_predictions
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import OperatingPoint
from rcopt.core.fronts import spread
from rcopt.core.hypervolumes import Frame
from rcopt.core.outcomes import cascade_outcomes, with_test
from rcopt.core.predictions import Split
from rcopt.core.statistics.baselines import (
    OracleFront,
    oracle_front,
    random_exits,
    single_stages,
    two_stage_front,
)
from rcopt.core.statistics.bootstrap import Bootstrap, SavingInterval, bootstrap
from rcopt.core.statistics.cascade_gain import CascadeGain, cascade_gain
from rcopt.core.statistics.comparison import Comparison, compare
from rcopt.core.statistics.generalization import Generalization, generalization
from rcopt.core.statistics.intervals import Interval, accuracy_interval
from rcopt.core.statistics.savings import Saving, savings
from rcopt.core.statistics.selection import knee
from rcopt.core.trained_stage import TrainedStage
from rcopt.report.analysis.answered_images import StageAnswers, answered_images
from rcopt.report.analysis.search_history import SearchHistory, search_history
from rcopt.report.analysis.select_command import select_command
from rcopt.report.analysis.threshold_maps import ThresholdMap, threshold_map

#: How many points of the front the table shows.
ROWS = 20

#: Fronts have hundreds of points; about this many are drawn.
MARKED = 400


@dataclass(frozen=True)
class StudyFacts:
    """What the report says about a study without computing it.

    Attributes:
        name: The study's name.
        data: What it was measured on, in a few words.
        classes: Class names.
        settings: The resolved study file.
        versions: Anything needed to repeat it: commit, library versions, hardware, digests.
        created: When the report was made, as it is to be shown.
    """

    name: str
    data: str
    classes: tuple[str, ...]
    settings: str
    versions: Mapping[str, str]
    created: str


@dataclass(frozen=True, eq=False)
class StageLine:
    """A trained stage, alone.

    Attributes:
        trained: The stage.
        point: Its numbers on validation and test.
        test: Accuracy on test with its exact 95 % interval.
    """

    trained: TrainedStage
    point: OperatingPoint
    test: Interval


@dataclass(frozen=True)
class FrontLine:
    """A point of the front.

    Attributes:
        point: With validation and test numbers.
        test: Accuracy on test with its exact 95 % interval.
        command: The command that chooses it.
        times: FLOPs of the top stage divided by its mean FLOPs on test.
        random_accuracy: Expected test accuracy if as many images left at each stage by chance.
        optimistic: Whether no other point of the front dominates it on test.
        pessimistic: Whether it dominates no other point of the front on test.
    """

    point: OperatingPoint
    test: Interval
    command: str
    times: float
    random_accuracy: float
    optimistic: bool
    pessimistic: bool


@dataclass(frozen=True)
class SavingLine:
    """What is saved against the top stage when some accuracy may be given up.

    Attributes:
        saving: The choice on validation and its numbers.
        interval: What this cascade does on test beside the top stage.
        repeated: The spread of repeated choices on test, by bootstrap.
        line: Index of the chosen point in the front; None if it is the top stage itself.
    """

    saving: Saving
    interval: Comparison
    repeated: SavingInterval
    line: int | None


@dataclass(frozen=True, eq=False)
class Featured:
    """One cascade of two or three stages, at length.

    Attributes:
        point: The cheapest as accurate as the top stage, else the bend of the front, else the
            costliest that has two or three stages.
        map: Its stages over their thresholds, on validation.
        images: What its stages answer, on test.
        oracle: Test front of a cascade of its stages that knows which one is right.
    """

    point: OperatingPoint
    map: ThresholdMap
    images: tuple[StageAnswers, ...]
    oracle: OracleFront


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything the report shows.

    Attributes:
        facts: What was not computed.
        split_sizes: Images of each split.
        rule: How probabilities became answers.
        stages: By resolution, then FLOPs.
        top: The stage most accurate on validation.
        front: The whole validation-picked front, cheapest first.
        rows: Indices of about 20 well-spread points of it.
        marked: Indices of its points that are drawn: all, or `MARKED` well-spread ones.
        knee: Index of its bend.
        savings: Against the top stage, by accuracy given up.
        generalization: Optimistic and pessimistic test front and their hypervolumes.
        bootstrap: The spread of repeated choices, and the validation front's optimism.
        gain: What cascading brings against mixing single stages; None where it cannot be told.
        two_stage: The best cascades of at most two stages, picked on validation, with test.
        featured: One cascade at length; None if the front has none of two or three stages.
        history: How far the search had come after each trial.
    """

    facts: StudyFacts
    split_sizes: Mapping[Split, int]
    rule: AnswerRule
    stages: tuple[StageLine, ...]
    top: StageLine
    front: tuple[FrontLine, ...]
    rows: tuple[int, ...]
    marked: tuple[int, ...]
    knee: int
    savings: tuple[SavingLine, ...]
    generalization: Generalization
    bootstrap: Bootstrap
    gain: CascadeGain | None
    two_stage: tuple[OperatingPoint, ...]
    featured: Featured | None
    history: SearchHistory | None


def report_data(
    facts: StudyFacts,
    stages: Sequence[TrainedStage],
    front: Sequence[OperatingPoint],
    frame: Frame,
    *,
    rule: AnswerRule | None = None,
    trials: Sequence[OperatingPoint] = (),
    n_resamples: int = 1_000,
    seed: int = 0,
) -> ReportData:
    """Compute everything a study's report shows.

    Args:
        facts: What is shown as it is.
        stages: Trained stages with validation and test predictions, each once.
        front: Picked on validation, cheapest first, strictly rising in accuracy and mean
            FLOPs; test numbers are computed here.
        frame: What the study's hypervolumes are shares of.
        rule: How probabilities become answers, the default rule if None.
        trials: The study's finished trials, with their numbers.
        n_resamples: Of the bootstrap; most of the time goes here.
        seed: Of the bootstrap.

    Raises:
        ValueError: If there are no stages or points, the points are no front, or a stage is
            missing or lacks predictions.
    """
    if not stages or not front:
        raise ValueError(
            f"stages and front must not be empty, got {len(stages)} stages, {len(front)} points"
        )
    rule = rule or AnswerRule()
    lines = _stage_lines(stages)
    # Of equally accurate stages the cheapest, as the reference of everything saved.
    top = max(lines, key=lambda s: (s.point.validation.accuracy, -s.trained.stage.flops))
    points = with_test(front, stages, rule)
    plane = [p.validation.accuracy for p in points], [p.validation.mean_flops for p in points]
    rows = tuple(spread(*plane, ROWS).tolist())
    picked = generalization(points, frame)
    resampled = bootstrap(
        list(dict.fromkeys(point.cascade.stages for point in points)),
        stages,
        top.trained.stage,
        np.random.default_rng(seed),
        rule=rule,
        n_resamples=n_resamples,
    )
    saved = _saving_lines(points, top, resampled, stages, rule)
    featured = _featured(points, saved)
    return ReportData(
        facts=facts,
        split_sizes={s: len(p) for s, p in top.trained.predictions.items()},
        rule=rule,
        stages=lines,
        top=top,
        front=_front_lines(facts.name, points, picked, top, stages, rule),
        rows=rows,
        marked=tuple(sorted({*spread(*plane, MARKED).tolist(), *rows, *_lines_of(saved)})),
        knee=points.index(knee(points)),
        savings=saved,
        generalization=picked,
        bootstrap=resampled,
        gain=cascade_gain(points, stages, rule),
        two_stage=with_test(two_stage_front(stages, rule), stages, rule),
        featured=None if featured is None else _at_length(featured, points, stages, rule),
        history=search_history(
            trials,
            {trained.stage: trained.seconds for trained in stages},
            frame,
            picked.validation_hypervolume,
        )
        if trials
        else None,
    )


def _stage_lines(stages: Sequence[TrainedStage]) -> tuple[StageLine, ...]:
    by_stage = {trained.stage: trained for trained in stages}
    points = with_test(single_stages(stages), stages, AnswerRule())
    lines = [
        StageLine(trained, point, accuracy_interval(trained.predictions["test"].correct))
        for point in points
        for trained in [by_stage[point.cascade.stages[0]]]
    ]
    return tuple(sorted(lines, key=lambda line: line.trained.stage.resolution))


def _front_lines(
    name: str,
    points: Sequence[OperatingPoint],
    picked: Generalization,
    top: StageLine,
    stages: Sequence[TrainedStage],
    rule: AnswerRule,
) -> tuple[FrontLine, ...]:
    distinct = dict.fromkeys(point.cascade.stages for point in points)
    answers_of = Answering(stages, "test", rule, {s for wanted in distinct for s in wanted})
    correct = {wanted: answers_of(wanted).correct for wanted in distinct}
    outcomes = cascade_outcomes([point.cascade for point in points], stages, "test", rule)
    return tuple(
        FrontLine(
            point=point,
            test=accuracy_interval(outcomes[i].correct),
            command=select_command(name, points, i),
            times=top.trained.stage.flops / point.test.mean_flops,
            random_accuracy=random_exits(point.test, correct[point.cascade.stages]).accuracy,
            optimistic=bool(picked.optimistic[i]),
            pessimistic=bool(picked.pessimistic[i]),
        )
        for i, point in enumerate(points)
        if point.test is not None
    )


def _saving_lines(
    points: Sequence[OperatingPoint],
    top: StageLine,
    resampled: Bootstrap,
    stages: Sequence[TrainedStage],
    rule: AnswerRule,
) -> tuple[SavingLine, ...]:
    at = {point.cascade: i for i, point in enumerate(points)}
    chosen = savings(points, top.point, [repeated.loss for repeated in resampled.savings])
    return tuple(
        SavingLine(
            saving,
            compare(saving.point.cascade, top.trained.stage, stages, "test", rule),
            repeated,
            at.get(saving.point.cascade),
        )
        for saving, repeated in zip(chosen, resampled.savings, strict=True)
    )


def _lines_of(saved: Sequence[SavingLine]) -> list[int]:
    return [line.line for line in saved if line.line is not None]


def _featured(
    points: Sequence[OperatingPoint], saved: Sequence[SavingLine]
) -> OperatingPoint | None:
    wanted = [saved[0].saving.point, knee(points), *points[::-1]]
    return next((point for point in wanted if len(point.cascade.stages) in (2, 3)), None)


def _at_length(
    point: OperatingPoint,
    points: Sequence[OperatingPoint],
    stages: Sequence[TrainedStage],
    rule: AnswerRule,
) -> Featured:
    wanted = point.cascade.stages
    test = Answering(stages, "test", rule, wanted)(wanted)
    predictions = split_predictions(stages, "test", {wanted[0]})[wanted[0]]
    return Featured(
        point=point,
        map=threshold_map(
            point.cascade,
            Answering(stages, "validation", rule, wanted)(wanted),
            [other.cascade.thresholds for other in points if other.cascade.stages == wanted],
        ),
        images=answered_images(point.cascade, test, predictions),
        oracle=oracle_front(test.correct, [stage.flops for stage in wanted]),
    )
