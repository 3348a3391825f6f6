"""Stages from a folder of stored predictions."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rcopt import tracking
from rcopt.core.cascade import Stage, StageId
from rcopt.core.predictions import check_aligned
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import load_stage, save_stage
from rcopt.data.table_stages import MADE
from rcopt.errors import InputError
from rcopt.files import digest
from rcopt.study.data_summary import DataSummary
from rcopt.study.file import Study
from rcopt.study.space import Space
from rcopt.study.workers.retrying import RetryPolicy


class StoredPredictions:
    """A folder of stage files: anyone's models, no training, no images."""

    def __init__(self, study: Study, tracker: tracking.Tracker, retry: RetryPolicy) -> None:
        self._tracker, self._retry = tracker, retry
        self._stages = read_predictions(study)
        folder = _root(study)
        wanted = study.settings.stages
        table: dict[int, tuple[str, ...]] = {}
        for trained in self._stages.values():
            stage = trained.stage
            table[stage.resolution] = (*table.get(stage.resolution, ()), stage.backbone)
        if wanted.resolutions:
            absent = [r for r in wanted.resolutions if r not in table]
            if absent:
                raise InputError(
                    f"{study.file.name}: stages.resolutions: {folder} holds no stage at "
                    f"{absent[0]} pixels; it holds {', '.join(map(str, table))}"
                )
            table = {r: table[r] for r in wanted.resolutions}
        for resolution, names in wanted.table().items():
            missing = [n for n in names if (resolution, n) not in self._stages]
            if missing:
                raise InputError(
                    f"{study.file.name}: stages: {folder} holds no {missing[0]}@{resolution}; "
                    f"it holds {', '.join(s.stage.name for s in self._stages.values())}"
                )
            if names:
                table[resolution] = names
        self._space = Space(table, wanted.optional)
        first = next(iter(self._stages.values()))
        some = next(iter(first.predictions.values()))
        classes = tuple(first.details.get("classes", "").split("\n"))
        n_classes = some.probabilities.shape[1]
        if len(classes) != n_classes:
            classes = tuple(str(label) for label in range(n_classes))
        identity = digest(sorted(_content(trained) for trained in self._stages.values()))
        self._data = DataSummary(
            name=first.details.get("data", folder.name),
            classes=classes,
            split_sizes={s: len(p) for s, p in first.predictions.items()},
            digest=identity,
            split_digest=first.details.get("split_digest", identity),
            source=folder.name,
        )

    @property
    def space(self) -> Space:
        """What may be asked for."""
        return self._space

    @property
    def data(self) -> DataSummary:
        """What the numbers are measured on."""
        return self._data

    @property
    def costs(self) -> Mapping[StageId, Stage]:
        """Every stage of the space with its FLOPs."""
        return {key: trained.stage for key, trained in self._stages.items() if self._in(key)}

    def obtain(self, run: tracking.StudyRun, key: StageId, *, wait: bool) -> TrainedStage:
        """Return a stage as it was read; MLflow shows it once in the study's experiment."""
        return self._retry(self._shown, run, key)

    def busy(self) -> frozenset[StageId]:
        """Return nothing: there is nothing to train."""
        return frozenset()

    def _shown(self, run: tracking.StudyRun, key: StageId) -> TrainedStage:
        trained = self._stages[key]
        # Under a key of its own: a stage that is trained here must not be taken for this one,
        # which has no weights.
        known = replace(trained, key=f"predictions-{_content(trained)}", run_id=None)
        found = self._tracker.stages.find_stage(known.key)
        if found is None:
            run_id = self._tracker.stages.start_stage(run, known.key, known.stage, {})
            with TemporaryDirectory() as folder:
                path = Path(folder) / tracking.PREDICTIONS
                save_stage(path, known)
                found = self._tracker.stages.finish_stage(
                    run_id, known, {tracking.PREDICTIONS: path}
                )
        else:
            self._tracker.stages.reuse_stage(run, found)
        return replace(trained, run_id=found.run_id)

    def _in(self, key: StageId) -> bool:
        return key[1] in self._space.backbones.get(key[0], ())


def read_predictions(study: Study) -> dict[StageId, TrainedStage]:
    """Read the folder of stage files that ``source = "predictions"`` names.

    Raises:
        InputError: If a file is damaged, is there twice, or does not belong with the others.
    """
    folder = _root(study)
    if not folder.is_dir():
        raise InputError(
            f"data.root: {folder} is not a directory; set it to a directory of .safetensors files"
        )
    found: dict[StageId, TrainedStage] = {}
    for path in sorted(folder.glob("*.safetensors")):
        trained = load_stage(path)
        key = trained.stage.id
        if key in found:
            raise InputError(f"{path}: {trained.stage.name} is in the folder twice; remove one")
        missing = {"validation", "test"} - set(trained.predictions)
        if missing:
            raise InputError(
                f"{path}: holds no predictions on {' and '.join(sorted(missing))}; both "
                "validation and test are needed"
            )
        found[key] = trained
    if not found:
        raise InputError(f"data.root: {folder} holds no *.safetensors file; rcopt writes them")
    first = next(iter(found.values()))
    for trained in found.values():
        for split in first.predictions:
            try:
                if split not in trained.predictions:
                    raise ValueError(f"no predictions on {split}")
                check_aligned([first.predictions[split], trained.predictions[split]])
            except ValueError as error:
                raise InputError(
                    f"{folder}: {trained.stage.name} does not belong with {first.stage.name}: "
                    f"{error}; keep predictions of different data in different folders"
                ) from error
    _check_rule(study, found.values())
    by_cost = sorted(found.values(), key=lambda t: (t.stage.resolution, t.stage.flops))
    return {t.stage.id: t for t in by_cost}


def _check_rule(study: Study, stages: Iterable[TrainedStage]) -> None:
    """Refuse what needs probabilities where a stage has confidences alone."""
    answers = study.settings.answers
    wants = [name for name in ("temperature", "average", "weighted") if getattr(answers, name)]
    if answers.confidence != "max":
        wants.append("confidence")
    for trained in stages:
        if wants and MADE in trained.details:
            raise InputError(
                f"{study.file.name}: answers.{wants[0]} needs class probabilities, and the table "
                f"of {trained.stage.name} has confidences alone; leave it out"
            )


def _content(trained: TrainedStage) -> str:
    """Return a digest of what a stage predicted and costs, whatever key its file claims."""
    arrays = hashlib.sha256()
    for split, predictions in sorted(trained.predictions.items()):
        arrays.update(f"{split} {predictions.probabilities.shape}".encode())
        arrays.update(np.ascontiguousarray(predictions.probabilities).data)
        arrays.update(np.ascontiguousarray(predictions.labels).data)
    stage = trained.stage
    images = {split: p.images for split, p in trained.predictions.items()}
    return digest([stage.backbone, stage.resolution, stage.flops, images, arrays.hexdigest()])


def _root(study: Study) -> Path:
    if study.root is None:
        raise InputError(f"{study.file.name}: data.root is needed with this source")
    return study.root
