"""Compare what to train first: ``python -m benchmarks.replay``.

Nothing is trained. A strategy asks for stages of a pool one by one; each is handed to it as it
was recorded, and the seconds that its training took are charged. What counts is after how many
seconds the exact front of the stages so far has 90, 95 and 99 % of the hypervolume share of the
whole pool's, on validation, and how much of that share's equal on test is then still lacking.

Pools: the recorded Imagenette stages in studies/imagenette-predictions, their hypervolume share
once measured from the accuracy of guessing and once, as rcopt shows it, from the cheapest stage's;
and simulated ones, drawn anew for each seed, whose seconds grow with FLOPs to the power 0.8.

Strategies that draw at random get a seed of their own each time. TPE and NSGA-II are told the
exact front, as in a study. Prints a table for each pool and writes results/replay.json.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import optuna

from benchmarks.next_stage import outlook
from benchmarks.pools import POOL, Pool, StageKey, recorded, simulated
from benchmarks.searches import search
from rcopt.core.answers import AnswerRule
from rcopt.core.hypervolumes import frame_of, hypervolume_share
from rcopt.core.outcomes import with_test
from rcopt.core.trained_stage import TrainedStage

RESULTS = Path(__file__).parent / "results"
GOALS = (0.90, 0.95, 0.99)
SEEDS = 21
OURS = "ours"

#: Seconds charged so far, and the stages that have become whole by then.
Step = tuple[float, Sequence[StageKey]]


@dataclass(frozen=True, eq=False)
class Recording:
    """A pool and the seconds of its stages."""

    pool: Pool

    @property
    def seconds(self) -> dict[StageKey, float]:
        """Of each stage's whole training."""
        return {key: trained.seconds for key, trained in self.pool.stages.items()}


def in_order(recording: Recording, order: Sequence[StageKey]) -> Iterator[Step]:
    """Train stages in a given order."""
    spent = accumulate(recording.seconds[key] for key in order)
    yield from ((seconds, [key]) for seconds, key in zip(spent, order, strict=True))


def random_order(recording: Recording, seed: int) -> Iterator[Step]:
    stages = recording.pool.by_cost()
    order = np.random.default_rng(seed).permutation(len(stages)).tolist()
    return in_order(recording, [stages[n] for n in order])


def by_time(recording: Recording, seed: int) -> Iterator[Step]:
    seconds = recording.seconds
    return in_order(recording, sorted(seconds, key=seconds.__getitem__))


def by_flops(recording: Recording, seed: int) -> Iterator[Step]:
    return in_order(recording, recording.pool.by_cost())


def everything(recording: Recording, seed: int) -> Iterator[Step]:
    """Train all and look at the front then."""
    yield sum(recording.seconds.values()), recording.pool.by_cost()


def optuna_sampler(name: Literal["tpe", "nsga2"]) -> Callable[[Recording, int], Iterator[Step]]:
    def order(recording: Recording, seed: int) -> Iterator[Step]:
        trace = search(recording.pool, name, "deferral_rate", seed=seed, trials=300, told=True)
        return in_order(recording, trace.order)

    return order


def ours(recording: Recording, seed: int) -> Iterator[Step]:
    """Train what gains most of the front per second, as `benchmarks.next_stage` forecasts it."""
    stages = recording.pool.stages
    work = {t.stage.id: t.macs * float(t.details["epochs"]) for t in stages.values()}
    trained: list[TrainedStage] = []
    spent = 0.0
    while len(trained) < len(stages):
        left = [t.stage for t in stages.values() if t not in trained]
        chosen = outlook(trained, left, work, seed=seed).forecasts[0].stage
        trained.append(stages[chosen])
        spent += trained[-1].seconds
        yield spent, [(chosen.resolution, chosen.backbone)]


STRATEGIES: Mapping[str, Callable[[Recording, int], Iterator[Step]]] = {
    "random order": random_order,
    "in order of time": by_time,
    "in order of FLOPs": by_flops,
    "everything": everything,
    "TPE": optuna_sampler("tpe"),
    "NSGA-II": optuna_sampler("nsga2"),
    OURS: ours,
}


def seconds_to_goals(recording: Recording, steps: Iterator[Step]) -> dict[str, Any]:
    """Return the seconds after which each goal was reached, and what test then lacks.

    A goal that is never reached takes infinitely long. The last is followed no further.
    """
    found: dict[float, float] = {}
    known: list[StageKey] = []
    for spent, keys in steps:
        known += keys
        share = recording.pool.share(known)
        found |= {goal: spent for goal in GOALS if share >= goal - 1e-9 and goal not in found}
        if len(found) == len(GOALS):
            break
    return {
        "seconds": [found.get(goal, float("inf")) for goal in GOALS],
        "regret": test_regret(recording.pool, known) if len(found) == len(GOALS) else None,
    }


