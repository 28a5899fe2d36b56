"""Every step of each request, and what became of the request: where it went, what is missing.

Reads    platform_logs        JSON PlatformLog, keyed by user
Writes   request_trace        ClickHouse, one row a record, late ones too;
         request_summary      ClickHouse, one row a request (see flows/_request_lives.py):
                              written when its last step is there, or 30 s after the last that
                              came, and again for each step that comes later
Time     event time; the watermark trails by 5 s; a step that comes 2 min after is late and counts
         in no summary
Replay   a step's row is known by its record's place in the topic, a summary by its request, where
         the fuller one wins: reading the same records again changes nothing
"""

from __future__ import annotations

from functools import partial

import numpy as np
import polars as pl
from bytewax.dataflow import Dataflow

from flows import FlowContract, _flow
from flows._flow import Reading
from flows._logs import records
from flows._request_lives import Lives
from flows._requests import (
    DELAY_MS,
    LIMIT_MS,
    Requests,
    framed,
    late_letters,
    unframed,
)
from flows._rows import MOMENT, moment, placed
from schemas.operations import OUTCOME_FAILED, OUTCOME_INCOMPLETE, OUTCOME_OK
from schemas.settings import read_settings
from schemas.tables.traces import REQUEST_SUMMARY, REQUEST_TRACE
from schemas.topics import PLATFORM_LOGS
from schemas.versions import FINAL, PROVISIONAL, version_of
from streams.batch import Batch, TableRows
from streams.engine import StepResult
from streams.runner import Run
from streams.window_chunks import packed, unpacked
from streams.windows import NEVER

CONTRACT = FlowContract(
    name="request_trace",
    about="every step of each request, and what became of the request",
    reads=(PLATFORM_LOGS.name,),
    writes=("ClickHouse request_trace", "ClickHouse request_summary"),
    tables=(REQUEST_TRACE, REQUEST_SUMMARY),
)

LOGS = records("user_id", "request_id", "server", "log", "status", "error", "failed")

LAST_MS, IS_OVER = "last_ms", "is_over"
"""Of a summary that is not written yet: its last step, and whether nothing more is to come."""


def traced(batch: Batch) -> pl.DataFrame:
    """Rows of ``request_trace_rows``."""
    return placed(batch).select(
        moment(),
        pl.col("status", "error").fill_null(""),
        *(set(REQUEST_TRACE.columns) - {"time", "status", "error"}),
    )


def summaries(lives: Lives) -> pl.DataFrame:
    """Of each id the newest request: what ``request_summary_rows`` says of it, and LAST_MS and
    IS_OVER."""
    chosen = np.flatnonzero(lives.is_newest)
    starts, ends = lives.starts[chosen], lives.ends[chosen]
    first_ms, last_ms = lives.times[starts], lives.times[ends - 1]
    first = lives.steps.select("request_id", "user_id")[lives.order[starts]]
    forms = pl.DataFrame(
        {
            "hops": [len(form.servers) - 1 for form in lives.forms],
            "servers": [form.servers for form in lives.forms],
            "operation": [form.operation for form in lives.forms],
            "missing": [form.missing for form in lives.forms],
            IS_OVER: [form.is_over for form in lives.forms],
        },
        schema_overrides={"hops": pl.UInt32, "servers": pl.List(pl.String)},
    )
    failed = np.logical_or.reduceat(lives.failed, lives.starts)[chosen]
    return first.hstack(forms[lives.form_places[chosen]]).with_columns(
        pl.Series("started", first_ms).cast(MOMENT),
        pl.Series("duration_ms", last_ms - first_ms, dtype=pl.UInt64),
        pl.Series("steps", ends - starts, dtype=pl.UInt32),
        pl.when(pl.col("missing") != "")
        .then(pl.lit(OUTCOME_INCOMPLETE))
        .when(pl.Series(failed))
        .then(pl.lit(OUTCOME_FAILED))
        .otherwise(pl.lit(OUTCOME_OK))
        .alias("outcome"),
        pl.Series(LAST_MS, last_ms),
    )


