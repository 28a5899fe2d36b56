"""Steps of each request, and its summary: outcome, servers, missing step.

Reads    platform_logs        JSON PlatformLog, keyed by user
Writes   request_trace        ClickHouse, one row per record, late ones too;
         request_summary      ClickHouse, one row per request (see flows/_request_lives.py):
                              written when its last step is there, or 30 s after the last that
                              came, and again for each step that comes later
Time     event time; the watermark trails by 5 s; a step that comes 2 min after is late and counts
         in no summary
Replay   a step's row is known by its record's place in the topic, a summary by its request, where
         the fuller one wins: reading the same records again changes nothing
"""

from __future__ import annotations

import numpy as np
import polars as pl

from footfall.flows import ClickHouse, Flow, Reading, StepResult, moment, others_of, placed
from footfall.flows._logs import records
from footfall.flows._request_lives import Lives
from footfall.flows._requests import (
    DELAY_MS,
    LIMIT_MS,
    Requests,
    Touched,
    framed,
    late_letters,
    unframed,
)
from footfall.flows._rows import MOMENT
from footfall.schemas.operations import OUTCOME_FAILED, OUTCOME_INCOMPLETE, OUTCOME_OK
from footfall.schemas.tables.traces import REQUEST_SUMMARY, REQUEST_TRACE
from footfall.schemas.topics import PLATFORM_LOGS
from footfall.schemas.versions import FINAL, PROVISIONAL, version_of
from footfall.streams.batch import NEVER, Batch, Int64s, TableRows
from footfall.streams.frames import where
from footfall.streams.window_chunks import packed, unpacked
from footfall.streams.windows import NO_END_MS

LOGS = records("user_id", "request_id", "server", "log", "status", "error", "failed")

LAST_MS = "last_ms"
"""Column of a summary that is not written yet: the time of its last step."""
NONE_WAITING = pl.DataFrame(
    schema={
        "request_id": pl.String,
        "user_id": pl.String,
        "hops": pl.UInt32,
        "servers": pl.List(pl.String),
        "operation": pl.String,
        "missing": pl.String,
        "started": MOMENT,
        "duration_ms": pl.UInt64,
        "steps": pl.UInt32,
        "outcome": pl.String,
        LAST_MS: pl.Int64,
    }
)


def traced(batch: Batch) -> pl.DataFrame:
    """Return rows of ``request_trace_rows``."""
    return placed(batch).select(
        moment(),
        pl.col("status", "error").fill_null(""),
        *others_of(REQUEST_TRACE, "time", "status", "error"),
    )


def summaries(lives: Lives, chosen: Int64s) -> pl.DataFrame:
    """Return the columns of ``request_summary_rows`` for some of these requests, and LAST_MS."""
    steps, of_form = lives.steps, lives.form_places[chosen]
    starts, ends = lives.starts[chosen], lives.ends[chosen]
    first_ms, last_ms = steps.times[starts], steps.times[ends - 1]
    first = steps.frame[["request_id", "user_id"]][steps.order[starts]]
    forms = pl.DataFrame(
        {
            "hops": [len(form.servers) - 1 for form in lives.forms],
            "servers": [form.servers for form in lives.forms],
            "operation": [form.operation for form in lives.forms],
            "missing": [form.missing for form in lives.forms],
        },
        schema_overrides={"hops": pl.UInt32, "servers": pl.List(pl.String)},
    )
    is_incomplete = np.array([form.missing != "" for form in lives.forms])[of_form]
    is_failed = np.logical_or.reduceat(steps.failed, lives.starts)[chosen]
    outcomes = pl.Series("outcome", (OUTCOME_OK, OUTCOME_FAILED, OUTCOME_INCOMPLETE))
    return pl.DataFrame(
        [
            *first,
            *forms[of_form],
            pl.Series("started", first_ms).cast(MOMENT),
            pl.Series("duration_ms", last_ms - first_ms, dtype=pl.UInt64),
            pl.Series("steps", ends - starts, dtype=pl.UInt32),
            outcomes[np.where(is_incomplete, 2, is_failed)],
            pl.Series(LAST_MS, last_ms),
        ]
    )


