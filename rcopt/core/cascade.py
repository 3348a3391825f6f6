"""A cascade, and what it does to a set of images: the one `evaluate` that everything uses."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: The smallest threshold that no confidence reaches: a stage with it answers nothing.
NEVER = float(np.nextafter(1.0, 2.0))

Source = Literal["sampled", "exact"]


class StageId(NamedTuple):
    """What a stage is called: one backbone at one resolution, in pixels."""

    resolution: int
    backbone: str

    @property
    def name(self) -> str:
        """``backbone@resolution``."""
        return f"{self.backbone}@{self.resolution}"


@dataclass(frozen=True)
class Stage:
    """One backbone at one resolution.

    Attributes:
        resolution: Input side in pixels.
        backbone: Registry name, such as ``resnet18``.
        flops: FLOPs (2 x MACs) of one forward pass of one image.
        milliseconds: Measured time of one image, only where that is the cost to minimize. Not
            part of what a stage is: two that differ in nothing else are equal.
    """

    resolution: int
    backbone: str
    flops: float
    milliseconds: float | None = field(default=None, compare=False)

    @property
    def cost(self) -> float:
        """What is minimized: milliseconds where they are given, else FLOPs."""
        return self.flops if self.milliseconds is None else self.milliseconds

    @property
    def id(self) -> StageId:
        """The stage without its cost."""
        return StageId(self.resolution, self.backbone)

    @property
    def name(self) -> str:
        """``backbone@resolution``."""
        return self.id.name


@dataclass(frozen=True)
class Evaluation:
    """What a cascade did to N images.

    Attributes:
        accuracy: Share answered correctly.
        mean_flops: FLOPs per image, every stage that ran counted.
        exit_rates: (K,) share of all images answered by each stage; sums to 1.
        reach_rates: (K,) share of all images that ran each stage; 1 at stage 0.
        deferral_rates: (K-1,) share of the images reaching a stage that went on; nan where
            none reached it.
        n_images: N.
        mean_milliseconds: Time per image by the stages' measured times, every stage that ran
            counted; None unless time is the cost to minimize.
    """

    accuracy: float
    mean_flops: float
    exit_rates: tuple[float, ...]
    reach_rates: tuple[float, ...]
    deferral_rates: tuple[float, ...]
    n_images: int
    mean_milliseconds: float | None = None

    @property
    def cost(self) -> float:
        """What is minimized: mean milliseconds where there are any, else mean FLOPs."""
        return self.mean_flops if self.mean_milliseconds is None else self.mean_milliseconds

    def to_dict(self) -> dict[str, Any]:
        """Return the part of the front's JSON contract that describes one split."""
        tree: dict[str, Any] = {"accuracy": self.accuracy, "mean_flops": self.mean_flops}
        if self.mean_milliseconds is not None:
            tree["mean_milliseconds"] = self.mean_milliseconds
        return tree | {"exit_rates": list(self.exit_rates)}


@dataclass(frozen=True)
class Cascade:
    """Stages from cheap to costly, with a threshold for each but the last.

    Attributes:
        stages: K stages.
        thresholds: K-1 values; stage k answers iff its confidence >= thresholds[k].
    """

    stages: tuple[Stage, ...]
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse a wrong number of thresholds."""
        if not self.stages or len(self.thresholds) != len(self.stages) - 1:
            raise ValueError(
                f"thresholds must have length {len(self.stages) - 1} (stages - 1), "
                f"got {len(self.thresholds)}"
            )

    def __str__(self) -> str:
        """Return ``resnet18@32 >=0.913> resnet50@224``."""
        parts = [self.stages[0].name]
        for threshold, stage in zip(self.thresholds, self.stages[1:], strict=True):
            parts += [f">={threshold:.3f}>", stage.name]
        return " ".join(parts)


@dataclass(frozen=True)
class OperatingPoint:
    """A cascade with its numbers.

    Attributes:
        cascade: The stages and thresholds.
        validation: What it was chosen by.
        test: What is reported; None until the report reads the test split.
        source: ``"sampled"`` (the sampler proposed it) or ``"exact"`` (the exact sweep did).
        trial: Optuna trial number, if it is one.
        run_id: MLflow run, if it has one.
    """

    cascade: Cascade
    validation: Evaluation
    test: Evaluation | None = None
    source: Source = "exact"
    trial: int | None = None
    run_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return one entry of the front's JSON contract."""
        thresholds = (*self.cascade.thresholds, None)
        return {
            "stages": [
                {**_stage_entry(stage), "threshold": threshold}
                for stage, threshold in zip(self.cascade.stages, thresholds, strict=True)
            ],
            "validation": self.validation.to_dict(),
            "test": None if self.test is None else self.test.to_dict(),
            "source": self.source,
            "trial": self.trial,
            "run_id": self.run_id,
        }


