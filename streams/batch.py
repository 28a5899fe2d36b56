"""The unit of work: a poll of one topic partition, and the batch decoded from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from footfall.schemas.dead_letters import DeadLetter
from footfall.schemas.topics import APPENDED, PARTITION, TOPIC
from footfall.streams.frames import where

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

TIME_MS = "time_ms"
"""Column of a batch's frame with the event time, in milliseconds since 1970 UTC."""
NEVER = -1
"""Event time while it is not known."""
UNKNOWN_MS = -1
"""Append time of a record whose topic does not keep it."""
AGREEING = 64
"""Number of the last records of a partition that must agree on a time before it is believed."""
ROW = "row"
"""Column of rows made of a batch's frame: the index there of the event that they come from."""


@dataclass(frozen=True, slots=True)
class Poll:
    """Records of one partition in order, as the source read them; without records it is a mark.

    A mark says how late it is on the wall clock while the partition has nothing new, or, with
    ``end``, that nothing will follow in this run.
    """

    topic: str
    partition: int
    first_offset: int
    data: bytes
    """Records, each ended by a newline and holding no other newline."""
    count: int
    lag: int
    """Number of records of the partition that are unread after this poll."""
    polled_at_ms: int
    """Wall clock of the poll, in milliseconds since 1970 UTC."""
    end: bool = False
    offsets: Int64s | None = None
    """Offset of each record, where they are not first_offset, first_offset + 1, ..."""
    sent_again: tuple[int, ...] = ()
    """Indexes in the poll of superseded records, which were sent again later; skip them."""
    appended_ms: Int64s | None = None
    """Append time of each record, as the topic has it; UNKNOWN_MS where the topic does not say,
    None where it says so of no record."""
    tombstones: tuple[int, ...] = ()
    """Indexes in the poll of records without a value (their lines are empty); skip them."""
    agreeing: int = AGREEING
    """Records that must agree; see streams.clock. With 1, for tests, every clock is believed at
    once."""

    @property
    def newest_appended_ms(self) -> int:
        """Return when the newest of its records was appended; UNKNOWN_MS where that is not
        known."""
        if self.appended_ms is None or not self.count:
            return UNKNOWN_MS
        return int(self.appended_ms.max())

    @property
    def next_offset(self) -> int:
        """Return the offset to resume at."""
        if self.offsets is not None and self.count:
            return int(self.offsets[-1]) + 1
        return self.first_offset + self.count

    def offset_of(self, row: int) -> int:
        """Return the offset of the record at index ``row`` of the poll."""
        return int(self.offsets[row]) if self.offsets is not None else self.first_offset + row


@dataclass(frozen=True, slots=True)
class Seen:
    """Event time reached in a partition: see streams.clock."""

    newest_ms: int = NEVER
    """Time that the records up to the end of the batch agree on."""
    highest_ms: int = NEVER
    """Highest time of any record so far, agreed on or not."""
    reached_ms: Int64s = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Time reached with each row of the batch's frame."""

    @staticmethod
    def of(times: Int64s, before_ms: int = NEVER) -> Seen:
        """Believe every time, and ``before_ms`` before them; there must be at least one time."""
        reached = np.maximum(np.maximum.accumulate(times), before_ms)
        return Seen(int(reached[-1]), int(reached[-1]), reached)

    def at(self, rows: Int64s | Bools) -> Seen:
        """Return the same for some of the rows."""
        return replace(self, reached_ms=self.reached_ms[rows])


@dataclass(frozen=True, slots=True)
class Batch:
    """The good records of a poll as a frame, and the others as dead letters."""

    poll: Poll
    frame: pl.DataFrame
    """Good records, one row each, in order; has TIME_MS and the columns the flow asked for."""
    rows: Int64s | None = None
    """Index in the poll of each row of the frame; None where every record is good."""
    dead: list[DeadLetter] = field(default_factory=list)
    parts: pl.DataFrame | None = None
    """Parts of its records in order, any number of each, where a flow counts those.

    ROW is here the index of the record in the poll. Parts of records that are not in the frame do
    not count.
    """

    seen: Seen = Seen()
    """Event time reached with each row."""
    flow: str = ""
    """Name of the flow that reads it, for the letters about its records."""

    def counted(self) -> pl.DataFrame:
        """Return what a flow chooses from: the parts, with TIME_MS and ROW, or else the frame."""
        if self.parts is None:
            return self.frame
        row_of = np.full(self.poll.count, -1)
        row_of[slice(None) if self.rows is None else self.rows] = np.arange(len(self.frame))
        rows = row_of[self.parts[ROW].to_numpy()]
        parts = where(self.parts.drop(ROW), rows >= 0)
        rows = rows[rows >= 0]
        times = self.frame[TIME_MS].to_numpy()[rows]
        return pl.DataFrame([pl.Series(TIME_MS, times), pl.Series(ROW, rows), *parts])

    def appended_ms(self) -> Int64s:
        """Return when each row's record was appended; UNKNOWN_MS where that is not known."""
        appended = self.poll.appended_ms
        if appended is None:
            return np.full(len(self.frame), UNKNOWN_MS)
        return appended if self.rows is None else appended[self.rows]

    def offsets(self) -> Int64s:
        """Return the offset of each row of the frame."""
        places = np.arange(self.poll.count) if self.rows is None else self.rows
        if self.poll.offsets is not None:
            return self.poll.offsets[places]
        return places + self.poll.first_offset

    def payloads(self) -> list[bytes]:
        """Return the record of each row of the frame, as it was read."""
        lines = self.poll.data.split(b"\n")
        lines.pop()
        return lines if self.rows is None else [lines[place] for place in self.rows.tolist()]

    def payloads_of(self, rows: Int64s) -> list[bytes]:
        """Return the records of a few rows, as they were read."""
        return lines_at(self.poll.data, rows if self.rows is None else self.rows[rows])


def lines_at(data: bytes, places: Int64s) -> list[bytes]:
    """Return the lines at some indexes, without their newlines; each line has one."""
    newlines = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    starts = np.append(0, newlines + 1)[places]
    cuts = zip(starts.tolist(), newlines[places].tolist(), strict=True)
    return [data[start:end] for start, end in cuts]


@dataclass(frozen=True, slots=True)
class TableRows:
    """Upserts for several tables, by the table's name."""

    frames: Mapping[str, pl.DataFrame]

    def __len__(self) -> int:
        return sum(map(len, self.frames.values()))


Rows = pl.DataFrame | TableRows
"""Upserts in order of writing: of the flow's table, or of each of several tables."""


def changed(rows: Rows, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Rows:
    """Return the rows with ``change`` applied to those of each table."""
    if isinstance(rows, pl.DataFrame):
        return change(rows)
    return TableRows({name: change(of_table) for name, of_table in rows.frames.items()})


def of_topic(rows: Rows, topic: str, appended_ms: int | None = None) -> Rows:
    """Return the rows with TOPIC, and APPENDED if given, in tables that have a partition."""
    added = [pl.lit(topic, dtype=pl.String).alias(TOPIC)]
    if appended_ms is not None:
        added.append(pl.lit(max(0, appended_ms), dtype=pl.Int64).alias(APPENDED))

    def named(of_table: pl.DataFrame) -> pl.DataFrame:
        return of_table.with_columns(added) if PARTITION in of_table.columns else of_table

    return changed(rows, named)
