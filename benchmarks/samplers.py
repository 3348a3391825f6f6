"""Compare samplers on trained stages: ``python -m benchmarks.samplers [--gp POOL ..]``.

Nothing is trained, stored or logged: a search discovers the stages of a pool in the order in
which its trials ask for them, and its front is told as a share of the hypervolume of the exact
front of the whole pool, on validation. Three pools: the recorded one of real stages in
studies/imagenette-small-predictions, and two larger simulated ones, drawn anew for each seed: in
one deeper stages are better by and large, in the other depth is worth nothing and chance all.

Prints a table and writes results/samplers.json and results/samplers.png. GP takes
up to a second of processor time a trial: it is run on the pools named by ``--gp`` alone, and its
stored curves are kept for the others.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib

matplotlib.use("Agg")

import numpy as np
import optuna
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.pools import Pool, StageKey, recorded, simulated
from benchmarks.searches import Scale, Trace, search
from rcopt.study.samplers import SamplerName

#: Whether the exact front counts: not at all, without the sampler's knowing, or told to it.
Sweep = Literal["none", "beside", "told"]
Shares = NDArray[np.float64]

RESULTS = Path(__file__).parent / "results"
SAMPLERS: tuple[SamplerName, ...] = ("random", "tpe", "nsga2", "gp")
#: 4 k + 1 seeds: median and quartiles are then seeds' own numbers.
SEEDS = 13
TRIALS: dict[SamplerName, int] = {"random": 200, "tpe": 200, "nsga2": 200, "gp": 60}
SHOWN_TRIALS = (1, 2, 3, 5, *range(10, 201, 5))
GOAL = 0.99
#: What needs no sampler: a fixed order of training; the last one nobody can know beforehand.
ORDERS: dict[str, Callable[[Pool], list[StageKey]]] = {
    "in order of cost": Pool.by_cost,
    "spread over cost": Pool.spread_over_cost,
    "greedy in hindsight": Pool.greedy,
}


@dataclass(frozen=True, eq=False)
class Curve:
    """One search as it is compared.

    Attributes:
        by_trial: (T,) share after each trial.
        by_stage: (S,) share reached while at most 1, 2, .. S stages were trained.
        seconds: Processor time of the sampler, per trial.
    """

    by_trial: Shares
    by_stage: Shares
    seconds: float


def main() -> None:
    options = _options()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    RESULTS.mkdir(exist_ok=True)
    stored = RESULTS / "samplers.json"
    before = json.loads(stored.read_text()) if stored.exists() else {"arms": [], "pools": {}}
    found: dict[str, Any] = {"hardware": hardware(), "seeds": SEEDS, "goal": GOAL, "pools": {}}
    arms: list[dict[str, Any]] = []
    for name, draw_pool in pools().items():
        chosen = [one for one in SAMPLERS if one != "gp" or name in options.gp]
        result = compare(name, draw_pool, chosen, seeds=SEEDS, trials=TRIALS)
        found["pools"][name] = result["baselines"]
        arms += result["arms"]
        # Curves on other stages would not be comparable.
        if before["pools"].get(name) == result["baselines"]:
            old = [arm for arm in before["arms"] if arm["pool"] == name]
            arms += [arm for arm in old if arm["sampler"] not in chosen]
    arms.sort(key=lambda arm: (arm["pool"], arm["scale"], SAMPLERS.index(arm["sampler"])))
    lines = ",\n".join(json.dumps(arm) for arm in arms)
    stored.write_text(f'{json.dumps(found)[:-1]},\n"arms": [\n{lines}\n]}}\n')
    draw(arms, found["pools"])
    print(found["hardware"])
    for name, baselines in found["pools"].items():
        print_table(name, [arm for arm in arms if arm["pool"] == name], baselines)


def pools() -> dict[str, Callable[[int], Pool]]:
    """Return what gives each pool for a seed."""
    found: dict[str, Callable[[int], Pool]] = {
        "simulated": lambda seed: Pool(simulated(seed)),
        "flat": lambda seed: Pool(simulated(seed, gain=0.0, noise=0.02)),
    }
    if stages := recorded():
        real = Pool(stages)
        found["recorded"] = lambda _: real
    return found


def hardware() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    load = f"load average {os.getloadavg()[0]:.1f} before the run"
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {load}"


def compare(
    name: str,
    draw_pool: Callable[[int], Pool],
    samplers: Sequence[SamplerName],
    *,
    seeds: int,
    trials: Mapping[SamplerName, int],
) -> dict[str, Any]:
    """Run every sampler, scale and sweep for every seed.

    Returns:
        ``arms``: for each of them medians and quartiles over the seeds; ``baselines``: the
        same for stages trained in a fixed order.
    """
    curves: dict[tuple[SamplerName, Scale, Sweep], list[Curve]] = {}
    orders: dict[str, list[Shares]] = {}
    for seed in tqdm(range(seeds), desc=name, disable=None):
        pool = draw_pool(seed)
        for title, order in ORDERS.items():
            orders.setdefault(title, []).append(pool.shares(order(pool)))
        for sampler, scale in product(samplers, get_args(Scale)):
            for told in (False, True):
                trace = search(pool, sampler, scale, seed=seed, trials=trials[sampler], told=told)
                for sweep, curve in curves_of(trace, pool, trials[sampler], told).items():
                    curves.setdefault((sampler, scale, sweep), []).append(curve)
    arms = [
        {"pool": name, "sampler": sampler, "scale": scale, "sweep": sweep, **summary(found)}
        for (sampler, scale, sweep), found in curves.items()
    ]
    return {"arms": arms, "baselines": {t: by_stage(found) for t, found in orders.items()}}


def curves_of(trace: Trace, pool: Pool, trials: int, told: bool) -> dict[Sweep, Curve]:
    # A search that was told ends with every stage trained: its front is the pool's from there.
    swept = np.concatenate([trace.swept, np.ones(trials - len(trace.swept))])
    trained = pool.shares(trace.order)
    trained = np.append(trained, np.full(len(pool.stages) - len(trained), trained[-1]))
    if told:
        return {"told": Curve(swept, trained, trace.seconds)}
    reached = [trace.sampled[trace.stages <= s] for s in range(1, len(pool.stages) + 1)]
    sampled = np.array([shares[-1] if len(shares) else 0.0 for shares in reached])
    return {
        "none": Curve(trace.sampled, sampled, trace.seconds),
        "beside": Curve(swept, trained, trace.seconds),
    }


def summary(curves: Sequence[Curve]) -> dict[str, Any]:
    shares = np.array([curve.by_trial for curve in curves])
    shown = [t for t in SHOWN_TRIALS if t <= shares.shape[1]]
    return {
        "trials": shown,
        "by_trial": _quartiles(shares[:, np.array(shown) - 1]),
        "trials_to_goal": _quartiles(_first(shares)),
        **by_stage([curve.by_stage for curve in curves]),
        "milliseconds": round(1000 * float(np.median([curve.seconds for curve in curves])), 2),
    }


def by_stage(curves: Sequence[Shares]) -> dict[str, Any]:
    shares = np.array(curves)
    first = _first(shares)
    return {
        "by_stage": _quartiles(shares),
        "stages_to_goal": _quartiles(first) | {"each": _plain(first)},
    }


def draw(arms: Sequence[dict[str, Any]], baselines: Mapping[str, dict[str, Any]]) -> None:
    figure, panels = plt.subplots(
        len(baselines), 2, figsize=(11, 4.2 * len(baselines)), layout="constrained", squeeze=False
    )
    for (left, right), (name, fixed) in zip(panels, baselines.items(), strict=True):
        for arm in arms:
            if arm["pool"] != name or arm["scale"] != "deferral_rate" or arm["sweep"] == "beside":
                continue
            told = arm["sweep"] == "told"
            style = {"color": f"C{SAMPLERS.index(arm['sampler'])}", "ls": "-" if told else ":"}
            label = arm["sampler"] + (", exact sweep told" if told else ", sampled trials alone")
            _band(left, list(range(1, len(arm["by_stage"]["median"]) + 1)), arm["by_stage"], style)
            _band(right, arm["trials"], arm["by_trial"], style | {"label": label})
        for (title, order), color in zip(fixed.items(), ("black", "grey", "silver"), strict=True):
            median = order["by_stage"]["median"]
            left.plot(range(1, len(median) + 1), median, color=color, lw=1, label=title)
        left.set(xlabel="stages trained", ylabel=f"{name} pool\nshare of exact hypervolume")
        right.set(xlabel="trials", xscale="log")
        for axes in (left, right):
            axes.set(ylim=(0.8, 1.005))
            axes.axhline(GOAL, color="grey", lw=0.5)
            axes.legend(fontsize=7, loc="lower right")
    figure.suptitle(f"Deferral rates proposed; median and quartiles of {SEEDS} seeds")
    figure.savefig(RESULTS / "samplers.png", dpi=110)
    plt.close(figure)


def print_table(
    name: str, arms: Sequence[dict[str, Any]], baselines: Mapping[str, dict[str, Any]]
) -> None:
    head = ("sampler", "proposed", "exact sweep", "stages to 99 %", "trials to 99 %")
    rows = [(f"{name} pool", *head, *(f"share after {t}" for t in (50, 100, 200)), "ms a trial")]
    for title, order in baselines.items():
        rows.append(("", title, "-", "-", _text(order["stages_to_goal"]), *["-"] * 5))
    for arm in arms:
        to_goal = (_text(arm["stages_to_goal"]), _text(arm["trials_to_goal"]))
        shares = [_share(arm, t) for t in (50, 100, 200)]
        cost = f"{arm['milliseconds']:.1f}"
        rows.append(("", arm["sampler"], arm["scale"], arm["sweep"], *to_goal, *shares, cost))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def _first(shares: Shares) -> NDArray[np.float64]:
    """Return the number (from 1) of each row's first value at the goal, inf if there is none."""
    reached = shares >= GOAL
    return np.asarray(np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf))


