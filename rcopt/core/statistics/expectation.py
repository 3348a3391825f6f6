"""What a choice by validation accuracy is worth on new images: less than it seems."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rcopt.core.answering import Answering
from rcopt.core.answers import AnswerRule, Answers
from rcopt.core.cascade import Stage
from rcopt.core.evaluating import exits
from rcopt.core.fronts import cost_front, non_dominated
from rcopt.core.trained_stage import TrainedStage

#: Shares are counts divided by N; sums of them are off by less than this, counts by more.
_ROUNDING = 1e-12


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
        seed: Of the dealing.

    Raises:
        ValueError: If there are fewer images than folds or a stage lacks predictions.
    """
    limits = np.asarray(asked, dtype=np.float64)
    chosen_rule = rule or AnswerRule()
    everything = sorted((trained.stage for trained in stages), key=lambda stage: stage.cost)
    answers_of = Answering(stages, "validation", chosen_rule)
    candidates = [
        (
            answers_of(combination),
            np.array([stage.cost for stage in combination]),
        )
        for combination in [*combinations, *((stage,) for stage in everything)]
    ]
    alone = np.array([answers.correct[0] for answers, _ in candidates[-len(everything) :]])
    n = alone.shape[1]
    if not 2 <= folds <= n:
        raise ValueError(f"folds must lie in 2..{n} (the number of images), got {folds}")
    fold = np.random.default_rng(seed).permutation(np.arange(n) % folds)
    apparent, expected = np.zeros(len(limits)), np.zeros(len(limits))
    for part in range(folds):
        seen = np.flatnonzero(fold != part)
        right = alone[alone[:, seen].sum(axis=1).argmax()]
        target = float(right[seen].mean())
        correct = _chosen(candidates, seen, target - limits)
        apparent += (right[seen].sum() - correct[:, seen].sum(axis=1)) / len(seen) / folds
        held = fold == part
        expected += (right[held].sum() - correct[:, held].sum(axis=1)) / n
    # A choice on all images is a little less optimistic than one on all folds but one.
    gap = (expected - apparent) * (folds - 1) / folds
    return ExpectedDrops(limits, apparent, apparent + gap)


def _chosen(
    candidates: Sequence[tuple[Answers, NDArray[np.float64]]],
    images: NDArray[np.int64],
    accuracy: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return what the cheapest choice for each least accuracy on some images gets right."""
    swept = [
        cost_front(answers.confidence[:, images], answers.correct[:, images], costs)
        for answers, costs in candidates
    ]
    reached = np.concatenate([front.accuracy for front in swept])
    cost = np.concatenate([front.cost for front in swept])
    kept = np.flatnonzero(non_dominated(reached, cost))
    kept = kept[np.argsort(cost[kept])]
    owner = np.repeat(np.arange(len(swept)), [len(front) for front in swept])
    row = np.concatenate([np.arange(len(front)) for front in swept])
    at = np.minimum(np.searchsorted(reached[kept], accuracy - _ROUNDING), len(kept) - 1)
    places, back = np.unique(at, return_inverse=True)
    correct = []
    for place in kept[places].tolist():
        answers, _ = candidates[owner[place]]
        stage = exits(answers.confidence, swept[owner[place]].thresholds[row[place]])
        correct.append(answers.correct[stage, np.arange(len(stage))])
    return np.array(correct)[back]
