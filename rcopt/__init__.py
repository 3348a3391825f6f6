"""rcopt: hyperparameter optimization and experiment tracking for resolution cascades."""

from rcopt.cascade import Cascade, Evaluation, OperatingPoint, Stage, evaluate

__all__ = ["Cascade", "Evaluation", "OperatingPoint", "Stage", "evaluate"]
