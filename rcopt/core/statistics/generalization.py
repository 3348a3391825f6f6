"""What is left of a front on test: the optimistic and the pessimistic front and their gap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcopt.core.cascade import OperatingPoint
from rcopt.core.hypervolumes import Frame, hypervolume_share


@dataclass(frozen=True, eq=False)
class Generalization:
    """How a front picked on validation fares on test (Mind the Gap, arXiv:2212.04183).

    Attributes:
        optimistic: (P,) bool, the points that no other one dominates on test: what one would
            report who chose among them with the test numbers in sight.
        pessimistic: (P,) bool, the points that dominate no other one on test: what the
            unluckiest choice along the front gives.
        validation_hypervolume: Of all points on validation, as a share of the frame.
        optimistic_hypervolume: Of the optimistic front on test.
        pessimistic_hypervolume: Of the pessimistic front on test.
        frame: What the hypervolumes are shares of.
    """

    optimistic: NDArray[np.bool_]
    pessimistic: NDArray[np.bool_]
    validation_hypervolume: float
    optimistic_hypervolume: float
    pessimistic_hypervolume: float
    frame: Frame

    @property
    def gap(self) -> float:
        """Optimistic minus pessimistic hypervolume: what chance the choice leaves open."""
        return self.optimistic_hypervolume - self.pessimistic_hypervolume


def generalization(points: Sequence[OperatingPoint], frame: Frame) -> Generalization:
    """Compare the points' test numbers with each other and with validation.

    Args:
        points: The front as picked on validation, each point with test numbers. All of them
            count: pass the whole front, not those that look well on test.
        frame: What hypervolumes are shares of, fixed beforehand.

    Raises:
        ValueError: If there are no points or one lacks test numbers.
    """
    if not points:
        raise ValueError("points must hold at least one operating point, got none")
    tests = [point.test for point in points if point.test is not None]
    if len(tests) < len(points):
        raise ValueError(
            f"points must all have test numbers, got {len(points) - len(tests)} without"
        )
    accuracy = np.array([test.accuracy for test in tests])
    flops = np.array([test.mean_flops for test in tests])
    beats = _dominance(accuracy, flops)
    optimistic = np.asarray(~beats.any(axis=0))
    pessimistic = np.asarray(~beats.any(axis=1))
    return Generalization(
        optimistic=optimistic,
        pessimistic=pessimistic,
        validation_hypervolume=hypervolume_share(
            np.array([point.validation.accuracy for point in points]),
            np.array([point.validation.mean_flops for point in points]),
            frame,
        ),
        optimistic_hypervolume=hypervolume_share(accuracy[optimistic], flops[optimistic], frame),
        pessimistic_hypervolume=hypervolume_share(
            accuracy[pessimistic], flops[pessimistic], frame
        ),
        frame=frame,
    )


def _dominance(
    accuracy: NDArray[np.float64], mean_flops: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return (P, P) bool: whether the row's point dominates the column's."""
    gain = accuracy[:, None] - accuracy
    saving = mean_flops - mean_flops[:, None]
    return np.asarray((gain >= 0) & (saving >= 0) & ((gain > 0) | (saving > 0)))
