"""Pick one configuration of a study by its validation numbers, and say what to expect of it."""

from collections.abc import Sequence

from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade, OperatingPoint, Stage
from rcopt.core.outcomes import cascade_outcomes, with_test
from rcopt.core.statistics.by_class import class_effects
from rcopt.core.statistics.certify import Certificate, certify
from rcopt.core.statistics.comparison import compare
from rcopt.core.statistics.expectation import drop_to_ask, expected_accuracy, folds_for
from rcopt.core.statistics.intervals import Interval, accuracy_interval
from rcopt.core.statistics.selection import (
    by_max_cost,
    by_max_drop,
    by_max_flops,
    by_min_accuracy,
    by_trial,
    knee,
)
from rcopt.core.study_front import lost_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.errors import InputError
from rcopt.study.choice import Choice, Criterion
from rcopt.study.file import Study
from rcopt.study.results import StageSummary
from rcopt.study.results_file import load_results
from rcopt.study.stages.lookup import trained_stages


def select(
    study: Study, criterion: Criterion, front: Sequence[OperatingPoint] | None = None
) -> Choice:
    """Pick one point of a study's front by its validation numbers alone.

    Args:
        study: A study that has a front.
        criterion: What to pick.
        front: Another front of the study's stages, such as `rcopt.study.front_by_cost.rank`
            makes.

    Raises:
        InputError: If no point satisfies the criterion (the nearest is named), nothing can be
            certified (it says what would suffice), or the study has no front yet.
    """
    results = load_results(study.results_file)
    points = results.points if front is None else front
    tracker = study.open_tracker()
    stages = trained_stages(study, tracker)
    rule = study.answer_rule
    reference = max(results.stages, key=lambda s: (s.validation, -s.stage.flops))
    asked = certificate = None
    try:
        if criterion.certify is not None and criterion.max_drop is not None:
            certificate = _certificate(
                study, stages, reference, criterion.max_drop, criterion, rule
            )
            if certificate.point is None:
                raise InputError(f"{study.name}: {certificate}")
            point = certificate.point
        elif criterion.max_drop is not None:
            asked = drop_to_ask(_combinations(points), stages, criterion.max_drop, rule=rule)
            point = _within_drop(points, asked, _alone(reference, stages, rule))
        else:
            point = _satisfying(points, criterion)
    except ValueError as error:
        raise InputError(f"{study.name}: {error}") from error
    point = _known(point, points, stages, rule)
    return Choice(
        study=study.name,
        point=point,
        validation=accuracy_interval(
            cascade_outcomes([point.cascade], stages, "validation", rule)[0].correct
        ),
        expected=_expected(point, points, stages, rule),
        test=compare(point.cascade, reference.stage, stages, "test", rule),
        reference=reference,
        asked_drop=asked,
        certificate=certificate,
        gain=results.gain if front is None else None,
        by_class=class_effects(point.cascade, reference.stage, stages, "test", rule),
        classes=results.classes,
    )


def _satisfying(points: Sequence[OperatingPoint], criterion: Criterion) -> OperatingPoint:
    if criterion.max_flops is not None:
        return by_max_flops(points, criterion.max_flops)
    if criterion.max_cost is not None:
        return by_max_cost(points, criterion.max_cost)
    if criterion.min_accuracy is not None:
        return by_min_accuracy(points, criterion.min_accuracy)
    if criterion.trial is not None:
        return by_trial(points, criterion.trial)
    return knee(points)


def _expected(
    point: OperatingPoint,
    points: Sequence[OperatingPoint],
    stages: Sequence[TrainedStage],
    rule: AnswerRule,
) -> Interval | None:
    """Return the accuracy to expect of a choice that costs so much, where folds can tell."""
    folds = folds_for(len(stages[0].predictions["validation"]))
    if folds < 2:
        return None
    combinations = _combinations([*points, point])
    (told,) = expected_accuracy(
        combinations, stages, [point.validation.cost], rule=rule, folds=folds
    )
    return told


def _combinations(points: Sequence[OperatingPoint]) -> list[tuple[Stage, ...]]:
    return list(dict.fromkeys(point.cascade.stages for point in points))


def _within_drop(
    points: Sequence[OperatingPoint], drop: float, reference: OperatingPoint
) -> OperatingPoint:
    """Return the cheapest point that gives up at most so much; a negative drop is a gain.

    The reference itself gives up nothing, whatever validation says: it is chosen where nothing
    cheaper is left.
    """
    accuracy = reference.validation.accuracy
    if drop >= 0:
        chosen = by_max_drop(points, drop, accuracy)
    else:
        # Where so much is asked that nothing reaches it, the most accurate one is nearest.
        best = max(point.validation.accuracy for point in points)
        chosen = by_min_accuracy(points, min(best, accuracy - drop))
    return chosen if chosen.validation.cost < reference.validation.cost else reference


def _alone(
    reference: StageSummary, stages: Sequence[TrainedStage], rule: AnswerRule
) -> OperatingPoint:
    cascade = Cascade((next(t.stage for t in stages if t.stage == reference.stage),), ())
    (outcome,) = cascade_outcomes([cascade], stages, "validation", rule)
    return OperatingPoint(cascade, outcome.evaluation)


def _known(
    point: OperatingPoint,
    points: Sequence[OperatingPoint],
    stages: Sequence[TrainedStage],
    rule: AnswerRule,
) -> OperatingPoint:
    """Return the front's own point where it has the cascade, else the point with test numbers."""
    for known in points:
        if known.cascade == point.cascade and known.test is not None:
            return known
    return with_test([point], stages, rule)[0]


def _certificate(
    study: Study,
    stages: Sequence[TrainedStage],
    reference: StageSummary,
    drop: float,
    criterion: Criterion,
    rule: AnswerRule,
) -> Certificate:
    if not all(len(t.predictions.get("calibration", ())) for t in stages):
        raise InputError(
            "certify needs calibration images and the study has none; set data.calibration "
            "(such as 0.2) in the study file, under another name"
        )
    known = next(t.stage for t in stages if t.stage == reference.stage)
    candidates = lost_front(
        stages,
        known,
        rule=rule,
        optional=study.settings.stages.optional,
        resolutions=study.settings.stages.resolutions or None,
    )
    if not candidates:
        raise InputError(
            f"{study.name}: nothing to certify: no cascade costs less than "
            f"{reference.stage.name}, which is the safe choice"
        )
    return certify(
        candidates,
        stages,
        known,
        drop,
        criterion.certify or 0.9,
        rule,
        criterion.promise,
    )
