"""The exact front of a study: all combinations of its trained stages, all thresholds."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from rcopt.core.answering import Answering
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import OperatingPoint, Stage
from rcopt.core.combination_sweep import Rights, evaluated, sweep_combinations
from rcopt.core.combinations import Choices, combinations_of, most_stages
from rcopt.core.trained_stage import TrainedStage


@dataclass(frozen=True, eq=False)
class StudyFront:
    """The front over the cascades that can be made of a study's trained stages.

    Attributes:
        points: Cheapest first, strictly rising in cost and accuracy.
        rule: How probabilities became answers.
        optional: Resolutions that a cascade may leave out; True for all, False for none.
        resolutions: The study's, or None for those of the stages.
        max_stages: Cascades of more stages were not looked at.
        complete: Whether there are no cascades of more stages.
        cascades: Number of combinations of stages that it covers.
        accuracy_gap: Largest `rcopt.core.fronts.ThresholdFront.accuracy_gap` among these.
    """

    points: tuple[OperatingPoint, ...]
    rule: AnswerRule
    optional: bool | frozenset[int]
    resolutions: tuple[int, ...] | None
    max_stages: int
    complete: bool
    cascades: int
    accuracy_gap: float

    @property
    def exact(self) -> bool:
        """Whether no covered cascade beats a point with any thresholds at all."""
        return self.accuracy_gap == 0.0

    @property
    def limits(self) -> str:
        """What the front leaves out, for people; empty if it is exact and complete."""
        said = []
        if not self.complete:
            said.append(f"cascades have at most {self.max_stages} stages")
        if not self.exact:
            said.append(
                f"other thresholds can gain at most {100 * self.accuracy_gap:.3g} points of "
                "accuracy at no more cost"
            )
        return "; ".join(said)

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.points)

    def __iter__(self) -> Iterator[OperatingPoint]:
        """Iterate over the points, cheapest first."""
        return iter(self.points)


def study_front(
    stages: Sequence[TrainedStage],
    *,
    rule: AnswerRule = AnswerRule(),  # noqa: B008 (frozen)
    optional: bool | Collection[int] = True,
    resolutions: Collection[int] | None = None,
    max_stages: int | None = None,
) -> StudyFront:
    """Return the exact front over depths, skipped stages and threshold vectors.

    Cost is mean FLOPs, or mean milliseconds where the stages have measured times (all or none).

    A cascade has one of the trained backbones, or where optional none, at each resolution, in
    rising resolution. Every combination of at most ``max_stages`` stages is swept as
    `rcopt.core.fronts.threshold_front` does, those of few stages first, and only where it can
    beat what was found before; a study of more resolutions is covered by all its cascades of at
    most ``max_stages`` of them, and `StudyFront.complete` is then False. Of cascades with equal
    accuracy and mean FLOPs the one with fewer stages stays, then the first by (resolution,
    backbone).

    Args:
        stages: Trained stages with predictions on validation, no stage twice; those of other
            splits are not looked at.
        rule: How probabilities become answers; what it fits is cross-fitted.
        optional: Whether a resolution may be left out, or which ones may.
        resolutions: All resolutions of the study, so that a required one without a trained
            stage leaves the front empty; default: those of the stages.
        max_stages: Most stages of a cascade; default: `rcopt.core.combinations.most_stages`.

    Raises:
        ValueError: If a stage comes twice or lacks predictions on validation, what is filed
            there is of another split, the stages are not of the same images, a stage or
            optional resolution is not among ``resolutions``, or more resolutions are required
            than ``max_stages`` allows.
    """
    front = _no_front(stages, rule, optional, resolutions, max_stages)
    return _add(front, stages, _combinations(front, stages))


def extend_front(
    front: StudyFront, stages: Sequence[TrainedStage], new: TrainedStage
) -> StudyFront:
    """Return the front after one more stage was trained.

    Only the combinations with the new stage are swept and merged with the front; the result
    has the points of `study_front` of all stages with the same settings.

    Args:
        front: Of ``stages``.
        stages: The stages trained before.
        new: The stage trained now.

    Raises:
        ValueError: As `study_front`.
    """
    known = {trained.stage.resolution for trained in stages}
    fresh = new.stage.resolution not in known
    if fresh and front.resolutions is None and not _may_skip(front, new.stage.resolution):
        # A cascade must now have this resolution, which none of the known ones has.
        front = replace(front, points=(), cascades=0, accuracy_gap=0.0)
    everything = [*stages, new]
    return _add(front, everything, _combinations(front, everything, new.stage))


def optimistic_test_front(
    stages: Sequence[TrainedStage],
    *,
    rule: AnswerRule = AnswerRule(),  # noqa: B008 (frozen)
    optional: bool | Collection[int] = True,
    resolutions: Collection[int] | None = None,
    max_stages: int | None = None,
) -> tuple[OperatingPoint, ...]:
    """Return the front that choosing on the test split itself would claim.

    It bounds what any choice on validation can reach on test, and is never to be chosen from.

    Args:
        stages: Trained stages with predictions on validation and test.
        rule: As in `study_front`.
        optional: As in `study_front`.
        resolutions: As in `study_front`.
        max_stages: As in `study_front`.

    Returns:
        Points with validation and test numbers, strictly rising in both test numbers.

    Raises:
        ValueError: As `study_front`.
    """
    frame = _no_front(stages, rule, optional, resolutions, max_stages)
    combinations = _combinations(frame, stages)
    on_test = Answering(stages, "test", rule)
    best = sweep_combinations((), combinations, Rights(on_test)).cascades
    on_validation = Answering(stages, "validation", rule)
    points = (OperatingPoint(c, evaluated(c, on_validation), evaluated(c, on_test)) for c in best)
    return tuple(sorted(points, key=_test_cost))


def lost_front(
    stages: Sequence[TrainedStage],
    reference: Stage,
    *,
    rule: AnswerRule = AnswerRule(),  # noqa: B008 (frozen)
    optional: bool | Collection[int] = True,
    resolutions: Collection[int] | None = None,
    max_stages: int | None = None,
) -> tuple[OperatingPoint, ...]:
    """Return the exact front of the share of lost images and cost, safest first.

    An image is lost if the cascade answers it wrongly and the reference rightly. The sweep is
    that of `study_front` with "not lost" in the place of "right"; it finds cascades that stay
    close to the reference, where the front of accuracy finds those that win as many images
    elsewhere as they lose.

    Args:
        stages: Trained stages with predictions on validation, the reference among them.
        reference: The stage to stay close to.
        rule: As in `study_front`.
        optional: As in `study_front`.
        resolutions: As in `study_front`.
        max_stages: As in `study_front`.

    Returns:
        Points with their validation numbers, all cheaper than the reference, falling in cost
        and rising in the share lost; empty where nothing is cheaper.

    Raises:
        ValueError: As `study_front`, or if the reference is not among the stages.
    """
    if reference not in [trained.stage for trained in stages]:
        raise ValueError(f"reference must be one of the stages, {reference.name} is not")
    frame = _no_front(stages, rule, optional, resolutions, max_stages)
    answers_of = Answering(stages, "validation", rule)
    wrong = ~answers_of((reference,)).correct[0]
    not_lost = Rights(answers_of, forgiven=wrong)
    safest = sweep_combinations((), _combinations(frame, stages), not_lost).cascades
    points = [OperatingPoint(cascade, evaluated(cascade, answers_of)) for cascade in safest]
    points.sort(key=lambda point: point.validation.cost, reverse=True)
    return tuple(point for point in points if point.validation.cost < reference.cost)


def _may_skip(front: StudyFront, resolution: int) -> bool:
    if isinstance(front.optional, bool):
        return front.optional
    return resolution in front.optional


def _no_front(
    stages: Sequence[TrainedStage],
    rule: AnswerRule,
    optional: bool | Collection[int],
    resolutions: Collection[int] | None,
    max_stages: int | None,
) -> StudyFront:
    """Return the front that covers nothing yet."""
    allowed = optional if isinstance(optional, bool) else frozenset(optional)
    if resolutions is not None and not isinstance(allowed, bool) and allowed - {*resolutions}:
        raise ValueError(
            f"optional must be among the resolutions {sorted(resolutions)}, "
            f"got {min(allowed - {*resolutions})}"
        )
    front = StudyFront(
        points=(),
        rule=rule,
        optional=allowed,
        resolutions=None if resolutions is None else tuple(sorted(resolutions)),
        max_stages=0,
        complete=True,
        cascades=0,
        accuracy_gap=0.0,
    )
    if max_stages is None:
        choices = _choices(front, stages)
        max_stages = most_stages([(len(own.stages), own.required) for own in choices])
    return replace(front, max_stages=max_stages)


def _choices(front: StudyFront, stages: Sequence[TrainedStage]) -> list[Choices]:
    """Return what a cascade may have at each resolution."""
    known = sorted((trained.stage for trained in stages), key=lambda s: (s.resolution, s.backbone))
    for one, other in pairwise(known):
        if one.name == other.name:
            raise ValueError(f"stages must differ, got {one.name} twice")
    resolutions = front.resolutions or tuple(sorted({stage.resolution for stage in known}))
    strange = sorted({stage.resolution for stage in known} - set(resolutions))
    if strange:
        raise ValueError(f"stages must be of resolutions {list(resolutions)}, got {strange[0]}")
    return [
        Choices(
            tuple(stage for stage in known if stage.resolution == resolution),
            required=not _may_skip(front, resolution),
        )
        for resolution in resolutions
    ]


def _combinations(
    front: StudyFront, stages: Sequence[TrainedStage], new: Stage | None = None
) -> Iterator[tuple[Stage, ...]]:
    """Return the combinations that the front covers, or only those with a new stage."""
    choices = _choices(front, stages)
    least = max(sum(own.required for own in choices), 1)
    if front.max_stages < least:
        raise ValueError(
            f"max_stages must be at least {least}, one per required resolution, "
            f"got {front.max_stages}"
        )
    if new is not None:
        choices = [Choices((new,), required=True) if new in own.stages else own for own in choices]
    return combinations_of(choices, front.max_stages)


def _add(
    front: StudyFront,
    stages: Sequence[TrainedStage],
    combinations: Iterator[tuple[Stage, ...]],
) -> StudyFront:
    """Sweep combinations that the front does not cover and merge the results into it."""
    answers_of = Answering(stages, "validation", front.rule)
    known = {point.cascade: point for point in front.points}
    found = sweep_combinations(front.points, combinations, Rights(answers_of))
    points = [
        known.get(cascade) or OperatingPoint(cascade, evaluated(cascade, answers_of))
        for cascade in found.cascades
    ]
    points.sort(key=lambda point: point.validation.cost)
    resolutions = front.resolutions or {trained.stage.resolution for trained in stages}
    return replace(
        front,
        points=tuple(points),
        complete=len(resolutions) <= front.max_stages,
        cascades=front.cascades + found.combinations,
        accuracy_gap=max(front.accuracy_gap, found.accuracy_gap),
    )


def _test_cost(point: OperatingPoint) -> float:
    return math.inf if point.test is None else point.test.cost
