"""Requests that each service served in each minute, failures and durations, by operation.

Reads    platform_logs        JSON PlatformLog, keyed by user
Writes   service_health       ClickHouse, one row per (minute, server, operation, topic partition);
         service_health_anomalies   compares them with the hour before when it is queried
Time     a request (see flows/_request_lives.py) counts in the minute of its first step at the
         server; the watermark trails by 5 s; a row is final 30 s after its minute, and written
         again when a step changes it that comes later; one that comes 2 min after is late
Replay   rows are upserts: reading the same records again changes nothing
"""

from __future__ import annotations

import numpy as np
import polars as pl

from footfall.flows import ClickHouse, Flow, Reading, StepResult
from footfall.flows._logs import records
from footfall.flows._request_lives import SPAN_MAX_MS
from footfall.flows._requests import (
    DELAY_MS,
    KEEP_MS,
    LIMIT_MS,
    Requests,
    framed,
    late_letters,
    unframed,
)
from footfall.flows._rows import MOMENT
from footfall.flows._visits import MINUTE, MINUTE_MS, Minutes
from footfall.schemas.tables.service_health import ROWS
from footfall.schemas.topics import PLATFORM_LOGS
from footfall.schemas.versions import FINAL, PROVISIONAL, version_of
from footfall.streams.batch import NEVER, Batch
from footfall.streams.windows import NO_END_MS

LOGS = records("request_id", "server", "log", "failed")

WRITE_EVERY_MS = 5_000
"""Milliseconds of the wall clock between two writes of the minutes that go on."""
SETTLED_MS = KEEP_MS + SPAN_MAX_MS
"""Milliseconds by which the watermark must have passed a minute for its requests not to change."""


class HealthStep:
    """The minutes of one partition that can still change, and the requests in them."""

    def __init__(self, partition: int, snapshot: bytes | None) -> None:
        self._partition = partition
        self._polled_at_ms = self._written_at_ms = NEVER
        self._next_offset = 0
        self._is_told = False
        """True if all that was counted is written, as it is now."""
        if snapshot:
            numbers, requests, minutes = unframed(snapshot)
            self._polled_at_ms, self._written_at_ms, self._next_offset = np.frombuffer(
                numbers, "<i8"
            ).tolist()
            self._requests = Requests(requests)
            self._minutes = Minutes(minutes)
        else:
            self._requests = Requests(None)
            self._minutes = Minutes()

    def on_batch(self, batch: Batch) -> StepResult:
        poll = batch.poll
        if poll.count == 0:
            return StepResult(self._mark(poll.polled_at_ms, end=poll.end))
        self._polled_at_ms = poll.polled_at_ms
        self._is_told = False
        self._next_offset = poll.next_offset
        if self._written_at_ms == NEVER:
            self._written_at_ms = poll.polled_at_ms
        if batch.frame.is_empty():
            return StepResult()
        touched, late = self._requests.take(batch)
        if touched:
            self._minutes.add(touched)
        rows = self._due(poll.polled_at_ms)
        return StepResult(rows, late_letters(batch, late))

    def snapshot(self) -> bytes:
        numbers = (self._polled_at_ms, self._written_at_ms, self._next_offset)
        parts = self._requests.snapshot(), self._minutes.snapshot()
        return framed(np.array(numbers, "<i8").tobytes(), *parts)

    @property
    def watermark_ms(self) -> int:
        return self._requests.watermark_ms

    @property
    def mark_at_ms(self) -> int:
        return NO_END_MS if self._is_told else self._polled_at_ms + DELAY_MS

    @property
    def holds(self) -> dict[str, int]:
        return {**self._requests.holds, "visits": self._minutes.held}

    @property
    def held(self) -> tuple[int, int]:
        """Return (the number of held steps, the number of held entries of visits)."""
        return self._requests.held, self._minutes.held

    def _due(self, polled_at_ms: int) -> pl.DataFrame | None:
        """Return rows of the minutes that are over and, from time to time, of those that go on."""
        if polled_at_ms - self._written_at_ms >= WRITE_EVERY_MS:
            self._written_at_ms = polled_at_ms
            return self._rows(NO_END_MS)
        return self._rows(self._over_ms)

    def _mark(self, polled_at_ms: int, *, end: bool) -> pl.DataFrame | None:
        """Return all rows that are not written, once a partition is quiet, and at the end."""
        if not (end or polled_at_ms - self._polled_at_ms >= DELAY_MS):
            return None
        self._is_told = True
        return self._rows(NO_END_MS)

    @property
    def _over_ms(self) -> int:
        """Return the start of the last minute that is over."""
        return self.watermark_ms - LIMIT_MS - MINUTE_MS

    def _rows(self, last_ms: int) -> pl.DataFrame | None:
        """Return the rows of ``service_health_rows`` that have changed, up to a minute."""
        # A minute begins before its first step, by less than its length.
        settled_ms = self.watermark_ms - SETTLED_MS - MINUTE_MS
        found = self._minutes.written(last_ms, settled_ms)
        if found is None:
            return None
        # The offset orders the writes of a row: a later state of the partition knows more.
        is_over = found[MINUTE].to_numpy() <= self._over_ms
        final, provisional = (
            version_of(0, self._next_offset, phase) for phase in (FINAL, PROVISIONAL)
        )
        minutes, *columns = found
        return pl.DataFrame(
            [
                minutes.cast(MOMENT).alias("minute"),
                pl.Series("topic_partition", np.full(len(found), self._partition, np.uint16)),
                *columns,
                pl.Series("version", np.where(is_over, final, provisional), dtype=pl.UInt64),
            ]
        )


FLOW = Flow(
    name="service_health",
    about="requests, failures and durations by minute, service and operation",
    reads={PLATFORM_LOGS: Reading(LOGS, HealthStep)},
    writes=ClickHouse(ROWS, views=("service_health", "service_health_anomalies")),
)
main = FLOW.main
