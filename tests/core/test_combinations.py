from collections.abc import Sequence
from itertools import islice, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcopt.core.cascade import Stage
from rcopt.core.combinations import (
    MAX_COMBINATIONS,
    Choices,
    combinations_of,
    count_combinations,
    most_stages,
    rank,
)

SPACES = st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=4)


def choices_of(sizes: Sequence[tuple[int, bool]]) -> list[Choices]:
    return [
        Choices(tuple(Stage(32 * (i + 1), f"net{j}", 1.0) for j in range(size)), required)
        for i, (size, required) in enumerate(sizes)
    ]


def plainly(choices: Sequence[Choices], most: int) -> list[tuple[Stage, ...]]:
    """All choices of a stage or none per resolution, filtered and sorted."""
    options = [(*own.stages, *(() if own.required else (None,))) for own in choices]
    found = [tuple(s for s in one if s is not None) for one in product(*options)]
    return sorted((one for one in found if 1 <= len(one) <= most), key=rank)


@given(SPACES, st.integers(0, 5))
def test_combinations_equal_the_sorted_product(sizes: list[tuple[int, bool]], most: int) -> None:
    choices = choices_of(sizes)
    assert list(combinations_of(choices, most)) == plainly(choices, most)


@given(SPACES, st.integers(1, 5))
def test_counts_are_those_of_the_combinations(sizes: list[tuple[int, bool]], length: int) -> None:
    found = [c for c in combinations_of(choices_of(sizes), length) if len(c) == length]
    assert count_combinations(sizes, length) == len(found)


def test_the_first_of_very_many_combinations_come_at_once() -> None:
    many = choices_of([(12, False)] * 12)
    assert [len(c) for c in islice(combinations_of(many, 12), 144 + 5)] == [1] * 144 + [2] * 5


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ([(5, False)] * 8, 4),
        ([(8, False)] * 8, 4),
        ([(10, False)] * 10, 3),
        ([(12, False)] * 12, 3),
        ([(60, False)] * 12, 2),
        ([(2, True)] * 6, 6),
        ([(1, False)], 4),
        ([], 4),
    ],
)
def test_cascades_have_as_many_stages_as_can_all_be_swept(
    sizes: list[tuple[int, bool]], most: int
) -> None:
    assert most_stages(sizes) == most
    if not any(required for _, required in sizes):
        assert count_combinations(sizes, most) <= MAX_COMBINATIONS
