"""What degraded images do to a chosen cascade and to its reference."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rcopt.core.cascade import Cascade, Evaluation, Stage
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.statistics.comparison import Comparison, compare
from rcopt.core.trained_stage import TrainedStage
from rcopt.errors import InputError
from rcopt.progress import Progress
from rcopt.study.choice import Choice
from rcopt.study.degraded_answers import DegradedAnswers, StressSplit
from rcopt.study.file import Study
from rcopt.study.packing import check_weights
from rcopt.study.stages.lookup import trained_stages
from rcopt.tracking import Tracker

STRENGTHS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Condition:
    """A cascade and its reference on images of one kind.

    Attributes:
        corruption: Name among `rcopt.data.corruptions.CORRUPTIONS`; ``clean`` for none.
        strength: 1 to 5; 0 for clean.
        value: What the strength stands for.
        cascade: Accuracy, FLOPs and exits of the cascade.
        first: Its first stage alone against the reference.
        reference: Accuracy of the reference alone.
        comparison: The cascade against the reference on the same images, with intervals.
    """

    corruption: str
    strength: int
    value: float
    cascade: Evaluation
    first: Comparison
    reference: float
    comparison: Comparison

    def breaks(self, drop: float) -> bool | None:
        """Return whether accuracy falls by more than ``drop``; None where intervals leave it open.

        Args:
            drop: Share of images.
        """
        change = self.comparison.change
        if change.high < -drop:
            return True
        return False if change.low > -drop else None

    def to_dict(self) -> dict[str, Any]:
        """Return the condition as JSON."""
        change, saving = self.comparison.change, self.comparison.saving
        return {
            "corruption": self.corruption,
            "strength": self.strength,
            "value": self.value,
            "accuracy": self.cascade.accuracy,
            "mean_flops": self.cascade.mean_flops,
            "exit_rates": list(self.cascade.exit_rates),
            "first_stage_accuracy": self.first.accuracy.estimate,
            "reference_accuracy": self.reference,
            "accuracy_change": change.estimate,
            "accuracy_change_interval": [change.low, change.high],
            "flops_saving": saving.estimate,
            "flops_saving_interval": [saving.low, saving.high],
        }


@dataclass(frozen=True)
class Stress:
    """What a cascade does under every corruption.

    Attributes:
        study: Name.
        cascade: The chosen one.
        reference: What it is compared with.
        split: Which images were degraded.
        n_images: How many.
        drop: The drop in accuracy that was asked for; None where something else was.
        conditions: Clean first.
    """

    study: str
    cascade: Cascade
    reference: Stage
    split: StressSplit
    n_images: int
    drop: float | None
    conditions: tuple[Condition, ...]

    def verdict(self) -> str:
        """Return the worst of it as sentences."""
        worst = min(self.conditions, key=lambda c: (c.comparison.change.estimate, -c.strength))
        change = worst.comparison.change
        parts = [
            f"Worst: {_named(worst)}, {100 * change.estimate:+.1f} points against "
            f"{self.reference.name} ({100 * change.low:+.1f} to {100 * change.high:+.1f})."
        ]
        if self.drop is not None:
            broken = [c for c in self.conditions if c.breaks(self.drop)]
            limit = f"A drop of {100 * self.drop:g} % is exceeded beyond doubt"
            parts.append(
                f"{limit} under {len(broken)} of {len(self.conditions) - 1} conditions (first: "
                f"{_named(broken[0])}); a certificate on clean images says nothing of them."
                if broken
                else f"{limit} under none of them."
            )
        better = [c for c in self.conditions if c.first.change.low > 0]
        if better:
            parts.append(
                f"Under {_named(better[0])} the first stage alone is more accurate than "
                f"{self.reference.name}: there, do not cascade."
            )
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        thresholds = (*self.cascade.thresholds, None)
        return {
            "study": self.study,
            "stages": [
                {**stage.to_dict(), "threshold": threshold}
                for stage, threshold in zip(self.cascade.stages, thresholds, strict=True)
            ],
            "reference": self.reference.name,
            "split": self.split,
            "n_images": self.n_images,
            "drop": self.drop,
            "verdict": self.verdict(),
            "conditions": [condition.to_dict() for condition in self.conditions],
        }


def stress(
    study: Study,
    choice: Choice,
    *,
    split: StressSplit = "calibration",
    corruptions: Sequence[str] | None = None,
    drop: float | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Stress:
    """Run a chosen cascade and its reference on degraded images.

    Each stage answers each kind of degraded image once; its answers are kept below
    ``mlruns/stress``, by the stage's content key, and found again by every study.

    Args:
        study: Whose stages have weights.
        choice: What `rcopt.select` gave.
        split: Which images are degraded.
        corruptions: Names among `rcopt.data.corruptions.CORRUPTIONS`; all if None.
        drop: The drop that was asked for, for the verdict.
        device: Where the networks answer.
        progress: Shown what is done.

    Raises:
        InputError: If the study has no weights or images, the split is empty, or a corruption
            is not known.
    """
    from rcopt.data.corruptions import CORRUPTIONS

    progress = progress or Progress()
    check_weights(study)
    names = tuple(CORRUPTIONS) if corruptions is None else tuple(dict.fromkeys(corruptions))
    for name in names:
        if name not in CORRUPTIONS:
            raise InputError(
                f"stress: unknown corruption {name!r}; expected some of {', '.join(CORRUPTIONS)}"
            )
    cascade, reference = choice.point.cascade, choice.reference.stage
    wanted = {*cascade.stages, reference}
    tracker = study.open_tracker()
    stages = [t for t in trained_stages(study, tracker) if t.stage in wanted]
    count = len(stages[0].predictions.get(split, ()))
    if not count:
        raise InputError(
            f"{study.name}: it has no {split} images; set data.{split} in another study, or give "
            "--on test"
        )
    kinds = [(name, strength) for name in names for strength in STRENGTHS]
    _tell_cost(progress, stages, len(kinds), count)
    answers_of = DegradedAnswers(study, tracker, split, device, progress)
    conditions = [_condition(choice, stages, split, study, "clean", 0, 0.0)]
    for done, (name, strength) in enumerate(kinds, 1):
        seen = [
            replace(t, predictions={**t.predictions, split: answers_of(t, name, strength)})
            for t in stages
        ]
        value = CORRUPTIONS[name].values[strength - 1]
        conditions.append(_condition(choice, seen, split, study, name, strength, value))
        progress.count("degraded images", done, len(kinds), f"{name} {strength}")
    found = Stress(study.name, cascade, reference, split, count, drop, tuple(conditions))
    _log(study, tracker, found)
    return found


def _log(study: Study, tracker: Tracker, found: Stress) -> None:
    """Put the numbers beside the study's run, if the store still has it."""
    run = tracker.study_of(study.name, study.settings.stages.resolutions)
    if run is None:
        return
    with TemporaryDirectory(prefix="rcopt-") as made:
        file = Path(made) / f"{found.split}.json"
        file.write_text(json.dumps(found.to_dict(), indent=1), encoding="utf-8")
        tracker.log_files(run, [file], "stress")


def _condition(
    choice: Choice,
    stages: Sequence[TrainedStage],
    split: StressSplit,
    study: Study,
    name: str,
    strength: int,
    value: float,
) -> Condition:
    cascade, reference = choice.point.cascade, choice.reference.stage
    rule = study.answer_rule
    own, top = cascade_outcomes([cascade, Cascade((reference,), ())], stages, split, rule)
    return Condition(
        corruption=name,
        strength=strength,
        value=value,
        cascade=own.evaluation,
        first=compare(Cascade(cascade.stages[:1], ()), reference, stages, split, rule),
        reference=top.evaluation.accuracy,
        comparison=compare(cascade, reference, stages, split, rule),
    )


def _tell_cost(
    progress: Progress, stages: Sequence[TrainedStage], kinds: int, n_images: int
) -> None:
    total = kinds * n_images * sum(trained.stage.flops for trained in stages)
    progress.note(
        f"{kinds} kinds of degraded images, {n_images:,} images each, {len(stages)} stages: "
        f"at most {total / 1e12:,.1f} TFLOPs"
    )


def _named(condition: Condition) -> str:
    return (
        condition.corruption
        if condition.strength == 0
        else f"{condition.corruption} {condition.strength}"
    )
