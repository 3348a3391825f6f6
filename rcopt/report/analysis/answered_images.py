"""Which images each stage of a cascade answers first, and which it only just answers."""

from dataclasses import dataclass

import numpy as np

from rcopt.core.answers import Answers
from rcopt.core.cascade import Cascade, Stage
from rcopt.core.evaluating import exits
from rcopt.core.predictions import Predictions


@dataclass(frozen=True)
class AnsweredImage:
    """One image and the answer it got.

    Attributes:
        image: Its name.
        label: True class.
        answer: Class answered.
        confidence: Of the stage that answered.
    """

    image: str
    label: int
    answer: int
    confidence: float

    @property
    def right(self) -> bool:
        """Whether the answer is the true class."""
        return self.label == self.answer


@dataclass(frozen=True)
class StageAnswers:
    """What one stage of a cascade answers.

    Attributes:
        stage: The stage.
        count: Images that it answers.
        accuracy: Share of these that it gets right, nan where it answers none.
        first: Those it is surest of, the surest first.
        last: Those it is least sure of and still answers, the least sure last; none that is
            among ``first``.
    """

    stage: Stage
    count: int
    accuracy: float
    first: tuple[AnsweredImage, ...]
    last: tuple[AnsweredImage, ...]


def answered_images(
    cascade: Cascade, answers: Answers, predictions: Predictions, n: int = 6
) -> tuple[StageAnswers, ...]:
    """Return each stage's surest and least sure answers.

    Args:
        cascade: With its thresholds.
        answers: Of its stages on the split of ``predictions``.
        predictions: Of any of its stages: names and labels are read.
        n: How many images at either end, at least 1.

    Raises:
        ValueError: If ``n`` is below 1 or the answers are not of these images.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if answers.confidence.shape != (len(cascade.stages), len(predictions)):
        raise ValueError(
            f"answers must be of {len(cascade.stages)} stages on {len(predictions)} images, "
            f"got {answers.confidence.shape}"
        )
    level = exits(answers.confidence, cascade.thresholds)
    result = []
    for k, stage in enumerate(cascade.stages):
        mine = np.flatnonzero(level == k)
        surest = mine[np.argsort(-answers.confidence[k, mine], kind="stable")]
        shown = [
            AnsweredImage(
                image=predictions.images[i],
                label=int(predictions.labels[i]),
                answer=int(answers.predicted[k, i]),
                confidence=float(answers.confidence[k, i]),
            )
            for i in [*surest[:n], *surest[n:][-n:]]
        ]
        result.append(
            StageAnswers(
                stage=stage,
                count=len(mine),
                accuracy=float(answers.correct[k, mine].mean()) if len(mine) else float("nan"),
                first=tuple(shown[:n]),
                last=tuple(shown[n:]),
            )
        )
    return tuple(result)
