"""Read a range of event time again: from where, until where, and which windows are certain.

The rules are those of the live worker: an event counts, or is late, as it was for it. A window is
certain ("settled") once the watermark has passed its end by the whole lateness. From then on no
event of the topic can change it, and only such windows are given. Where an event has rows of its
own, no other event can change them: the rows of the records that the live worker has read are
certain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import polars as pl

from footfall.schemas.dead_letters import DeadLetter
from footfall.streams.batch import NEVER, TIME_MS, Batch, Poll, Rows, changed, of_topic
from footfall.streams.clock import Clock
from footfall.streams.decode import Records
from footfall.streams.source import EARLIEST, Position, Reader, SourceError, Topic, wall_clock_ms
from footfall.streams.steps import MakeStep, Step
from footfall.streams.tumbling import Tumbling

BEGIN_MS, END_MS = 0, 2**62
"""Bounds of a range without a beginning, and without an end."""
END_OFFSET = 2**62
PROBE_RECORDS = 500
WARM_UP_RECORDS = 4_096
"""Records read before the first one that counts, so that the last records agree on the time as
they did for the live worker."""
SILENT_MAX_S = 60.0
"""Seconds without a record after which a partition that has more is given up."""


class RangeError(ValueError):
    """A range without a whole window; the message says so."""


@dataclass(frozen=True, slots=True)
class Range:
    """Event times from ``from_ms`` to before ``to_ms``, in milliseconds since 1970 UTC."""

    from_ms: int = BEGIN_MS
    to_ms: int = END_MS

    def whole_windows(self, size_ms: int) -> Range:
        """Return the range of the windows that lie in it with all of their events. Raises
        RangeError."""
        found = Range(
            -(-self.from_ms // size_ms) * size_ms,
            self.to_ms if self.to_ms == END_MS else self.to_ms // size_ms * size_ms,
        )
        if found.from_ms >= found.to_ms:
            raise RangeError(
                f"no whole window of {size_ms / 1000:g} s lies between --from and --to"
            )
        return found


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of event time that the rows of a flow depend on."""

    size_ms: int
    """Size of its windows; 1 where each event has rows of its own."""
    reach_ms: int | None
    """Milliseconds that an event may be behind the newest one and still count: delay and lateness.
    None where every event counts; each event of a topic then has rows of its own."""
    lateness_ms: int = 0
    """Milliseconds that the watermark must have passed a window's end for it not to change any
    more."""


def settled(spec: Tumbling, generation: int, *, any_order: bool = False) -> Tumbling:
    """Return the windows of ``spec``, each written once, when nothing can change it any more.

    An event is late for these exactly where it was late for ``spec``. With ``any_order`` no event
    is late, and all windows stay open to the end.
    """
    waits_ms = END_MS // 2 if any_order else spec.delay_ms + spec.lateness_ms
    return replace(
        spec, delay_ms=waits_ms, lateness_ms=0, write_every_ms=END_MS, generation=generation
    )


class Partitions(Protocol):
    """A topic whose partitions can be read from an offset to their present end."""

    def count(self) -> int:
        """Return the number of partitions. Raises SourceError."""

    def open(self, partition: int, start: Position) -> Reader:
        """Return a reader from ``start`` to the present end."""


@dataclass(frozen=True, slots=True)
class TopicPartitions:
    """A topic that was opened to its present end."""

    topic: Topic

    def count(self) -> int:
        """Return the number of partitions. Raises SourceError."""
        return self.topic.partitions()

    def open(self, partition: int, start: Position) -> Reader:
        """Return a reader from ``start`` to the present end."""
        return self.topic.open(partition, None, start)


