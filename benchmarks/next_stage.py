"""Which stage to train next: the one whose training gains most of the front per second.

What a stage would predict is unknown until it is trained, and so is how long that takes. Both
are forecast from the stages trained so far: the seconds and the accuracy by small Bayesian
regressions on logarithms, the answers to single images by imitating trained neighbours. Whole
worlds are drawn from these forecasts, and in each the front is swept exactly.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from rcopt.core.answering import Answering
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Stage, StageId
from rcopt.core.fronts import cost_front
from rcopt.core.hypervolumes import Frame, frame_of, hypervolume_share
from rcopt.core.predictions import Predictions
from rcopt.core.trained_stage import TrainedStage

#: Worlds drawn for a forecast, and images at most that they hold: their error is then small
#: beside the spread between worlds.
DRAWS, IMAGES = 16, 500
#: Most stages of a cascade in a forecast, and of those with several stages not yet trained.
_DEEP, _DEEP_UNTRAINED = 3, 2

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Forecast:
    """What training one stage is expected to bring.

    Attributes:
        stage: Which.
        gain: Expected growth of the front's hypervolume share (see `hypervolume_share`); NaN
            while nothing is trained.
        seconds: Expected time of its training.
    """

    stage: StageId
    gain: float
    seconds: float

    def __str__(self) -> str:
        """Return it as one clause of a log line."""
        gain = "" if np.isnan(self.gain) else f"{self.gain:+.3f} expected for "
        return f"{self.stage.name}: {gain}{_spoken(self.seconds)}"


@dataclass(frozen=True)
class Outlook:
    """What training is expected to bring.

    Attributes:
        forecasts: Of each stage that is left, best first: largest gain per second.
        left: Expected growth of the front's hypervolume share if all of them were trained; NaN
            while nothing is trained.
    """

    forecasts: tuple[Forecast, ...]
    left: float


def outlook(
    trained: Sequence[TrainedStage],
    untrained: Sequence[Stage],
    work: Mapping[StageId, float],
    *,
    rule: AnswerRule = AnswerRule(),  # noqa: B008 (frozen)
    seed: int = 0,
    draws: int = DRAWS,
) -> Outlook:
    """Forecast what each stage that is left would bring.

    Before the first stage is trained nothing is known of accuracies: what trains fastest comes
    first.

    Args:
        trained: Stages with predictions on validation and the seconds of their training.
        untrained: What may still be trained.
        work: MACs x epochs of every one of these stages.
        rule: How probabilities become answers. What it would fit is not fitted here.
        seed: Of the draws; with the stages it fixes the result.
        draws: Number of worlds.

    Raises:
        ValueError: If the trained stages are not of the same images.
    """
    known = sorted(trained, key=lambda t: t.stage.id)
    left = sorted(untrained, key=lambda stage: stage.id)
    if not left:
        return Outlook((), 0.0)
    seconds = _forecast_seconds(known, left, work)
    if not known:
        order = np.argsort(seconds, kind="stable").tolist()
        cheap = (Forecast(left[i].id, np.nan, float(seconds[i])) for i in order)
        return Outlook(tuple(cheap), np.nan)
    rng = np.random.default_rng([seed, len(known)])
    plain = replace(rule, temperature=False, weighted=False)
    worlds = [_World(world, left, plain) for world in _worlds(known, left, rng, draws)]
    gains = np.mean([world.gains for world in worlds], axis=0)
    everything = np.mean([world.everything for world in worlds])
    found = [
        Forecast(stage.id, float(gain), float(time))
        for stage, gain, time in zip(left, gains, seconds, strict=True)
    ]
    found.sort(key=lambda one: (-one.gain / one.seconds, one.seconds, one.stage))
    return Outlook(tuple(found), float(max(everything, gains.max())))


class _World:
    """Trained stages beside drawn ones, and what each of these would add to the front."""

    def __init__(
        self, stages: Sequence[TrainedStage], left: Sequence[Stage], rule: AnswerRule
    ) -> None:
        self._answers = Answering(stages, "validation", rule)
        pool = [trained.stage for trained in stages]
        known = [stage for stage in pool if stage not in set(left)]
        self._frame = frame_of(
            [trained.predictions["validation"].accuracy for trained in stages],
            [stage.cost for stage in pool],
        )
        before = self._sweep(_cascades(known, _DEEP))
        base = _share(before, self._frame)
        alone = [
            self._sweep(c for c in _cascades([*known, stage], _DEEP) if stage in c)
            for stage in left
        ]
        self.gains = np.array([_share(before + own, self._frame) - base for own in alone])
        together = self._sweep(_cascades(left, _DEEP_UNTRAINED))
        everything = [*before, *together, *(point for own in alone for point in own)]
        self.everything = _share(everything, self._frame) - base

    def _sweep(self, cascades: "Iterator[tuple[Stage, ...]]") -> list[tuple[Array, Array]]:
        found = []
        for cascade in cascades:
            answers = self._answers(cascade)
            costs = [stage.cost for stage in cascade]
            front = cost_front(answers.confidence, answers.correct, costs)
            found.append((front.accuracy, front.cost))
        return found


def _cascades(stages: Sequence[Stage], most: int) -> Iterator[tuple[Stage, ...]]:
    by_resolution = sorted(stages, key=lambda stage: (stage.resolution, stage.backbone))
    for size in range(1, most + 1):
        for cascade in combinations(by_resolution, size):
            if len({stage.resolution for stage in cascade}) == size:
                yield cascade


def _share(points: Sequence[tuple[Array, Array]], frame: Frame) -> float:
    accuracy, cost = (np.concatenate(part) for part in zip(*points, strict=True))
    return hypervolume_share(accuracy, cost, frame)


def _worlds(
    known: Sequence[TrainedStage],
    left: Sequence[Stage],
    rng: np.random.Generator,
    draws: int,
) -> Iterator[list[TrainedStage]]:
    """Yield the trained stages and the others as they may turn out, on some of the images."""
    whole = known[0].predictions["validation"]
    some = np.unique(np.linspace(0, len(whole) - 1, IMAGES).round().astype(np.int64))
    shown = [_seen_on(trained, some) for trained in known]
    labels = shown[0].predictions["validation"].labels
    images = shown[0].predictions["validation"].images
    logits = np.array([_logits(t.predictions["validation"].probabilities) for t in shown])
    closeness = _closeness([*(t.stage for t in known), *left])
    strangeness = _strangeness(logits, closeness[: len(known), : len(known)])
    errors = _Regression.of_errors(known, left)
    for _ in range(draws):
        accuracies = 1 - np.minimum(np.exp(errors.draw(rng)), 1 - 1 / logits.shape[2])
        drawn = list(shown)
        for n, (stage, accuracy) in enumerate(zip(left, accuracies, strict=True)):
            weights = closeness[len(known) + n, : len(known)]
            answers = np.tensordot(weights / weights.sum(), logits, axes=1)
            answers = answers + rng.normal(0, strangeness, answers.shape)
            p = _with_accuracy(answers, labels, float(accuracy))
            own = Predictions("validation", p, labels, images)
            drawn.append(TrainedStage(stage, {"validation": own}, stage.name, 0, 0))
        yield drawn


def _seen_on(trained: TrainedStage, some: NDArray[np.int64]) -> TrainedStage:
    own = trained.predictions["validation"]
    fewer = Predictions(
        "validation",
        own.probabilities[some],
        own.labels[some],
        tuple(own.images[i] for i in some.tolist()),
    )
    return replace(trained, predictions={"validation": fewer})


def _logits(probabilities: NDArray[np.float32]) -> Array:
    """Return centred log-probabilities (N, C)."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), 1e-6))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))


