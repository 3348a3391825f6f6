"""A search as a study does it, in memory, on a pool of stages that it discovers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.pools import Pool, StageKey
from rcopt.core.answers import AnswerRule, stage_answers
from rcopt.core.cascade import Cascade, OperatingPoint
from rcopt.core.evaluating import evaluate
from rcopt.core.fronts import spread
from rcopt.core.study_front import StudyFront
from rcopt.core.trained_stage import TrainedStage
from rcopt.report.analysis.search_history import search_history
from rcopt.study.samplers import SamplerName, make_sampler
from rcopt.study.space import NONE
from rcopt.study.trial_records import DIRECTIONS, exact_trial, operating_point

#: What a trial proposes for each stage but the last: the share of images that it passes on, or
#: the probability, from 1 / classes to 1, that an answer needs.
Scale = Literal["deferral_rate", "threshold"]

#: As `rcopt.config` has it for a study.
EXACT_TRIALS = 20


@dataclass(frozen=True, eq=False)
class Trace:
    """One search, T trials long; with the sweep told it ends when every stage is trained.

    Attributes:
        sampled: (T,) hypervolume of the sampled trials so far, as a share of the pool's.
        swept: (T,) that of the exact front of the stages trained so far.
        stages: (T,) how many these are.
        order: They, in the order of their training.
        seconds: Processor time of the sampler, per trial.
    """

    sampled: NDArray[np.float64]
    swept: NDArray[np.float64]
    stages: NDArray[np.int64]
    order: tuple[StageKey, ...]
    seconds: float


def search(
    pool: Pool, sampler: SamplerName, scale: Scale, *, seed: int, trials: int, told: bool
) -> Trace:
    """Search as a study does, in memory.

    Args:
        pool: What can be trained.
        sampler: Which sampler.
        scale: What it proposes for each stage but the last.
        seed: The study's.
        trials: Number of sampled trials.
        told: Whether points of the exact front are told to the sampler after each new stage.
    """
    mirror = optuna.create_study(directions=DIRECTIONS, sampler=RandomSampler(0))
    known: list[StageKey] = []
    cascades: set[Cascade] = set()
    points: list[OperatingPoint] = []
    swept: list[float] = []
    seconds = 0.0
    while len(points) < trials and not (told and len(known) == len(pool.stages)):
        began = time.process_time()
        trial, keys, levels = propose(mirror, pool, sampler, scale, (seed, 0, len(points)))
        seconds += time.process_time() - began
        fresh = [key for key in keys if key not in known]
        known += fresh
        point = evaluate_proposal([pool.stages[key] for key in keys], levels, scale)
        began = time.process_time()
        mirror.tell(trial, (point.validation.accuracy, point.validation.mean_flops))
        seconds += time.process_time() - began
        cascades.add(point.cascade)
        points.append(replace(point, trial=len(points)))
        if told and fresh:
            for exact in _spread(pool.front(known)):
                if exact.cascade not in cascades:
                    cascades.add(exact.cascade)
                    mirror.add_trial(told_trial(exact, pool, scale))
        swept.append(pool.share(known))
    free = {trained.stage: 0.0 for trained in pool.stages.values()}
    history = search_history(points, free, pool.frame, pool.maximum)
    return Trace(
        history.sampled / pool.maximum,
        np.array(swept),
        history.stages_trained,
        tuple(known),
        seconds / len(points),
    )


def propose(
    mirror: optuna.Study,
    pool: Pool,
    sampler: SamplerName,
    scale: Scale,
    entropy: tuple[int, int, int],
) -> tuple[optuna.Trial, list[StageKey], tuple[float, ...]]:
    """Ask for the next cascade; with deferral rates exactly what `rcopt.search.Sampler` asks."""
    for attempt in count():
        name: SamplerName = sampler if attempt < 20 else "random"
        state = np.random.SeedSequence([*entropy, attempt]).generate_state(1)
        mirror.sampler = make_sampler(name, int(state[0]))
        trial = mirror.ask()
        keys = []
        for resolution in pool.space.backbones:
            choices = pool.space.choices(resolution).choices
            backbone = str(trial.suggest_categorical(f"backbone.{resolution}", choices))
            if backbone != NONE:
                keys.append((resolution, backbone))
        if keys:
            break
        mirror.tell(trial, state=TrialState.FAIL)
    low = _lowest(pool, scale)
    levels = tuple(trial.suggest_float(f"{scale}.{r}", low, 1.0) for r, _ in keys[:-1])
    return trial, keys, levels


def evaluate_proposal(
    stages: Sequence[TrainedStage], levels: Sequence[float], scale: Scale
) -> OperatingPoint:
    if scale == "deferral_rate":
        return operating_point(stages, levels, AnswerRule())
    answers = stage_answers([t.predictions["validation"] for t in stages], AnswerRule())
    flops = [t.stage.flops for t in stages]
    return OperatingPoint(
        cascade=Cascade(tuple(t.stage for t in stages), tuple(levels)),
        validation=evaluate(answers.confidence, answers.correct, flops, levels),
        source="sampled",
    )


def told_trial(point: OperatingPoint, pool: Pool, scale: Scale) -> FrozenTrial:
    """Return a point of the exact front as a finished trial with the scale's parameters."""
    trial = exact_trial(point, pool.space)
    if scale == "deferral_rate":
        return trial
    backbones = {k: v for k, v in trial.params.items() if k.startswith("backbone.")}
    low = _lowest(pool, scale)
    levels = {
        f"threshold.{stage.resolution}": min(max(threshold, low), 1.0)
        for stage, threshold in zip(
            point.cascade.stages[:-1], point.cascade.thresholds, strict=True
        )
    }
    return create_trial(
        values=trial.values,
        params=backbones | levels,
        distributions={key: trial.distributions[key] for key in backbones}
        | {key: FloatDistribution(low, 1.0) for key in levels},
    )


def _spread(front: StudyFront) -> list[OperatingPoint]:
    accuracy = np.array([point.validation.accuracy for point in front])
    flops = np.array([point.validation.mean_flops for point in front])
    return [front.points[i] for i in spread(accuracy, flops, EXACT_TRIALS).tolist()]


def _lowest(pool: Pool, scale: Scale) -> float:
    return 0.0 if scale == "deferral_rate" else 1 / pool.n_classes
