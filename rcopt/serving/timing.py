"""How long a stage takes."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rcopt.core.cascade import Cascade, Stage
from rcopt.models.recipe import Precision
from rcopt.serving.executor import CascadeExecutor


def stage_costs(
    networks: Mapping[Stage, nn.Module],
    base: Tensor,
    *,
    batch_size: int = 64,
    passes: int = 5,
    precision: Precision = "auto",
    device: str | torch.device = "cpu",
    meter: Callable[[], float] = perf_counter,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Stage, NDArray[np.float64]]:
    """Measure what each stage costs an image, to rank cascades by time instead of FLOPs.

    A cascade's expected time is then the sum of reach rate times seconds, as its mean FLOPs is
    with FLOPs. The stages take turns, so that what else the machine does hits all alike. Time
    does not depend on the weights: untrained networks do.

    Args:
        networks: One per stage; stages may share one, which is then made ready only once.
        base: (N, S, S, 3) uint8, N >= 1; taken again and again to fill a batch.
        batch_size: Images per call.
        passes: Number of calls per stage, after one that is thrown away.
        precision: As in `CascadeExecutor`.
        device: Where to measure.
        meter: A reading that rises while a stage runs, by default a clock's in seconds.
        progress: Called with the number of turns made and to make.

    Returns:
        (passes,) what a stage adds to the reading per image, resize included, of each stage.
    """
    batch = base[torch.arange(batch_size) % len(base)].to(device)
    first: dict[int, CascadeExecutor] = {}
    alone: dict[Stage, CascadeExecutor] = {}
    for stage, network in networks.items():
        ready = first.get(id(network))
        alone[stage] = CascadeExecutor(
            Cascade((stage,), ()),
            [network if ready is None else ready.networks[0]],
            precision=precision if ready is None else ready.precisions[0],
            device=device,
        )
        first.setdefault(id(network), alone[stage])
    spent = {stage: np.empty(passes) for stage in alone}
    for turn in range(passes + 1):
        for stage, executor in alone.items():
            amount = metered_run(executor, batch, meter)
            if turn:
                spent[stage][turn - 1] = amount / batch_size
        if progress is not None:
            progress(turn, passes)
    return spent


def metered_run(executor: CascadeExecutor, batch: Tensor, meter: Callable[[], float]) -> float:
    """Return what a batch adds to a reading, from an idle device until the device is done."""
    cuda = executor.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(executor.device)
    began = meter()
    executor(batch)
    if cuda:
        torch.cuda.synchronize(executor.device)
    return meter() - began


def timed_run(executor: CascadeExecutor, batches: Sequence[Tensor]) -> float:
    """Return the seconds that the batches take, by the device's own clock where it has one."""
    if executor.device.type != "cuda":
        began = perf_counter()
        for batch in batches:
            executor(batch)
        return perf_counter() - began
    start, end = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    torch.cuda.synchronize(executor.device)
    with torch.cuda.device(executor.device):
        start.record()
        for batch in batches:
            executor(batch)
        end.record()
    torch.cuda.synchronize(executor.device)
    return float(start.elapsed_time(end)) / 1e3


def device_name(device: torch.device) -> str:
    """Return what a device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