def evaluate(
    confidence: ArrayLike, correct: ArrayLike, flops: ArrayLike, thresholds: ArrayLike
) -> Evaluation:
    """Run a cascade on stored answers.

    Every image runs stage 0; stage k answers iff its confidence >= thresholds[k], otherwise
    stage k+1 runs; the last stage always answers. A stage's FLOPs count for each image that
    reaches it (the report's eq. 2.2 with its printed slips mended: f_0 squared is kept, and
    the threshold belongs to the stage that produced the probabilities).

    Args:
        confidence: (K-1, N) or (K, N) in [0, 1]; a K-th row is not looked at.
        correct: (K, N) bool, whether each stage's answer is right.
        flops: (K,) non-negative, FLOPs of one image.
        thresholds: (K-1,).

    Returns:
        The evaluation; accuracy is count / N and mean FLOPs is one dot product of counts with
        ``flops`` divided by N, so equal counts give bit-equal numbers.

    Raises:
        ValueError: On wrong shapes, N = 0, non-finite values, confidence outside [0, 1].

    Example:
        >>> e = evaluate([[0.9, 0.4]], [[True, False], [True, True]], [1.0, 10.0], [0.5])
        >>> e.accuracy, e.mean_flops, e.exit_rates
        (1.0, 6.0, (0.5, 0.5))
    """
    confidence, correct, flops = check_answers(confidence, correct, flops)
    chosen = check_thresholds(thresholds, len(flops))
    stage = _exits(confidence, chosen)
    n = correct.shape[1]
    exits = np.bincount(stage, minlength=len(flops))
    reached = n - np.concatenate([[0], np.cumsum(exits)[:-1]])
    right = int(correct[stage, np.arange(n)].sum())
    return evaluation(right, exits, reached, flops, n)


def evaluate_stages(
    confidence: ArrayLike, correct: ArrayLike, stages: Sequence[Stage], thresholds: ArrayLike
) -> Evaluation:
    """Run a cascade of given stages: `evaluate`, and the mean time where they have times.

    Args:
        confidence: As `evaluate`.
        correct: As `evaluate`.
        stages: K stages; either all or none with milliseconds.
        thresholds: As `evaluate`.

    Raises:
        ValueError: As `evaluate`.
    """
    found = evaluate(confidence, correct, [stage.flops for stage in stages], thresholds)
    times = [stage.milliseconds for stage in stages if stage.milliseconds is not None]
    if not times:
        return found
    timed = evaluate(confidence, correct, times, thresholds)
    return replace(found, mean_milliseconds=timed.mean_flops)


def exits(confidence: ArrayLike, thresholds: ArrayLike) -> NDArray[np.int64]:
    """Return which stage answers each image.

    Args:
        confidence: (K-1, N) or (K, N).
        thresholds: (K-1,).

    Returns:
        (N,) stage index.
    """
    chosen = np.asarray(thresholds, dtype=np.float64)
    return _exits(np.asarray(confidence, dtype=np.float64), chosen)


def evaluation(
    right: int,
    exits: NDArray[np.int64],
    reached: NDArray[np.int64],
    flops: NDArray[np.float64],
    n_images: int,
) -> Evaluation:
    """Turn counts into an `Evaluation`.

    Args:
        right: Images answered correctly.
        exits: (K,) images answered by each stage.
        reached: (K,) images that ran each stage.
        flops: (K,) FLOPs of one image.
        n_images: N > 0.
    """
    deferred = reached[1:]
    with np.errstate(invalid="ignore"):
        rates = deferred / reached[:-1]
    return Evaluation(
        accuracy=right / n_images,
        mean_flops=mean_flops(reached, flops, n_images),
        exit_rates=tuple((exits / n_images).tolist()),
        reach_rates=tuple((reached / n_images).tolist()),
        deferral_rates=tuple(rates.tolist()),
        n_images=n_images,
    )


def mean_flops(reached: NDArray[np.int64], flops: NDArray[np.float64], n_images: int) -> float:
    """Return FLOPs per image from the number of images that reached each stage.

    ``flops`` may as well hold another cost of each stage.

    The sum runs stage by stage in order: the exact fronts repeat it so, and equal counts then
    give the same bits everywhere.
    """
    total = 0.0
    for count, cost in zip(reached.tolist(), flops.tolist(), strict=True):
        total += count * cost
    return total / n_images


