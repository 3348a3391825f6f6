"""Run every benchmark that needs no data from outside: ``python -m benchmarks``.

One after the other, each in a process of its own, which prints its own table and writes to
results/; the table at the end holds what was asked of each and what came. Under 20 minutes on
two cores. Training and memory are measured too where the environment names a folder of images:
``RCOPT_BENCH_IMAGES=ROOT python -m benchmarks`` with ROOT/{train,val}/CLASS/IMAGE.

Exit code 1 if one of them could not be run; a goal that is missed is marked, no more.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.pools import POOL, RECORDED

RESULTS = Path(__file__).parent / "results"
IMAGES = "RCOPT_BENCH_IMAGES"
NEED_IMAGES = ("training", "memory")

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what: Was measured.
        goal: What was asked, "-" if nothing.
        figure: What came.
        met: Whether that meets the goal, True if there is none.
    """

    what: str
    goal: str
    figure: str
    met: bool = True


def main() -> int:
    failed = False
    rows: list[Row] = []
    start = clocks()
    for name, read in READERS.items():
        reason = skipped(name)
        if reason:
            rows.append(Row(name, "-", f"skipped: {reason}"))
            continue
        print(f"== {name}", flush=True)
        began = clocks()
        extra = [os.environ[IMAGES]] if name in NEED_IMAGES else []
        command = [sys.executable, "-m", f"benchmarks.{name}", *extra]
        code = subprocess.run(command, check=False, cwd=RESULTS.parent.parent).returncode
        if code:
            failed = True
            rows.append(Row(name, "-", f"failed with exit code {code}", met=False))
            continue
        print(f"== {name}: {spent(began)}\n", flush=True)
        rows += read(json.loads((RESULTS / f"{name}.json").read_text()))
    print(table(rows))
    print(f"everything: {spent(start)}")
    return 1 if failed else 0


