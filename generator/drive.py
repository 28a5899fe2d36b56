"""Push a world or a replay to topics: paced, reported, stopped promptly, resumed exactly.

There are three paces: ``rate_per_s`` records per second, ``speed`` seconds of event time per
second (quiet stretches are waited out in proportion), or as fast as the writer takes them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Event

from footfall.generator.pace import Clock, pace_of
from footfall.generator.progress import ProgressError, ProgressFile, Start
from footfall.generator.sources import Batch, Source, Stream, TopicWriter
from footfall.schemas.times import iso_ms
from footfall.schemas.topics import DEAD_LETTERS

BATCH_ROWS_MAX = 5_000
NAP_S = 0.2
"""Longest sleep in seconds: a stop is seen at least this soon."""
SAVE_EVERY_S = 1.0
REPORT_EVERY_S = 1.0


@dataclass(frozen=True)
class PushReport:
    """Figures of a progress line."""

    rows: int
    """Rows of the source done, in this push and before."""
    sent: int
    """Records written by this push."""
    dead: int
    """Dead letters among these records."""
    skipped: int
    """Records that a killed push before this one had written already."""
    rate_per_s: float
    """Records sent per second, since the last report; in the result, over the whole push."""
    event_time_ms: int | None
    seconds: float

    def line(self) -> str:
        """Return the report as one line of text."""
        parts = [f"{self.rows:,} rows", f"{self.sent:,} sent", f"{self.rate_per_s:,.0f}/s"]
        if self.dead:
            parts.append(f"{self.dead:,} dead letters")
        if self.skipped:
            parts.append(f"{self.skipped:,} stood there already")
        if self.event_time_ms is not None:
            parts.append(f"event time {iso_ms(self.event_time_ms)}")
        return ", ".join(parts)


@dataclass(frozen=True)
class PushResult:
    """Outcome of a push."""

    report: PushReport
    finished: bool
    """True if all rows (or ``total`` of them) are done; otherwise it was stopped."""
    was_finished: bool
    """True if they had been done before, and nothing was sent."""

    def line(self) -> str:
        """Return the result as one line of text."""
        if self.was_finished:
            return f"{self.report.rows:,} rows were pushed before; nothing to send"
        return ("finished: " if self.finished else "stopped: ") + self.report.line()


def push(
    source: Source,
    writer: TopicWriter,
    *,
    rate_per_s: float | None = None,
    speed: float | None = None,
    total: int | None = None,
    progress: ProgressFile | None = None,
    startup_delay_s: float = 0.0,
    stop: Event | None = None,
    report: Callable[[PushReport], None] | None = None,
    log: Callable[[str], None] | None = None,
    clock: Clock = time.monotonic,
    sleep: Callable[[float], object] | None = None,
) -> PushResult:
    """Push rows of ``source`` until it ends, ``total`` rows of it are done, or ``stop`` is set.

    ``total`` counts from the first row of the source, so a resumed push ends where one that was
    never stopped does. ``report`` is called about once per second, ``log`` once per batch. Raises
    ValueError for an invalid pace, SourceError, ProgressError, and whatever ``writer`` raises;
    what was acknowledged until then is kept in the progress.
    """
    stop = stop or Event()
    pace = pace_of(rate_per_s, speed, clock)
    nap = _napper(stop, clock, sleep or stop.wait)
    with progress.locked() if progress else nullcontext():
        nap(startup_delay_s, lambda: None)
        sender = _Sender(source, writer, progress, clock)
        counts = _Counts(sender, clock, report)
        if sender.is_done or (total is not None and sender.rows >= total):
            return PushResult(counts.overall(), finished=True, was_finished=True)
        finished = False
        stream = source.open(sender.rows)
        try:
            sender.check_rows(stream)
            while not stop.is_set():
                finished = sender.rows == total or stream.at_end
                if finished:
                    break
                room = sender.room()
                batch = pace.take(stream, min(room, total - sender.rows) if total else room)
                if batch.rows:
                    sender.send(batch, stream.mark)
                    if log:
                        log(f"sent {batch.rows:,} rows: {counts.overall().line()}")
                counts.report_when_due()
                sender.save_when_due()
                if not stream.at_end:
                    nap(pace.wait_s(stream), counts.report_when_due)
        finally:
            stream.close()
            sender.end(source_ended=finished and stream.at_end)
        was_finished = finished and sender.was_finished and not sender.new_rows
        return PushResult(counts.overall(), finished=finished, was_finished=was_finished)


class _Sender:
    """A writer of batches that keeps the progress true at every moment."""

    def __init__(
        self, source: Source, writer: TopicWriter, progress: ProgressFile | None, clock: Clock
    ) -> None:
        self._source = source
        self._writer = writer
        self._progress = progress
        self._clock = clock
        self.sent = self.dead = self.skipped = 0
        self.event_time_ms: int | None = None
        self._start = Start() if progress is None else progress.start(source)
        self.rows = self._saved_rows = self._start.rows
        self._mark = self._start.mark
        self._saved_s = clock()
        self._is_writing = False

    @property
    def was_finished(self) -> bool:
        """Return True where an earlier push came to the end of the source."""
        return self._start.finished

    @property
    def is_done(self) -> bool:
        """Return True where that was the end for good: a file may have grown since."""
        return self._start.finished and not self._start.mark

    @property
    def new_rows(self) -> int:
        """Return the number of rows done by this push."""
        return self.rows - self._start.rows

    def check_rows(self, stream: Stream) -> None:
        """Raise ProgressError where the stream does not go on after the rows that are done."""
        if self._progress is not None:
            self._progress.check_rows(self._start, stream)
        self._mark = stream.mark

    def room(self) -> int:
        """Return the number of rows that may be sent now: at least 1."""
        if self._progress is None:
            return BATCH_ROWS_MAX
        if self._behind() >= self._progress.window_rows:
            self._save()
        room = self._progress.window_rows - self._behind()
        if room < 1:
            raise ProgressError(
                f"{self._source.name}: rows that stand in the topics are missing here; was the "
                "source changed meanwhile? Start fresh to push it from its beginning"
            )
        return min(BATCH_ROWS_MAX, room)

    def _behind(self) -> int:
        """Return the number of rows done that the progress does not have."""
        return self.rows - self._saved_rows

    def send(self, batch: Batch, mark: str) -> None:
        """Write what is not there yet; ``mark`` is that of the stream after it."""
        skips = self._start.skips
        left = batch if skips is None else skips.without(batch)
        self._is_writing = True
        for topic, records in left.writes:
            self._writer.write(topic, records)
        self._is_writing = False
        sent = Counter({topic: len(records) for topic, records in left.writes})
        self.rows += batch.rows
        self._mark = mark
        self.sent += sent.total()
        self.dead += sent[DEAD_LETTERS.name]
        self.skipped += batch.rows - sent.total()
        if batch.event_time_ms is not None:
            self.event_time_ms = batch.event_time_ms

    def save_when_due(self) -> None:
        """Save about once per second."""
        if self._behind() and self._clock() - self._saved_s >= SAVE_EVERY_S:
            self._save()

    def end(self, *, source_ended: bool) -> None:
        """Save at the end, unless a write failed: some of its records may be there."""
        if not self._is_writing and (source_ended or self._behind()):
            self._save(finished=source_ended)

    def _save(self, *, finished: bool = False) -> None:
        # The topics end behind records that are still to be left out: their present offsets would
        # hide these.
        skips = self._start.skips
        if self._progress is None or (skips is not None and skips.left):
            return
        self._progress.save(self._source, self.rows, finished=finished, mark=self._mark)
        self._saved_rows = self.rows
        self._saved_s = self._clock()


class _Counts:
    """Reports of what a sender did."""

    def __init__(
        self, sender: _Sender, clock: Clock, report: Callable[[PushReport], None] | None
    ) -> None:
        self._sender = sender
        self._clock = clock
        self._report = report
        self._began_s = self._reported_s = clock()
        self._reported_sent = 0

    def report_when_due(self) -> None:
        """Report about once per second."""
        seconds = self._clock() - self._reported_s
        if self._report is None or seconds < REPORT_EVERY_S:
            return
        self._report(self._made((self._sender.sent - self._reported_sent) / seconds))
        self._reported_s += seconds
        self._reported_sent = self._sender.sent

    def overall(self) -> PushReport:
        """Return the report with the rate of the whole push."""
        return self._made(self._sender.sent / max(self._clock() - self._began_s, 1e-9))

    def _made(self, rate_per_s: float) -> PushReport:
        sender = self._sender
        return PushReport(
            rows=sender.rows,
            sent=sender.sent,
            dead=sender.dead,
            skipped=sender.skipped,
            rate_per_s=rate_per_s,
            event_time_ms=sender.event_time_ms,
            seconds=self._clock() - self._began_s,
        )


def _napper(
    stop: Event, clock: Clock, sleep: Callable[[float], object]
) -> Callable[[float, Callable[[], None]], None]:
    """Return a sleep that ends with ``stop`` and calls back every NAP_S at most."""

    def nap(seconds: float, meanwhile: Callable[[], None]) -> None:
        until_s = clock() + seconds
        while not stop.is_set() and (left_s := until_s - clock()) > 0:
            sleep(min(left_s, NAP_S))
            meanwhile()

    return nap
