"""Trained stages with what they predicted: the material every front is made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rcopt.core.cascade import Stage
from rcopt.core.predictions import Predictions, Split


@dataclass(frozen=True, eq=False)
class TrainedStage:
    """One trained stage.

    Attributes:
        stage: Resolution, backbone and FLOPs.
        predictions: What it predicts on each split it was run on.
        key: Content key (data, resolution, backbone, recipe, seed).
        macs: MACs of one image as ptflops counts them.
        parameters: Number of parameters.
        run_id: MLflow run that holds the weights, if any.
        seconds: Training time.
        details: Anything worth showing: hardware, epochs, versions.
    """

    stage: Stage
    predictions: Mapping[Split, Predictions]
    key: str
    macs: int
    parameters: int
    run_id: str | None = None
    seconds: float = 0.0
    details: Mapping[str, str] = field(default_factory=dict)