class TraceStep:
    """The step of one partition: its requests.

    The summaries that wait for a last step are kept beside them; all others are written.
    """

    def __init__(self, partition: int, snapshot: bytes | None) -> None:
        self._partition = partition
        self._polled_at_ms = NEVER
        self._next_offset = 0
        self._waiting = NONE_WAITING
        self._is_told = True
        """True if all that waits was written provisionally, as it is now."""
        requests = None
        if snapshot:
            numbers, requests, waiting = unframed(snapshot)
            self._polled_at_ms, self._next_offset = np.frombuffer(numbers, "<i8").tolist()
            self._waiting = unpacked(waiting)
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
        touched, late = self._requests.take(batch)
        frames = {REQUEST_TRACE.name: traced(batch)}
        due = [] if touched is None else [self._due(touched)]
        due = [found for found in (*due, self._overdue()) if len(found)]
        if due:
            frames[REQUEST_SUMMARY.name] = self._rows(pl.concat(due), FINAL)
        return StepResult(TableRows(frames), late_letters(batch, late))

    def snapshot(self) -> bytes:
        numbers = np.array((self._polled_at_ms, self._next_offset), dtype="<i8").tobytes()
        return framed(numbers, self._requests.snapshot(), packed(self._waiting))

    @property
    def watermark_ms(self) -> int:
        return self._requests.watermark_ms

    @property
    def mark_at_ms(self) -> int:
        return NO_END_MS if self._is_told else self._polled_at_ms + DELAY_MS

    @property
    def holds(self) -> dict[str, int]:
        return self._requests.holds

    def _due(self, touched: Touched) -> pl.DataFrame:
        """Return the summaries to write of the requests that a batch has changed.

        Only the newest request of each id counts. Those that are not due wait.
        """
        lives, waiting = touched.now, self._waiting
        chosen = np.flatnonzero(lives.is_newest)
        starts = lives.starts[chosen]
        is_due = np.array([form.is_over for form in lives.forms])[lives.form_places[chosen]]
        if touched.known:
            is_known = touched.of_ids(lives.steps.order < touched.known)[starts]
            known = lives.steps.frame["request_id"][lives.steps.order[starts[is_known]]]
            is_there = known.is_in(waiting["request_id"].implode())
            # A known request that does not wait has been written: its row must be replaced.
            is_due[is_known] |= ~is_there.to_numpy()
            waiting = where(waiting, ~waiting["request_id"].is_in(known.implode()).to_numpy())
        found = summaries(lives, np.append(chosen[is_due], chosen[~is_due]))
        count = int(np.count_nonzero(is_due))
        self._waiting = pl.concat([waiting, found.slice(count)], rechunk=True)
        return found.head(count)

    def _overdue(self) -> pl.DataFrame:
        """Remove and return the summaries that have waited long enough."""
        is_overdue = self._waiting[LAST_MS].to_numpy() + LIMIT_MS <= self.watermark_ms
        overdue = where(self._waiting, is_overdue)
        if len(overdue):
            self._waiting = where(self._waiting, ~is_overdue)
        return overdue

    def _mark(self, polled_at_ms: int, *, end: bool) -> TableRows | None:
        """Return the waiting summaries once a partition is quiet, and at the end."""
        if self._is_told or not (end or polled_at_ms - self._polled_at_ms >= DELAY_MS):
            return None
        self._is_told = True
        if self._waiting.is_empty():
            return None
        return TableRows({REQUEST_SUMMARY.name: self._rows(self._waiting, PROVISIONAL)})

    def _rows(self, found: pl.DataFrame, phase: int) -> pl.DataFrame:
        # A later state of the partition knows all that an earlier one does, so the offset orders
        # the writes of a row.
        version = version_of(0, self._next_offset, phase)
        own = (
            pl.Series("topic_partition", [self._partition], dtype=pl.UInt16),
            pl.Series("version", [version], dtype=pl.UInt64),
        )
        columns = [*found, *(column.new_from_index(0, len(found)) for column in own)]
        return pl.DataFrame(columns)[others_of(REQUEST_SUMMARY)]


FLOW = Flow(
    name="request_trace",
    about="every step of each request, and what became of the request",
    reads={PLATFORM_LOGS: Reading(LOGS, TraceStep)},
    writes=ClickHouse(REQUEST_TRACE, REQUEST_SUMMARY),
)
main = FLOW.main