class TraceStep:
    """The requests of one partition. The summaries that wait for a last step are kept beside
    them: all others are written."""

    def __init__(self, partition: int, snapshot: bytes | None) -> None:
        self._partition = partition
        self._polled_at_ms = NEVER
        self._next_offset = 0
        self._waiting: pl.DataFrame | None = None
        self._is_told = True
        """All that waits was written provisionally, as it is now."""
        requests = None
        if snapshot:
            numbers, requests, waiting = unframed(snapshot)
            self._polled_at_ms, self._next_offset = np.frombuffer(numbers, "<i8").tolist()
            self._waiting = unpacked(waiting) if waiting else None
            self._is_told = False
        self._requests = Requests(requests, "user_id")

    def on_batch(self, batch: Batch) -> StepResult:
        poll = batch.poll
        if poll.count == 0:
            return StepResult(self._mark(poll.polled_at_ms, end=poll.end))
        self._polled_at_ms = poll.polled_at_ms
        self._next_offset = poll.next_offset
        if batch.frame.is_empty():
            return StepResult()
        self._is_told = False
        touched, late = self._requests.take(batch.frame)
        frames = {REQUEST_TRACE.name: traced(batch)}
        due = self._due(touched.before, touched.now) if touched else []
        due += self._overdue()
        if due:
            frames[REQUEST_SUMMARY.name] = self._rows(pl.concat(due), FINAL)
        return StepResult(TableRows(frames), late_letters(CONTRACT.name, batch, late))

    def snapshot(self) -> bytes:
        numbers = np.array((self._polled_at_ms, self._next_offset), dtype="<i8").tobytes()
        waiting = b"" if self._waiting is None else packed(self._waiting)
        return framed(numbers, self._requests.snapshot(), waiting)

    @property
    def watermark_ms(self) -> int:
        return self._requests.watermark_ms

    def _due(self, before: Lives | None, now: Lives) -> list[pl.DataFrame]:
        """What to write of the requests that a batch has changed; the others wait."""
        found = summaries(now)
        is_due = found[IS_OVER]
        ids = found["request_id"]
        waiting = self._waiting
        if before is not None:
            # What was known and does not wait has been written: it must not stay as it was.
            known = ids.is_in(before.steps["request_id"].implode())
            if waiting is not None:
                known &= ~ids.is_in(waiting["request_id"].implode())
            is_due |= known
        if waiting is not None:
            waiting = waiting.filter(~waiting["request_id"].is_in(ids.implode()))
        more = found.filter(~is_due)
        self._waiting = more if waiting is None else pl.concat([waiting, more])
        return [found.filter(is_due)]

    def _overdue(self) -> list[pl.DataFrame]:
        """What has waited long enough."""
        if self._waiting is None:
            return []
        is_overdue = self._waiting[LAST_MS] + LIMIT_MS <= self.watermark_ms
        if not is_overdue.any():
            return []
        overdue = self._waiting.filter(is_overdue)
        self._waiting = self._waiting.filter(~is_overdue)
        return [overdue]

    def _mark(self, polled_at_ms: int, *, end: bool) -> TableRows | None:
        """What waits, once a partition is quiet, and at the end."""
        if self._is_told or not (end or polled_at_ms - self._polled_at_ms >= DELAY_MS):
            return None
        self._is_told = True
        if self._waiting is None or self._waiting.is_empty():
            return None
        return TableRows({REQUEST_SUMMARY.name: self._rows(self._waiting, PROVISIONAL)})

    def _rows(self, found: pl.DataFrame, phase: int) -> pl.DataFrame:
        # A state of the partition knows all that an earlier one does: the offset orders the
        # writes of a row.
        version = version_of(0, self._next_offset, phase)
        return found.with_columns(
            pl.lit(self._partition, dtype=pl.UInt16).alias("topic_partition"),
            pl.lit(version, dtype=pl.UInt64).alias("version"),
        ).select(*REQUEST_SUMMARY.columns)


def step(partition: int, snapshot: bytes | None) -> TraceStep:
    """The step of a partition."""
    return TraceStep(partition, snapshot)


READS = {PLATFORM_LOGS.name: Reading(LOGS, step)}
build = partial(_flow.build, CONTRACT, READS)
wire = partial(_flow.wire, CONTRACT, READS)


def main() -> Dataflow:
    """For ``python -m bytewax.run "flows.request_trace:main()"``."""
    return wire(read_settings(), Run())