def _strangeness(logits: Array, closeness: Array) -> float:
    """Return how far a stage's logits lie from what its trained neighbours make of them."""
    if len(logits) < 2:
        return float(logits.std())
    away = []
    for own, near in enumerate(closeness):
        weights = np.where(np.arange(len(near)) == own, 0.0, near)
        away.append(logits[own] - np.tensordot(weights / weights.sum(), logits, axes=1))
    return float(np.std(away))


def _with_accuracy(
    logits: Array, labels: NDArray[np.int64], accuracy: float
) -> NDArray[np.float32]:
    """Return probabilities (N, C) after the true class was raised until so many are right."""
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    lacking = others.max(axis=1) - logits[rows, labels]
    raised = logits.copy()
    raised[rows, labels] += np.quantile(lacking, accuracy) + 1e-9
    p = np.exp(raised - raised.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True), dtype=np.float32)


def _closeness(stages: Sequence[Stage]) -> Array:
    """Return (S, S) in (0, 1], how alike two stages are in cost, resolution and family."""
    cost, side, family = _described(stages)
    apart = ((cost[:, None] - cost) / 2) ** 2 + ((side[:, None] - side) / 0.7) ** 2
    apart = np.minimum(apart + (family[:, None] != family), 50.0)
    return np.asarray(np.exp(-apart / 2))


