"""Freed memory is kept while training, and given back afterwards."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="concerns glibc")

# Page faults of ten rounds of allocating, filling and freeing 64 MB; pages are 4 to 64 KB.
SCRIPT = """
import resource

import torch

from rcopt.models.allocation import memory_kept


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


torch.ones(2**24)
outside = faults()
with memory_kept():
    faults()  # the heap grows to what is needed
    inside = faults()
    kept = resident()
given_back = kept - resident()
print(outside, inside, given_back)
"""


def measured(**environment: str) -> list[int]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=own | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return [int(word) for word in answer.stdout.split()]


def test_pages_are_reused_inside_and_given_back_afterwards() -> None:
    outside, inside, given_back = measured()
    assert outside >= 10 * 64 * 2**20 / 65_536
    assert inside < outside / 50
    assert given_back > 48 * 2**20


def test_what_the_environment_says_stays() -> None:
    outside, inside, _ = measured(MALLOC_ARENA_MAX="4")
    assert inside > outside / 2
