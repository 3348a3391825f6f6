"""Where a study's stages come from: trained here, or read from stored predictions."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rcopt import tracking
from rcopt.core.cascade import Stage
from rcopt.core.cost import flops_from_macs
from rcopt.core.predictions import SPLITS, check_aligned
from rcopt.core.trained_stage import TrainedStage
from rcopt.data.prediction_files import load_stage, save_stage
from rcopt.errors import DAMAGE, InputError
from rcopt.files import digest, sealed, unsealed
from rcopt.progress import Progress
from rcopt.study.samplers import Space
from rcopt.study.settings import Study
from rcopt.study.stages.train_once import (
    Origin,
    Workshop,
    claim_name,
    obtain_stage,
    weights_identity,
)
from rcopt.study.workers.claims import Claims
from rcopt.study.workers.outages import Patience
from rcopt.whole_files import write_whole

if TYPE_CHECKING:
    from rcopt.data.loading import Dataset

StageKey = tuple[int, str]


@dataclass(frozen=True)
class DataSummary:
    """What a study's numbers are measured on.

    Attributes:
        name: Of the data set.
        classes: Class names.
        split_sizes: Images by split.
        digest: Of images and splits, or of the stored predictions.
        split_digest: Of the splits alone.
        source: Where it comes from.
    """

    name: str
    classes: tuple[str, ...]
    split_sizes: Mapping[str, int]
    digest: str
    split_digest: str
    source: str


class Material(Protocol):
    """Stages by resolution and backbone, trained when first asked for."""

    @property
    def space(self) -> Space:
        """What may be asked for."""

    @property
    def data(self) -> DataSummary:
        """What the numbers are measured on."""

    @property
    def costs(self) -> Mapping[StageKey, Stage]:
        """Every stage of the space with its FLOPs."""

    def obtain(
        self, run: tracking.StudyRun, key: StageKey, *, wait: bool
    ) -> tuple[TrainedStage, Origin] | None:
        """Return a stage, training it if it never was.

        None if another worker is training it and ``wait`` is false.
        """

    def busy(self) -> frozenset[StageKey]:
        """Return the stages that some worker is training now."""


def open_material(
    study: Study,
    tracker: tracking.Tracker,
    progress: Progress,
    *,
    claims: Claims,
    patience: Patience,
) -> Material:
    """Open what the study file names.

    Raises:
        InputError: If data or backbones cannot be used; one line says why.
    """
    if study.settings.data.source == "predictions":
        return StoredPredictions(study, tracker, patience)
    return TrainableStages(study, tracker, progress, claims, patience)


class StoredPredictions:
    """A folder of stage files: anyone's models, no training, no images."""

    def __init__(self, study: Study, tracker: tracking.Tracker, patience: Patience) -> None:
        self._tracker, self._patient = tracker, patience
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
    def costs(self) -> Mapping[StageKey, Stage]:
        """Every stage of the space with its FLOPs."""
        return {key: trained.stage for key, trained in self._stages.items() if self._in(key)}

    def obtain(
        self, run: tracking.StudyRun, key: StageKey, *, wait: bool
    ) -> tuple[TrainedStage, Origin]:
        """Return a stage as it was read; MLflow shows it once in the study's experiment."""
        return self._patient(self._shown, run, key)

    def busy(self) -> frozenset[StageKey]:
        """Return nothing: there is nothing to train."""
        return frozenset()

    def _shown(self, run: tracking.StudyRun, key: StageKey) -> tuple[TrainedStage, Origin]:
        trained = self._stages[key]
        # Under a key of its own: a stage that is trained here must not be taken for this one,
        # which has no weights.
        known = replace(trained, key=f"predictions-{_content(trained)}", run_id=None)
        found = self._tracker.find_stage(known.key)
        if found is None:
            run_id = self._tracker.start_stage(run, known.key, known.stage, {})
            with TemporaryDirectory() as folder:
                path = Path(folder) / tracking.PREDICTIONS
                save_stage(path, known)
                found = self._tracker.finish_stage(run_id, known, {tracking.PREDICTIONS: path})
        else:
            self._tracker.reuse_stage(run, found)
        return replace(trained, run_id=found.run_id), "stored"

    def _in(self, key: StageKey) -> bool:
        return key[1] in self._space.backbones.get(key[0], ())


