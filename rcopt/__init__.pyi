# The public names and where they live; `rcopt/__init__.py` loads each when it is first used.
from . import plot
from .core.answers import AnswerRule, stage_answers
from .core.cascade import NEVER, Cascade, Evaluation, OperatingPoint, Stage
from .core.confidences import confidence
from .core.evaluating import evaluate, exits
from .core.fronts import ThresholdFront, hypervolume, non_dominated, threshold_front
from .core.predictions import Predictions
from .core.study_front import StudyFront, study_front
from .core.trained_stage import TrainedStage
from .data.prediction_files import load_stage, save_stage
from .errors import InputError, WorkError
from .serving.executor import CascadeExecutor
from .serving.registry import load_cascade
from .study.choice import Choice, Criterion
from .study.choosing import select
from .study.file import Study, load_study
from .study.packing import register
from .study.results import Results
from .study.run_study import front, run

__version__: str

__all__ = [
    "NEVER",
    "AnswerRule",
    "Cascade",
    "CascadeExecutor",
    "Choice",
    "Criterion",
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
    "plot",
    "register",
    "run",
    "save_stage",
    "select",
    "stage_answers",
    "study_front",
    "threshold_front",
]