def clocks() -> tuple[float, float]:
    """Return the time of day and the processor time of all processes that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), ended.ru_utime + ended.ru_stime


def spent(since: tuple[float, float]) -> str:
    now = clocks()
    return f"{now[0] - since[0]:.0f} s, processor time {now[1] - since[1]:.0f} s"


def skipped(name: str) -> str:
    """Return why a benchmark cannot be run here, nothing if it can."""
    if name == "logging_cost" and find_spec("optuna_integration") is None:
        return "needs optuna-integration to compare with: pip install -e '.[bench]'"
    if name == "answers" and not any(RECORDED.glob("*.safetensors")):
        return f"needs recorded stages in studies/{RECORDED.name}"
    if name == "ingredients" and not any(POOL.glob("*.safetensors")):
        return f"needs recorded stages in studies/{POOL.name}"
    if name in NEED_IMAGES and IMAGES not in os.environ:
        return f"needs images, {IMAGES}=ROOT with ROOT/{{train,val}}/CLASS/IMAGE"
    return ""


def table(rows: Sequence[Row]) -> str:
    cells = [("", "goal", "figure", "")]
    cells += [(row.what, row.goal, row.figure, "" if row.met else "MISSED") for row in rows]
    widths = [max(len(line[k]) for line in cells) for k in range(4)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def at_most(what: str, value: float, limit: float, unit: str = "") -> Row:
    return Row(what, f"at most {limit:g}{unit}", f"{value:.3g}{unit}", value <= limit)


def at_least(what: str, value: float, limit: float, unit: str = "") -> Row:
    return Row(what, f"at least {limit:g}{unit}", f"{value:.3g}{unit}", value >= limit)


def fronts(found: Found) -> list[Row]:
    ratio = found["against_grids"]["grids"]["broadcast"]["ratio"]
    large, four = found["3 x 50,000"], found["4 x 2,000"]
    study = found["study"]["125 cascades"]["median"]
    return [
        at_most("exact front / 40 x 40 grid, 3 stages, 1,963 images: time", ratio, 0.2),
        at_most("exact front, 3 stages, 50,000 images: time", large["seconds"], 15, " s"),
        at_most("the same: memory", large["peak_gb"], 1, " GB"),
        at_most("exact front, 4 stages, 2,000 images: time", four["seconds"], 30, " s"),
        at_most("study front, 125 combinations, 1,963 images: time", study, 5, " s"),
    ]


def logging_cost(found: Found) -> list[Row]:
    large = found["large"]
    return [
        *(
            at_most(
                f"a trial stored and logged / MLflowCallback, {store}", found[store]["ratio"], 0.33
            )
            for store in ("sqlite", "http")
        ),
        Row(f"{large['trials']:,} trials stored and logged", "-", f"{large['seconds']:.0f} s"),
    ]


def execution(found: Found) -> list[Row]:
    cases = {name: case for name, case in found.items() if isinstance(case, Mapping)}
    return [
        at_least(
            f"{name}, batch {one['batch_size']}: times faster / times fewer FLOPs",
            one["speed_up"] / case["flops_saving"],
            0.8,
        )
        for name, case in cases.items()
        for one in case["throughput"]
    ]


def samplers(found: Found) -> list[Row]:
    rows = []
    for pool in found["pools"]:
        told = [
            f"{arm['sampler']} {_count(arm['stages_to_goal']['median'])}"
            for arm in found["arms"]
            if (arm["pool"], arm["scale"], arm["sweep"]) == (pool, "deferral_rate", "told")
        ]
        what = f"stages trained to 99 % of the exact hypervolume, {pool} pool"
        rows.append(Row(what, "-", ", ".join(told)))
    return rows


def answers(found: Found) -> list[Row]:
    best = max(found["rules"], key=lambda one: float(one["validation"]))
    rule, gain = best["rule"], best["difference"]
    switches = [key for key in ("temperature", "average", "weighted") if rule[key]]
    interval = " to ".join(f"{100 * gain[end]:+.2f}" for end in ("low", "high"))
    figure = f"{' + '.join([rule['confidence'], *switches])}: {100 * gain['estimate']:+.2f}"
    what = "hypervolume on test of the rule best on validation, against the default (points)"
    return [Row(what, "-", f"{figure} ({interval})")]


def ingredients(found: Found) -> list[Row]:
    equal, less = (one["times"]["estimate"] for one in found["headline"])
    everything = found["variants"][0]
    gain = 100 * everything["budget"]["change"]["estimate"]
    pool = found["pool"]
    counts = found["stages_to_goal"]
    stages = f"{median(counts['tpe']):g} of {counts['all'][0]}"
    return [
        at_least(f"times fewer FLOPs at {found['top']}'s accuracy, test, {pool}", equal, 5),
        at_least("the same at one point less", less, 8),
        at_least("points more than any stage at half of the top's FLOPs", gain, 0.01),
        Row("stages that TPE trains to 99 % of the exact hypervolume", "-", stages),
    ]


def training(found: Found) -> list[Row]:
    from benchmarks.training import GOALS

    rows = []
    for rate in found["rates"]:
        what = (
            f"{rate['what']} at {rate['resolution']} pixels: times the images of the ordinary way"
        )
        for text, key in ((what, "ratio"), ("the same per processor time", "processor_ratio")):
            value = rate[key]["ordinary"]["median"]
            goal = GOALS.get((rate["what"], rate["resolution"]))
            rows.append(
                Row(text, "-", f"{value:.2f}") if goal is None else at_least(text, value, goal)
            )
    if reached := found.get("accuracy"):
        own, other = (f"{100 * reached[way]:.1f} %" for way in ("rcopt", "ordinary"))
        rows.append(Row("accuracy after a short training", other, own))
    return rows


def loop(found: Found) -> list[Row]:
    rows = []
    for one in found["trials"]:
        what = f"a {one['sampler']} trial without training, after {one['before']:,}"
        rows.append(Row(what, "-", f"{one['processor']:.1f} ms of processor time"))
    for command, one in found["commands"].items():
        if one["goal"] is not None:
            rows.append(at_most(f"rcopt {command}", one["seconds"], one["goal"], " s"))
            rows.append(at_most("the same in processor time", one["processor"], one["goal"], " s"))
    return rows


def workers(found: Found) -> list[Row]:
    runs: dict[tuple[str, int], list[float]] = {}
    for run in found["runs"]:
        runs.setdefault((run["storage"], run["workers"]), []).append(run["trials_per_second"])
    return [
        Row(f"trials of {count} workers, {storage}", "-", f"{median(rates):.1f} a second")
        for (storage, count), rates in runs.items()
    ]


def memory(found: Found) -> list[Row]:
    return [
        at_most(
            f"memory: {one['backbone']} at 224 pixels, batch {one['batch_size']}",
            one["peak_gb"],
            3,
            " GB",
        )
        for one in found["peaks"]
    ]


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


READERS: dict[str, Callable[[Found], list[Row]]] = {
    "fronts": fronts,
    "logging_cost": logging_cost,
    "execution": execution,
    "samplers": samplers,
    "answers": answers,
    "ingredients": ingredients,
    "loop": loop,
    "workers": workers,
    "training": training,
    "memory": memory,
}

if __name__ == "__main__":
    sys.exit(main())
