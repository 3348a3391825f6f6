"""What a cascade has to beat, and the best that any rule for leaving it could do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.cascade import Cascade, Evaluation, OperatingPoint
from rcopt.core.evaluating import check_answers, evaluate, evaluation
from rcopt.core.fronts import non_dominated, threshold_front
from rcopt.core.trained_stage import TrainedStage


@dataclass(frozen=True, eq=False)
class OracleFront:
    """The front of a cascade that knows which of its stages are right.

    Attributes:
        accuracy: (P,), strictly rising.
        mean_flops: (P,), strictly rising.
    """

    accuracy: NDArray[np.float64]
    mean_flops: NDArray[np.float64]


def single_stages(stages: Sequence[TrainedStage]) -> tuple[OperatingPoint, ...]:
    """Return each stage alone, on validation, cheapest first."""
    return tuple(
        OperatingPoint(
            Cascade((trained.stage,), ()),
            evaluate([], [trained.predictions["validation"].correct], [trained.stage.flops], []),
        )
        for trained in _by_cost(stages)
    )


def two_stage_front(
    stages: Sequence[TrainedStage], rule: AnswerRule | None = None
) -> tuple[OperatingPoint, ...]:
    """Return the exact front of all cascades of at most two stages, on validation.

    Two stages give most of what a cascade can (Lebovitz et al. 2023, Efficient Inference With
    Model Cascades). Any two stages are combined, cheap before costly, of one resolution too.

    Args:
        stages: Trained stages.
        rule: How probabilities become answers, the default rule if None.

    Returns:
        Operating points, cheapest first, both numbers strictly rising.

    Raises:
        ValueError: If there are no stages or they are not of the same images.
    """
    if not stages:
        raise ValueError("stages must hold at least one trained stage, got none")
    rule = rule or AnswerRule()
    points = list(single_stages(stages))
    for pair in combinations(_by_cost(stages), 2):
        answers = stage_answers([trained.predictions["validation"] for trained in pair], rule)
        flops = [trained.stage.flops for trained in pair]
        parts = tuple(trained.stage for trained in pair)
        points += [
            OperatingPoint(
                Cascade(parts, (threshold,)),
                evaluate(answers.confidence, answers.correct, flops, [threshold]),
            )
            for [threshold] in threshold_front(
                answers.confidence, answers.correct, flops
            ).thresholds.tolist()
        ]
    accuracy = np.array([point.validation.accuracy for point in points])
    cost = np.array([point.validation.mean_flops for point in points])
    kept = np.flatnonzero(non_dominated(accuracy, cost))
    return tuple(points[i] for i in kept[np.argsort(cost[kept])])


def random_exits(cascade: Evaluation, correct: ArrayLike) -> Evaluation:
    """Return what to expect if as many images left at each stage, drawn at random.

    What the cascade has on top of this comes from its confidence. Each image is equally likely
    to leave at stage k, so the expected accuracy is the sum of exit rate times stage accuracy
    (exact, nothing is sampled) and the cost is the cascade's own.

    Args:
        cascade: The evaluation to compare with.
        correct: (K, N) bool, whether each stage's answer is right, the same images.

    Raises:
        ValueError: If ``correct`` has another shape than the evaluation's.
    """
    right = np.asarray(correct, dtype=np.bool_)
    expected = (len(cascade.exit_rates), cascade.n_images)
    if right.shape != expected:
        raise ValueError(f"correct must have shape {expected} like cascade, got {right.shape}")
    return replace(cascade, accuracy=float(right.mean(axis=1) @ np.array(cascade.exit_rates)))


def oracle_exits(correct: ArrayLike, flops: ArrayLike) -> Evaluation:
    """Return the evaluation if each image left at the first stage that is right.

    An image that no stage gets right leaves at stage 0: more FLOPs would be spent in vain.
    No thresholds on these answers are more accurate, and none so accurate is cheaper.

    Args:
        correct: (K, N) bool, whether each stage's answer is right.
        flops: (K,) FLOPs of one image.

    Raises:
        ValueError: As `rcopt.evaluate`.

    Example:
        >>> e = oracle_exits([[True, False, False], [True, True, False]], [1.0, 10.0])
        >>> round(e.accuracy, 3), e.mean_flops
        (0.667, 4.333333333333333)
    """
    right, cost, leaving = _first_right(correct, flops)
    n = right.shape[1]
    left = np.bincount(leaving, minlength=len(cost))
    reached = n - np.concatenate([[0], np.cumsum(left)[:-1]])
    return evaluation(int(right.any(axis=0).sum()), left, reached, cost, n)


def oracle_front(correct: ArrayLike, flops: ArrayLike) -> OracleFront:
    """Return the best accuracy that any way of leaving the cascade reaches at each cost.

    All images leave at stage 0 at first; then those are sent on, one by one, that a later
    stage gets right, the cheapest to mend first. Each image gains the same, so that order is
    the best at every cost. The last point is `oracle_exits`.

    Args:
        correct: (K, N) bool, whether each stage's answer is right.
        flops: (K,) FLOPs of one image.

    Returns:
        At most N + 1 points, cheapest first.

    Raises:
        ValueError: As `rcopt.evaluate`.
    """
    right, cost, leaving = _first_right(correct, flops)
    n = right.shape[1]
    sent = np.sort(leaving[leaving > 0])
    step = np.arange(len(sent) + 1)
    total = np.full(len(step), n * cost[0])
    for k in range(1, len(cost)):
        # Images sent to stage k or beyond, after each step.
        total += (step - np.minimum(step, np.searchsorted(sent, k))) * cost[k]
    accuracy = (int(right[0].sum()) + step) / n
    mean_flops = total / n
    kept = non_dominated(accuracy, mean_flops)
    return OracleFront(accuracy[kept], mean_flops[kept])


def _by_cost(stages: Sequence[TrainedStage]) -> list[TrainedStage]:
    return sorted(stages, key=lambda trained: (trained.stage.flops, trained.stage.name))


def _first_right(
    correct: ArrayLike, flops: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
    _, right, cost = check_answers(np.zeros(np.shape(correct)), correct, flops)
    return right, cost, np.asarray(right.argmax(axis=0), dtype=np.int64)