def _described(stages: Sequence[Stage]) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return log FLOPs, log resolution and a number for the family of each stage."""
    families = [_family(stage.backbone) for stage in stages]
    number = {name: n for n, name in enumerate(sorted(set(families)))}
    return (
        np.log([stage.flops for stage in stages]),
        np.log([stage.resolution for stage in stages]),
        np.array([number[name] for name in families]),
    )


def _family(backbone: str) -> str:
    found = re.match(r"[A-Za-z_]+", backbone)
    return found[0] if found else backbone


def _forecast_seconds(
    known: Sequence[TrainedStage], left: Sequence[Stage], work: Mapping[StageId, float]
) -> Array:
    timed = [trained for trained in known if trained.seconds > 0]
    stages = [*(trained.stage for trained in timed), *left]
    amount = np.log([work[stage.id] for stage in stages])
    *_, family = _described(stages)
    # Small inputs keep a processor less busy, so time grows slower than work.
    found = _Regression(
        _columns([amount - amount.mean()], family),
        np.log([trained.seconds for trained in timed]),
        mean=[amount.mean() * 0.7, 0.7],
        spread=[10.0, 0.2],
        family=0.5,
        noise=0.3,
    )
    return np.asarray(np.exp(found.mean))


class _Regression:
    """Bayesian linear regression: some rows have a measured value, the others are forecast.

    Args:
        columns: (K + L, P) of the measured rows, then the others; the families' columns last.
        values: (K,) measured.
        mean: Of the coefficients before anything was measured, without the families'.
        spread: Their standard deviations.
        family: Standard deviation of what a family adds.
        noise: Of a value around the line.
    """

    def __init__(
        self,
        columns: Array,
        values: Array,
        *,
        mean: Sequence[float],
        spread: Sequence[float],
        family: float,
        noise: float,
    ) -> None:
        more = columns.shape[1] - len(mean)
        prior = np.array([*mean, *[0.0] * more])
        variance = np.array([*spread, *[family] * more]) ** 2
        seen, ahead = columns[: len(values)], columns[len(values) :]
        # The values' covariance, conditioned on those measured.
        gain = np.linalg.solve(
            (seen * variance) @ seen.T + noise**2 * np.eye(len(values)), (seen * variance)
        )
        centre = prior + gain.T @ (values - seen @ prior)
        covariance = np.diag(variance) - gain.T @ (seen * variance)
        self.mean = np.asarray(ahead @ centre)
        total = ahead @ covariance @ ahead.T + noise**2 * np.eye(len(ahead))
        self._root = np.linalg.cholesky(total)

    @classmethod
    def of_errors(cls, known: Sequence[TrainedStage], left: Sequence[Stage]) -> "_Regression":
        """Return log error by log FLOPs, log resolution and family."""
        own = [trained.predictions["validation"] for trained in known]
        # As if half an image more were wrong: no stage is taken to be perfect.
        wrong = [(0.5 + (~p.correct).sum()) / (len(p) + 1) for p in own]
        cost, side, family = _described([*(trained.stage for trained in known), *left])
        values = np.log(wrong)
        return cls(
            _columns([cost - cost.mean(), side - side.mean()], family),
            values,
            mean=[-1.5, -0.2, -0.2],
            spread=[2.0, 0.15, 0.2],
            family=0.3,
            noise=0.1,
        )

    def draw(self, rng: np.random.Generator) -> Array:
        """Return one draw of the values ahead, those of alike stages moving together."""
        return np.asarray(self.mean + self._root @ rng.normal(size=len(self.mean)))


def _columns(features: Sequence[Array], family: NDArray[np.int64]) -> Array:
    same = (family[:, None] == np.unique(family)).astype(np.float64)
    return np.column_stack([np.ones(len(family)), *features, same])


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
