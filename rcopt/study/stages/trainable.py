"""Stages that are trained on demand."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter

from rcopt import tracking
from rcopt.core.cascade import Stage, StageId
from rcopt.core.cost import flops_from_macs
from rcopt.core.predictions import SPLITS
from rcopt.core.trained_stage import TrainedStage
from rcopt.errors import InputError
from rcopt.files import sealed, write_whole
from rcopt.models.devices import known_device
from rcopt.progress import Progress
from rcopt.study.data_summary import DataSummary
from rcopt.study.file import Study
from rcopt.study.space import Space
from rcopt.study.stages.candidates import candidates, check_sizes
from rcopt.study.stages.context import TrainingContext, claim_name
from rcopt.study.stages.starting_weights import check_weights, larger_stage
from rcopt.study.stages.train_once import obtain_stage
from rcopt.study.stored_json import DamagedError, read_json
from rcopt.study.workers.claim import Claims
from rcopt.study.workers.retrying import RetryPolicy

if TYPE_CHECKING:
    from rcopt.data.dataset import Dataset


_MACS = TypeAdapter(dict[Literal["macs"], dict[str, int]])


class TrainableStages:
    """Stages of a data set of images, trained on demand, each once ever."""

    def __init__(
        self,
        study: Study,
        tracker: tracking.Tracker,
        progress: Progress,
        claims: Claims,
        retry: RetryPolicy,
    ) -> None:
        settings = study.settings
        table = candidates(study)
        self._device = known_device("training.device", settings.training.device)
        every = [StageId(r, name) for r, names in table.items() for name in names]
        check_weights(study, every)
        counted = {name.rpartition("/")[0] for name in known_macs(study)}
        check_sizes(study, [key for key in every if key.name not in counted])
        dataset = open_dataset(study, progress)
        self._context = TrainingContext(
            study=study,
            stages=every,
            dataset=dataset,
            tracker=tracker,
            claims=claims,
            retry=retry,
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
            notes=dataset.notes,
        )
        self._costs = _count(study, table, len(dataset.classes), progress)
        self._space = Space(_by_cost(self._costs), settings.stages.optional)
        self._claimed_as = {key: self._claims_of(key) for key in self._costs}

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
        return self._costs

    def obtain(self, run: tracking.StudyRun, key: StageId, *, wait: bool) -> TrainedStage | None:
        """Return a stage from the store, or train it and store it."""
        return obtain_stage(self._context, run, key, wait=wait)

    def busy(self) -> frozenset[StageId]:
        """Return the stages that some worker is training now."""
        held = {holder.key for holder in self._context.claims.held()}
        return frozenset(key for key, names in self._claimed_as.items() if names & held)

    def _claims_of(self, key: StageId) -> set[str]:
        """Return the claims under which a stage is made: its own, and those it starts from."""
        context = self._context
        larger = larger_stage(context.study, key, context.stages)
        before = set() if larger is None else self._claims_of(larger)
        return {claim_name(context, key), *before}


def open_dataset(study: Study, progress: Progress) -> "Dataset":
    """Load the images of a study, decoding them the first time.

    Raises:
        InputError: If they cannot be used, or the study has none (``source = "predictions"``).
    """
    from rcopt.data.loading import load_data

    settings = study.settings
    if settings.data.source == "predictions":
        raise InputError(f"{study.name}: it rests on stored predictions and has no images")
    dataset = load_data(
        settings.data,
        root=study.root,
        base_side=study.base_side,
        seed=settings.seed,
        cache=study.project / "mlruns" / "data",
        progress=_with_rate(progress),
    )
    for note in dataset.notes:
        progress.note(note)
    return dataset


def _with_rate(progress: Progress) -> Callable[[int, int], None]:
    """Show decoded images, and how many a second; the first call tells where it begins."""
    began: list[tuple[int, float]] = []

    def show(done: int, total: int) -> None:
        began.append((done, monotonic()))
        first, start = began[0]
        seconds = monotonic() - start
        rate = f"{(done - first) / seconds:,.0f} images/s" if done > first and seconds else ""
        progress.count("decode images", done, total, rate)
        del began[1:]

    return show


def _count(
    study: Study, table: Mapping[int, tuple[str, ...]], n_classes: int, progress: Progress
) -> dict[StageId, Stage]:
    """Return the FLOPs of every stage of the space; counted once, kept in the study's folder."""
    path = _macs_file(study)
    known = known_macs(study)
    names = [StageId(r, b) for r, backbones in table.items() for b in backbones]
    missing = [key for key in names if f"{key.name}/{n_classes}" not in known]
    for done, (resolution, backbone) in enumerate(missing, 1):
        from rcopt.models.backbones import build
        from rcopt.models.macs import count_macs

        cost = count_macs(build(backbone, n_classes, resolution), resolution)
        known[f"{backbone}@{resolution}/{n_classes}"] = cost.macs
        for difference in cost.overlooked:
            progress.note(f"{backbone}@{resolution}: {difference}")
        progress.count("count MACs", done, len(missing))
    if missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(sealed({"macs": known}), indent=1).encode())
    return {key: Stage(*key, flops_from_macs(known[f"{key.name}/{n_classes}"])) for key in names}


def _by_cost(costs: Mapping[StageId, Stage]) -> dict[int, tuple[str, ...]]:
    """Return each resolution's backbones from cheap to costly."""
    table: dict[int, tuple[str, ...]] = {}
    for resolution, name in sorted(costs, key=lambda key: (key[0], costs[key].flops, key[1])):
        table[resolution] = (*table.get(resolution, ()), name)
    return table


def known_macs(study: Study) -> dict[str, int]:
    """Return the MACs counted so far, by ``backbone@resolution/classes``.

    Those in a damaged file are counted again when a study is next run.
    """
    try:
        return read_json(_macs_file(study), _MACS)["macs"]
    except (FileNotFoundError, DamagedError):
        return {}


def _macs_file(study: Study) -> Path:
    return study.folder / "macs.json"
