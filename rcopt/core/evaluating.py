"""What a cascade does to a set of images: the one `evaluate` that everything uses."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rcopt.core.cascade import NEVER, Evaluation, Stage
from rcopt.core.cost import Amount


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
    answered = np.bincount(stage, minlength=len(flops))
    reached = n - np.concatenate([[0], np.cumsum(answered)[:-1]])
    right = int(correct[stage, np.arange(n)].sum())
    return evaluation(right, answered, reached, flops, n)


def evaluate_stages(
    confidence: ArrayLike, correct: ArrayLike, stages: Sequence[Stage], thresholds: ArrayLike
) -> Evaluation:
    """Run a cascade of given stages: `evaluate`, and the mean of what is minimized.

    Args:
        confidence: As `evaluate`.
        correct: As `evaluate`.
        stages: K stages that have the same cost minimized.
        thresholds: As `evaluate`.

    Raises:
        ValueError: As `evaluate`, or if the stages have different costs minimized.
    """
    found = evaluate(confidence, correct, [stage.flops for stage in stages], thresholds)
    amounts = [stage.minimized for stage in stages]
    cost = None if amounts[0] is None else amounts[0].cost
    if any((None if amount is None else amount.cost) != cost for amount in amounts):
        raise ValueError("stages must all have the same cost minimized")
    if cost is None:
        return found
    reached = np.rint(np.array(found.reach_rates) * found.n_images).astype(np.int64)
    mean = mean_cost(reached, np.array([stage.cost for stage in stages]), found.n_images)
    return replace(found, minimized=Amount(cost, mean))


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
        mean_flops=mean_cost(reached, flops, n_images),
        exit_rates=tuple((exits / n_images).tolist()),
        reach_rates=tuple((reached / n_images).tolist()),
        deferral_rates=tuple(rates.tolist()),
        n_images=n_images,
    )


def mean_cost(reached: NDArray[np.int64], costs: NDArray[np.float64], n_images: int) -> float:
    """Return the cost per image from the number of images that reached each stage.

    The sum runs stage by stage in order: the exact fronts repeat it so, and equal counts then
    give the same bits everywhere.
    """
    total = 0.0
    for count, cost in zip(reached.tolist(), costs.tolist(), strict=True):
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
    rows = np.asarray(confidence, dtype=np.float64)
    thresholds: list[float] = []
    going_on = np.ones(rows.shape[1], dtype=np.bool_)
    for row, rate in zip(rows, np.asarray(rates, dtype=np.float64).tolist(), strict=False):
        threshold = threshold_for_rate(row[going_on], rate)
        thresholds.append(threshold)
        going_on &= row < threshold
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
    rows = np.asarray(confidence, dtype=np.float64)
    if rows.size == 0 and k == 1:
        rows = np.empty((0, n))
    if rows.ndim != 2 or rows.shape[0] not in (k - 1, k) or rows.shape[1] != n:
        raise ValueError(
            f"confidence must have shape ({k - 1}, {n}) or ({k}, {n}), got {rows.shape}"
        )
    rows = rows[: k - 1]
    if rows.size and not (rows.min() >= 0 and rows.max() <= 1):
        raise ValueError("confidence must lie in [0, 1] and hold no NaN")
    return rows, right, cost


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


def _exits(confidence: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    last = len(thresholds)
    answering = np.full(confidence.shape[1], last, dtype=np.int64)
    for stage in range(last - 1, -1, -1):
        answering[confidence[stage] >= thresholds[stage]] = stage
    return answering
