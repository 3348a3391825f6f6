"""What cascading itself brings: cost saved against a random mix of single stages."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade, OperatingPoint
from rcopt.core.outcomes import Outcome, cascade_outcomes
from rcopt.core.statistics.intervals import Interval
from rcopt.core.trained_stage import TrainedStage

#: How many accuracies a gain is averaged over.
STEPS = 100


@dataclass(frozen=True)
class MeanGain:
    """How many times less cascades cost than mixed single stages, over all accuracies.

    Attributes:
        mean: Geometric mean of the gains, with its bootstrap interval over test images.
        upper_half: Of those of the upper half of the accuracies.
        hull: Names of the stages that are mixed, cheapest first.
        n_images: On test.
    """

    mean: Interval
    upper_half: Interval
    hull: tuple[str, ...]
    n_images: int

    def __str__(self) -> str:
        """Return the gain as a sentence."""
        return (
            f"Cascade gain on test: at equal accuracy {_factor(self.mean)} than "
            f"sending each image at random to one of {', '.join(self.hull)}; in the upper half "
            f"of accuracies {_factor(self.upper_half)} ({self.mean.level:.0%} intervals, "
            f"{self.n_images:,} images)."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the gain as JSON."""
        return asdict(self) | {"hull": list(self.hull)}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "MeanGain":
        """Return what `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: If it is anything else.
        """
        ends = [
            Interval(**{name: float(value) for name, value in tree[part].items()})
            for part in ("mean", "upper_half")
        ]
        return cls(ends[0], ends[1], tuple(map(str, tree["hull"])), int(tree["n_images"]))


@dataclass(frozen=True, eq=False)
class CascadeGain:
    """How many times less cascades cost than the single stages' hull at equal accuracy.

    Attributes:
        asked: (A,) accuracy asked for on validation, from the hull's lower to its upper end.
        gain: (A,) on test: the hull's cost at the accuracy of the cascade that was chosen, over
            the cascade's cost.
        over_all: Over all accuracies.
        hull_cost: (H,) of the stages that the hull on test has as its corners, rising.
        hull_accuracy: (H,) theirs on test, rising.
    """

    asked: NDArray[np.float64]
    gain: NDArray[np.float64]
    over_all: MeanGain
    hull_cost: NDArray[np.float64]
    hull_accuracy: NDArray[np.float64]


