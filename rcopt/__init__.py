"""rcopt: hyperparameter optimization and experiment tracking for resolution cascades.

The names of the core need numpy and numba alone; everything else is loaded when it is first
asked for, so that evaluating a cascade needs neither torch nor MLflow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rcopt.cascade import NEVER, Cascade, Evaluation, OperatingPoint, Stage, evaluate, exits

if TYPE_CHECKING:
    from rcopt.answers import AnswerRule, stage_answers
    from rcopt.choose import Choice, Wish, register, select
    from rcopt.config import Study, load_study
    from rcopt.errors import InputError, WorkError
    from rcopt.executor import CascadeExecutor
    from rcopt.fronts import ThresholdFront, hypervolume, non_dominated, threshold_front
    from rcopt.packaging import load_cascade
    from rcopt.pool import TrainedStage
    from rcopt.predictions import Predictions, confidence
    from rcopt.results import Results
    from rcopt.stage_files import load_stage, save_stage
    from rcopt.study import front, run
    from rcopt.sweep import StudyFront, study_front

_HOME = {
    "AnswerRule": "answers",
    "CascadeExecutor": "executor",
    "Choice": "choose",
    "InputError": "errors",
    "Predictions": "predictions",
    "Results": "results",
    "Study": "config",
    "StudyFront": "sweep",
    "ThresholdFront": "fronts",
    "TrainedStage": "pool",
    "Wish": "choose",
    "WorkError": "errors",
    "confidence": "predictions",
    "front": "study",
    "hypervolume": "fronts",
    "load_cascade": "packaging",
    "load_stage": "stage_files",
    "load_study": "config",
    "non_dominated": "fronts",
    "register": "choose",
    "run": "study",
    "save_stage": "stage_files",
    "select": "choose",
    "stage_answers": "answers",
    "study_front": "sweep",
    "threshold_front": "fronts",
}

__all__ = [
    "NEVER",
    "AnswerRule",
    "Cascade",
    "CascadeExecutor",
    "Choice",
    "Evaluation",
    "InputError",
    "OperatingPoint",
    "Predictions",
    "Results",
    "Stage",
    "Study",
    "StudyFront",
    "ThresholdFront",
    "TrainedStage",
    "Wish",
    "WorkError",
    "confidence",
    "evaluate",
    "exits",
    "front",
    "hypervolume",
    "load_cascade",
    "load_stage",
    "load_study",
    "non_dominated",
    "register",
    "run",
    "save_stage",
    "select",
    "stage_answers",
    "study_front",
    "threshold_front",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"rcopt.{_HOME[name]}"), name)
    raise AttributeError(f"module 'rcopt' has no attribute {name!r}")