def _quartiles(values: NDArray[np.float64]) -> dict[str, Any]:
    # "nearest" takes one seed's value: nothing is interpolated with a seed that never arrives.
    quarters = np.quantile(values, [0.25, 0.5, 0.75], axis=0, method="nearest")
    return {name: _plain(q) for name, q in zip(("low", "median", "high"), quarters, strict=True)}


def _plain(values: NDArray[np.float64]) -> Any:
    """Return numbers as JSON has them; what was never reached is null."""
    if values.ndim:
        return [_plain(value) for value in values]
    return round(float(values), 4) if np.isfinite(values) else None


def _band(axes: Axes, x: Sequence[int], band: Mapping[str, list[float]], style: Any) -> None:
    axes.plot(x, band["median"], **style)
    axes.fill_between(x, band["low"], band["high"], color=style["color"], alpha=0.12, lw=0)


def _text(band: Mapping[str, float | None]) -> str:
    low, median, high = (
        "never" if band[k] is None else f"{band[k]:.0f}" for k in ("low", "median", "high")
    )
    return f"{median} ({low} to {high})"


def _share(arm: Mapping[str, Any], trial: int) -> str:
    if trial not in arm["trials"]:
        return "-"
    at = arm["trials"].index(trial)
    low, median, high = (f"{100 * arm['by_trial'][k][at]:.1f}" for k in ("low", "median", "high"))
    return f"{median} ({low} to {high})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--gp",
        nargs="+",
        default=[],
        choices=("simulated", "flat", "recorded"),
        metavar="POOL",
        help="run GP too, on the simulated, flat or recorded pool (some 20 minutes each)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
