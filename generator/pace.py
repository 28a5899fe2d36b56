"""The pace of a push: when rows are due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from footfall.generator.sources import Batch, Stream

TICK_S = 0.025
"""Seconds between two batches of a paced push."""
CATCH_UP_S = 1.0
"""Seconds of a delay that a push which fell behind its rate makes up for, in one burst."""
JUMP_MS = 7 * 86_400_000
"""Milliseconds between two rows beyond which a time is wrong, and not a quiet stretch."""

Clock = Callable[[], float]


class Pace(Protocol):
    """A pace, which decides what is due."""

    def take(self, stream: Stream, rows_max: int) -> Batch:
        """Return the rows that are due now."""

    def wait_s(self, stream: Stream) -> float:
        """Return the seconds to wait after that."""


def pace_of(rate_per_s: float | None, speed: float | None, clock: Clock) -> Pace:
    """Return the pace that is asked for. Raises ValueError for two at once, or one not above 0."""
    if rate_per_s is not None and speed is not None:
        raise ValueError("a push takes a rate or a speed, not both")
    if rate_per_s is not None:
        if not rate_per_s > 0:
            raise ValueError(f"a rate takes more than 0 records a second, not {rate_per_s:g}")
        return AtRate(rate_per_s, clock)
    if speed is not None:
        if not speed > 0:
            raise ValueError(f"a speed takes more than 0 event seconds a second, not {speed:g}")
        return ByEventTime(speed, clock)
    return AsItGoes()


class AsItGoes:
    """A pace at which all rows are due at once."""

    def take(self, stream: Stream, rows_max: int) -> Batch:
        """Return the next rows; see Pace."""
        return stream.take(rows_max)

    def wait_s(self, stream: Stream) -> float:
        """Return 0; see Pace."""
        return 0.0


class AtRate:
    """A pace of so many rows per second, whatever their event times."""

    def __init__(self, rate_per_s: float, clock: Clock) -> None:
        self._rate_per_s = rate_per_s
        self._clock = clock
        self._due = 1.0
        self._seen_s = clock()

    def take(self, stream: Stream, rows_max: int) -> Batch:
        """Return the rows that are due by the rate; see Pace."""
        now_s = self._clock()
        self._due += (now_s - self._seen_s) * self._rate_per_s
        self._due = min(self._due, max(1.0, self._rate_per_s * CATCH_UP_S))
        self._seen_s = now_s
        batch = stream.take(min(rows_max, int(self._due)))
        self._due -= batch.rows
        return batch

    def wait_s(self, stream: Stream) -> float:
        """Return the seconds until the next row is due; see Pace."""
        return max(TICK_S, (1.0 - self._due) / self._rate_per_s)


class ByEventTime:
    """A pace of ``speed`` seconds of event time per second, from the first row on."""

    def __init__(self, speed: float, clock: Clock) -> None:
        self._speed = speed
        self._clock = clock
        self._first: tuple[int, float] | None = None
        """(an event time in ms, the moment at which it is due)."""

    def take(self, stream: Stream, rows_max: int) -> Batch:
        """Return the rows that are due by their event times; see Pace."""
        next_ms = stream.next_time_ms()
        until_ms = self._until_ms()
        if next_ms is not None and (until_ms is None or abs(next_ms - until_ms) > JUMP_MS):
            self._first = (next_ms, self._clock())
            return stream.take(1)
        return stream.take(1 if until_ms is None else rows_max, until_ms)

    def wait_s(self, stream: Stream) -> float:
        """Return the seconds until the next row is due; see Pace."""
        next_ms, until_ms = stream.next_time_ms(), self._until_ms()
        if next_ms is None or until_ms is None or next_ms - until_ms > JUMP_MS:
            return 0.0
        return max(TICK_S, (next_ms - until_ms) / 1000 / self._speed)

    def _until_ms(self) -> int | None:
        if self._first is None:
            return None
        first_ms, at_s = self._first
        return first_ms + int((self._clock() - at_s) * self._speed * 1000)
