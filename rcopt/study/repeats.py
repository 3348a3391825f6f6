"""A study repeated over seeds: what a share of the repeats reaches, not one lucky front."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rcopt.core.cascade import Evaluation, OperatingPoint
from rcopt.core.statistics.attainment import Attainment, attainment
from rcopt.errors import InputError
from rcopt.study.file import Study
from rcopt.study.results_file import load_results
from rcopt.study.settings import identity

#: Shares of the repeats: the lucky quarter, the median, three quarters.
LEVELS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Repeats:
    """Attainment surfaces of several studies.

    Attributes:
        studies: Their names.
        validation: Of the fronts on validation, one for each of `LEVELS`.
        budgets: (B,) mean FLOPs that a choice may cost on validation, rising.
        test: (L, B) test accuracy of the most accurate choice on validation within each budget:
            what a share of the repeats reaches, one row for each of `LEVELS`.
    """

    studies: tuple[str, ...]
    validation: tuple[Attainment, ...]
    budgets: NDArray[np.float64]
    test: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Return the surfaces as JSON: a list of corners for each level and split."""
        return {
            "studies": list(self.studies),
            "validation": {
                str(level.level): [
                    {"accuracy": accuracy, "mean_flops": flops}
                    for accuracy, flops in zip(
                        level.accuracy.tolist(), level.mean_flops.tolist(), strict=True
                    )
                ]
                for level in self.validation
            },
            "test": {
                str(level): [
                    {"accuracy": accuracy, "validation_mean_flops": budget}
                    for accuracy, budget in zip(row, self.budgets.tolist(), strict=True)
                ]
                for level, row in zip(LEVELS, self.test.tolist(), strict=True)
            },
        }


def repeats(studies: Sequence[Study]) -> Repeats:
    """Return the median front and its band over studies that differ in their seed alone.

    Raises:
        InputError: If there are fewer than two, one is named twice or has no front yet, or
            they differ in more than their seed.
    """
    names = [study.name for study in studies]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise InputError(f"repeats: expected at least two different studies, got {names}")
    if any(study.settings.search.cost == "latency" for study in studies):
        raise InputError(
            'repeats: studies with search.cost = "latency" each measured their own times, which '
            "cannot be put in one front"
        )
    first = identity(studies[0].settings)
    for study in studies[1:]:
        other = identity(study.settings)
        differing = [k for k in first.keys() | other.keys() if first.get(k) != other.get(k)]
        if set(differing) - {"seed"}:
            key = min(set(differing) - {"seed"})
            raise InputError(
                f"repeats: {names[0]} and {study.name} differ in {key}; repeats may differ in "
                f"their seed alone (rcopt run FILE --set seed=1 --set name={names[0]}-1)"
            )
    points = [load_results(study.results_file).points for study in studies]
    # From where every repeat has a choice.
    cheapest = max(front[0].validation.mean_flops for front in points)
    budgets = np.unique([p.validation.mean_flops for front in points for p in front])
    budgets = budgets[budgets >= cheapest]
    return Repeats(
        studies=tuple(names),
        validation=attainment(
            [_numbers([p.validation for p in front]) for front in points], LEVELS
        ),
        budgets=budgets,
        test=np.quantile(
            [[_test_within(front, budget) for budget in budgets.tolist()] for front in points],
            [1 - level for level in LEVELS],
            axis=0,
            # A share of the repeats reaches at least this, as on the attainment surfaces.
            method="inverted_cdf",
        ),
    )


def accuracy_within(surface: Attainment, budget: float) -> float | None:
    """Return the accuracy attained within mean FLOPs, None where nothing is."""
    within = surface.accuracy[surface.mean_flops <= budget]
    return float(within.max()) if len(within) else None


def _test_within(front: Sequence[OperatingPoint], budget: float) -> float:
    """Return the test accuracy of what is chosen on validation within a budget there."""
    chosen = max(
        (point for point in front if point.validation.mean_flops <= budget),
        key=lambda point: point.validation.accuracy,
    )
    return float("nan") if chosen.test is None else chosen.test.accuracy


def _numbers(evaluations: Sequence[Evaluation]) -> tuple[list[float], list[float]]:
    return [e.accuracy for e in evaluations], [e.mean_flops for e in evaluations]
