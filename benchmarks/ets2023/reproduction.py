"""The original report's analysis of a three-stage cascade, from any three trained stages.

An internship report (ETS Montréal, 2023) laid grids over the two thresholds of the cascade
ResNet-18 at 32 px, ResNet-34 at 96 px, ResNet-50 at 224 px on Imagenette-320 and counted cost
in parameters scaled by area. Everything it computed is computed here, under its cost and under
measured FLOPs, each next to the exact front of the same stages.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.ets2023.printed import DROPS, Method, TableRow
from rcopt.core.answers import AnswerRule, Answers, stage_answers
from rcopt.core.cost import parameter_cost
from rcopt.core.evaluating import evaluate
from rcopt.core.fronts import threshold_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.report.analysis.threshold_grid import Grid, cheapest_pairs, threshold_grid

CostModel = Literal["parameters", "flops"]

#: ResNets of the original report's cascade: depth and resolution.
_WANTED = ((18, 32), (34, 96), (50, 224))

_COARSE_SHAPE, _COARSE_TOLERANCE = (40, 40), 0.001
_FINE_SHAPE, _FINE_TOLERANCE = (50, 100), 0.0002

# Shares are counts divided by N; this is far below one image and far above rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Curve:
    """Cost as a function of accuracy (figures 2.4, 2.5), and the same thresholds on test.

    Attributes:
        thresholds: (T, 2) of the cheapest pair at each accuracy aimed at, on validation.
        accuracy: (T,) on validation, rising with the aim but not strictly.
        cost: (T,) on validation.
        test_accuracy: (T,) of the same thresholds on test (figures 2.6, 2.7).
        test_cost: (T,).
    """

    thresholds: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    cost: NDArray[np.float64]
    test_accuracy: NDArray[np.float64]
    test_cost: NDArray[np.float64]


@dataclass(frozen=True)
class Claim:
    """How many times less the cascade costs than a single model, at least as accurate.

    Attributes:
        reference: The single model, such as ``resnet50@224``.
        drop: Accuracy that may be given up, as a share.
        method: Where the thresholds come from; always the cheapest on validation.
        thresholds: The pair chosen.
        accuracy: Validation accuracy.
        cost: Validation mean cost.
        times: Cost of the reference divided by ``cost``.
        test_accuracy: Of the same thresholds on test.
        test_times: Cost of the reference divided by the mean cost on test.
        test_change: Test accuracy minus the reference's own.
    """

    reference: str
    drop: float
    method: Method
    thresholds: tuple[float, float]
    accuracy: float
    cost: float
    times: float
    test_accuracy: float
    test_times: float
    test_change: float


@dataclass(frozen=True, eq=False)
class Analysis:
    """The report's analysis under one cost model.

    Attributes:
        cost_model: ``parameters`` (the report's: parameters scaled by area) or ``flops``.
        costs: (3,) cost of one image at each stage.
        table: Table 2.1.
        coarse: Maps over (0, 0)-(1, 1), 40 x 40 thresholds.
        fine: Maps over the fine window, 50 x 100 thresholds.
        curves: By method; the exact one is the whole front.
        claims: Every claim by every method; one that no pair reaches is left out.
    """

    cost_model: CostModel
    costs: tuple[float, ...]
    table: tuple[TableRow, ...]
    coarse: Grid
    fine: Grid
    curves: dict[Method, Curve]
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class _Reference:
    name: str
    drop: float
    accuracy: float
    cost: float
    test_accuracy: float


def nearest_stages(stages: Sequence[TrainedStage]) -> tuple[TrainedStage, ...]:
    """Return the original report's three stages, or the ResNets that come nearest to them.

    Of the resolutions that have ResNets the three whose ratios to 32, 96 and 224 pixels are
    nearest to one; at each the depth nearest to the report's, then the stock stem, then the
    accuracy on validation. Nothing if ResNets are there at fewer than three resolutions.
    """
    resnets: dict[int, list[tuple[int, TrainedStage]]] = {}
    for trained in stages:
        if found := re.match(r"resnet(\d+)", trained.stage.backbone):
            here = resnets.setdefault(trained.stage.resolution, [])
            here.append((int(found[1]), trained))
    if len(resnets) < 3:
        return ()
    sides = min(
        combinations(sorted(resnets), 3),
        key=lambda some: sum(abs(log(s / own)) for s, (_, own) in zip(some, _WANTED, strict=True)),
    )
    return tuple(
        min(
            resnets[side],
            key=lambda one: (
                abs(log(one[0] / depth)),
                one[1].stage.backbone != f"resnet{one[0]}",
                -_accuracy(one[1]),
            ),
        )[1]
        for side, (depth, _) in zip(sides, _WANTED, strict=True)
    )


def reproduce(
    stages: Sequence[TrainedStage],
    cost_model: CostModel,
    *,
    pool: Sequence[TrainedStage] = (),
    window: tuple[float, float] | None = None,
) -> Analysis:
    """Repeat the original report's analysis with three trained stages.

    Confidence is the largest probability, as there. Everything is chosen on validation; the
    test numbers are those of the thresholds chosen.

    Args:
        stages: Three, from cheap to costly, with validation and test predictions.
        cost_model: What a stage costs.
        pool: Other trained stages: table 2.1's accuracies at full resolution and the first
            claim's reference, the middle backbone at full resolution, are looked up here.
            Without the latter the first claim is against the middle stage as it is.
        window: Lower corner of the fine grid, `rcopt.original_report.REPORT_WINDOW` for the
            report's own. By default the median of stage 0's validation confidences and the
            15 % quantile of stage 1's: these pass on about as many images as the costs of the
            report's claims imply, whatever the scale of the confidences.

    Raises:
        ValueError: If there are not three stages, or one lacks validation or test predictions.
    """
    if len(stages) != 3:
        raise ValueError(f"stages must be three, got {len(stages)}")
    validation, test = (_answers(stages, split) for split in ("validation", "test"))
    full = stages[-1].stage.resolution
    costs = np.array([_cost(stage, cost_model, full) for stage in stages])
    low = (0.0, 0.0)
    corner = _window(validation) if window is None else window
    coarse = threshold_grid(
        validation.confidence, validation.correct, costs, *_axes(low, _COARSE_SHAPE)
    )
    fine = threshold_grid(
        validation.confidence, validation.correct, costs, *_axes(corner, _FINE_SHAPE)
    )
    exact = threshold_front(validation.confidence, validation.correct, costs)
    chosen: dict[Method, NDArray[np.float64]] = {
        "coarse grid": cheapest_pairs(coarse, _COARSE_TOLERANCE),
        "fine grid": cheapest_pairs(fine, _FINE_TOLERANCE),
        "exact": exact.thresholds,
    }
    candidates: dict[Method, tuple[NDArray[np.float64], ...]] = {
        "coarse grid": coarse.points(),
        "fine grid": fine.points(),
        "exact": (exact.thresholds, exact.accuracy, exact.mean_flops),
    }
    references = _references(stages, costs, pool, cost_model)
    return Analysis(
        cost_model=cost_model,
        costs=tuple(costs.tolist()),
        table=_table(stages, pool, cost_model),
        coarse=coarse,
        fine=fine,
        curves={m: _curve(rows, validation, test, costs) for m, rows in chosen.items()},
        claims=tuple(
            claim
            for reference in references
            for method, points in candidates.items()
            for claim in _claim(reference, method, points, test, costs)
        ),
    )


def _accuracy(trained: TrainedStage) -> float:
    return trained.predictions["validation"].accuracy


def _answers(stages: Sequence[TrainedStage], split: Literal["validation", "test"]) -> Answers:
    for trained in stages:
        if split not in trained.predictions:
            raise ValueError(
                f"stages must have {split} predictions, {trained.stage.name} has none"
            )
    return stage_answers([trained.predictions[split] for trained in stages], AnswerRule())


def _cost(trained: TrainedStage, model: CostModel, full: int) -> float:
    if model == "flops":
        return trained.stage.flops
    return parameter_cost(trained.parameters, trained.stage.resolution, full_resolution=full)


def _window(validation: Answers) -> tuple[float, float]:
    first, second = validation.confidence[0], validation.confidence[1]
    return float(np.quantile(first, 0.5)), float(np.quantile(second, 0.15))


def _axes(
    low: tuple[float, float], shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.linspace(low[0], 1.0, shape[0]), np.linspace(low[1], 1.0, shape[1])


def _curve(
    thresholds: NDArray[np.float64], validation: Answers, test: Answers, costs: NDArray[np.float64]
) -> Curve:
    numbers = [
        [
            (e.accuracy, e.mean_flops)
            for e in (evaluate(s.confidence, s.correct, costs, row) for row in thresholds)
        ]
        for s in (validation, test)
    ]
    (accuracy, cost), (test_accuracy, test_cost) = (np.array(rows).T for rows in numbers)
    return Curve(thresholds, accuracy, cost, test_accuracy, test_cost)


def _at_full(
    trained: TrainedStage, stages: Sequence[TrainedStage], pool: Sequence[TrainedStage]
) -> TrainedStage | None:
    wanted = (stages[-1].stage.resolution, trained.stage.backbone)
    known = [*stages, *(other for other in pool if {"validation", "test"} <= {*other.predictions})]
    return next((s for s in known if (s.stage.resolution, s.stage.backbone) == wanted), None)


def _references(
    stages: Sequence[TrainedStage],
    costs: NDArray[np.float64],
    pool: Sequence[TrainedStage],
    model: CostModel,
) -> list[_Reference]:
    top = stages[-1]
    middle = _at_full(stages[1], stages, pool)
    if middle is None or middle is top:
        middle = stages[1]
    compared = [(middle, 0.0), (top, 0.0), *((top, drop) for drop in DROPS)]
    return [
        _Reference(
            name=trained.stage.name,
            drop=drop,
            accuracy=trained.predictions["validation"].accuracy,
            cost=_cost(trained, model, top.stage.resolution),
            test_accuracy=trained.predictions["test"].accuracy,
        )
        for trained, drop in compared
    ]


def _table(
    stages: Sequence[TrainedStage], pool: Sequence[TrainedStage], model: CostModel
) -> tuple[TableRow, ...]:
    full = stages[-1].stage.resolution
    rows = []
    for trained in stages:
        cost = _cost(trained, model, full)
        at_full = _at_full(trained, stages, pool)
        rows.append(
            TableRow(
                backbone=trained.stage.backbone,
                resolution=trained.stage.resolution,
                full_cost=(
                    cost * (full / trained.stage.resolution) ** 2
                    if at_full is None
                    else _cost(at_full, model, full)
                ),
                cost=cost,
                accuracy=trained.predictions["validation"].accuracy,
                full_accuracy=(
                    None if at_full is None else at_full.predictions["validation"].accuracy
                ),
                test_accuracy=trained.predictions["test"].accuracy,
            )
        )
    return tuple(rows)


def _claim(
    reference: _Reference,
    method: Method,
    points: tuple[NDArray[np.float64], ...],
    test: Answers,
    costs: NDArray[np.float64],
) -> list[Claim]:
    """Return the cheapest point that is accurate enough, none if there is none."""
    thresholds, accuracy, cost = points
    enough = np.flatnonzero(accuracy >= reference.accuracy - reference.drop - _ROUNDING)
    if not len(enough):
        return []
    best = enough[np.lexsort((-accuracy[enough], cost[enough]))[0]]
    on_test = evaluate(test.confidence, test.correct, costs, thresholds[best])
    return [
        Claim(
            reference=reference.name,
            drop=reference.drop,
            method=method,
            thresholds=(float(thresholds[best, 0]), float(thresholds[best, 1])),
            accuracy=float(accuracy[best]),
            cost=float(cost[best]),
            times=reference.cost / float(cost[best]),
            test_accuracy=on_test.accuracy,
            test_times=reference.cost / on_test.mean_flops,
            test_change=on_test.accuracy - reference.test_accuracy,
        )
    ]
