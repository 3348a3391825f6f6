"""What a forward pass of each stage costs on this machine: measured, kept, minimized."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AliasChoices, BaseModel, Field, TypeAdapter

from rcopt.core.cascade import Stage
from rcopt.core.cost import COSTS, Amount, CostName
from rcopt.errors import InputError
from rcopt.files import sealed, write_whole
from rcopt.models.devices import known_device
from rcopt.progress import Progress
from rcopt.study.file import Study
from rcopt.study.stages.base import StageProvider
from rcopt.study.stages.candidates import allow_own
from rcopt.study.stored_json import DamagedError, parse_json, read_json
from rcopt.study.trials import Trials


@dataclass(frozen=True)
class Conditions:
    """What times depend on; those measured under equal conditions may be compared.

    Attributes:
        device: Name of the processor or GPU.
        threads: Of torch on a CPU.
        batch_size: Images per call.
        precision: Of the study file; with ``auto`` the device decides.
        base_side: Side in pixels of the base images that inputs are made from.
        classes: Size of the head.
        torch: Version.
    """

    device: str
    threads: int
    batch_size: int
    precision: str
    base_side: int
    classes: int
    torch: str


@dataclass(frozen=True)
class StageTimes:
    """Times of a study's stages, or another cost of them, all measured in one go, in turn.

    Attributes:
        cost: What was measured.
        conditions: Under which.
        calls: Calls per stage.
        amounts: Per image, resize included, by the stage's name: the median call.
        spread: The largest middle half of a stage's calls, as a share of its median.
    """

    cost: CostName
    conditions: Conditions
    calls: int
    amounts: Mapping[str, float]
    spread: float

    def __str__(self) -> str:
        """Return how they were measured, in a line."""
        where = self.conditions
        threads = (
            "" if where.threads == 0 else f", {where.threads} thread" + "s" * (where.threads > 1)
        )
        return (
            f"{where.device}{threads}, batch {where.batch_size}, torch {where.torch}; median of "
            f"{self.calls} calls a stage, middle half within {self.spread:.0%}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "conditions": asdict(self.conditions),
            "calls": self.calls,
            COSTS[self.cost].key: dict(self.amounts),
            "spread": self.spread,
        }

    @classmethod
    def from_json(cls, cost: CostName, text: str) -> "StageTimes":
        """Return what `to_json` gave, written as text.

        Raises:
            DamagedError: If it is anything else, or a time is not positive.
        """
        return parse_json(text, _TIMES).times(cost)


class _Times(BaseModel):
    """As JSON keeps them: the amounts under their cost's own key."""

    conditions: Conditions
    calls: int
    amounts: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        validation_alias=AliasChoices(*(cost.key for cost in COSTS.values()))
    )
    spread: float

    def times(self, cost: CostName) -> StageTimes:
        return StageTimes(cost, self.conditions, self.calls, self.amounts, self.spread)


class _File(BaseModel):
    format: str
    measurements: list[_Times]


_TIMES, _FILE = TypeAdapter(_Times), TypeAdapter(_File)


def priced(stage: Stage, cost: CostName, times: StageTimes | None) -> Stage:
    """Return a stage with what it costs.

    Args:
        stage: Any.
        cost: What is minimized.
        times: Measured; None where the cost can be computed.
    """
    computed = COSTS[cost].computed
    if cost == "flops":
        return replace(stage, minimized=None)
    if computed is not None:
        value = computed(stage.resolution, stage.flops)
    elif times is not None:
        value = times.amounts[stage.name]
    else:
        raise ValueError(f"times must be given for cost {cost!r}, got None")
    return replace(stage, minimized=Amount(cost, value))


def fixed(
    study: Study, provider: StageProvider, stored: Trials, progress: Progress
) -> StageTimes | None:
    """Return the times that all trials of a study are compared by; None if its cost has none.

    The first worker to need them measures every stage of the space; they stay with the study,
    for trials evaluated by other times would not be comparable.

    Raises:
        InputError: If a stage cannot be timed.
    """
    cost = study.settings.search.cost
    if COSTS[cost].meter is None:
        return None
    stages = list(provider.costs.values())
    classes = len(provider.data.classes)

    def make() -> str:
        times = stage_times(study, stages, classes, cost, progress=progress)
        return json.dumps(times.to_json(), sort_keys=True)

    try:
        return StageTimes.from_json(cost, stored.shared(cost, make))
    except DamagedError as error:
        raise InputError(
            f"{study.name}: the stages' times in the study's storage are damaged ({error}); "
            "start it anew under another name (--set name=NEW)"
        ) from error


