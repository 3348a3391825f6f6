"""The search of a study: samplers that propose on a mirror of its trials.

A trial is proposed by a sampler on an in-memory mirror of the study and enters the storage as
one finished record (`rcopt.study.trials`). So nothing is held while a stage trains, and a
continued study equals an undisturbed one: each proposal's random stream follows from the study's
seed, the worker and the trial's place, not from what a process did before.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from rcopt.core.cascade import OperatingPoint, StageId
from rcopt.core.fronts import non_dominated
from rcopt.study.space import NONE, Proposal, Space
from rcopt.study.trial_records import DIRECTIONS, trial_attributes, trial_source

SamplerName = Literal["auto", "tpe", "nsga2", "gp", "random"]

#: TPE's time for a proposal grows with its trials, so after each so many it is given so few,
#: a fifth of them the best. It calls 25 at most good and needs the others as a density only.
STEP, KEPT = 250, 500


class Sampler:
    """Proposes on an in-memory mirror of the stored trials.

    Args:
        name: Which of Optuna's samplers; ``auto`` is TPE.
        space: What is searched.
        seed: The study's seed.
        worker: Index of this worker: each has its own random stream.
    """

    def __init__(self, name: SamplerName, space: Space, *, seed: int, worker: int = 0) -> None:
        self._name: SamplerName = name
        self._space = space
        self._seed = (seed, worker)
        self._mirror = _empty_study()
        self._known: list[FrozenTrial] = []
        self._read = self._thinned = 0
        self._own: set[int] = set()

    def learn(self, trials: Sequence[FrozenTrial]) -> None:
        """Take over stored trials that the mirror does not hold yet.

        Args:
            trials: The finished ones, in a lasting order; those seen by the last call are not
                looked at. Trials of other programs are left out: their distributions may be
                others, and Optuna allows one for each parameter.
        """
        new = [trial for trial in trials[self._read :] if trial_source(trial)]
        self._read = len(trials)
        self._known += new
        # What is kept depends on the stored trials alone: a continued study keeps the same.
        whole = len(self._known) // STEP * STEP
        if self._name in ("auto", "tpe") and KEPT < whole != self._thinned:
            self._thinned = whole
            self._mirror = _empty_study()
            new = thinned(self._known[:whole], KEPT) + self._known[whole:]
            self._own.clear()
        for trial in new:
            if trial.number not in self._own:
                self._mirror.add_trial(trial)

    def propose(self, count: int, accept: Callable[[Proposal], bool]) -> Proposal:
        """Return the next proposal that is a cascade and that ``accept`` takes.

        Args:
            count: How many sampled trials there are; with the seed it fixes the random stream.
            accept: Refuses proposals that need a stage that cannot be trained.

        Raises:
            LookupError: If a thousand proposals in a row were refused.
        """
        for attempt in range(1000):
            # A model that keeps proposing what is refused would loop for ever.
            name: SamplerName = self._name if attempt < 20 else "random"
            entropy = np.random.SeedSequence([*self._seed, count, attempt])
            self._mirror.sampler = make_sampler(name, int(entropy.generate_state(1)[0]))
            trial = self._mirror.ask()
            proposal = self._suggest(trial)
            if proposal is not None and accept(proposal):
                return proposal
            self._mirror.tell(trial, state=TrialState.FAIL)
        raise LookupError("no acceptable proposal in 1000 attempts")

    def complete(self, params: Mapping[str, Any]) -> Proposal | None:
        """Return a proposal with given parameters, those left open chosen by the sampler.

        Args:
            params: Of the space.

        Returns:
            None if what comes out has no stage.
        """
        self._mirror.enqueue_trial(dict(params))
        entropy = np.random.SeedSequence([*self._seed, len(self._known)])
        self._mirror.sampler = make_sampler("random", int(entropy.generate_state(1)[0]))
        return self._suggest(self._mirror.ask())

    def finished(self, proposal: Proposal, point: OperatingPoint) -> FrozenTrial:
        """Tell the mirror a proposal's result and return the trial that belongs in the storage."""
        values = (point.validation.accuracy, point.validation.cost)
        self._mirror.tell(proposal.number, values)
        told = self._mirror.get_trials(deepcopy=False)[proposal.number]
        return create_trial(
            values=values,
            params=told.params,
            distributions=told.distributions,
            user_attrs=trial_attributes(point, "sampled"),
            system_attrs=told.system_attrs,
        )

    def stored(self, number: int) -> None:
        """Note that the last finished proposal has this number in the storage."""
        self._own.add(number)

    def _suggest(self, trial: optuna.Trial) -> Proposal | None:
        stages: list[StageId] = []
        for resolution in self._space.backbones:
            choices = self._space.choices(resolution).choices
            backbone = str(trial.suggest_categorical(f"backbone.{resolution}", choices))
            if backbone != NONE:
                stages.append(StageId(resolution, backbone))
        if not stages:
            return None
        rates = tuple(
            trial.suggest_float(f"deferral_rate.{resolution}", 0.0, 1.0)
            for resolution, _ in stages[:-1]
        )
        return Proposal(trial.number, tuple(stages), rates)


def thinned(trials: Sequence[FrozenTrial], most: int) -> list[FrozenTrial]:
    """Return the best trials by rank of domination, and of the others evenly spaced ones.

    Args:
        trials: Of accuracy and cost.
        most: How many to return; a fifth are the best.

    Returns:
        In their order.
    """
    if len(trials) <= most:
        return list(trials)
    values = np.array([trial.values for trial in trials])
    best: list[int] = []
    left = np.arange(len(trials))
    while len(best) < most // 5:
        front = non_dominated(values[left, 0], values[left, 1])
        best += left[front].tolist()
        left = left[~front]
    best = best[: most // 5]
    others = np.setdiff1d(np.arange(len(trials)), best)
    spaced = others[np.linspace(0, len(others) - 1, most - len(best)).round().astype(int)]
    return [trials[i] for i in sorted([*best, *spaced.tolist()])]


def _empty_study() -> optuna.Study:
    return optuna.create_study(directions=DIRECTIONS, sampler=RandomSampler(0))


def make_sampler(name: SamplerName, seed: int) -> BaseSampler:
    """Return one of Optuna's samplers, seeded and quiet."""
    if name == "random":
        return RandomSampler(seed)
    if name == "nsga2":
        return _RepeatableNSGAII(seed=seed)
    if name == "gp":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return GPSampler(seed=seed, deterministic_objective=True)
    return TPESampler(seed=seed)


class _RepeatableNSGAII(NSGAIISampler):
    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        # Optuna returns a generation's parents by rank when it selects them and by number from
        # then on; a continued study selects them again and would breed other children.
        parents = super().get_parent_population(study, generation)
        return sorted(parents, key=lambda trial: trial.number)
