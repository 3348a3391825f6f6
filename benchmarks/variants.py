"""Ways to build and choose cascades of given stages: with everything, and with less."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.cascade import Cascade, OperatingPoint
from rcopt.core.evaluating import evaluate
from rcopt.core.fronts import non_dominated
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.report.analysis.threshold_grid import threshold_grid

#: Thresholds of each stage in the original report's coarse grid.
GRID = 40


@dataclass(frozen=True)
class Variant:
    """A way to build and choose cascades.

    Attributes:
        name: What is different.
        points: Its front, picked on validation.
        rule: How probabilities become answers.
        random: Whether images leave at random, as many at each stage.
    """

    name: str
    points: tuple[OperatingPoint, ...]
    rule: AnswerRule = field(default_factory=AnswerRule)
    random: bool = False


def variants(stages: Sequence[TrainedStage]) -> Iterator[Variant]:
    """Yield everything first, then with one ingredient taken away or exchanged."""
    everything = study_front(stages).points
    yield Variant("everything", everything)
    yield Variant(f"thresholds on a grid of {GRID}", grid_front(stages))
    names = [trained.stage.backbone for trained in stages]
    for common in sorted(set(names)):
        # The backbones that are there at most resolutions.
        if names.count(common) == max(map(names.count, names)):
            alike = [trained for trained in stages if trained.stage.backbone == common]
            yield Variant(f"{common} alone", study_front(alike).points)
    sides = sorted({trained.stage.resolution for trained in stages})
    for left_out in sides[:-1]:
        others = [trained for trained in stages if trained.stage.resolution != left_out]
        yield Variant(f"without {left_out} pixels", study_front(others).points)
    whole = study_front(stages, optional=False, max_stages=max(len(sides), 2))
    yield Variant("no resolution skipped", whole.points)
    yield Variant("at most two stages", study_front(stages, max_stages=2).points)
    for name, rule in {
        "confidence margin": AnswerRule("margin"),
        "confidence entropy": AnswerRule("entropy"),
        "temperature": AnswerRule(temperature=True),
        "averaging": AnswerRule(average=True),
        "weighted log-average": AnswerRule(weighted=True),
    }.items():
        yield Variant(name, study_front(stages, rule=rule).points, rule)
    yield Variant("random exits", everything, random=True)


def grid_front(stages: Sequence[TrainedStage]) -> tuple[OperatingPoint, ...]:
    """Return the front on validation over the report's grid of thresholds.

    Of all cascades of at most three stages, in rising resolution, as `study_front` has them.
    """
    axis = np.linspace(0.0, 1.0, GRID)
    points: list[OperatingPoint] = []
    for k in (1, 2, 3):
        for chosen in combinations(sorted(stages, key=lambda t: t.stage.resolution), k):
            parts = tuple(trained.stage for trained in chosen)
            if len({part.resolution for part in parts}) < k:
                continue
            answers = stage_answers([t.predictions["validation"] for t in chosen], AnswerRule())
            flops = [part.flops for part in parts]
            rows = [()] if k == 1 else [(t,) for t in axis.tolist()]
            if k == 3:
                grid = threshold_grid(answers.confidence, answers.correct, flops, axis, axis)
                pairs, accuracy, cost = grid.points()
                rows = [tuple(pair) for pair in pairs[non_dominated(accuracy, cost)].tolist()]
            points += [
                OperatingPoint(
                    Cascade(parts, row),
                    evaluate(answers.confidence, answers.correct, flops, row),
                )
                for row in rows
            ]
    accuracy = np.array([point.validation.accuracy for point in points])
    cost = np.array([point.validation.mean_flops for point in points])
    kept = np.flatnonzero(non_dominated(accuracy, cost))
    return tuple(points[i] for i in kept[np.argsort(cost[kept])].tolist())
