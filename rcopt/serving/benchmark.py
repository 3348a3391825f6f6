"""Measure time: of a cascade beside its top stage alone, and of each stage by itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rcopt.core.cascade import Cascade, Stage
from rcopt.core.wording import flops_against
from rcopt.serving.executor import CascadeExecutor
from rcopt.serving.timing import device_name, timed_run


@dataclass(frozen=True)
class Latency:
    """Seconds per call at batch 1.

    Attributes:
        median: Of the calls.
        p95: 95th percentile.
        p99: 99th percentile.
        calls: Number of calls, each of another image where there are enough.
    """

    median: float
    p95: float
    p99: float
    calls: int


@dataclass(frozen=True)
class Throughput:
    """Images per second at one batch size.

    Attributes:
        batch_size: Images per call; the last call of a pass may have fewer.
        cascade: Images per second, median over the passes.
        top: The same of the top stage alone.
        speed_up: Time of the top stage over time of the cascade: median over pairs of passes
            that were made one after the other.
        lowest: Least speed-up of a pair.
        highest: Greatest speed-up of a pair.
        passes: Number of pairs.
    """

    batch_size: int
    cascade: float
    top: float
    speed_up: float
    lowest: float
    highest: float
    passes: int


@dataclass(frozen=True)
class StageTime:
    """What one stage costs in time.

    Attributes:
        stage: Which.
        reach_rate: Share of the images that ran it.
        batch_size: Images per call it was measured at: what reaches it of a full batch.
        seconds: Per image, resize included, median.
        flops_per_second: FLOPs of an image over ``seconds``.
    """

    stage: Stage
    reach_rate: float
    batch_size: int
    seconds: float
    flops_per_second: float


@dataclass(frozen=True)
class Benchmark:
    """A cascade beside its top stage.

    Attributes:
        device: Where it was measured.
        threads: Of torch on the CPU.
        images: Number of images in a pass.
        exit_rates: (K,) share of these images answered by each stage.
        flops_saving: FLOPs of the top stage over the cascade's mean FLOPs on these images.
        latency: Of the cascade at batch 1.
        top_latency: Of the top stage at batch 1.
        throughput: One per batch size.
        stages: Time per stage; what they do not explain of the cascade's time is spent on
            gathering and on the answers.
    """

    device: str
    threads: int
    images: int
    exit_rates: tuple[float, ...]
    flops_saving: float
    latency: Latency
    top_latency: Latency
    throughput: tuple[Throughput, ...]
    stages: tuple[StageTime, ...]


def benchmark(
    executor: CascadeExecutor,
    images: Tensor,
    *,
    batch_sizes: Sequence[int] = (1, 8, 64, 256),
    calls: int = 200,
    passes: int = 5,
    progress: Callable[[str], None] | None = None,
) -> Benchmark:
    """Measure a cascade and, alternately, its top stage alone.

    Both sides get the same base images on the executor's device, already decoded, and run the
    same code (the top stage as a cascade of one stage). One pass of each is thrown away before
    a measurement.

    Args:
        executor: The cascade.
        images: (N, S, S, 3) uint8, N >= 1; what share of them goes on decides the cascade's
            time, so they should be like those it will see.
        batch_sizes: What throughput is measured at.
        calls: Number of calls at batch 1.
        passes: Number of passes over the images per batch size and side.
        progress: Called with what is measured next.

    Raises:
        ValueError: If there are no images or a number is below 1.
    """
    if not len(images) or min((*batch_sizes, calls, passes), default=0) < 1:
        raise ValueError("images, batch_sizes, calls and passes must be at least 1 each")
    tell = progress or (lambda _: None)
    base = images.to(executor.device)
    top = _top_alone(executor)
    tell("latency at batch 1")
    latency, top_latency = _latencies(executor, top, base, calls)
    throughput = []
    for size in batch_sizes:
        tell(f"throughput at batch {size}")
        throughput.append(_throughput(executor, top, base, size, passes))
    output = executor(base)
    stages = executor.cascade.stages
    exits = torch.bincount(output.stages, minlength=len(stages)).double() / len(base)
    tell("time per stage")
    return Benchmark(
        device=device_name(executor.device),
        threads=torch.get_num_threads(),
        images=len(base),
        exit_rates=tuple(exits.tolist()),
        flops_saving=stages[-1].flops / output.flops.mean().item(),
        latency=latency,
        top_latency=top_latency,
        throughput=tuple(throughput),
        stages=_stage_times(executor, base, exits.tolist(), batch_sizes[-1], passes),
    )


def describe(result: Benchmark) -> str:
    """Return the result as text: time beside FLOPs, and per stage where they differ."""
    top = f"{result.stages[-1].stage.name} alone, its top stage"
    lines = [
        f"{result.device}, {result.threads} threads, {result.images:,} images; the cascade spends",
        flops_against(result.flops_saving, top),
        "",
        "                    cascade   top stage",
    ]
    for name in ("median", "p95", "p99"):
        own, top = getattr(result.latency, name), getattr(result.top_latency, name)
        lines.append(f"latency {name:>6}  {own * 1e3:9.2f} ms {top * 1e3:8.2f} ms")
    lines += ["", " batch   cascade img/s   top img/s   times as fast (range) of FLOPs' saving"]
    for row in result.throughput:
        spread = f"({row.lowest:.2f} to {row.highest:.2f})"
        lines.append(
            f"{row.batch_size:6} {row.cascade:15.1f} {row.top:11.1f}   {row.speed_up:5.2f} "
            f"{spread:16} {row.speed_up / result.flops_saving:9.2f}"
        )
    lines += [
        "",
        f"{'stage':24} reached  batch   ms/image   GFLOP/s  of the time  of the FLOPs",
    ]
    seconds = [part.reach_rate * part.seconds for part in result.stages]
    flops = [part.reach_rate * part.stage.flops for part in result.stages]
    for part, own_seconds, own_flops in zip(result.stages, seconds, flops, strict=True):
        lines.append(
            f"{part.stage.name:24} {part.reach_rate:7.1%} {part.batch_size:6} "
            f"{part.seconds * 1e3:10.3f} {part.flops_per_second / 1e9:9.1f} "
            f"{own_seconds / sum(seconds):12.1%} {own_flops / sum(flops):13.1%}"
        )
    largest = result.throughput[-1]
    lines.append(
        f"the stages explain {sum(seconds) * largest.cascade:.0%} of the cascade's time at batch "
        f"{largest.batch_size}; the rest is gathering and answers"
    )
    return "\n".join(lines)


def _top_alone(executor: CascadeExecutor) -> CascadeExecutor:
    return _alone(executor, len(executor.cascade.stages) - 1)


def _alone(executor: CascadeExecutor, level: int) -> CascadeExecutor:
    return CascadeExecutor(
        Cascade((executor.cascade.stages[level],), ()),
        [executor.networks[level]],
        precision=executor.precisions[level],
        device=executor.device,
    )


def _latencies(
    executor: CascadeExecutor, top: CascadeExecutor, base: Tensor, calls: int
) -> tuple[Latency, Latency]:
    # At batch 1 a later stage may not run for many images; all are warmed up.
    for level in range(len(executor.networks)):
        timed_run(_alone(executor, level), [base[:1]])
    own, other = [], []
    for call in range(calls + 1):
        image = base[call % len(base)][None]
        own.append(timed_run(executor, [image]))
        other.append(timed_run(top, [image]))
    return _latency(own[1:]), _latency(other[1:])


def _latency(seconds: list[float]) -> Latency:
    median, p95, p99 = np.percentile(seconds, [50, 95, 99]).tolist()
    return Latency(median, p95, p99, len(seconds))


def _throughput(
    executor: CascadeExecutor, top: CascadeExecutor, base: Tensor, size: int, passes: int
) -> Throughput:
    batches = [base[start : start + size] for start in range(0, len(base), size)]
    own, other = [], []
    for _ in range(passes + 1):
        own.append(timed_run(executor, batches))
        other.append(timed_run(top, batches))
    ratios = np.array(other[1:]) / np.array(own[1:])
    return Throughput(
        batch_size=size,
        cascade=len(base) / float(np.median(own[1:])),
        top=len(base) / float(np.median(other[1:])),
        speed_up=float(np.median(ratios)),
        lowest=float(ratios.min()),
        highest=float(ratios.max()),
        passes=passes,
    )


def _stage_times(
    executor: CascadeExecutor, base: Tensor, exits: Sequence[float], size: int, passes: int
) -> tuple[StageTime, ...]:
    reached = 1.0
    times = []
    for level, stage in enumerate(executor.cascade.stages):
        batch_size = max(1, round(min(size, len(base)) * reached))
        batch = base[torch.arange(batch_size, device=base.device) % len(base)]
        alone = _alone(executor, level)
        spent = [timed_run(alone, [batch]) for _ in range(passes + 1)][1:]
        seconds = float(np.median(spent)) / batch_size
        times.append(StageTime(stage, reached, batch_size, seconds, stage.flops / seconds))
        reached -= exits[level]
    return tuple(times)
