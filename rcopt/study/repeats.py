"""A study repeated over seeds: what a share of the repeats reaches, not one lucky front."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rcopt.core.cascade import Evaluation
from rcopt.core.statistics.attainment import Attainment, attainment
from rcopt.errors import InputError
from rcopt.study.file import Study
from rcopt.study.results import load_results
from rcopt.study.settings import identity

#: Shares of the repeats: the lucky quarter, the median, three quarters.
LEVELS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Repeats:
    """Attainment surfaces of several studies.

    Attributes:
        studies: Their names.
        validation: Of the fronts on validation, one for each of `LEVELS`.
        test: Of the same points on test.
    """

    studies: tuple[str, ...]
    validation: tuple[Attainment, ...]
    test: tuple[Attainment, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the surfaces as JSON: a list of corners for each level and split."""
        return {
            "studies": list(self.studies),
            **{
                split: {
                    str(level.level): [
                        {"accuracy": accuracy, "mean_flops": flops}
                        for accuracy, flops in zip(
                            level.accuracy.tolist(), level.mean_flops.tolist(), strict=True
                        )
                    ]
                    for level in levels
                }
                for split, levels in (("validation", self.validation), ("test", self.test))
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
    return Repeats(
        studies=tuple(names),
        validation=attainment(
            [_numbers([p.validation for p in front]) for front in points], LEVELS
        ),
        test=attainment([_numbers([p.test for p in front if p.test]) for front in points], LEVELS),
    )


def accuracy_within(surface: Attainment, budget: float) -> float | None:
    """Return the accuracy attained within mean FLOPs, None where nothing is."""
    within = surface.accuracy[surface.mean_flops <= budget]
    return float(within.max()) if len(within) else None


def _numbers(evaluations: Sequence[Evaluation]) -> tuple[list[float], list[float]]:
    return [e.accuracy for e in evaluations], [e.mean_flops for e in evaluations]
