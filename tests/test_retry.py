"""Attempts in, one result out: or a bounded time of trying, and an error that says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from footfall.sinks import SinkUnavailableError
from footfall.sinks.retry import Backoff, call_with_retry


class Clock:
    """Time that passes only by sleeping, and by ``cost_s`` for every attempt."""

    def __init__(self, cost_s: float = 0.0) -> None:
        self.now_s = 1_000.0
        self.slept_s: list[float] = []
        self.cost_s = cost_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds

    def backoff(
        self, give_up_after_s: float, jitter: Callable[[], float] = lambda: 0.0
    ) -> Backoff:
        return Backoff(give_up_after_s, sleep=self.sleep, clock=lambda: self.now_s, jitter=jitter)


def failing(times: int, clock: Clock) -> Callable[[], str]:
    """Return an attempt that fails so many times and then succeeds."""
    left = [times]

    def attempt() -> str:
        clock.now_s += clock.cost_s
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionError("down")
        return "done"

    return attempt


def reason(error: Exception) -> str | None:
    return str(error) if isinstance(error, ConnectionError) else None


def run(attempt: Callable[[], str], backoff: Backoff) -> str:
    return call_with_retry(attempt, why_again=reason, target="the store", backoff=backoff)


def test_what_works_is_called_once_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    assert run(failing(0, clock), clock.backoff(10)) == "done"
    assert (clock.slept_s, caplog.messages) == ([], [])


def test_the_wait_doubles_up_to_its_limit() -> None:
    clock = Clock()
    assert run(failing(8, clock), clock.backoff(100)) == "done"
    assert clock.slept_s == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    with caplog.at_level(logging.INFO):
        run(failing(3, clock), clock.backoff(100))
    assert caplog.messages == [
        "the store: down; trying again for 100 s",
        "the store: works again after 0.7 s",
    ]


def test_it_gives_up_after_its_time_and_names_the_target() -> None:
    clock = Clock()
    with pytest.raises(
        SinkUnavailableError, match=r"^the store: down \(tried \d+ times in 30 s\)$"
    ):
        run(failing(10**9, clock), clock.backoff(30))
    assert sum(clock.slept_s) == pytest.approx(30)


def test_without_time_there_is_one_attempt() -> None:
    clock = Clock()
    with pytest.raises(SinkUnavailableError, match=r"^the store: down$"):
        run(failing(2, clock), clock.backoff(0))
    assert clock.slept_s == []


def test_an_error_that_will_not_pass_goes_through_at_once() -> None:
    clock = Clock()

    def attempt() -> str:
        raise LookupError("no such table")

    with pytest.raises(LookupError, match="no such table"):
        run(attempt, clock.backoff(30))
    assert clock.slept_s == []


@given(
    failures=st.integers(0, 60),
    give_up_after_s=st.floats(0, 300),
    cost_s=st.floats(0, 20),
    jitter=st.floats(0, 1),
)
def test_it_never_tries_for_longer_than_it_may(
    failures: int, give_up_after_s: float, cost_s: float, jitter: float
) -> None:
    clock = Clock(cost_s)
    started_s = clock.now_s
    with suppress(SinkUnavailableError):
        assert run(failing(failures, clock), clock.backoff(give_up_after_s, lambda: jitter))
    # The first attempt and the one under way at the end come on top.
    assert clock.now_s - started_s <= give_up_after_s + 2 * cost_s + 1e-6
    assert all(0 <= slept_s <= 5.0 for slept_s in clock.slept_s)
