"""How far chance goes: fronts, savings and optimism over resampled images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rcopt.core.answering import Answering
from rcopt.core.answers import AnswerRule, Answers
from rcopt.core.cascade import Stage
from rcopt.core.evaluating import exits
from rcopt.core.statistics.intervals import Interval
from rcopt.core.statistics.resampled_fronts import ResampledFront, resampled_front
from rcopt.core.statistics.savings import LOSSES
from rcopt.core.trained_stage import TrainedStage

#: Steps of all resamples' sweeps up to which they are exact, and of coarse ones.
EXACT_STEPS = 20_000_000_000
COARSE_STEPS = 2_000_000_000

#: Resamples that are always drawn, if so many are asked for.
LEAST_RESAMPLES = 200

#: Shares are counts divided by N; sums of them are off by less than this, counts by more.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class FrontBand:
    """The spread of repeated choices: the test accuracy of what is chosen for each budget.

    No interval of the choice that was made; `rcopt.core.statistics.comparison` gives that.

    Attributes:
        budgets: (B,) mean FLOPs that the choice may cost on validation.
        accuracy: (B,) on test, of the choice made on all validation images.
        mean_flops: (B,) on test, of the same choice.
        low: (B,) lower end of the spread of the accuracy, budget by budget.
        high: (B,) upper end.
    """

    budgets: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    mean_flops: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class SavingInterval:
    """The spread of repeated choices: what they save against the reference on test.

    No interval of the choice that was made; `rcopt.core.statistics.comparison` gives that.

    Attributes:
        loss: Accuracy that may be given up on validation, as a share.
        times: The reference's mean FLOPs over the choice's.
        change: The choice's accuracy minus the reference's.
    """

    loss: float
    times: Interval
    change: Interval


@dataclass(frozen=True, eq=False)
class Optimism:
    """How much of the validation front's accuracy is due to choosing on those very images.

    Attributes:
        budgets: (B,) mean FLOPs that the choice may cost.
        apparent: (B,) validation accuracy of the choice made on all validation images.
        optimism: (B,) accuracy that a choice on a resample has on the resample minus what it
            has on all validation images, on average (Efron 1983).
        out_of_resample: (B,) accuracy that it has on the images left out of the resample;
            nan if no resample left one out.
    """

    budgets: NDArray[np.float64]
    apparent: NDArray[np.float64]
    optimism: NDArray[np.float64]
    out_of_resample: NDArray[np.float64]

    @property
    def corrected(self) -> NDArray[np.float64]:
        """(B,) apparent accuracy less its optimism."""
        return self.apparent - self.optimism

    @property
    def point632(self) -> NDArray[np.float64]:
        """(B,) Efron's .632 estimate: a resample holds 0.632 of the images on average."""
        return 0.368 * self.apparent + 0.632 * self.out_of_resample


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Everything that was learned from the resamples.

    Attributes:
        band: Test accuracy for each budget.
        savings: One for each loss.
        optimism: Of the validation accuracy for each budget.
        n_resamples: Number of resamples.
        level: Share of the resamples between the ends of each spread.
    """

    band: FrontBand
    savings: tuple[SavingInterval, ...]
    optimism: Optimism
    n_resamples: int
    level: float
    accuracy_gap: float = 0.0


def bootstrap(
    combinations: Sequence[Sequence[Stage]],
    stages: Sequence[TrainedStage],
    reference: Stage,
    rng: np.random.Generator,
    *,
    rule: AnswerRule | None = None,
    n_resamples: int = 1_000,
    losses: Sequence[float] = LOSSES,
    budgets: ArrayLike | None = None,
    level: float = 0.95,
) -> Bootstrap:
    """Repeat choice and report on images drawn with replacement.

    In each resample the validation and the test images are drawn anew, the same images for all
    stages (paired). On the resampled validation images the exact front over the combinations
    and all their thresholds is made afresh, and from it a point is chosen for each budget and
    for each loss; the resampled test images say what these choices are worth. The reference
    alone is always among the candidates. What the rule fits is not fitted afresh.

    Where exact fronts of all resamples would take more than `EXACT_STEPS`, they are swept
    coarsely (``accuracy_gap`` says how much that can miss), and fewer resamples are drawn, so
    that `COARSE_STEPS` suffice, but not fewer than `LEAST_RESAMPLES`.

    Args:
        combinations: Stages of each cascade to choose from, such as the distinct
            ``point.cascade.stages`` of a front. The time grows with their number.
        stages: Trained stages with predictions on validation and test, among them all named.
        reference: The stage that savings are told against, usually the most accurate one.
        rng: Where the resamples come from.
        rule: How probabilities become answers, the default rule if None.
        n_resamples: At least 2; fewer are drawn where they take too long.
        losses: Accuracy that may be given up against the reference, each in [0, 1].
        budgets: (B,) mean FLOPs; by default 40 from the front's cheapest to its costliest
            point, in equal ratios.
        level: Between 0 and 1.

    Raises:
        ValueError: If an argument is out of range, a budget below the cheapest point, or a
            stage without predictions on validation or test.
    """
    if n_resamples < 2:
        raise ValueError(f"n_resamples must be at least 2, got {n_resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if not all(0 <= loss <= 1 for loss in losses):
        raise ValueError(f"losses must lie in [0, 1], got {list(losses)}")
    candidates = _candidates([*combinations, [reference]], stages, rule or AnswerRule())
    n = candidates[0].validation.correct.shape[1]
    n_test = candidates[0].test.correct.shape[1]
    everything = np.arange(n)
    swept = [(c.validation, c.flops) for c in candidates]
    front = resampled_front(swept, everything)
    limits = _budgets(budgets, front)
    whole = _draw(candidates, front, everything, np.arange(n_test), limits, losses)
    coarse, gap = front.steps * n_resamples > EXACT_STEPS, 0.0
    if coarse:
        affordable = COARSE_STEPS // resampled_front(swept, everything, coarse=True).steps
        n_resamples = min(n_resamples, max(affordable, LEAST_RESAMPLES))
    drawn = []
    for _ in range(n_resamples):
        images = rng.integers(0, n, size=(n,), dtype=np.int64)
        test_images = rng.integers(0, n_test, size=(n_test,), dtype=np.int64)
        front = resampled_front(swept, images, coarse=coarse)
        gap = max(gap, front.accuracy_gap)
        drawn.append(_draw(candidates, front, images, test_images, limits, losses))
    return _summary(whole, drawn, limits, losses, level, gap)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """One combination of stages with its answers; the last one is the reference alone."""

    flops: NDArray[np.float64]
    validation: Answers
    test: Answers


@dataclass(frozen=True, eq=False)
class _Draw:
    """What the choices made on one resample do; by budget, the last two by loss."""

    within: NDArray[np.float64]
    on_all: NDArray[np.float64]
    left_out: NDArray[np.int64]
    n_left_out: int
    accuracy: NDArray[np.float64]
    mean_flops: NDArray[np.float64]
    times: NDArray[np.float64]
    change: NDArray[np.float64]


def _candidates(
    combinations: Sequence[Sequence[Stage]], stages: Sequence[TrainedStage], rule: AnswerRule
) -> list[_Candidate]:
    used = {stage for combination in combinations for stage in combination}
    for stage in used:
        if stage.flops <= 0:
            raise ValueError(f"stages must have positive FLOPs, {stage.name} has {stage.flops}")
    validation = Answering(stages, "validation", rule, used)
    test = Answering(stages, "test", rule, used)
    return [
        _Candidate(
            np.array([stage.flops for stage in combination]),
            validation(combination),
            test(combination),
        )
        for combination in combinations
    ]


def _budgets(budgets: ArrayLike | None, front: ResampledFront) -> NDArray[np.float64]:
    cheapest, costliest = front.cost[[0, -1]]
    if budgets is None:
        return np.asarray(np.geomspace(cheapest, costliest, 40))
    limits = np.asarray(budgets, dtype=np.float64)
    if limits.ndim != 1 or not len(limits) or not (limits >= cheapest).all():
        raise ValueError(
            "budgets must have shape (B,) and not lie below the cheapest point's "
            f"{cheapest:.4g} mean FLOPs, got {limits.tolist()}"
        )
    return limits


def _draw(
    candidates: Sequence[_Candidate],
    front: ResampledFront,
    images: NDArray[np.int64],
    test_images: NDArray[np.int64],
    limits: NDArray[np.float64],
    losses: Sequence[float],
) -> _Draw:
    reference = candidates[-1]
    target = reference.validation.correct[0, images].mean()
    by_budget = np.searchsorted(front.cost, limits, side="right") - 1
    by_loss = np.searchsorted(front.accuracy, target - np.asarray(losses) - _ROUNDING)
    picked, at = np.unique(np.concatenate([by_budget, by_loss]), return_inverse=True)
    budget, loss = at[: len(limits)], at[len(limits) :]
    chosen = [(candidates[c], thresholds) for c, thresholds in (front.choices[i] for i in picked)]
    right = np.array([_right(c.validation, thresholds) for c, thresholds in chosen])
    test_right = np.array([_right(c.test, thresholds) for c, thresholds in chosen])
    accuracy = test_right[:, test_images].mean(axis=1)
    cost = np.array([_cost(c, thresholds, test_images) for c, thresholds in chosen])
    left_out = np.ones(right.shape[1], dtype=np.bool_)
    left_out[images] = False
    return _Draw(
        within=right[:, images].mean(axis=1)[budget],
        on_all=right.mean(axis=1)[budget],
        left_out=right[:, left_out].sum(axis=1)[budget],
        n_left_out=int(left_out.sum()),
        accuracy=accuracy[budget],
        mean_flops=cost[budget],
        times=reference.flops[0] / cost[loss],
        change=accuracy[loss] - reference.test.correct[0, test_images].mean(),
    )


def _right(answers: Answers, thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
    stage = exits(answers.confidence, thresholds)
    return np.asarray(answers.correct[stage, np.arange(len(stage))])


def _cost(
    candidate: _Candidate, thresholds: NDArray[np.float64], images: NDArray[np.int64]
) -> float:
    stage = exits(candidate.test.confidence[:, images], thresholds)
    left = np.bincount(stage, minlength=len(candidate.flops))
    return float(left @ np.cumsum(candidate.flops)) / len(images)


def _summary(
    whole: _Draw,
    drawn: Sequence[_Draw],
    limits: NDArray[np.float64],
    losses: Sequence[float],
    level: float,
    accuracy_gap: float,
) -> Bootstrap:
    accuracy = _interval([draw.accuracy for draw in drawn], level)
    times = _interval([draw.times for draw in drawn], level)
    change = _interval([draw.change for draw in drawn], level)
    n_left_out = sum(draw.n_left_out for draw in drawn)
    right_left_out = np.sum([draw.left_out for draw in drawn], axis=0)
    return Bootstrap(
        band=FrontBand(limits, whole.accuracy, whole.mean_flops, accuracy[0], accuracy[1]),
        savings=tuple(
            SavingInterval(
                loss,
                Interval(float(whole.times[i]), float(times[0, i]), float(times[1, i]), level),
                Interval(float(whole.change[i]), float(change[0, i]), float(change[1, i]), level),
            )
            for i, loss in enumerate(losses)
        ),
        optimism=Optimism(
            limits,
            whole.within,
            np.mean([draw.within - draw.on_all for draw in drawn], axis=0),
            right_left_out / (n_left_out or np.nan),
        ),
        n_resamples=len(drawn),
        level=level,
        accuracy_gap=accuracy_gap,
    )


def _interval(values: Sequence[NDArray[np.float64]], level: float) -> NDArray[np.float64]:
    """Return (2, B): the ends of the percentile intervals."""
    return np.asarray(np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0))
