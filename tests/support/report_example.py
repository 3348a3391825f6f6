"""A small study's report data, with names that would break a careless page."""

from dataclasses import replace

import numpy as np

from rcopt.core.answers import AnswerRule
from rcopt.core.cascade import OperatingPoint
from rcopt.core.hypervolumes import Frame
from rcopt.core.study_front import study_front
from rcopt.core.trained_stage import TrainedStage
from rcopt.report.analysis.report_data import ReportData, StudyFacts, report_data
from rcopt.study.trial_records import operating_point
from tests.support.simulated import simulated_stages

HOSTILE = '</script><img src=x onerror="document.title=1">'
FRAME = Frame(0.5, 1.0e10, 1.0e6)

FACTS = StudyFacts(
    name="digits",
    data="simulated images",
    classes=(f"cat & dog {HOSTILE}", "fish"),
    settings=f'name = "digits"  # {HOSTILE}',
    versions={"commit": "abc1234", "library": HOSTILE},
    created="2026-01-02 03:04",
)


def example_stages(count: int = 3, seed: int = 0) -> list[TrainedStage]:
    stages = simulated_stages({"validation": 240, "test": 200}, seed, decimals=2)
    return [
        replace(
            stage,
            parameters=parameters,
            seconds=60.0 * (k + 1),
            predictions={
                split: replace(p, images=tuple(f"{name} {HOSTILE}" for name in p.images))
                for split, p in stage.predictions.items()
            },
        )
        for k, (stage, parameters) in enumerate(
            zip(stages, (11_690_000, 21_800_000, 25_560_000), strict=True)
        )
    ][:count]


def example_trials(stages: list[TrainedStage]) -> list[OperatingPoint]:
    rng = np.random.default_rng(0)
    points = [
        operating_point(stages[start:], rng.random(len(stages) - start - 1).tolist(), AnswerRule())
        for start in (len(stages) - 1, *([0] * 6))
    ]
    exact = study_front(stages).points[::20]
    return [replace(p, trial=i) for i, p in enumerate([*points, *exact])]


def example_data(count: int = 3) -> ReportData:
    stages = example_stages(count)
    front = study_front(stages).points
    numbered = [replace(point, trial=i) if i % 3 == 0 else point for i, point in enumerate(front)]
    return report_data(
        FACTS, stages, numbered, FRAME, trials=example_trials(stages), n_resamples=8
    )
