"""What stages answer to degraded images, each kind answered once and kept."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rcopt.core.predictions import Predictions
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import load_stage, save_stage
from rcopt.errors import InputError
from rcopt.progress import Progress
from rcopt.study.file import Study
from rcopt.study.stages.trainable import open_dataset
from rcopt.tracking import Tracker

if TYPE_CHECKING:
    from torch import nn

    from rcopt.data.dataset import Dataset

#: Which images may be degraded; choosing never sees these.
StressSplit = Literal["calibration", "test"]


class DegradedAnswers:
    """Answers to degraded images, kept below ``mlruns/stress`` by the stage's content key.

    Args:
        study: Whose images and stages.
        tracker: Where the weights are.
        split: Which images.
        device: Where the networks answer.
        progress: Shown what is decoded.
    """

    def __init__(
        self, study: Study, tracker: Tracker, split: StressSplit, device: str, progress: Progress
    ) -> None:
        self._study, self._tracker, self._split = study, tracker, split
        self._device, self._progress = device, progress
        self._clean: Dataset | None = None
        self._networks: dict[str, nn.Module] = {}
        # All stages are asked about one kind before the next kind comes.
        self._kind: tuple[str, int] | None = None
        self._degraded: Dataset | None = None

    def __call__(self, trained: TrainedStage, name: str, strength: int) -> Predictions:
        """Return a stage's answers to one kind of degraded image.

        Raises:
            InputError: If the images or weights cannot be used.
        """
        file = self._file(trained, name, strength)
        kept = self._kept(file, trained)
        if kept is not None:
            return kept
        found = self._predict(trained, self._images(name, strength))
        file.parent.mkdir(parents=True, exist_ok=True)
        save_stage(file, replace(trained, predictions={self._split: found}))
        return found

    def _file(self, trained: TrainedStage, name: str, strength: int) -> Path:
        folder = self._study.project / "mlruns" / "stress" / trained.key
        return folder / f"{self._split}-{name}-{strength}.safetensors"

    def _kept(self, file: Path, trained: TrainedStage) -> Predictions | None:
        if not file.is_file():
            return None
        try:
            found = load_stage(file).predictions.get(self._split)
        except InputError as error:
            self._progress.note(f"{error}; answered again")
            return None
        images = trained.predictions[self._split].images
        return found if found is not None and found.images == images else None

    def _images(self, name: str, strength: int) -> "Dataset":
        from rcopt.data.corruptions import degraded

        if self._degraded is None or self._kind != (name, strength):
            if self._clean is None:
                self._clean = open_dataset(self._study, self._progress)
            seed = self._study.settings.seed
            self._degraded = degraded(self._clean, self._split, name, strength, seed)
            self._kind = (name, strength)
        return self._degraded

    def _predict(self, trained: TrainedStage, images: "Dataset") -> Predictions:
        from rcopt.models.prediction import predict
        from rcopt.models.weights import load_weights

        if trained.key not in self._networks:
            path = self._tracker.stages.weights_path(str(trained.run_id))
            self._networks[trained.key] = load_weights(path).model
        return predict(
            self._networks[trained.key],
            images,
            self._split,
            trained.stage.resolution,
            device=self._device,
            precision=self._study.settings.training.recipe_of().precision,
        )
