"""How often the promises of ``--certify`` are broken: ``python -m benchmarks.certificates``.

The world is the 3,925 held-out images of six recorded stages. In each draw validation and
calibration images are drawn from it with replacement, apart from each other. A cascade is
certified with 90 % confidence as `rcopt select --certify` does it, and the whole world says
whether the promise holds: it may be broken in at most 10 % of the draws. Where nothing is
certified nothing is broken. Three sizes with three limits, both promises, 200 draws
each.

Prints a table and writes results/certificates.json. Four minutes of one core.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.coverage import drawn, pool
from rcopt.core.cascade import Cascade
from rcopt.core.outcomes import cascade_outcomes
from rcopt.core.predictions import Split
from rcopt.core.statistics.certify import Promise, certify
from rcopt.core.statistics.paired_test import counts
from rcopt.core.study_front import lost_front
from rcopt.core.trained_stage import TrainedStage

RESULTS = Path(__file__).parent / "results"
CONFIDENCE = 0.9
#: Validation and calibration images, and the limit.
WORLDS = ((1_572, 781, 0.01), (300, 300, 0.03), (100, 50, 0.05))


@dataclass(frozen=True)
class Kept:
    """How a promise fares over many draws.

    Attributes:
        broken: Share of the draws in which a cascade is certified that breaks it.
        error: Standard error of that share.
        certified: Share of the draws in which anything is certified.
        saving: The reference's mean FLOPs over the certified cascade's, 1 where nothing is
            certified; geometric mean.
    """

    broken: float
    error: float
    certified: float
    saving: float


def kept(
    world: Sequence[TrainedStage],
    n_validation: int,
    n_calibration: int,
    limit: float,
    draws: int,
    seed: int = 0,
) -> dict[Promise, Kept]:
    """Return how often each promise is broken.

    Args:
        world: From `benchmarks.coverage.world_of`.
        n_validation: Images that candidates are found on.
        n_calibration: Images that they are certified on.
        limit: What is promised, as a share.
        draws: At least 2.
        seed: Of the draws.
    """
    sizes: dict[Split, int] = {"validation": n_validation, "calibration": n_calibration}
    promises: tuple[Promise, ...] = get_args(Promise)
    broken: dict[Promise, list[bool]] = {promise: [] for promise in promises}
    savings: dict[Promise, list[float]] = {promise: [] for promise in promises}
    for draw in range(draws):
        stages = drawn(world, sizes, np.random.default_rng([seed, n_validation, draw]))
        top = max(stages, key=lambda t: (t.predictions["validation"].accuracy, -t.stage.flops))
        candidates = lost_front(stages, top.stage)
        for promise in promises:
            point = None
            if candidates:
                point = certify(
                    candidates, stages, top.stage, limit, CONFIDENCE, promise=promise
                ).point
            cascade = Cascade((top.stage,), ()) if point is None else point.cascade
            own, alone = cascade_outcomes([cascade, Cascade((top.stage,), ())], world, "test")
            lost, gained = counts(alone.correct, own.correct)
            given_up = lost - (gained if promise == "accuracy" else 0)
            broken[promise].append(point is not None and given_up >= limit * len(own.correct))
            savings[promise].append(top.stage.flops / own.evaluation.mean_flops)
    return {
        promise: Kept(
            broken=float(np.mean(broken[promise])),
            error=float(np.std(broken[promise]) / np.sqrt(draws)),
            certified=float(np.mean(np.array(savings[promise]) > 1)),
            saving=float(np.exp(np.mean(np.log(savings[promise])))),
        )
        for promise in promises
    }


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    arguments = parser.parse_args()
    world, results = pool(), []
    for validation, calibration, limit in WORLDS:
        for promise, one in kept(world, validation, calibration, limit, arguments.draws).items():
            results.append(
                {
                    "validation": validation,
                    "calibration": calibration,
                    "limit": limit,
                    "promise": promise,
                    "draws": arguments.draws,
                }
                | {key: round(value, 4) for key, value in asdict(one).items()}
            )
            print(
                f"{validation:5} / {calibration:3}, {limit:.0%}, {promise:8} broken in "
                f"{one.broken:5.1%} ({one.error:.1%}), certified in {one.certified:.0%}, "
                f"{one.saving:.2f} times fewer FLOPs",
                flush=True,
            )
    (RESULTS / "certificates.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
