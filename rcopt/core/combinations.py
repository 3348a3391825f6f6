"""The combinations of stages that cascades can be made of, fewest stages first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rcopt.core.cascade import Stage

#: Stages of a cascade, where there are not too many combinations.
MAX_STAGES = 4

#: Combinations of the same number of stages up to which they are all swept.
MAX_COMBINATIONS = 500_000


def rank(combination: tuple[Stage, ...]) -> tuple[int, list[tuple[int, str]]]:
    """Return what says which of equal points stays: fewer stages, then their names."""
    return len(combination), [(stage.resolution, stage.backbone) for stage in combination]


@dataclass(frozen=True)
class Choices:
    """The stages that a cascade may have at one resolution.

    Attributes:
        stages: In the order of their names.
        required: Whether a cascade must have one of them.
    """

    stages: tuple[Stage, ...]
    required: bool


def combinations_of(choices: Sequence[Choices], most: int) -> Iterator[tuple[Stage, ...]]:
    """Yield all combinations of 1 to ``most`` stages, in the order of `rank`.

    Args:
        choices: By rising resolution.
        most: Stages of a combination.
    """
    for length in range(1, most + 1):
        yield from _of_length(choices, length)


def count_combinations(choices: Sequence[tuple[int, bool]], length: int) -> int:
    """Return the number of combinations of so many stages.

    Args:
        choices: For each resolution the number of its stages, and whether one is required.
        length: Stages of a combination.
    """
    counts = [1] + [0] * length
    for size, required in choices:
        longer = [0] + [size * count for count in counts[:-1]]
        counts = longer if required else [a + b for a, b in zip(counts, longer, strict=True)]
    return counts[length]


def _of_length(choices: Sequence[Choices], length: int) -> Iterator[tuple[Stage, ...]]:
    required = sum(own.required for own in choices)
    if not required <= length <= len(choices):
        return
    if length == 0:
        yield ()
        return
    for place, own in enumerate(choices):
        for stage in own.stages:
            for rest in _of_length(choices[place + 1 :], length - 1):
                yield (stage, *rest)
        if own.required:
            return


def most_stages(choices: Sequence[tuple[int, bool]]) -> int:
    """Return how many stages cascades have at most, so that all of them can be swept.

    Args:
        choices: As in `count_combinations`.

    Returns:
        `MAX_STAGES`, or fewer where there are more than `MAX_COMBINATIONS`; never fewer than the
        required resolutions.
    """
    most = max(1, sum(required for _, required in choices))
    while most < MAX_STAGES and count_combinations(choices, most + 1) <= MAX_COMBINATIONS:
        most += 1
    return most
