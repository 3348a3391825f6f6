"""What a choice by validation accuracy is worth on new images: less than it seems."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rcopt.core.answering import Answering
from rcopt.core.answers import AnswerRule, Answers
from rcopt.core.cascade import Stage
from rcopt.core.evaluating import exits
from rcopt.core.statistics.intervals import Interval, accuracy_interval
from rcopt.core.statistics.resampled_fronts import resampled_front
from rcopt.core.trained_stage import TrainedStage

#: Shares are counts divided by N; sums of them are off by less than this, counts by more.
_ROUNDING = 1e-12
#: Up to this many images, what to expect is told by many folds and exact fronts, else by few
#: folds and coarse fronts.
_FEW_IMAGES = 5000
_MANY_FOLDS, _FEW_FOLDS = 10, 3
#: Optimism is averaged over drops that differ by no more than this.
_NEAR = 0.01 + 1e-9


@dataclass(frozen=True, eq=False)
class ExpectedDrops:
    """What asking for a drop gives, by cross-validation.

    Attributes:
        asked: (A,) accuracy that the choice may give up on the images it is made on; rising.
        apparent: (A,) what it gives up there on average.
        expected: (A,) what it gives up on images that had no part in the choice.
    """

    asked: NDArray[np.float64]
    apparent: NDArray[np.float64]
    expected: NDArray[np.float64]

    def optimism(self, asked: float) -> float:
        """Return by how much the drop on new images exceeds the one seen, for a drop asked."""
        gap = self.expected - self.apparent
        return float(np.interp(asked, self.asked, gap))

    def ask_for(self, drop: float) -> float:
        """Return what to ask for on validation, so that ``drop`` is what to expect.

        It is never more than ``drop``, and the least that was looked at where even that is
        expected to give up more.
        """
        gap = np.maximum(self.expected - self.apparent, 0.0)
        fits = np.flatnonzero(self.asked + gap <= drop + _ROUNDING)
        return float(self.asked[fits[-1]]) if len(fits) else float(self.asked[0])


def expected_drops(
    combinations: Sequence[Sequence[Stage]],
    stages: Sequence[TrainedStage],
    asked: ArrayLike,
    *,
    rule: AnswerRule | None = None,
    folds: int = 10,
    dealings: int = 3,
    seed: int = 0,
) -> ExpectedDrops:
    """Return what is given up against the best single stage by choosing on validation images.

    The most accurate single stage, and the cheapest cascade that gives up no more than was
    asked against it, are chosen on all folds but one and judged on that one. On the images
    that it is chosen on a cascade looks better than it is, the more so the fewer images there
    are and the more thresholds there were to choose from; so does the single stage, but less.
    The held-out fold tells by how much.

    Args:
        combinations: Stages of each cascade to choose from, such as those on a front.
        stages: All trained stages, with predictions on validation.
        asked: (A,) rising; a negative one asks for more accuracy than the stage has.
        rule: How probabilities become answers, the default rule if None.
        folds: At least 2; images are dealt to them at random.
        dealings: How often; what they tell is averaged.
        seed: Of the first dealing.

    Raises:
        ValueError: If there are fewer images than folds or a stage lacks predictions.
    """
    limits = np.asarray(asked, dtype=np.float64)
    everything = sorted((trained.stage for trained in stages), key=lambda stage: stage.cost)
    alone_first = [*((stage,) for stage in everything), *combinations]
    candidates = _candidates(alone_first, stages, rule)
    alone = np.array([answers.correct[0] for answers, _ in candidates[: len(everything)]])
    n = alone.shape[1]
    apparent, expected = np.zeros(len(limits)), np.zeros(len(limits))
    dealt = [held for deal in range(dealings) for held in _held_out(n, folds, seed + deal)]
    for held in dealt:
        seen = np.flatnonzero(~held)
        right = alone[alone[:, seen].sum(axis=1).argmax()]
        front = _front(candidates, seen)
        target = float(right[seen].mean())
        correct = front.right(np.searchsorted(front.accuracy, target - limits - _ROUNDING))
        apparent += (right[seen].sum() - correct[:, seen].sum(axis=1)) / len(seen) / len(dealt)
        expected += (right[held].sum() - correct[:, held].sum(axis=1)) / n / dealings
    # Who asks for what seems to fit picks where chance was kind; optimism itself changes slowly.
    near = np.abs(limits[:, None] - limits) <= _NEAR
    gap = near @ (expected - apparent) / near.sum(axis=1)
    return ExpectedDrops(limits, apparent, apparent + gap)


def drop_to_ask(
    combinations: Sequence[Sequence[Stage]],
    stages: Sequence[TrainedStage],
    drop: float,
    *,
    rule: AnswerRule | None = None,
) -> float:
    """Return what to ask for on validation, so that ``drop`` is what to expect on new images.

    Args:
        combinations: As in `expected_drops`.
        stages: As in `expected_drops`.
        drop: Accuracy that may be given up on new images, in [0, 1].
        rule: As in `expected_drops`.

    Returns:
        At most ``drop``; ``drop`` itself where a single image has no second one to judge by.

    Raises:
        ValueError: If the drop is out of range or a stage lacks predictions.
    """
    if not 0 <= drop <= 1:
        raise ValueError(f"drop must lie in [0, 1], got {drop}")
    folds = folds_for(len(stages[0].predictions["validation"]))
    if folds < 2:
        return drop
    found = expected_drops(
        combinations,
        stages,
        np.linspace(-0.04, drop + 0.01, min(151, round(1000 * drop) + 51)),
        rule=rule,
        folds=folds,
        dealings=3 if folds == _MANY_FOLDS else 1,
    )
    return min(drop, found.ask_for(drop))


def folds_for(n_images: int) -> int:
    """Return the number of folds that tell enough in little time; below 2 where none can."""
    return min(n_images, _MANY_FOLDS if n_images <= _FEW_IMAGES else _FEW_FOLDS)


def expected_accuracy(
    combinations: Sequence[Sequence[Stage]],
    stages: Sequence[TrainedStage],
    budgets: ArrayLike,
    *,
    rule: AnswerRule | None = None,
    folds: int = 10,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Interval, ...]:
    """Return what the most accurate choice within each mean cost is worth on new images.

    The choice is made on all folds but one and judged on that one, in turn, so that each image
    is answered by a cascade that was chosen without it. The interval is the exact binomial one
    of these answers: it holds the accuracy of the choice made on all images, where an interval
    around its accuracy on those very images lies too high.

    Args:
        combinations: Stages of each cascade to choose from, such as those on a front.
        stages: Trained stages with predictions on validation, among them all named.
        budgets: (B,) mean cost of an image, positive; where nothing is so cheap on some folds,
            the cheapest is taken.
        rule: How probabilities become answers, the default rule if None.
        folds: At least 2; images are dealt to them at random.
        seed: Of the dealing.
        level: Between 0 and 1.

    Raises:
        ValueError: If there are fewer images than folds or a stage lacks predictions.
    """
    limits = np.asarray(budgets, dtype=np.float64) * (1 + _ROUNDING)
    candidates = _candidates(combinations, stages, rule)
    n = candidates[0][0].correct.shape[1]
    correct = np.zeros((len(limits), n), dtype=np.bool_)
    for held in _held_out(n, folds, seed):
        front = _front(candidates, np.flatnonzero(~held))
        within = np.searchsorted(front.cost, limits, side="right") - 1
        correct[:, held] = front.right(np.maximum(within, 0))[:, held]
    return tuple(accuracy_interval(own, level) for own in correct)


#: A combination's answers and the cost of each of its stages.
_Candidate = tuple[Answers, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class _Front:
    """The best choices on some images: both numbers strictly rising."""

    accuracy: NDArray[np.float64]
    cost: NDArray[np.float64]
    choices: tuple[tuple[Answers, NDArray[np.float64]], ...]

    def right(self, at: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (A, N), what each choice gets right of all images; the last one beyond."""
        places, back = np.unique(np.minimum(at, len(self.cost) - 1), return_inverse=True)
        correct = []
        for answers, thresholds in (self.choices[place] for place in places.tolist()):
            stage = exits(answers.confidence, thresholds)
            correct.append(answers.correct[stage, np.arange(len(stage))])
        return np.array(correct)[back]


def _candidates(
    combinations: Sequence[Sequence[Stage]],
    stages: Sequence[TrainedStage],
    rule: AnswerRule | None,
) -> list[_Candidate]:
    used = {stage for combination in combinations for stage in combination}
    answers_of = Answering(stages, "validation", rule or AnswerRule(), used)
    return [
        (answers_of(combination), np.array([stage.cost for stage in combination]))
        for combination in combinations
    ]


def _held_out(n: int, folds: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Yield (N,) bool, which images each fold holds."""
    if not 2 <= folds <= n:
        raise ValueError(f"folds must lie in 2..{n} (the number of images), got {folds}")
    fold = np.random.default_rng(seed).permutation(np.arange(n) % folds)
    for part in range(folds):
        yield fold == part


def _front(candidates: Sequence[_Candidate], images: NDArray[np.int64]) -> _Front:
    front = resampled_front(candidates, images, coarse=len(images) > _FEW_IMAGES)
    choices = tuple((candidates[c][0], thresholds) for c, thresholds in front.choices)
    return _Front(front.accuracy, front.cost, choices)
