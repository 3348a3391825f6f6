"""Every stage that a study may train, before anything is trained."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rcopt.core.cascade import StageId
from rcopt.core.cost import flops_from_macs
from rcopt.data.preprocessing import Preprocessing
from rcopt.errors import InputError, WorkError
from rcopt.models.devices import cpu_threads, known_device
from rcopt.progress import Progress
from rcopt.study.file import Study
from rcopt.study.stages.candidates import allow_own, check_sizes
from rcopt.study.stages.starting_weights import (
    LARGER,
    check_weights,
    larger_stage,
    starting_weights,
)

#: Share of the MACs in layers that see the whole image from which another stem is suggested.
_WASTED = 0.25
_STEMS = ("-s2", "-s1")


@dataclass(frozen=True)
class StagePreview:
    """What is known of a stage before it is trained.

    Attributes:
        stage: Which.
        refused: Why it cannot be trained, in one line; empty if it can. All below is then empty.
        macs: What counts as its cost; see `rcopt.models.macs.Cost`.
        macs_ptflops: ptflops' count.
        macs_torch: Torch's own count.
        parameters: Number of parameters.
        memory: Bytes that training needs, about, in float32.
        preprocessing: What its images are made like.
        weights: What it starts from: ``none``, ``pretrained``, a file's name, a larger stage's.
        origin: What is known of those weights: source, images, licence.
        seconds: Expected training time on this machine; None if it was not measured.
        layers: Convolutions over maps of features.
        layers_beyond: Those of them whose input sees the whole image already.
        share_beyond: Their share of the MACs.
        notes: What should be considered.
    """

    stage: StageId
    refused: str = ""
    macs: int = 0
    macs_ptflops: int = 0
    macs_torch: int = 0
    parameters: int = 0
    memory: int = 0
    preprocessing: Preprocessing | None = None
    weights: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    layers: int = 0
    layers_beyond: int = 0
    share_beyond: float = 0.0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        tree = {k: v for k, v in vars(self).items() if k not in ("stage", "preprocessing")}
        return {
            "stage": self.stage.name,
            "resolution": self.stage.resolution,
            "backbone": self.stage.backbone,
            "flops": flops_from_macs(self.macs),
            **tree,
            "preprocessing": None if self.preprocessing is None else self.preprocessing.to_json(),
            "origin": dict(self.origin),
            "notes": list(self.notes),
        }


def preview(
    study: Study, *, time: bool = True, progress: Progress | None = None
) -> list[StagePreview]:
    """Look at every stage of a study, resolution by resolution, from cheap to costly.

    Neither images nor public weights are read, so that a wrong choice costs seconds.

    Args:
        study: The study file.
        time: Whether to measure a few training steps of each.
        progress: Shows what goes on.

    Raises:
        InputError: If the study trains nothing, or its device is not there.
        WorkError: If a network cannot be counted.
    """
    settings = study.settings
    if settings.data.source == "predictions":
        raise InputError(f"{study.name}: it rests on stored predictions and trains no stages")
    device = known_device("training.device", settings.training.device) if time else None
    n_classes, n_images = _data(study)
    allow_own(study)
    table = settings.stages.table()
    every = [StageId(r, name) for r in table for name in table[r]]
    found = []
    with cpu_threads(settings.training.threads):
        for done, given in enumerate(every, 1):
            try:
                found.append(_look(study, given, every, n_classes, n_images, device))
            except (InputError, WorkError) as error:
                found.append(StagePreview(given, refused=str(error)))
            (progress or Progress()).count("look at stages", done, len(every), given.name)
    return sorted(found, key=lambda one: (one.stage.resolution, one.macs, one.stage.backbone))


def _look(
    study: Study,
    given: StageId,
    every: list[StageId],
    n_classes: int,
    n_images: int,
    device: str | None,
) -> StagePreview:
    from rcopt.models.backbones import build
    from rcopt.models.families import parse
    from rcopt.models.footprint import training_bytes, training_seconds
    from rcopt.models.macs import count_macs
    from rcopt.models.receptive_field import trace

    backbone = parse(given.backbone)
    stage = StageId(given.resolution, backbone.name)
    check_sizes(study, [stage])
    start = starting_weights(study, stage)
    origin = _origin(study, stage, _canonical(every))
    if start == LARGER:
        larger = larger_stage(study, stage, _canonical(every))
        weights = "none" if larger is None else larger.name
    else:
        check_weights(study, [stage])
        weights = start if isinstance(start, str) else start.name
    # Public weights are not downloaded for a look, and those of a larger stage are not there.
    read = start if not isinstance(start, str) else "none"
    recipe = study.settings.training.recipe_of(stage.name)
    model = build(stage.backbone, n_classes, stage.resolution, weights=read).eval()
    cost = count_macs(model, stage.resolution)
    seen = trace(model, stage.resolution)
    share = seen.share_beyond(stage.resolution)
    return StagePreview(
        stage=stage,
        macs=cost.macs,
        macs_ptflops=cost.ptflops,
        macs_torch=cost.torch,
        parameters=cost.parameters,
        memory=training_bytes(model, stage.resolution, recipe),
        preprocessing=backbone.preprocessing,
        weights=weights,
        origin=origin,
        layers=len(seen.layers),
        layers_beyond=len(seen.beyond(stage.resolution)),
        share_beyond=share,
        notes=(*cost.differences, *_suggestion(stage, share, seen.suited_from(_WASTED))),
        seconds=None
        if device is None
        else training_seconds(model, n_classes, n_images, stage.resolution, recipe, device),
    )


def _origin(study: Study, stage: StageId, every: list[StageId]) -> dict[str, str]:
    """Return what is known of the weights that a stage starts from, in the end."""
    from rcopt.models.families import parse

    start = starting_weights(study, stage)
    larger = larger_stage(study, stage, every)
    if larger is not None:
        return _origin(study, larger, every)
    if isinstance(start, Path):
        return {"source": f"file {start.name}"}
    public = parse(stage.backbone).pretrained if start == "pretrained" else None
    if public is None:
        return {}
    return {"source": public.source, "images": public.images, "licence": public.licence}


def _canonical(every: list[StageId]) -> list[StageId]:
    from rcopt.models.families import parse

    names = []
    for resolution, name in every:
        try:
            names.append(StageId(resolution, parse(name).name))
        except InputError:  # told of that stage itself
            continue
    return names


def _suggestion(stage: StageId, share: float, suited: int) -> Iterator[str]:
    """Yield what may suit a size better than a network that sees the whole image early."""
    if share <= _WASTED:
        return
    from rcopt.models.backbones import build
    from rcopt.models.families import parse
    from rcopt.models.receptive_field import trace

    text = (
        f"more than {_WASTED:.0%} of its MACs are in layers that see the whole image already; "
        f"it suits {suited} pixels and more"
    )
    for stem in _STEMS:
        try:
            name = parse(f"{stage.backbone}{stem}").name
        except InputError:
            continue
        field = trace(build(name, 2, stage.resolution).eval(), stage.resolution)
        other = field.share_beyond(stage.resolution)
        if other <= _WASTED or stem == _STEMS[-1]:
            text += f", and {name}, whose stem keeps more pixels, has {other:.0%} there"
            break
    else:
        text += "; a shallower network, or one with a stem of smaller stride, suits this size"
    yield text


def _data(study: Study) -> tuple[int, int]:
    """Return about how many classes and training images there are, without reading any."""
    from rcopt.data.sources.digits import DIGITS_TRAIN
    from rcopt.data.survey import survey

    settings = study.settings.data
    if settings.source == "digits":
        return 10, round(1797 * DIGITS_TRAIN)
    if settings.source == "imagenette":
        return 10, 9469
    if study.root is None:
        raise InputError(f"{study.file.name}: data.root is needed with this source")
    found = survey(study.root)
    whole = round(found.sizes.get("all", 0) * (1 - settings.held_out))
    return len(found.classes), found.sizes.get("train", whole)