def stage_times(
    study: Study,
    stages: Sequence[Stage],
    classes: int,
    cost: CostName = "latency",
    *,
    again: bool = False,
    progress: Progress | None = None,
) -> StageTimes:
    """Return the times of stages under the study's ``[latency]``, measured where not known.

    They are kept in the study's folder. If one is missing all are measured: times of different
    moments differ by what else the machine did.

    Args:
        study: Says device, batch size and precision.
        stages: Which.
        classes: Number of classes.
        cost: What to measure, one that has a meter.
        again: Measure even if they are known.
        progress: Shows what goes on.

    Raises:
        InputError: If the device is not there, or rcopt does not know a backbone.
    """
    progress = progress or Progress()
    settings = study.settings
    device = known_device("latency.device", settings.latency.device)
    conditions = _conditions(study, stages, classes, device)
    path = study.folder / f"{cost}.json"
    known = _load(path, cost)
    if not again and conditions in known:
        found = known[conditions]
        if all(stage.name in found.amounts for stage in stages):
            return found
    allow_own(study)
    times = _measure(stages, cost, conditions, device, progress)
    _save(path, cost, [*(old for old in known.values() if old.conditions != conditions), times])
    return times


def _conditions(study: Study, stages: Sequence[Stage], classes: int, device: str) -> Conditions:
    import torch

    settings = study.settings
    cuda = torch.device(device).type == "cuda"
    return Conditions(
        device=torch.cuda.get_device_name(device) if cuda else _processor(),
        threads=0 if cuda else torch.get_num_threads(),
        batch_size=settings.latency.batch_size,
        precision=settings.training.recipe_of().precision,
        base_side=settings.data.base_side or _largest(study, stages),
        classes=classes,
        torch=torch.__version__,
    )


def _largest(study: Study, stages: Sequence[Stage]) -> int:
    # A study may not have trained its largest resolution yet.
    return max((*study.settings.stages.resolutions, *(stage.resolution for stage in stages)))


def _measure(
    stages: Sequence[Stage],
    cost: CostName,
    conditions: Conditions,
    device: str,
    progress: Progress,
) -> StageTimes:
    import torch
    from torch import nn

    from rcopt.models.backbones import build
    from rcopt.models.families import parse
    from rcopt.serving.timing import stage_costs

    # Networks that do not depend on the size are shared: a table of stages may be long.
    made: dict[tuple[str, int], nn.Module] = {}
    untrained: dict[Stage, nn.Module] = {}
    for stage in stages:
        try:
            key = stage.backbone, 0 if parse(stage.backbone).bare else stage.resolution
            if key not in made:
                made[key] = build(stage.backbone, conditions.classes, stage.resolution).eval()
        except InputError as error:
            raise InputError(
                f"{stage.name} cannot be timed: {error}; rcopt builds its backbone by name, "
                "so stored predictions of other networks have FLOPs as their only cost"
            ) from error
        untrained[stage] = made[key]
    side = conditions.base_side
    noise = torch.Generator().manual_seed(0)
    base = torch.randint(0, 256, (16, side, side, 3), dtype=torch.uint8, generator=noise)
    # Single images are timed more often: their times scatter more.
    calls = max(5, 32 // conditions.batch_size)
    meter = COSTS[cost].meter
    if meter is None:
        raise ValueError(f"cost must have a meter to be measured, {cost!r} has none")
    spent = stage_costs(
        untrained,
        base,
        batch_size=conditions.batch_size,
        passes=calls,
        precision=conditions.precision,  # type: ignore[arg-type]  # of the study file
        device=device,
        meter=meter,
        progress=lambda done, total: progress.count("time stages", done, total),
    )
    quartiles = {s.name: np.percentile(each, [25, 50, 75]) for s, each in spent.items()}
    return StageTimes(
        cost=cost,
        conditions=conditions,
        calls=calls,
        amounts={name: float(middle) for name, (_, middle, _) in quartiles.items()},
        spread=max(float((high - low) / middle) for low, middle, high in quartiles.values()),
    )


def _format(cost: CostName) -> str:
    return f"rcopt-{cost}-1"


def _load(path: Path, cost: CostName) -> dict[Conditions, StageTimes]:
    try:
        kept = read_json(path, _FILE)
        if kept.format != _format(cost):
            raise DamagedError(f"format {kept.format!r}, expected {_format(cost)!r}")
    except FileNotFoundError:
        return {}
    except DamagedError as error:
        raise InputError(
            f"{path}: damaged measurements ({error}); delete it to measure again"
        ) from error
    return {stored.conditions: stored.times(cost) for stored in kept.measurements}


def _save(path: Path, cost: CostName, measurements: Sequence[StageTimes]) -> None:
    tree = {"format": _format(cost), "measurements": [times.to_json() for times in measurements]}
    write_whole(path, json.dumps(sealed(tree), indent=1).encode())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine() or "CPU"