def threshold_for_rate(confidence: ArrayLike, rate: float) -> float:
    """Return the threshold that passes on a share of the images nearest to ``rate``.

    Args:
        confidence: (N,) of the images that reach the stage.
        rate: Deferral rate in [0, 1].

    Returns:
        0.0 (answers everything) for rate 0, `NEVER` where all are passed on, otherwise an
        observed confidence. Images of one confidence go together; of two equally near
        shares the smaller is taken.

    Raises:
        ValueError: If ``rate`` lies outside [0, 1].

    Example:
        >>> threshold_for_rate([0.2, 0.5, 0.8, 0.9], 0.5)
        0.8
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1], got {rate}")
    values, counts = np.unique(np.asarray(confidence, dtype=np.float64), return_counts=True)
    if not len(values):
        return 0.0
    deferred = np.concatenate([[0], np.cumsum(counts)])
    at = int(np.argmin(np.abs(deferred - rate * deferred[-1])))
    return 0.0 if at == 0 else NEVER if at == len(values) else float(values[at])


def thresholds_for_rates(confidence: ArrayLike, rates: ArrayLike) -> tuple[float, ...]:
    """Return thresholds that pass on given shares of the images reaching each stage.

    Args:
        confidence: (K-1, N) or (K, N).
        rates: (K-1,) deferral rates in [0, 1], see `threshold_for_rate`.
    """
    sure = np.asarray(confidence, dtype=np.float64)
    thresholds: list[float] = []
    going_on = np.ones(sure.shape[1], dtype=np.bool_)
    for level, rate in enumerate(np.asarray(rates, dtype=np.float64).tolist()):
        threshold = threshold_for_rate(sure[level, going_on], rate)
        thresholds.append(threshold)
        going_on &= sure[level] < threshold
    return tuple(thresholds)


def check_answers(
    confidence: ArrayLike, correct: ArrayLike, flops: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Return the arrays with their types settled, without copying more than needed.

    Returns:
        confidence (K-1, N) float64, correct (K, N) bool, flops (K,) float64.

    Raises:
        ValueError: Naming the argument, what was expected and what came.
    """
    right = np.asarray(correct)
    if right.ndim != 2 or 0 in right.shape:
        raise ValueError(f"correct must have shape (K, N) with N >= 1, got {right.shape}")
    if right.dtype != np.bool_:
        if not np.isin(right, (0, 1)).all():
            raise ValueError(f"correct must be boolean, got {right.dtype} with other values")
        right = right.astype(np.bool_)
    k, n = right.shape
    cost = np.asarray(flops, dtype=np.float64)
    if cost.shape != (k,):
        raise ValueError(f"flops must have shape ({k},) like correct's rows, got {cost.shape}")
    if not np.isfinite(cost).all() or cost.min() < 0:
        raise ValueError(f"flops must be finite and not negative, got {cost.tolist()}")
    sure = np.asarray(confidence, dtype=np.float64)
    if sure.size == 0 and k == 1:
        sure = np.empty((0, n))
    if sure.ndim != 2 or sure.shape[0] not in (k - 1, k) or sure.shape[1] != n:
        raise ValueError(
            f"confidence must have shape ({k - 1}, {n}) or ({k}, {n}), got {sure.shape}"
        )
    sure = sure[: k - 1]
    if sure.size and not (sure.min() >= 0 and sure.max() <= 1):
        raise ValueError("confidence must lie in [0, 1] and hold no NaN")
    return sure, right, cost


def check_thresholds(thresholds: ArrayLike, n_stages: int) -> NDArray[np.float64]:
    """Return thresholds as float64.

    Raises:
        ValueError: If their number is not ``n_stages - 1`` or one is NaN.
    """
    chosen = np.asarray(thresholds, dtype=np.float64)
    if chosen.shape != (n_stages - 1,):
        raise ValueError(
            f"thresholds must have shape ({n_stages - 1},) (stages - 1), got {chosen.shape}"
        )
    if np.isnan(chosen).any():
        raise ValueError("thresholds must hold no NaN")
    return chosen


def _stage_entry(stage: Stage) -> dict[str, Any]:
    entry = {
        "resolution": stage.resolution,
        "backbone": stage.backbone,
        "flops": stage.flops,
    }
    return entry if stage.milliseconds is None else entry | {"milliseconds": stage.milliseconds}


def _exits(confidence: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    k = len(thresholds)
    stage = np.full(confidence.shape[1], k, dtype=np.int64)
    for level in range(k - 1, -1, -1):
        stage[confidence[level] >= thresholds[level]] = level
    return stage
