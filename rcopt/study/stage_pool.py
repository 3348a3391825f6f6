"""The stages that one worker has: trained when first asked for, given up where they fail."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from optuna.trial import FrozenTrial

from rcopt import interruption, tracking
from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Stage, StageId
from rcopt.core.combinations import most_stages
from rcopt.core.study_front import StudyFront, extend_front, study_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.errors import InputError, OutageError, RefusedError, UnreachableError, WorkError
from rcopt.progress import Progress
from rcopt.study.file import Study
from rcopt.study.space import Proposal
from rcopt.study.stages.base import StageProvider
from rcopt.study.stages.times import StageTimes, priced
from rcopt.study.trials import Trials
from rcopt.study.workers.retrying import RetryPolicy


class StagePool:
    """One worker's trained stages, and the exact front over them.

    Args:
        study: The study file.
        run: The study's run in MLflow.
        provider: Where stages come from.
        stored: The study's trials; they count failed trainings, over all workers.
        times: Of the stages, if time is the cost.
        rule: How probabilities become answers.
        retry: Waits for servers that are away.
        progress: Shows what goes on.
    """

    def __init__(
        self,
        study: Study,
        run: tracking.StudyRun,
        provider: StageProvider,
        stored: Trials,
        times: StageTimes | None,
        rule: AnswerRule,
        retry: RetryPolicy,
        progress: Progress,
    ) -> None:
        self._study, self._run, self._provider, self._stored = study, run, provider, stored
        self._retry, self._progress = retry, progress
        self._trained: dict[StageId, TrainedStage] = {}
        self._failed: dict[StageId, str] = {}
        self._busy: frozenset[StageId] = frozenset()
        self._looked = 0
        self.costs: dict[StageId, Stage] = {
            key: priced(stage, study.settings.search.cost, times)
            for key, stage in provider.costs.items()
        }
        space = provider.space
        self.front: StudyFront = study_front(
            [],
            rule=rule,
            optional=space.optional,
            resolutions=tuple(space.backbones),
            max_stages=most_stages(
                [(len(names), not space.optional) for names in space.backbones.values()]
            ),
        )

    def __len__(self) -> int:
        """Return the number of stages."""
        return len(self._trained)

    def __getitem__(self, key: StageId) -> TrainedStage:
        """Return a stage that was adopted."""
        return self._trained[key]

    @property
    def trained(self) -> list[TrainedStage]:
        """The stages, in the order they came in."""
        return list(self._trained.values())

    @property
    def left(self) -> list[StageId]:
        """What is neither trained nor given up, cheapest first."""
        left = self.costs.keys() - self._trained.keys() - self._failed.keys()
        return sorted(left, key=lambda key: (self.costs[key].flops, key))

    @property
    def failures(self) -> str:
        """The stages that could not be trained, and why; empty if there are none."""
        return "; ".join(f"{key.name}: {why}" for key, why in self._failed.items())

    @property
    def others_are_training(self) -> bool:
        """Whether other workers were training something when `refresh` last looked."""
        return bool(self._busy)

    def refresh(self) -> None:
        """Look at what other workers are training now."""
        self._busy = frozenset()
        if len(self._trained) < len(self.costs):
            self._busy = self._provider.busy() - self._trained.keys()

    def possible(self) -> bool:
        """Return whether any cascade is left that needs no failed and no busy stage."""
        barred = self._failed.keys() | self._busy
        space = self._provider.space
        left = [
            any((resolution, name) not in barred for name in names)
            for resolution, names in space.backbones.items()
        ]
        return any(left) if space.optional else all(left)

    def accepts(self, proposal: Proposal) -> bool:
        """Return whether a proposal needs no failed and no busy stage."""
        return not any(key in self._failed or key in self._busy for key in proposal.stages)

    def given_up(self, key: StageId) -> bool:
        """Return whether a stage's training failed too often."""
        return key in self._failed

    def look(self, trials: Sequence[FrozenTrial], *, wait: bool) -> None:
        """Have the stages of trials that were not looked at before.

        Args:
            trials: All finished ones, in a lasting order.
            wait: Whether to wait for what another worker is training.
        """
        for trial in trials[self._looked :]:
            for key in stages_of(trial):
                if key not in self.costs:
                    raise InputError(
                        f"{self._study.name}: stored trial {trial.number} is of {key.name}, which "
                        "the study does not have, so its storage is damaged; restore it from a "
                        "copy, or delete it to start the trials anew (trained stages are kept)"
                    )
                if not self.adopt(key, wait=wait) and key not in self._failed:
                    return
            self._looked += 1

    def adopt_all(self, keys: Iterable[StageId]) -> bool:
        """Have several stages, without waiting; return whether all are here."""
        return all(self.adopt(key, wait=False) for key in keys)

    def adopt(self, key: StageId, *, wait: bool) -> bool:
        """Have a stage, training it if need be.

        Returns:
            False if its training failed too often, or if another worker is training it and
            ``wait`` is false.
        """
        if key in self._trained:
            return True
        if key in self._failed:
            return False
        attempts = self._study.settings.training.attempts
        failure = self._retry(self._stored.failures).get(key)
        while failure is None or failure.attempts < attempts:
            try:
                with interruption.insisted():
                    found = self._provider.obtain(self._run, key, wait=wait)
            except (UnreachableError, OutageError, RefusedError):
                raise
            except WorkError as error:
                failure = self._retry(self._stored.add_failure, key, str(error))
                self._progress.note(
                    f"{key.name} failed, attempt {failure.attempts} of {attempts}: {error}"
                )
                continue
            if found is None:
                return False
            self._take(key, replace(found, stage=self.costs[key]))
            return True
        self._failed[key] = failure.reason
        self._progress.note(
            f"skipping {key.name} after {failure.attempts} failed attempts (use --retry-failed to "
            "try again)"
        )
        return False

    def _take(self, key: StageId, trained: TrainedStage) -> None:
        if self._study.settings.search.exact:
            self.front = extend_front(self.front, self.trained, trained)
        self._trained[key] = trained


def stages_of(trial: FrozenTrial) -> list[StageId]:
    """Return the stages of one of rcopt's trials; nothing for others."""
    return [StageId(int(r), str(b)) for r, b in trial.user_attrs.get("stages", ())]
