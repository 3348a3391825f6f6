"""Trials that others put into the study: enqueued to be evaluated, or added with values."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from rcopt.study.space import NONE, Space

#: User attribute of a trial that answers another one, whose number it holds.
ANSWERS = "rcopt.answers"
#: User attribute that says why a trial of others was left out.
SKIPPED = "rcopt.skipped"
#: User attribute of a waiting trial that is being answered; a killed worker may leave it so.
TAKEN = "rcopt.taken"


@dataclass(frozen=True)
class Requested:
    """A trial of others that rcopt has not dealt with.

    Attributes:
        number: Of the trial.
        params: What it asks for; what is left open is up to the sampler.
        misfit: Why it cannot be evaluated; empty if it can.
    """

    number: int
    params: Mapping[str, Any]
    misfit: str


def requests(
    trials: Sequence[FrozenTrial], space: Space, skipped: Collection[int] = ()
) -> Iterator[Requested]:
    """Yield the trials that wait (``study.enqueue_trial``) or were added (``add_trial``).

    Optuna cannot delete trials, so each is answered once: a waiting one becomes one of rcopt's,
    a finished one gets a trial of rcopt's beside it.

    Args:
        trials: All of the study's.
        space: What the study may combine.
        skipped: Numbers of finished ones that were left out before.
    """
    answered = {trial.user_attrs.get(ANSWERS) for trial in trials if ANSWERS in trial.user_attrs}
    for trial in trials:
        foreign = "source" not in trial.user_attrs and SKIPPED not in trial.user_attrs
        if not foreign or trial.number in answered or trial.number in skipped:
            continue
        if trial.state == TrialState.WAITING or TAKEN in trial.user_attrs:
            params = dict(trial.system_attrs.get("fixed_params", {}))
            yield Requested(trial.number, params, misfit(params, space))
        elif trial.state == TrialState.COMPLETE and trial.params:
            yield Requested(trial.number, trial.params, misfit(trial.params, space))


def misfit(params: Mapping[str, Any], space: Space) -> str:
    """Return why parameters are not of the space; empty if they are."""
    for key, value in params.items():
        kind, _, resolution = key.partition(".")
        backbones = space.backbones.get(int(resolution)) if resolution.isdecimal() else None
        if backbones is None or kind not in ("backbone", "deferral_rate"):
            return f"the study has no parameter {key}"
        if kind == "backbone":
            choices = (*backbones, NONE) if space.optional else backbones
            if value not in choices:
                return f"{key} is {value!r}, the study has {', '.join(choices)}"
        elif not isinstance(value, int | float) or not 0 <= value <= 1:
            return f"{key} is {value!r}, expected a number from 0 to 1"
    if space.optional and all(params.get(f"backbone.{r}") == NONE for r in space.backbones):
        return "it leaves every resolution out"
    return ""
