"""What a cascade does to each class: a mean hides the class that it harms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import Cascade, Stage
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.predictions import Split
from rcopt.core.statistics.intervals import Interval, difference_interval
from rcopt.core.trained_stage import TrainedStage


@dataclass(frozen=True)
class ClassEffect:
    """A cascade against a reference on the images of one class.

    Attributes:
        label: Index of the class.
        n_images: Images of it.
        accuracy: Share of them that the cascade answers rightly.
        lost: Images that it answers wrongly and the reference rightly.
        gained: Images that it answers rightly and the reference wrongly.
        change: Interval of its accuracy minus the reference's, paired; all classes' intervals
            hold at once with the confidence asked for (Bonferroni).
        exit_rates: (K,) share of the images answered by each stage.
    """

    label: int
    n_images: int
    accuracy: float
    lost: int
    gained: int
    change: Interval
    exit_rates: tuple[float, ...]

    @property
    def harmed(self) -> bool:
        """Whether the class is answered worse than by the reference beyond doubt."""
        return self.change.high < 0


def class_effects(
    cascade: Cascade,
    reference: Stage,
    stages: Sequence[TrainedStage],
    split: Split,
    rule: AnswerRule | None = None,
    *,
    level: float = 0.95,
) -> tuple[ClassEffect, ...]:
    """Return what a cascade does to each class that has images, the worst first.

    Args:
        cascade: Chosen on other images.
        reference: Usually the most accurate stage.
        stages: As `rcopt.core.statistics.comparison.compare`.
        split: Usually ``"test"``.
        rule: How probabilities become answers, the default rule if None.
        level: Of all intervals at once, between 0 and 1.

    Raises:
        ValueError: If a stage or its predictions are missing.
    """
    own, alone = cascade_outcomes([cascade, Cascade((reference,), ())], stages, split, rule)
    labels = next(t for t in stages if t.stage == reference).predictions[split].labels
    present = np.unique(labels).tolist()
    found = []
    for label in present:
        of_class = labels == label
        right, other = own.correct[of_class], alone.correct[of_class]
        exits = np.bincount(own.stages[of_class], minlength=len(cascade.stages))
        found.append(
            ClassEffect(
                label=label,
                n_images=len(right),
                accuracy=float(right.mean()),
                lost=int((other & ~right).sum()),
                gained=int((right & ~other).sum()),
                change=difference_interval(right, other, 1 - (1 - level) / len(present)),
                exit_rates=tuple((exits / len(right)).tolist()),
            )
        )
    return tuple(sorted(found, key=lambda one: (one.change.estimate, one.label)))
