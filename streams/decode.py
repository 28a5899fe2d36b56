"""From the bytes of a poll to a frame: columnar, with a dead letter for each bad record.

The fast path decodes all records of a slice and lifts the columns out of them, and after a few
slices it makes series of what was lifted; the objects of either fit the processor's cache. Where
that fails, the lines that are bad are cut out of the slice, or all of it is read line by line: a
bad record never costs a good one beside it, and costs no other slice its speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import polars as pl

from schemas.dead_letters import Code, DeadLetter, payload_fields
from schemas.times import FUTURE_MAX_MS, BadTimeError, iso_ms, parse_time_ms
from schemas.topics import RECORD_BYTES_MAX
from streams._decode_each import NOT_DECODED, Bad, Decoders, culprit_of, decode_all, decode_each
from streams._slices import (
    CUTS_MAX,
    Slice,
    bad_of,
    cut,
    cut_out,
    firsts,
    has_longer,
    lines_of,
    mark_sent_again,
    read_times,
    rows_of,
)
from streams.batch import TIME_MS, Batch, Int64s, Poll
from streams.columns import Column, Lift
from streams.frames import where
from streams.lines import Lines
from streams.parts import LiftedParts, Parts
from streams.times import BAD_TIME, parse_times_ms

SLICE_BYTES = 65_536
"""About 250 records: their objects stay in the cache while the columns are lifted out, and a bad
record costs no more than these a second look."""
BLOCK_BYTES = 1_048_576
"""About 4,000 records: what was lifted stays in the cache until it is in series."""


@dataclass(slots=True)
class _Lifted:
    """What was lifted of records."""

    values: list[list[Any]]
    """Of each column, those that are in no series yet."""
    parts: LiftedParts | None
    count: int = 0
    """How many records."""


@dataclass(frozen=True, slots=True)
class Records:
    """How a flow reads a topic's records: the struct, its event time, the columns it needs.

    Every record is checked against the whole struct, whichever columns are asked for.
    """

    struct: type[msgspec.Struct]
    time: str
    columns: Mapping[str, Column]
    future_max_ms: int | None = FUTURE_MAX_MS
    """An event further ahead of the wall clock is a dead letter; None accepts any."""
    bytes_max: int = RECORD_BYTES_MAX
    """A larger record is a dead letter."""
    times: Lift | None = None
    """Lifts the event times that ``time`` names, faster than a path is followed."""
    parts: Parts | None = None
    """What is lifted beside the columns, where parts of few records are to be counted."""
    _decoders: Decoders = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_decoders", Decoders.of(self.struct))

    def __reduce__(self) -> Any:
        return Records, (
            self.struct,
            self.time,
            self.columns,
            self.future_max_ms,
            self.bytes_max,
            self.times,
            self.parts,
        )

    def decode(self, flow: str, poll: Poll) -> Batch:
        """The batch of a poll: every record is a row of the frame or a dead letter."""
        lifted = _Lifted(
            [[] for _ in self.columns],
            None if self.parts is None else LiftedParts(self.parts),
        )
        frame, slices = self._decode_slices(poll, lifted)
        taken = None
        if any(piece.again for piece in slices):
            frame, taken = self._decode_again(poll, frame, slices, lifted)
        rows, bad, lines = rows_of(slices), bad_of(slices), lines_of(slices)
        parts = None
        if lifted.parts is not None:
            parts = lifted.parts.frame(_places(lifted.count, taken, rows))
        frame, rows = self._drop_bad_values(poll, frame, rows, lines, bad)
        dead = _letters(flow, poll, lines, bad) if bad else []
        return Batch(poll, frame, rows, dead, parts, lines)

    def _decode_slices(self, poll: Poll, lifted: _Lifted) -> tuple[pl.DataFrame, list[Slice]]:
        """The frame of what was lifted, and the slices, marked where that is not to be used."""
        data = poll.data
        series: list[list[pl.Series]] = [[] for _ in self.columns]
        slices: list[Slice] = []
        for block in cut(data, 0, len(data), BLOCK_BYTES) or [Slice(0, 0)]:
            for piece in cut(data, block.start, block.stop, SLICE_BYTES):
                slices += self._lift_slice(data, piece, lifted)
            for made, more in zip(series, self._series(lifted), strict=True):
                made.append(more)
        times = read_times(slices)
        mark_sent_again(poll, slices)
        return _frame(times, [pl.concat(made, rechunk=True) for made in series]), slices

    def _decode_again(
        self, poll: Poll, frame: pl.DataFrame, slices: list[Slice], lifted: _Lifted
    ) -> tuple[pl.DataFrame, Int64s]:
        """The frame in which marked slices have given way to what they are line by line.

        And of each of its rows, how many records were lifted before its own.
        """
        times: list[str] = []
        taken: list[Int64s] = []
        stop = 0
        for first, piece in zip(firsts(slices), slices, strict=True):
            start, stop = stop, stop + piece.count
            if piece.again:
                start = len(frame) + len(times)
                sent_again = {place - first for place in poll.sent_again}
                times += self._lift_each(poll.data, piece, lifted, sent_again)
            taken.append(start + np.arange(piece.count))
        again = _frame(parse_times_ms(times), self._series(lifted))
        rows = np.concatenate(taken)
        return pl.concat([frame, again], rechunk=True)[rows], rows

    def _lift_slice(self, data: bytes, piece: Slice, lifted: _Lifted) -> list[Slice]:
        """Add the values of a slice, and note what it is; as several where some lines are bad."""
        slices, waiting, cuts = [], [piece], 0
        while waiting:
            piece = waiting.pop()
            if piece.is_suspect or not self._lift_at_once(data, piece, lifted):
                parts = cut_out(data, piece) if cuts < CUTS_MAX else []
                if parts:
                    cuts += 1
                    waiting += reversed(parts)
                    continue
                piece.times = "\n".join(self._lift_each(data, piece, lifted))
            slices.append(piece)
        return slices

    def _lift_at_once(self, data: bytes, piece: Slice, lifted: _Lifted) -> bool:
        """Add the values of a slice, and note what it is; false where one of its lines is bad.

        The records are gone on return: the next ones take their place in the cache.
        """
        if has_longer(data, piece, self.bytes_max):
            return False
        try:
            records = decode_all(self._decoders, data[piece.start : piece.stop - 1])
        except NOT_DECODED as error:
            piece.culprit = culprit_of(error, data, piece.start)
            return False
        piece.times = "\n".join(self._lift(records, lifted))
        piece.lines = piece.count = len(records)
        return True

    def _lift_each(
        self,
        data: bytes,
        piece: Slice,
        lifted: _Lifted,
        sent_again: Set[int] = frozenset(),
    ) -> list[str]:
        """Add the values of the good records of a slice, and note what it is; their times."""
        lines = piece.read(data)
        decoded = decode_each(self._decoders, self.bytes_max, lines, sent_again, piece.culprit)
        records, piece.places, piece.bad = decoded
        piece.lines, piece.count = len(lines), len(records)
        return self._lift(records, lifted)

    def _lift(self, records: list[Any], lifted: _Lifted) -> list[str]:
        """Add the values of records; their times."""
        for found, column in zip(lifted.values, self.columns.values(), strict=True):
            found.extend(column.lift(records))
        if lifted.parts is not None:
            lifted.parts.lift(records, lifted.count)
        lifted.count += len(records)
        return self._times_of(records)

    def _times_of(self, records: list[Any]) -> list[str]:
        if self.times is not None:
            return self.times(records)
        return [*map(attrgetter(self.time), records)]

    def _series(self, lifted: _Lifted) -> list[pl.Series]:
        """The values of each column, which are gone then."""
        series = []
        for (name, column), found in zip(self.columns.items(), lifted.values, strict=True):
            series.append(column.series(name, found))
            found.clear()
        return series

    def _drop_bad_values(
        self,
        poll: Poll,
        frame: pl.DataFrame,
        rows: Int64s | None,
        lines: Lines,
        bad: Bad,
    ) -> tuple[pl.DataFrame, Int64s | None]:
        """Drop rows whose types are right but whose time or values are not."""
        if frame.is_empty():
            return frame, rows
        future_from_ms = 2**62
        if self.future_max_ms is not None:
            future_from_ms = poll.polled_at_ms + self.future_max_ms
        times = frame[TIME_MS].to_numpy()
        keep = (times != BAD_TIME) & (times <= future_from_ms)
        for name, column in self.columns.items():
            if column.bad and frame[name].null_count():
                keep &= frame[name].is_not_null().to_numpy()
        if keep.all():
            return frame, rows
        places = np.arange(poll.count) if rows is None else rows
        dropped = places[~keep]
        for place, line in zip(dropped.tolist(), lines.at(poll.data, dropped), strict=True):
            bad[place] = self._why_bad(line, future_from_ms)
        return where(frame, keep), places[keep]

    def _why_bad(self, line: bytes, future_from_ms: int) -> tuple[Code, str]:
        record = self._decoders.one.decode(line)
        try:
            time_ms = parse_time_ms(attrgetter(self.time)(record))
        except BadTimeError as error:
            return "bad_time", f"{error} - at `$.{self.time}`"
        if time_ms > future_from_ms:
            limit = iso_ms(future_from_ms)
            return "future_time", f"event time {iso_ms(time_ms)} is past {limit}: in the future"
        for column in self.columns.values():
            reason = column.bad and column.bad(column.lift([record])[0])
            if reason:
                return "wrong_field", reason
        raise AssertionError("a row was dropped for no reason")


def _frame(times: Int64s, columns: list[pl.Series]) -> pl.DataFrame:
    return pl.DataFrame([pl.Series(TIME_MS, times, dtype=pl.Int64), *columns])


def _places(count: int, taken: Int64s | None, rows: Int64s | None) -> Int64s:
    """Where in the poll each of the records stands that were lifted; -1 of those not used."""
    if taken is None:
        return np.arange(count) if rows is None else rows
    places = np.full(count, -1)
    places[taken] = np.arange(len(taken)) if rows is None else rows
    return places


def _letters(flow: str, poll: Poll, lines: Lines, bad: Bad) -> list[DeadLetter]:
    rows = sorted(bad)
    return [
        DeadLetter(
            flow=flow,
            topic=poll.topic,
            partition=poll.partition,
            offset=poll.offset_of(row),
            code=bad[row][0],
            reason=bad[row][1],
            **payload_fields(line),  # type: ignore[arg-type]
        )
        for row, line in zip(rows, lines.at(poll.data, np.array(rows)), strict=True)
    ]
