from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcopt.errors import UnreachableError, WorkError
from rcopt.progress import Progress
from rcopt.study.workers.retrying import FIRST_PAUSE, LONGEST_PAUSE, RetryPolicy


class Told(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def retries(limit: float) -> tuple[RetryPolicy, Told, Time]:
    told, time = Told(), Time()
    return RetryPolicy(limit, told, sleep=time.sleep, clock=lambda: time.now), told, time


class Server:
    """Fails so many times, then answers."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise UnreachableError("the server does not answer")
        return "answer"


def test_a_server_that_answers_is_asked_once_and_nothing_is_said() -> None:
    wait, told, time = retries(60)
    assert wait(Server(0)) == "answer"
    assert (told.lines, time.pauses) == ([], [])


@given(st.integers(1, 12))
def test_an_outage_is_waited_for_with_growing_pauses_and_told_once(failures: int) -> None:
    wait, told, time = retries(1e6)
    assert wait(Server(failures)) == "answer"
    assert len(time.pauses) == failures
    assert time.pauses[0] == FIRST_PAUSE
    for before, after in pairwise(time.pauses):
        assert after == min(2 * before, LONGEST_PAUSE)
    assert told.lines[0].startswith("the server does not answer; retrying for up to")
    assert told.lines[1].startswith("connection restored after ")
    assert len(told.lines) == 2


def test_the_limit_ends_the_waiting_with_the_reason() -> None:
    wait, _, time = retries(100)
    with pytest.raises(WorkError, match=r"does not answer; waited 100 s.*same command") as caught:
        wait(Server(1000))
    assert time.now == 100
    # Whoever waits around it must not wait once more.
    assert not isinstance(caught.value, UnreachableError)


def test_each_outage_has_the_whole_limit() -> None:
    wait, _, time = retries(10)
    for _ in range(5):
        assert wait(Server(3)) == "answer"
    assert time.now > 10


def test_other_failures_are_not_waited_for() -> None:
    wait, told, _ = retries(60)

    def fail() -> None:
        raise WorkError("training diverged")

    with pytest.raises(WorkError, match="diverged"):
        wait(fail)
    assert told.lines == []
