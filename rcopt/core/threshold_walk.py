"""The compiled loops behind `rcopt.core.threshold_sweep`, which says what they are for."""

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., object])

#: How far a walk may fall behind what is known, for the result to be exact: a vector is passed
#: over only where a known one has more right answers for no more cost.
EXACT = -1


def _compiled(function: F) -> F:
    """Compile a function, kept from run to run where there is a folder to keep it in."""
    try:
        return cast(F, njit(cache=True, nogil=True)(function))
    except RuntimeError:
        # No folder that can be written, as in some containers: compiled anew in each process.
        return cast(F, njit(nogil=True)(function))


@_compiled
def _keep(
    right: int,
    cost: float,
    at: NDArray[np.int64],
    final: int,
    known: NDArray[np.float64],
    least: NDArray[np.float64],
    chosen: NDArray[np.int64],
) -> None:
    """Note what candidates cost; ``final`` is that of the last deferring stage."""
    last = len(at) - 1
    if cost > least[right]:
        return
    if cost == least[right]:
        for k in range(last + 1):
            own = final if k == last else at[k]
            if own != chosen[right, k]:
                if own > chosen[right, k]:
                    return
                break
    least[right] = cost
    chosen[right] = at
    chosen[right, last] = final
    while right >= 0 and known[right] > cost:
        known[right] = cost
        right -= 1


@_compiled
def _lead(right: int, cost: float, known: NDArray[np.float64]) -> int:
    """Return how many more right answers than ``right`` are known for no more cost."""
    most = right
    while most + 1 < len(known) and known[most + 1] <= cost:
        most += 1
    return most - right


@_compiled
def _scan(
    tally: NDArray[np.int64],
    size: int,
    right: int,
    total: float,
    cost: float,
    at: NDArray[np.int64],
    known: NDArray[np.float64],
    least: NDArray[np.float64],
    chosen: NDArray[np.int64],
) -> int:
    """Move up the candidate of the last deferring stage; return the least lead over it.

    ``right`` and ``total`` are the right answers and cost when it passes on nothing, ``cost``
    that of the stage after it, ``at`` the candidates; ``tally`` holds, per candidate, the images
    that it newly passes on and by how much that changes the right answers. Only a new record of
    these can matter.
    """
    lead = _lead(right, total, known)
    most = right + lead
    passed = 0
    risen = 0
    record = 0
    for j in range(size):
        passed += tally[j, 0]
        risen += tally[j, 1]
        if risen > record:
            record = risen
            spent = total + passed * cost
            if spent <= least[right + risen]:
                _keep(right + risen, spent, at, j + 1, known, least, chosen)
            most = max(most, right + risen)
            while most + 1 < len(known) and known[most + 1] <= spent:
                most += 1
            lead = min(lead, most - right - risen)
    return lead


@_compiled
def walk(
    margin: int,
    steps: int,
    costs: NDArray[np.float64],
    weight: NDArray[np.int64],
    gain: NDArray[np.int64],
    useful: NDArray[np.int64],
    bucket: NDArray[np.int64],
    order: NDArray[np.int64],
    start: NDArray[np.int64],
    sizes: NDArray[np.int64],
    right: int,
    known: NDArray[np.float64],
    least: NDArray[np.float64],
    chosen: NDArray[np.int64],
) -> int:
    """Visit the combinations of candidates that can beat what is known.

    An image reaches stage k iff its ``depth`` is k or more. Per stage, ``passed`` counts the
    images that its candidate passes on, and ``rights`` and ``totals`` are the right answers and
    cost when the next stage answers all of these. ``risk`` counts the useful images passed on
    since this stage's candidate was last looked at, and ``room`` how many of them may be, since
    each can add one right answer at most. What the stages below leave of their lead, ``spare``,
    is the room of the stage above. A loop with its own stack: numba's cache does not survive a
    function that calls itself.

    Returns:
        The steps that were left; negative if they did not suffice.
    """
    final, n = gain.shape[0] - 1, gain.shape[1]
    depth = np.zeros(n, dtype=np.int8)
    tally = np.zeros((sizes[final] + 1, 2), dtype=np.int64)
    at = np.zeros(final + 1, dtype=np.int64)
    passed = np.zeros(final + 1, dtype=np.int64)
    risk = np.zeros(final + 1, dtype=np.int64)
    room = np.zeros(final + 1, dtype=np.int64)
    spare = np.zeros(final + 1, dtype=np.int64)
    rights = np.zeros(final + 2, dtype=np.int64)
    totals = np.zeros(final + 2, dtype=np.float64)
    rights[0] = right
    totals[0] = weight.sum() * costs[0]
    _keep(right, totals[0], at, 0, known, least, chosen)
    if final == 0:
        for image in range(n):
            tally[bucket[image], 0] += weight[image]
            tally[bucket[image], 1] += gain[0, image]
        _scan(tally, sizes[0], right, totals[0], costs[1], at, known, least, chosen)
        return steps
    room[0] = max(0, _lead(right, totals[0], known) + margin)
    stage = 0
    while True:
        if at[stage] == sizes[stage]:
            for place in range(start[stage, at[stage]]):
                if depth[order[stage, place]] > stage:
                    depth[order[stage, place]] = stage
            at[stage] = 0
            if stage == 0:
                return steps
            lead = spare[stage]
            stage -= 1
        else:
            if at[stage] == 0:
                passed[stage] = 0
                risk[stage] = 0
                rights[stage + 1] = rights[stage]
                if stage + 1 == final:
                    tally[:] = 0
            for place in range(start[stage, at[stage]], start[stage, at[stage] + 1]):
                image = order[stage, place]
                if depth[image] == stage:
                    depth[image] = stage + 1
                    passed[stage] += weight[image]
                    rights[stage + 1] += gain[stage, image]
                    risk[stage] += useful[stage, image]
                    if stage + 1 == final:
                        tally[bucket[image], 0] += weight[image]
                        tally[bucket[image], 1] += gain[final, image]
            steps -= start[stage, at[stage] + 1] - start[stage, at[stage]]
            at[stage] += 1
            if risk[stage] <= room[stage]:
                continue
            if steps < 0:
                return steps
            risk[stage] = 0
            cost = totals[stage] + passed[stage] * costs[stage + 1]
            totals[stage + 1] = cost
            _keep(rights[stage + 1], cost, at, 0, known, least, chosen)
            if stage + 1 < final:
                # On to the next stage, which may use half of the lead over its beginning.
                lead = max(0, _lead(rights[stage + 1], cost, known) + margin)
                stage += 1
                room[stage] = lead // 2
                spare[stage] = lead - room[stage]
                continue
            steps -= sizes[final]
            own = rights[final]
            next_cost = costs[final + 1]
            lead = _scan(tally, sizes[final], own, cost, next_cost, at, known, least, chosen)
            lead = max(0, lead + margin)
        # Half of the lead is this stage's, the rest is left to the stages above.
        room[stage] = lead if stage == 0 else lead // 2
        spare[stage] = min(spare[stage], lead - room[stage])