def cascade_gain(
    points: Sequence[OperatingPoint],
    stages: Sequence[TrainedStage],
    rule: AnswerRule | None = None,
    *,
    n_resamples: int = 1_000,
    level: float = 0.95,
    seed: int = 0,
) -> CascadeGain | None:
    """Return what cascades save against the plain alternative to them.

    Whoever has several networks and a budget in between can send each image at random to one
    of two of them. That needs no thresholds and no confidence, and reaches every point of the
    upper convex hull of the single stages in (cost, accuracy). A front is worth what it saves
    against that hull, not against one stage of choice.

    For each of `STEPS` accuracies between the hull's ends on validation, the cheapest point
    that is as accurate there is chosen. On test its cost is compared with that of the same
    stages' mix of the same test accuracy; where no mix is as accurate, with the most accurate
    stage, and where all mixes are more accurate, with the least accurate one. The interval is
    normal in the log of the gain, its deviation that of bootstrap resamples of the test images,
    the same for cascades and stages; what was chosen stays.

    Args:
        points: A front, chosen on validation.
        stages: Trained stages with predictions on validation and test.
        rule: How probabilities become answers, the default rule if None.
        n_resamples: At least 2.
        level: Between 0 and 1.
        seed: Of the resamples.

    Returns:
        The gain; None where the hull is a single stage, or a stage costs nothing.

    Raises:
        ValueError: If there are no points or stages, or predictions are missing.
    """
    if not points or not stages:
        raise ValueError("points and stages must each hold at least one")
    if min(trained.stage.cost for trained in stages) <= 0:
        return None
    known = [trained.stage for trained in stages]
    alone = np.array([trained.predictions["validation"].accuracy for trained in stages])
    corners = hull([stage.cost for stage in known], alone)
    if len(corners) < 2:
        return None
    asked = np.linspace(alone[corners[0]], alone[corners[-1]], STEPS)
    chosen = _chosen(points, asked)
    picked, back = np.unique(chosen, return_inverse=True)
    mixed = tuple(known[i] for i in corners)
    cascades = [points[i].cascade for i in picked.tolist()]
    singles = [Cascade((stage,), ()) for stage in mixed]
    found = cascade_outcomes([*cascades, *singles], stages, "test", rule)
    right = np.array([outcome.correct for outcome in found], dtype=np.float64)
    spent = np.array([_spent(c, o) for c, o in zip(cascades, found[: len(cascades)], strict=True)])
    n = right.shape[1]
    stage_costs = np.array([stage.cost for stage in mixed])

    def gains(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        accuracy = right @ weights
        of_stages = accuracy[len(cascades) :]
        alike = _hull_cost(accuracy[: len(cascades)], stage_costs, of_stages)
        return np.asarray((alike / (spent @ weights))[back])

    rng = np.random.default_rng(seed)
    told = np.log(gains(np.full(n, 1 / n)))
    drawn = np.log([gains(rng.multinomial(n, np.full(n, 1 / n)) / n) for _ in range(n_resamples)])
    upper = slice(STEPS // 2, None)
    on_test = right[len(cascades) :].mean(axis=1)
    at = hull(stage_costs, on_test)
    return CascadeGain(
        asked=asked,
        gain=np.exp(told),
        over_all=MeanGain(
            mean=_interval(told.mean(), drawn.mean(axis=1), level),
            upper_half=_interval(told[upper].mean(), drawn[:, upper].mean(axis=1), level),
            hull=tuple(stage.name for stage in mixed),
            n_images=n,
        ),
        hull_cost=stage_costs[at],
        hull_accuracy=on_test[at],
    )


def hull(cost: ArrayLike, accuracy: ArrayLike) -> NDArray[np.int64]:
    """Return the corners of the upper convex hull of single stages.

    Args:
        cost: (S,) of each stage.
        accuracy: (S,) of each stage.

    Returns:
        Indices of the corners, from the cheapest stage to the most accurate one, rising in both;
        the slope from each to the next falls.

    Example:
        >>> hull([1.0, 2.0, 3.0, 4.0], [0.5, 0.6, 0.8, 0.7]).tolist()
        [0, 2]
    """
    costs = np.asarray(cost, dtype=np.float64)
    accuracies = np.asarray(accuracy, dtype=np.float64)
    corners: list[int] = []
    for i in np.lexsort((-accuracies, costs)).tolist():
        if corners and accuracies[i] <= accuracies[corners[-1]]:
            continue
        while len(corners) > 1:
            a, b = corners[-2:]
            before = (accuracies[b] - accuracies[a]) * (costs[i] - costs[b])
            after = (accuracies[i] - accuracies[b]) * (costs[b] - costs[a])
            if after < before:
                break
            corners.pop()
        corners.append(i)
    return np.array(corners, dtype=np.int64)


def _hull_cost(
    accuracy: NDArray[np.float64], costs: NDArray[np.float64], alone: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what the cheapest mix costs that is so accurate, within the hull's ends."""
    corners = hull(costs, alone)
    return np.interp(accuracy, alone[corners], costs[corners])


def _chosen(points: Sequence[OperatingPoint], asked: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the index of the cheapest point that is so accurate; else of the most accurate."""
    accuracy = np.array([point.validation.accuracy for point in points])
    cost = np.array([point.validation.cost for point in points])
    enough = accuracy[None] >= np.minimum(asked, accuracy.max())[:, None] - 1e-12
    return np.asarray(np.where(enough, cost[None], np.inf).argmin(axis=1), dtype=np.int64)


def _spent(cascade: Cascade, outcome: Outcome) -> NDArray[np.float64]:
    """Return (N,) what each image costs."""
    costs = np.cumsum([stage.cost for stage in cascade.stages])
    return np.asarray(costs[outcome.stages])


def _factor(saved: Interval) -> str:
    """Return how many times cheaper, or dearer where nothing is saved."""
    told, low, high, word = saved.estimate, saved.low, saved.high, "cheaper"
    if told < 1:
        told, low, high, word = 1 / told, 1 / high, 1 / low, "dearer"
    return f"{told:.2f} ({low:.2f} to {high:.2f}) times {word}"


def _interval(told: float, drawn: NDArray[np.float64], level: float) -> Interval:
    half = float(ndtri((1 + level) / 2) * drawn.std(ddof=1))
    return Interval(
        float(np.exp(told)), float(np.exp(told - half)), float(np.exp(told + half)), level
    )
