"""How many requests each service served in each minute, how many failed there, and how long they
took: by service and operation.

Reads    platform_logs        JSON PlatformLog, keyed by user
Writes   service_health       ClickHouse, one row a (minute, server, operation, topic partition);
         service_health_anomalies   compares them with the hour before when it is asked
Time     a request (see flows/_request_lives.py) counts in the minute of its first step at the
         server; the watermark trails by 5 s; a row is final 30 s after its minute, and written
         again when a step changes it that comes later; one that comes 2 min after is late
Replay   rows are upserts: reading the same records again changes nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
from bytewax.dataflow import Dataflow

from flows import FlowContract, _flow
from flows._flow import Reading
from flows._logs import records
from flows._request_lives import SPAN_MAX_MS, Lives
from flows._requests import (
    CHUNK_MS,
    CHUNK_ROWS,
    DELAY_MS,
    KEEP_MS,
    LIMIT_MS,
    Requests,
    Touched,
    framed,
    late_letters,
    unframed,
)
from flows._rows import moment
from schemas.operations import operation_of
from schemas.settings import read_settings
from schemas.tables.service_health import ROWS
from schemas.topics import PLATFORM_LOGS
from schemas.versions import FINAL, PROVISIONAL, version_of
from streams.batch import TIME_MS, Batch
from streams.engine import StepResult
from streams.runner import Run
from streams.window_chunks import packed, unpacked
from streams.windows import NEVER, NO_END_MS

CONTRACT = FlowContract(
    name="service_health",
    about="requests, failures and durations by minute, service and operation",
    reads=(PLATFORM_LOGS.name,),
    writes=("ClickHouse service_health", "ClickHouse service_health_anomalies"),
    tables=(ROWS,),
)

LOGS = records("request_id", "server", "log", "failed")

MINUTE_MS = 60_000
WRITE_EVERY_MS = 5_000
"""Of the wall clock: how often minutes that go on are written."""
SETTLED_MS = KEEP_MS + SPAN_MAX_MS
"""When the watermark has passed a minute by this, no request that began in it can change."""
MINUTE, COUNT = "minute_ms", "count"
GROUP = (MINUTE, "server", "operation")
"""What a row of a partition is known by."""


def visits(lives: Lives, count: int) -> pl.DataFrame:
    """Each request at each server that it came to: MINUTE, server, operation, duration_ms, error,
    and COUNT, which is -1 for what is to be taken back."""
    counts = lives.ends - lives.starts
    life = np.repeat(np.arange(len(counts)), counts)
    key = life * len(lives.server_names) + lives.servers
    rows = np.argsort(key, kind="stable")
    key = key[rows]
    starts = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    times = lives.times[rows]
    first_ms, last_ms = times[starts], times[np.append(starts[1:], len(times)) - 1]
    visited, server = np.divmod(key[starts], len(lives.server_names))
    operations = pl.Series("operation", [form.operation for form in lives.forms])
    return pl.DataFrame(
        [
            pl.Series(MINUTE, first_ms // MINUTE_MS * MINUTE_MS),
            pl.Series("server", lives.server_names)[server],
            operations[lives.form_places[visited]],
            pl.Series("duration_ms", last_ms - first_ms, dtype=pl.UInt32),
            pl.Series("error", np.logical_or.reduceat(lives.failed[rows], starts)),
            pl.Series(COUNT, np.full(len(starts), count)),
        ]
    )


def visits_of(touched: Touched) -> pl.DataFrame:
    """What has changed of the visits, as ``visits`` gives them, and none (COUNT is 0) of each
    group that a request may have been in for some steps of the batch."""
    found = visits(touched.now, 1)
    if touched.before is not None:
        found = pl.concat([visits(touched.before, -1), found])
        found = found.group_by(pl.exclude(COUNT)).agg(pl.col(COUNT).sum())
        found = found.filter(pl.col(COUNT) != 0)
    moved = touched.moved()
    return found if moved.is_empty() else pl.concat([found, passed_through(moved)])


def passed_through(steps: pl.DataFrame) -> pl.DataFrame:
    """Each group that a request of some of these steps could be in, with no visit.

    A process that was killed may have read the stream up to any of them, and written that. Who
    reads it again in other batches must write the same groups, or what no longer holds would
    stand for ever. Its rows win: they know a later step.
    """
    pairs = steps.select("server", "log").unique()
    operations = [operation_of([pair]) for pair in pairs.iter_rows()]
    named = steps.join(
        pairs.with_columns(pl.Series("operation", operations)), on=("server", "log")
    ).select("request_id", "operation")
    minute = (pl.col(TIME_MS) // MINUTE_MS * MINUTE_MS).alias(MINUTE)
    came = steps.select("request_id", minute, "server").unique()
    groups = came.join(named.unique(), on="request_id").select(GROUP).unique()
    return groups.with_columns(
        pl.lit(0, pl.UInt32).alias("duration_ms"),
        pl.lit(False).alias("error"),
        pl.lit(0, pl.Int64).alias(COUNT),
    )


@dataclass(slots=True)
class _Chunk:
    """Visits that were written. All of one group are in one chunk."""

    visits: pl.DataFrame
    last_ms: int
    """The last of their minutes."""
    opened_ms: int
    """The same of those that it began with."""
    data: bytes | None = None

    @staticmethod
    def of(found: pl.DataFrame, opened_ms: int | None = None, data: bytes | None = None) -> _Chunk:
        """A chunk of some visits, at least one; a new one unless it is said when it began."""
        last_ms = int(found[MINUTE].to_numpy().max())
        return _Chunk(found, last_ms, last_ms if opened_ms is None else opened_ms, data)

    def packed(self) -> bytes:
        """The visits as bytes, made once."""
        if self.data is None:
            self.data = packed(self.visits)
        return self.data


class Minutes:
    """The visits of the minutes that can still change."""

    def __init__(self, fresh: bytes = b"", chunks: Sequence[bytes] = ()) -> None:
        """The arguments are what ``snapshot`` gave."""
        self._fresh = [unpacked(fresh)] if fresh else []
        """Visits that were not written yet."""
        self._first_ms = 0 if fresh else NO_END_MS
        """None of them is of an earlier minute."""
        self._chunks = [_Chunk.of(unpacked(data), data=data) for data in chunks]

    def snapshot(self) -> tuple[bytes, list[bytes]]:
        """The state as bytes."""
        fresh = packed(pl.concat(self._fresh)) if self._fresh else b""
        return fresh, [chunk.packed() for chunk in self._chunks]

    @property
    def held(self) -> int:
        """How many visits are held."""
        return sum(map(len, (*self._fresh, *(chunk.visits for chunk in self._chunks))))

    def add(self, found: pl.DataFrame) -> None:
        """Count visits, or take them back."""
        if len(found):
            self._fresh.append(found)
            self._first_ms = min(self._first_ms, int(found[MINUTE].to_numpy().min()))

    def written(self, last_ms: int, settled_ms: int) -> pl.DataFrame | None:
        """The groups up to a minute that have changed since they were last given: MINUTE, server,
        operation, requests, errors, durations_ms. One that has no visit any more has none.

        What began before ``settled_ms`` can change no more, and is forgotten.
        """
        if not self._fresh or self._first_ms > last_ms:
            return None
        fresh = pl.concat(self._fresh, rechunk=True)
        is_due = fresh[MINUTE] <= last_ms
        due, rest = fresh.filter(is_due), fresh.filter(~is_due)
        self._fresh = [rest] if len(rest) else []
        self._first_ms = int(rest[MINUTE].to_numpy().min()) if len(rest) else NO_END_MS
        if due.is_empty():
            return None
        found = pl.concat([*self._take_out(due), due], rechunk=True)
        if (found[COUNT].to_numpy() < 0).any():
            found = found.group_by(*GROUP, "duration_ms", "error").agg(pl.col(COUNT).sum())
        is_there = pl.col(COUNT) > 0
        rows = found.group_by(GROUP).agg(
            pl.col(COUNT).sum().cast(pl.UInt64).alias("requests"),
            (pl.col(COUNT) * pl.col("error")).sum().cast(pl.UInt64).alias("errors"),
            pl.col("duration_ms").repeat_by(COUNT).explode().drop_nulls().sort()
            if (found[COUNT].to_numpy() != 1).any()
            else pl.col("duration_ms").sort(),
        )
        self._hold(found.filter(is_there))
        self._chunks = [chunk for chunk in self._chunks if chunk.last_ms >= settled_ms]
        return rows

    def _hold(self, found: pl.DataFrame) -> None:
        if found.is_empty():
            return
        new = _Chunk.of(found)
        last = self._chunks[-1] if self._chunks else None
        if (
            last is not None
            and len(last.visits) + len(found) <= CHUNK_ROWS
            and new.last_ms - last.opened_ms <= CHUNK_MS
        ):
            new = _Chunk.of(pl.concat([last.visits, found], rechunk=True), last.opened_ms)
            self._chunks.pop()
        self._chunks.append(new)

    def _take_out(self, due: pl.DataFrame) -> list[pl.DataFrame]:
        """The visits of these groups that were written; they are held no more."""
        first_ms = int(due[MINUTE].to_numpy().min())
        if all(chunk.last_ms < first_ms for chunk in self._chunks):
            return []
        groups = due.select(GROUP).unique()
        taken, kept = [], []
        for chunk in self._chunks:
            if chunk.last_ms >= first_ms:
                of_groups = chunk.visits.join(groups, on=GROUP, how="semi")
                if len(of_groups):
                    taken.append(of_groups)
                    rest = chunk.visits.join(groups, on=GROUP, how="anti")
                    kept += [_Chunk.of(rest, chunk.opened_ms)] if len(rest) else []
                    continue
            kept.append(chunk)
        self._chunks = kept
        return taken


class HealthStep:
    """The minutes of one partition that can still change, and the requests in them."""

    def __init__(self, partition: int, snapshot: bytes | None) -> None:
        self._partition = partition
        self._polled_at_ms = self._written_at_ms = NEVER
        self._next_offset = 0
        if snapshot:
            numbers, requests, fresh, *chunks = unframed(snapshot)
            self._polled_at_ms, self._written_at_ms, self._next_offset = np.frombuffer(
                numbers, "<i8"
            ).tolist()
            self._requests = Requests(requests)
            self._minutes = Minutes(fresh, chunks)
        else:
            self._requests = Requests(None)
            self._minutes = Minutes()

    def on_batch(self, batch: Batch) -> StepResult:
        poll = batch.poll
        if poll.count == 0:
            return StepResult(self._mark(poll.polled_at_ms, end=poll.end))
        self._polled_at_ms = poll.polled_at_ms
        self._next_offset = poll.next_offset
        if self._written_at_ms == NEVER:
            self._written_at_ms = poll.polled_at_ms
        if batch.frame.is_empty():
            return StepResult()
        touched, late = self._requests.take(batch.frame)
        if touched:
            self._minutes.add(visits_of(touched))
        rows = self._due(poll.polled_at_ms)
        return StepResult(rows, late_letters(CONTRACT.name, batch, late))

    def snapshot(self) -> bytes:
        numbers = (self._polled_at_ms, self._written_at_ms, self._next_offset)
        fresh, chunks = self._minutes.snapshot()
        requests = self._requests.snapshot()
        return framed(np.array(numbers, "<i8").tobytes(), requests, fresh, *chunks)

    @property
    def watermark_ms(self) -> int:
        return self._requests.watermark_ms

    @property
    def held(self) -> tuple[int, int]:
        """How many steps and visits are held."""
        return self._requests.held, self._minutes.held

    def _due(self, polled_at_ms: int) -> pl.DataFrame | None:
        """Rows of the minutes that are over, and from time to time of those that go on."""
        if polled_at_ms - self._written_at_ms >= WRITE_EVERY_MS:
            self._written_at_ms = polled_at_ms
            return self._rows(NO_END_MS)
        return self._rows(self._over_ms)

    def _mark(self, polled_at_ms: int, *, end: bool) -> pl.DataFrame | None:
        """All that is not written, once a partition is quiet, and at the end."""
        if not (end or polled_at_ms - self._polled_at_ms >= DELAY_MS):
            return None
        return self._rows(NO_END_MS)

    @property
    def _over_ms(self) -> int:
        """The last minute that is over."""
        return self.watermark_ms - LIMIT_MS - MINUTE_MS

    def _rows(self, last_ms: int) -> pl.DataFrame | None:
        """Rows of ``service_health_rows`` that have changed, up to a minute."""
        # A minute begins up to its length before the first step that it has.
        settled_ms = self.watermark_ms - SETTLED_MS - MINUTE_MS
        found = self._minutes.written(last_ms, settled_ms)
        if found is None:
            return None
        # The offset orders the writes of a row: a later state of the partition knows more.
        final, provisional = (
            pl.lit(version_of(0, self._next_offset, phase), pl.UInt64)
            for phase in (FINAL, PROVISIONAL)
        )
        return found.select(
            moment(MINUTE, "minute"),
            "server",
            "operation",
            pl.lit(self._partition, pl.UInt16).alias("topic_partition"),
            "requests",
            "errors",
            pl.col("duration_ms").alias("durations_ms"),
            pl.when(pl.col(MINUTE) <= self._over_ms)
            .then(final)
            .otherwise(provisional)
            .alias("version"),
        )


def step(partition: int, snapshot: bytes | None) -> HealthStep:
    """The step of a partition."""
    return HealthStep(partition, snapshot)


READS = {PLATFORM_LOGS.name: Reading(LOGS, step)}
build = partial(_flow.build, CONTRACT, READS)
wire = partial(_flow.wire, CONTRACT, READS)


def main() -> Dataflow:
    """For ``python -m bytewax.run "flows.service_health:main()"``."""
    return wire(read_settings(), Run())
