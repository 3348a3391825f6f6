"""How far a study's search had come after each trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcopt.core.cascade import OperatingPoint, Source, Stage
from rcopt.core.fronts import non_dominated
from rcopt.core.hypervolumes import Frame, hypervolume_share


@dataclass(frozen=True, eq=False)
class SearchHistory:
    """Hypervolumes over the trials of a study, T in number.

    Attributes:
        trials: (T,) trial numbers, rising.
        sampled: (T,) hypervolume of the sampled trials so far.
        everything: (T,) hypervolume of these and of what the exact sweep added.
        stages_trained: (T,) number of stages trained so far.
        seconds: (T,) training time so far.
        frame: What the hypervolumes are shares of.
        maximum: Hypervolume of the whole front.
    """

    trials: NDArray[np.int64]
    sampled: NDArray[np.float64]
    everything: NDArray[np.float64]
    stages_trained: NDArray[np.int64]
    seconds: NDArray[np.float64]
    frame: Frame
    maximum: float

    @property
    def share(self) -> float:
        """What the sampled trials reached in the end, as a share of the maximum."""
        return float(self.sampled[-1]) / self.maximum if self.maximum else 0.0


def search_history(
    trials: Sequence[OperatingPoint],
    seconds: Mapping[Stage, float],
    frame: Frame,
    maximum: float,
) -> SearchHistory:
    """Return the hypervolume after each trial.

    A stage counts as trained from the first trial on that uses it.

    Args:
        trials: At least one, each with its trial number, in any order.
        seconds: Training time of each stage that the trials name.
        frame: What hypervolumes are shares of.
        maximum: Hypervolume of the front over everything trained.

    Raises:
        ValueError: If there are no trials, one has no number, a number comes twice or the
            time of a stage is missing.
    """
    if not trials:
        raise ValueError("trials must hold at least one operating point, got none")
    numbers = [point.trial for point in trials if point.trial is not None]
    if len(numbers) < len(trials) or len(set(numbers)) < len(numbers):
        raise ValueError("trials must each have a trial number of their own")
    ordered = [trials[i] for i in np.argsort(numbers)]
    known: set[Stage] = set()
    counts, times = [], []
    for point in ordered:
        known.update(point.cascade.stages)
        for stage in point.cascade.stages:
            if stage not in seconds:
                raise ValueError(f"seconds hold none of stage {stage.name}")
        counts.append(len(known))
        times.append(sum(seconds[stage] for stage in known))
    return SearchHistory(
        trials=np.sort(numbers),
        sampled=_running(ordered, frame, ("sampled",)),
        everything=_running(ordered, frame, ("sampled", "exact")),
        stages_trained=np.array(counts),
        seconds=np.array(times),
        frame=frame,
        maximum=maximum,
    )


def _running(
    points: Sequence[OperatingPoint], frame: Frame, sources: tuple[Source, ...]
) -> NDArray[np.float64]:
    front = np.empty((0, 2))
    volume, volumes = 0.0, np.empty(len(points))
    for i, point in enumerate(points):
        accuracy, flops = point.validation.accuracy, point.validation.mean_flops
        beaten = (front[:, 0] >= accuracy) & (front[:, 1] <= flops)
        if point.source in sources and not beaten.any():
            front = np.vstack([front, [accuracy, flops]])
            front = front[non_dominated(front[:, 0], front[:, 1])]
            volume = hypervolume_share(front[:, 0], front[:, 1], frame)
        volumes[i] = volume
    return volumes