@dataclass(slots=True)
class Replayed:
    """Results of one partition."""

    partition: int
    windows: Range
    """Windows that were given: within the range, settled, and read from their first event on."""
    first_offset: int
    next_offset: int
    read: int = 0
    used: int = 0
    """Number of good events from the range's beginning on, late ones among them."""
    late: int = 0
    dead: int = 0
    oldest_ms: int = END_MS
    newest_ms: int = NEVER
    """Bounds, with ``oldest_ms``, of the times of the range's good events and, with the rules of a
    watermark, of those that follow it."""
    settled_ms: int = END_MS
    """Time before which windows begin that can change no more."""
    unread: int = 0
    """Number of records from ``Replay.read_to`` on."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A range of a flow's events, read again. Knows no sink."""

    flow: str
    topic: str
    partitions: Partitions
    records: Records
    rules: Rules
    make_step: MakeStep
    start_of: pl.Expr
    """Expression for the start of the window of a row that the step gives, in milliseconds."""
    asked: Range
    complete: bool = False
    """True if nothing will follow in the topic: then the last windows are certain too."""
    limit_of: Callable[[int], int] = lambda _partition: END_MS
    """Time by partition: windows that end after it are not given, because the live worker may
    still change them."""
    read_to: Callable[[int], int] = lambda _partition: END_OFFSET
    """Offset by partition from which on records are not read, because the live worker will read
    them."""
    take_dead: Callable[[list[DeadLetter]], None] = lambda _letters: None
    """Function that is given the dead letters of each poll. For a topic the live worker writes
    them."""

    def run(
        self,
        partition: int,
        take: Callable[[Rows], None],
        told: Callable[[int, int], None] = lambda _read, _left: None,
    ) -> Replayed:
        """Read one partition and give its rows to ``take``.

        ``told`` is given, after each poll, the numbers of records that were read and that are
        left. Raises SourceError, RangeError.
        """
        windows = self.asked.whole_windows(self.rules.size_ms)
        start, windows = self._start(partition, windows)
        reader = self.partitions.open(partition, Position("offset", start))
        try:
            done = Replayed(partition, windows, start, start)
            step = self.make_step(partition, None)
            reached = self._read(reader, step, done, take, told)
        finally:
            reader.close()
        settled_ms = self.limit_of(partition)
        if not reached and self.rules.reach_ms is not None:
            settled_ms = min(settled_ms, max(step.watermark_ms, 0))
        if settled_ms < END_MS:
            settled_ms = settled_ms // self.rules.size_ms * self.rules.size_ms
        done.settled_ms = min(windows.to_ms, settled_ms)
        to_ms = windows.to_ms if self.complete else done.settled_ms
        done.windows = Range(windows.from_ms, max(windows.from_ms, to_ms))
        return done

    def _read(
        self,
        reader: Reader,
        step: Step,
        done: Replayed,
        take: Callable[[Rows], None],
        told: Callable[[int, int], None],
    ) -> bool:
        """Read the partition; return whether the watermark passed the whole range."""
        windows = done.windows
        limit_ms = END_MS if self.complete else self.limit_of(done.partition)
        last_ms = min(windows.to_ms, limit_ms) - self.rules.size_ms
        wanted = self.start_of.is_between(windows.from_ms, last_ms)
        # Without a watermark that says how far the stream is, later events are of no use.
        to_ms = windows.to_ms if self.rules.reach_ms is None else END_MS

        def give(rows: Rows | None) -> None:
            if rows is not None and len(found := changed(rows, lambda of: of.filter(wanted))):
                take(of_topic(found, self.topic))

        clock = Clock()
        read_to = self.read_to(done.partition)
        for whole in _polls(reader):
            poll = _cut(whole, read_to)
            if poll.count == 0:
                done.unread = poll.lag
                break
            seen = clock.see(self.records.decode(self.flow, poll))
            batch = _within(seen, windows.from_ms, to_ms)
            if batch.dead:
                self.take_dead(batch.dead)
            result = step.on_batch(batch)
            give(result.rows)
            _count(done, batch, len(result.late or ()))
            told(done.read, poll.lag)
            if poll.count < whole.count:
                done.unread = poll.lag
                break
            if self.rules.reach_ms is not None and step.watermark_ms >= windows.to_ms:
                return True
        # Where every event counts, only the end says that a window has all of them.
        if self.complete or self.rules.reach_ms is None:
            give(step.on_batch(_end(done)).rows)
        return False

    def _start(self, partition: int, windows: Range) -> tuple[int, Range]:
        """Return the offset to read from, and the windows that are whole from there on.

        An event may be ahead of its append time by as much as is accepted, and its own window
        counts it. So reading starts at the first record that was appended so long before the range
        or later. Earlier records have no event in the range, and do not move the watermark up to
        it. For a history that was appended later than its events, this is the whole topic.
        """
        low, high = self._bounds(partition, EARLIEST)
        reach_ms, ahead_ms = self.rules.reach_ms, self.records.future_max_ms
        if reach_ms is None:
            return low, windows
        start = low
        if ahead_ms is not None and low < high:
            time_ms = max(windows.from_ms - reach_ms - ahead_ms, 0)
            appended, _ = self._bounds(partition, Position("time", time_ms))
            start = min(max(low, appended - WARM_UP_RECORDS), high)
        if start > low or low == 0:
            return start, windows
        # Retention has removed earlier records, which may have held events of these windows.
        newest_ms = self._newest_at(partition, low)
        if newest_ms is None:
            return start, Range(windows.to_ms, windows.to_ms)
        size_ms = self.rules.size_ms
        whole_ms = -(-(newest_ms + reach_ms + 1) // size_ms) * size_ms
        from_ms = max(windows.from_ms, whole_ms)
        return start, Range(from_ms, max(from_ms, windows.to_ms))

    def _bounds(self, partition: int, start: Position) -> tuple[int, int]:
        reader = self.partitions.open(partition, start)
        try:
            return reader.bounds()
        finally:
            reader.close()

    def _newest_at(self, partition: int, offset: int) -> int | None:
        """Return the event time that records from an offset on agree on; None if they never do."""
        reader = self.partitions.open(partition, Position("offset", offset))
        clock = Clock()
        read = 0
        try:
            for poll in _polls(reader):
                read += poll.count
                clock.see(self.records.decode(self.flow, poll))
                if clock.newest_ms != NEVER and read >= PROBE_RECORDS:
                    break
        finally:
            reader.close()
        return None if clock.newest_ms == NEVER else clock.newest_ms


def _polls(reader: Reader) -> Iterator[Poll]:
    """Yield the polls of a reader to its end. Raises SourceError where nothing comes for long."""
    silent_since_s = time.monotonic()
    while not reader.finished():
        poll = reader.poll(wall_clock_ms())
        if poll.count:
            yield poll
            silent_since_s = time.monotonic()
        elif time.monotonic() - silent_since_s > SILENT_MAX_S:
            raise SourceError(
                f"{poll.topic}/{poll.partition}: no record for {SILENT_MAX_S:g} s, "
                f"{poll.lag} to go: is the broker up?"
            )


def _cut(poll: Poll, to_offset: int) -> Poll:
    """Return the poll without its records from that offset on."""
    if poll.next_offset <= to_offset:
        return poll
    if poll.offsets is None:
        count = max(0, to_offset - poll.first_offset)
    else:
        count = int(np.searchsorted(poll.offsets, to_offset))
    return replace(
        poll,
        data=b"".join(line + b"\n" for line in poll.data.split(b"\n", count)[:count]),
        count=count,
        lag=poll.lag + poll.count - count,
        offsets=None if poll.offsets is None else poll.offsets[:count],
        sent_again=tuple(place for place in poll.sent_again if place < count),
        tombstones=tuple(place for place in poll.tombstones if place < count),
        appended_ms=None if poll.appended_ms is None else poll.appended_ms[:count],
    )


def _within(batch: Batch, from_ms: int, to_ms: int) -> Batch:
    """Return the batch without the events before and after the range."""
    times = batch.frame[TIME_MS].to_numpy()
    is_in = (times >= from_ms) & (times < to_ms)
    if is_in.all():
        return batch
    places = np.arange(batch.poll.count) if batch.rows is None else batch.rows
    frame = batch.frame.filter(pl.Series(is_in))
    return replace(batch, frame=frame, rows=places[is_in], seen=batch.seen.at(is_in))


def _count(done: Replayed, batch: Batch, late: int) -> None:
    done.read += batch.poll.count
    done.dead += len(batch.dead)
    done.used += len(batch.frame)
    done.late += late
    done.next_offset = batch.poll.next_offset
    if len(batch.frame):
        times = batch.frame[TIME_MS].to_numpy()
        done.oldest_ms = min(done.oldest_ms, int(times.min()))
        done.newest_ms = max(done.newest_ms, int(times.max()))


def _end(done: Replayed) -> Batch:
    poll = Poll(
        topic="",
        partition=done.partition,
        first_offset=done.next_offset,
        data=b"",
        count=0,
        lag=0,
        polled_at_ms=wall_clock_ms(),
        end=True,
    )
    return Batch(poll, pl.DataFrame(schema={TIME_MS: pl.Int64}))
