"""Pools of trained stages that a benchmark can search or read: recorded or simulated."""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.fronts import pool as stages_of_accuracies
from rcopt.core.answering import Answering
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Stage
from rcopt.core.fronts import CostFront, cost_front
from rcopt.core.hypervolumes import frame_of, hypervolume_share
from rcopt.core.study_front import StudyFront, extend_front, study_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import load_stage
from rcopt.study.space import Space

StageKey = tuple[int, str]

STUDIES = Path(__file__).parent.parent / "studies"
#: The five stages that samplers and answer rules were compared on.
RECORDED = STUDIES / "imagenette-small-predictions"
#: The stages that the page on Imagenette reports.
POOL = STUDIES / "imagenette-predictions"

#: FLOPs of an image of 224 x 224 pixels, and accuracies such that resnet18@32, resnet34@96 and
#: resnet50@224 are near the original report's 72.7, 85.4 and 89.6 %.
FLOPS = {
    "resnet18": 3.64e9,
    "resnet34": 7.34e9,
    "resnet50": 8.22e9,
    "resnet101": 15.7e9,
    "resnet152": 23.1e9,
}
ACCURACIES = {32: 0.727, 96: 0.842, 224: 0.872}


def recorded(folder: Path = RECORDED) -> list[TrainedStage]:
    """Return the recorded stages, none if there are none."""
    return [load_stage(path) for path in sorted(folder.glob("*.safetensors"))]


def simulated(
    seed: int, *, gain: float = 0.012, noise: float = 0.01, n_images: int = 1_570
) -> list[TrainedStage]:
    """Return 15 stages: five ResNets at three resolutions.

    Args:
        seed: Of accuracies and predictions.
        gain: Accuracy that each step in depth adds.
        noise: Standard deviation of a stage's accuracy around that.
        n_images: On validation.
    """
    rng = np.random.default_rng([seed, 1])
    named = [
        (
            Stage(resolution, backbone, flops * (resolution / 224) ** 2),
            accuracy + gain * depth + rng.normal(0, noise),
        )
        for resolution, accuracy in ACCURACIES.items()
        for depth, (backbone, flops) in enumerate(FLOPS.items())
    ]
    return stages_of_accuracies(named, n_images, seed)


class Pool:
    """Trained stages that a search discovers, with the exact front of any of them.

    Args:
        stages: With predictions on validation.
        floor: Accuracy that hypervolumes are measured from; the cheapest stage's if None.
    """

    def __init__(self, stages: Sequence[TrainedStage], floor: float | None = None) -> None:
        by_cost = sorted(stages, key=lambda t: t.stage.flops)
        self.stages = {(t.stage.resolution, t.stage.backbone): t for t in by_cost}
        resolutions = sorted({resolution for resolution, _ in self.stages})
        table = {r: tuple(b for s, b in self.stages if s == r) for r in resolutions}
        self.space = Space(table, optional=True)
        self.n_classes = by_cost[0].predictions["validation"].probabilities.shape[1]
        self.frame = frame_of(
            [trained.predictions["validation"].accuracy for trained in by_cost],
            [trained.stage.flops for trained in by_cost],
        )
        if floor is not None:
            self.frame = self.frame._replace(accuracy=floor)
        self._fronts = {frozenset[StageKey](): study_front([], resolutions=resolutions)}
        self._swept = list(self._sweep(resolutions))
        self._shares: dict[frozenset[StageKey], float] = {}
        self.maximum = self._hypervolume(frozenset(self.stages))

    def _sweep(
        self, resolutions: Sequence[int]
    ) -> Iterator[tuple[frozenset[StageKey], CostFront]]:
        """Yield each combination of at most four stages with its own front."""
        answers_of = Answering(list(self.stages.values()), "validation", AnswerRule())
        choices: list[list[StageKey | None]] = [
            [None, *(key for key in self.stages if key[0] == r)] for r in resolutions
        ]
        for choice in product(*choices):
            keys = [key for key in choice if key is not None]
            if 1 <= len(keys) <= 4:
                stages = [self.stages[key].stage for key in keys]
                answers = answers_of(stages)
                costs = [stage.flops for stage in stages]
                yield frozenset(keys), cost_front(answers.confidence, answers.correct, costs)

    def front(self, keys: Sequence[StageKey]) -> StudyFront:
        """Return the exact front of some stages; of each set it is made once."""
        known = frozenset(keys)
        if known not in self._fronts:
            before = [self.stages[key] for key in keys[:-1]]
            self._fronts[known] = extend_front(
                self.front(keys[:-1]), before, self.stages[keys[-1]]
            )
        return self._fronts[known]

    def share(self, keys: Sequence[StageKey]) -> float:
        """Return the hypervolume of the exact front of some stages as a share of all stages'."""
        known = frozenset(keys)
        if known not in self._shares:
            self._shares[known] = self._hypervolume(known) / self.maximum
        return self._shares[known]

    def _hypervolume(self, known: frozenset[StageKey]) -> float:
        fronts = [front for stages, front in self._swept if stages <= known]
        if not fronts:
            return 0.0
        accuracy = np.concatenate([front.accuracy for front in fronts])
        flops = np.concatenate([front.cost for front in fronts])
        return hypervolume_share(accuracy, flops, self.frame)

    def shares(self, order: Sequence[StageKey]) -> NDArray[np.float64]:
        """Return (len(order),) `share` of the first stage, of the first two, and so on."""
        return np.array([self.share(order[: n + 1]) for n in range(len(order))])

    def by_cost(self) -> list[StageKey]:
        """Return the stages, cheapest first."""
        return list(self.stages)

    def spread_over_cost(self) -> list[StageKey]:
        """Return the cheapest and the costliest stage, then the middle of each gap between."""
        order = [0, len(self.stages) - 1]
        while len(order) < len(self.stages):
            known = sorted(order)
            order += [(a + b) // 2 for a, b in pairwise(known) if b - a > 1]
        return [self.by_cost()[n] for n in dict.fromkeys(order)]

    def greedy(self) -> list[StageKey]:
        """Return the stages in the order that gains most at each step, known in hindsight."""
        chosen: list[StageKey] = []
        while left := [key for key in self.stages if key not in chosen]:
            chosen.append(max(left, key=lambda key: self.share([*chosen, key])))
        return chosen
