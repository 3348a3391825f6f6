from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from rcopt.core.cascade import NEVER, Cascade, Stage
from rcopt.serving.benchmark import Benchmark, Latency, Throughput, benchmark, describe
from rcopt.serving.executor import CascadeExecutor
from rcopt.serving.timing import stage_costs

STAGES = (Stage(8, "small", 10.0), Stage(16, "large", 100.0))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def images(n: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 16, 16, 3), dtype=torch.uint8, generator=generator)


def measured(threshold: float) -> Benchmark:
    executor = CascadeExecutor(
        Cascade(STAGES, (threshold,)), [network(), network()], precision="float32"
    )
    return benchmark(executor, images(), batch_sizes=(1, 5), calls=7, passes=3)


def test_a_cascade_that_always_stops_early_saves_all_but_the_first_stage() -> None:
    result = measured(0.0)
    assert result.exit_rates == (1.0, 0.0)
    assert result.flops_saving == 10.0
    assert [s.reach_rate for s in result.stages] == [1.0, 0.0]
    assert [s.batch_size for s in result.stages] == [5, 1]


def test_a_cascade_that_never_stops_early_costs_more_than_its_top_stage() -> None:
    result = measured(NEVER)
    assert result.exit_rates == (0.0, 1.0)
    assert result.flops_saving == pytest.approx(100 / 110)
    assert [s.batch_size for s in result.stages] == [5, 5]


def test_numbers_of_a_result_belong_together() -> None:
    result = measured(NEVER)
    assert (result.device, result.images) == ("cpu", 12)
    for side in (result.latency, result.top_latency):
        assert 0 < side.median <= side.p95 <= side.p99
        assert side.calls == 7
    assert [row.batch_size for row in result.throughput] == [1, 5]
    for row in result.throughput:
        assert row.passes == 3
        assert 0 < row.lowest <= row.speed_up <= row.highest
        assert row.cascade > 0
        assert row.top > 0
    for part in result.stages:
        assert part.flops_per_second == pytest.approx(part.stage.flops / part.seconds)


class Clock:
    """Counts one second per stage's network that runs, in place of real time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[tuple[int, int]] = []
        monkeypatch.setattr("rcopt.serving.timing.perf_counter", lambda: self.now)

    def network(self, seconds_per_image: float) -> nn.Module:
        clock = self

        class Slow(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = network()

            def __deepcopy__(self, memo: object) -> "Slow":
                return self

            def forward(self, inputs: Tensor) -> Tensor:
                clock.now += seconds_per_image * len(inputs)
                clock.calls.append((inputs.shape[2], len(inputs)))
                result: Tensor = self.inner(inputs)
                return result

        return Slow().eval()


def test_speed_up_and_latency_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    executor = CascadeExecutor(
        Cascade(STAGES, (0.0,)), [clock.network(1.0), clock.network(4.0)], precision="float32"
    )
    result = benchmark(executor, images(), batch_sizes=(4,), calls=5, passes=2)
    assert result.latency == Latency(1.0, 1.0, 1.0, 5)
    assert result.top_latency == Latency(4.0, 4.0, 4.0, 5)
    assert result.throughput == (Throughput(4, 1.0, 0.25, 4.0, 4.0, 4.0, 2),)
    assert [s.seconds for s in result.stages] == [1.0, 4.0]
    assert [s.flops_per_second for s in result.stages] == [10.0, 25.0]


def test_both_sides_are_measured_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    executor = CascadeExecutor(
        Cascade(STAGES, (0.0,)), [clock.network(1.0), clock.network(4.0)], precision="float32"
    )
    benchmark(executor, images(4), batch_sizes=(4,), calls=1, passes=3)
    full = [resolution for resolution, n in clock.calls if n == 4]
    in_turn = full[:8]  # a pair to warm up and three that count
    assert all(one != other for one, other in pairwise(in_turn))


def test_stage_seconds_are_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    networks = {STAGES[0]: clock.network(0.5), STAGES[1]: clock.network(2.0)}
    seconds = stage_costs(
        networks, images(5), batch_size=8, passes=3, precision="float32", meter=lambda: clock.now
    )
    assert {s: each.tolist() for s, each in seconds.items()} == {
        STAGES[0]: [0.5] * 3,
        STAGES[1]: [2.0] * 3,
    }
    assert clock.calls == [(8, 8), (16, 8)] * 4


def test_progress_is_told() -> None:
    said: list[str] = []
    executor = CascadeExecutor(Cascade(STAGES[:1], ()), [network()], precision="float32")
    benchmark(executor, images(2), batch_sizes=(2,), calls=1, passes=1, progress=said.append)
    assert said == ["latency at batch 1", "throughput at batch 2", "time per stage"]


def test_description_shows_time_next_to_flops() -> None:
    text = describe(measured(0.0))
    assert "10.0× fewer FLOPs than large@16 alone" in text
    for word in ("p99", "cascade img/s", "small@8", "large@16", "GFLOP/s"):
        assert word in text


def test_nothing_to_measure_is_refused() -> None:
    executor = CascadeExecutor(Cascade(STAGES[:1], ()), [network()])
    with pytest.raises(ValueError, match="must be at least 1"):
        benchmark(executor, images(2), calls=0)
    with pytest.raises(ValueError, match="must be at least 1"):
        benchmark(executor, images(2), passes=0)
    with pytest.raises(ValueError, match="must be at least 1"):
        benchmark(executor, images(0))
    with pytest.raises(ValueError, match="must be at least 1"):
        benchmark(executor, images(2), batch_sizes=(0,))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_measured_by_its_own_clock() -> None:
    executor = CascadeExecutor(
        Cascade(STAGES, (NEVER,)), [network(), network()], device="cuda", precision="float32"
    )
    result = benchmark(executor, images(), batch_sizes=(4,), calls=3, passes=2)
    assert result.device != "cuda"
    assert result.latency.median > 0
