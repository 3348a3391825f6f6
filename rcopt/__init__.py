"""rcopt: hyperparameter optimization and experiment tracking for resolution cascades.

The names of the core need numpy and numba alone; everything else is loaded when it is first
asked for, so that evaluating a cascade needs neither torch nor MLflow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rcopt.core.cascade import NEVER, Cascade, Evaluation, OperatingPoint, Stage, evaluate, exits

if TYPE_CHECKING:
    from rcopt.core.answers import AnswerRule, stage_answers
    from rcopt.core.confidences import confidence
    from rcopt.core.fronts import ThresholdFront, hypervolume, non_dominated, threshold_front
    from rcopt.core.predictions import Predictions
    from rcopt.core.study_front import StudyFront, study_front
    from rcopt.core.trained_stage import TrainedStage
    from rcopt.data.prediction_files import load_stage, save_stage
    from rcopt.errors import InputError, WorkError
    from rcopt.serving.executor import CascadeExecutor
    from rcopt.serving.registry import load_cascade
    from rcopt.study.choosing import Choice, Wish, register, select
    from rcopt.study.file import Study, load_study
    from rcopt.study.results import Results
    from rcopt.study.run_study import front, run

_HOME = {
    "AnswerRule": "core.answers",
    "CascadeExecutor": "serving.executor",
    "Choice": "study.choosing",
    "InputError": "errors",
    "Predictions": "core.predictions",
    "Results": "study.results",
    "Study": "study.settings",
    "StudyFront": "core.study_front",
    "ThresholdFront": "core.fronts",
    "TrainedStage": "core.trained_stage",
    "Wish": "study.choosing",
    "WorkError": "errors",
    "confidence": "core.predictions",
    "front": "study.run_study",
    "hypervolume": "core.fronts",
    "load_cascade": "serving.registry",
    "load_stage": "data.prediction_files",
    "load_study": "study.settings",
    "non_dominated": "core.fronts",
    "register": "study.choosing",
    "run": "study.run_study",
    "save_stage": "data.prediction_files",
    "select": "study.choosing",
    "stage_answers": "core.answers",
    "study_front": "core.study_front",
    "threshold_front": "core.fronts",
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