def test_regret(pool: Pool, keys: Sequence[StageKey]) -> float | None:
    """Return what the front of some stages lacks on test; None where there is no test."""
    if not all("test" in trained.predictions for trained in pool.stages.values()):
        return None
    return test_share(pool, pool.by_cost()) - test_share(pool, keys)


def test_share(pool: Pool, keys: Sequence[StageKey]) -> float:
    """Return the hypervolume share on test of the front that validation picks."""
    stages = list(pool.stages.values())
    own = [t.predictions.get("test") for t in stages]
    frame = frame_of([p.accuracy for p in own if p], [t.stage.flops for t in stages])
    points = with_test(pool.front(keys).points, stages, AnswerRule())
    tests = [point.test for point in points if point.test]
    return hypervolume_share([t.accuracy for t in tests], [t.mean_flops for t in tests], frame)


def pools(seeds: int) -> dict[str, list[Recording]]:
    """Return the recordings of each kind; of one, all orders are on the same."""
    kinds: dict[str, list[Recording]] = {
        "simulated": [simulated_recording(s) for s in range(seeds)]
    }
    if stages := recorded(POOL):
        kinds["imagenette, from the cheapest stage's accuracy"] = [Recording(Pool(stages))]
        kinds["imagenette"] = [Recording(Pool(stages, floor=0.1))]
    return kinds


def simulated_recording(seed: int) -> Recording:
    """Return 15 made-up stages whose training takes made-up seconds."""
    rng = np.random.default_rng([seed, 2])
    stages = [
        TrainedStage(
            trained.stage,
            trained.predictions,
            trained.key,
            macs=round(trained.stage.flops / 2),
            parameters=1,
            seconds=1e-5 * trained.stage.flops**0.8 * float(np.exp(rng.normal(0, 0.2))),
            details={"epochs": "1"},
        )
        for trained in simulated(seed)
    ]
    return Recording(Pool(stages))


def compare(recordings: Sequence[Recording], seeds: int) -> dict[str, Any]:
    """Let every strategy search with every seed, each on the next of the recordings."""
    found: dict[str, Any] = {}
    for name, strategy in STRATEGIES.items():
        runs = []
        for seed in range(seeds):
            recording = recordings[seed % len(recordings)]
            runs.append(seconds_to_goals(recording, strategy(recording, seed)))
        seconds = np.array([run["seconds"] for run in runs])
        regrets = [run["regret"] for run in runs if run["regret"] is not None]
        found[name] = {
            "seconds": [_finite(median(column)) for column in seconds.T.tolist()],
            "low": [_finite(value) for value in np.quantile(seconds, 0.25, 0, method="lower")],
            "high": [_finite(value) for value in np.quantile(seconds, 0.75, 0, method="higher")],
            "regret": median(regrets) if regrets else None,
        }
    return found


def best_other(found: Mapping[str, Any], goal: int) -> tuple[str, float]:
    """Return the strategy, ours left out, that reaches a goal in the fewest seconds."""
    reached = {
        name: one["seconds"][goal]
        for name, one in found.items()
        if name != OURS and one["seconds"][goal] is not None
    }
    name = min(reached, key=reached.__getitem__)
    return name, reached[name]


def print_table(kind: str, found: Mapping[str, Any]) -> None:
    """Print the seconds to each goal, median and middle half."""
    print(f"\n{kind}: seconds of training to a share of the pool's front; median (middle half)")
    heads = "".join(f"{f'{100 * goal:.0f} %':>26}" for goal in GOALS)
    print(f"{'':20}{heads}   lacking on test")
    for name, one in found.items():
        cells = [
            f"{_shown(middle)} ({_shown(low)} to {_shown(high)})"
            for middle, low, high in zip(one["seconds"], one["low"], one["high"], strict=True)
        ]
        regret = "-" if one["regret"] is None else f"{one['regret']:+.4f}"
        print(f"{name:20}{''.join(f'{cell:>26}' for cell in cells)}   {regret}")


def verdict(found: Mapping[str, Any], goal: int) -> str:
    """Return the line that compares ours with the best of the others."""
    own = found[OURS]["seconds"][goal]
    name, other = best_other(found, goal)
    return (
        f"{100 * GOALS[goal]:.0f} %: ours {own:,.0f} s, best other {name} {other:,.0f} s, "
        f"ratio {own / other:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare what to train first.")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="orders and seeds of each")
    parser.add_argument("--pool", action="append", help="only this kind; may be repeated")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds = pools(options.seeds)
    chosen = {kind: kinds[kind] for kind in options.pool or kinds}
    results = {}
    for kind, own in chosen.items():
        results[kind] = compare(own, options.seeds)
        print_table(kind, results[kind])
        for goal in range(len(GOALS)):
            print(verdict(results[kind], goal), flush=True)
    if options.pool is None:
        written = {"goals": GOALS, "seeds": options.seeds, "pools": results}
        (RESULTS / "replay.json").write_text(json.dumps(written, indent=1) + "\n")


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


if __name__ == "__main__":
    main()