class TrainableStages:
    """Stages of a data set of images, trained on demand, each once ever."""

    def __init__(
        self,
        study: Study,
        tracker: tracking.Tracker,
        progress: Progress,
        claims: Claims,
        patience: Patience,
    ) -> None:
        from rcopt.models.backbones import by_depth, parse

        settings = study.settings
        table: dict[int, tuple[str, ...]] = {}
        for resolution, names in settings.stages.table().items():
            try:
                table[resolution] = by_depth(tuple(parse(name).name for name in names))
            except InputError as error:
                raise InputError(f"{study.file.name}: stages.backbones: {error}") from None
        every = [f"{name}@{resolution}" for resolution in table for name in table[resolution]]
        for pattern in settings.training.override:
            if not any(fnmatchcase(name, pattern) for name in every):
                raise InputError(
                    f"{study.file.name}: training.override: {pattern!r} matches none of the "
                    f"stages, which are {', '.join(every)}"
                )
        self._space = Space(table, settings.stages.optional)
        self._device = known_device("training.device", settings.training.device)
        weights_identity(study)
        dataset = open_dataset(study, progress)
        self._workshop = Workshop(
            study=study,
            dataset=dataset,
            tracker=tracker,
            claims=claims,
            patience=patience,
            progress=progress,
            device=self._device,
        )
        self._data = DataSummary(
            name=dataset.name,
            classes=dataset.classes,
            split_sizes={s: len(dataset.splits[s]) for s in SPLITS if s in dataset.splits},
            digest=dataset.digest,
            split_digest=dataset.split_digest,
            source=settings.data.source,
        )
        self._costs = _count(study, table, len(dataset.classes), progress)
        self._claimed_as = {key: claim_name(self._workshop, *key) for key in self._costs}

    @property
    def space(self) -> Space:
        """What may be asked for."""
        return self._space

    @property
    def data(self) -> DataSummary:
        """What the numbers are measured on."""
        return self._data

    @property
    def costs(self) -> Mapping[StageKey, Stage]:
        """Every stage of the space with its FLOPs."""
        return self._costs

    def obtain(
        self, run: tracking.StudyRun, key: StageKey, *, wait: bool
    ) -> tuple[TrainedStage, Origin] | None:
        """Return a stage from the store, or train it and store it."""
        return obtain_stage(self._workshop, run, *key, wait=wait)

    def busy(self) -> frozenset[StageKey]:
        """Return the stages that some worker is training now."""
        held = {holder.key for holder in self._workshop.claims.held()}
        return frozenset(key for key, name in self._claimed_as.items() if name in held)


def open_dataset(study: Study, progress: Progress) -> "Dataset":
    """Load the images of a study, decoding them the first time.

    Raises:
        InputError: If they cannot be used, or the study has none (``source = "predictions"``).
    """
    from rcopt.data.loading import load_data

    settings = study.settings
    source = settings.data.source
    if source == "predictions":
        raise InputError(f"{study.name}: it rests on stored predictions and has no images")
    return load_data(
        source,
        root=study.root,
        base_side=settings.data.base_side or max(settings.stages.resolutions),
        validation=settings.data.validation,
        calibration=settings.data.calibration,
        test=settings.data.test,
        seed=settings.seed,
        cache=study.project / "mlruns" / "data",
        progress=lambda done, total: progress.count("decode images", done, total),
    )


def read_predictions(study: Study) -> dict[StageKey, TrainedStage]:
    """Read the folder of stage files that ``source = "predictions"`` names.

    Raises:
        InputError: If a file is damaged, is there twice, or does not belong with the others.
    """
    folder = _root(study)
    if not folder.is_dir():
        raise InputError(f"data.root: {folder} is no folder; name one with *.safetensors files")
    found: dict[StageKey, TrainedStage] = {}
    for path in sorted(folder.glob("*.safetensors")):
        trained = load_stage(path)
        key = (trained.stage.resolution, trained.stage.backbone)
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
                ) from None
    by_cost = sorted(found.values(), key=lambda t: (t.stage.resolution, t.stage.flops))
    return {(t.stage.resolution, t.stage.backbone): t for t in by_cost}


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


def _count(
    study: Study, table: Mapping[int, tuple[str, ...]], n_classes: int, progress: Progress
) -> dict[StageKey, Stage]:
    """Return the FLOPs of every stage of the space; counted once, kept in the study's folder."""
    path = _macs_file(study)
    known = known_macs(study)
    names = [(r, b) for r, backbones in table.items() for b in backbones]
    missing = [key for key in names if f"{key[1]}@{key[0]}/{n_classes}" not in known]
    for done, (resolution, backbone) in enumerate(missing, 1):
        from rcopt.models.backbones import build, count_macs

        cost = count_macs(build(backbone, n_classes), resolution)
        known[f"{backbone}@{resolution}/{n_classes}"] = cost.macs
        progress.count("count MACs", done, len(missing))
    if missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(sealed({"macs": known}), indent=1).encode())
    return {(r, b): Stage(r, b, flops_from_macs(known[f"{b}@{r}/{n_classes}"])) for r, b in names}


def known_macs(study: Study) -> dict[str, int]:
    """Return the MACs counted so far, by ``backbone@resolution/classes``.

    Those in a damaged file are counted again when a study is next run.
    """
    try:
        kept = unsealed(json.loads(_macs_file(study).read_text(encoding="utf-8")))
        known: dict[str, int] = kept["macs"]
        return known
    except (OSError, *DAMAGE):
        return {}


def _macs_file(study: Study) -> Path:
    return study.folder / "macs.json"


def known_device(setting: str, name: str) -> str:
    """Return the device that a setting names, ``auto`` resolved.

    Raises:
        InputError: If it is none, or is not there.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name)
    except RuntimeError:
        kind = None
    if kind is None or kind.type not in ("cpu", "cuda"):
        raise InputError(f"{setting}: {name!r} is no device; use auto, cpu, cuda:0")
    if kind.type == "cuda" and (
        not torch.cuda.is_available() or (kind.index or 0) >= torch.cuda.device_count()
    ):
        raise InputError(
            f"{setting}: {name} is not there ({torch.cuda.device_count()} CUDA devices); "
            "use auto or cpu"
        )
    return name
