"""From the bytes of a poll to a frame: columnar, with a dead letter for each bad record.

The fast path decodes all records of a slice and lifts the columns out of them, and after a few
slices it makes series of what was lifted; the objects of either fit the processor's cache. Only
where that fails are the records taken one by one, so that a bad record never costs a good one
beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import polars as pl

from schemas.dead_letters import Code, DeadLetter, payload_fields
from schemas.times import FUTURE_MAX_MS, BadTimeError, iso_ms, parse_time_ms
from schemas.topics import RECORD_BYTES_MAX
from streams.batch import TIME_MS, Batch, Int64s, Poll
from streams.times import BAD_TIME, parse_lines_ms, parse_times_ms

SLICE_BYTES = 131_072
"""About 500 records: their objects stay in the cache while the columns are lifted out."""
BLOCK_BYTES = 1_048_576
"""About 4,000 records: what was lifted stays in the cache until it is in series."""

Lift = Callable[[list[Any]], list[Any]]
"""Takes one value out of each of many records: ``lambda tags: [tag.origin for tag in tags]``."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the frame: how its values are lifted out of the records, and its type."""

    lift: Lift
    series: Callable[[str, list[Any]], pl.Series]
    bad: Callable[[Any], str | None] | None = None
    """Why a value of the right type is still none of ours; None where it is one."""


def text(lift: Lift) -> Column:
    """A String column."""
    return Column(lift, lambda name, values: pl.Series(name, values, dtype=pl.String))


def ident(lift: Lift) -> Column:
    """A String column of ids that may come as integers."""
    return Column(lift, _ident_series)


def integer(lift: Lift) -> Column:
    """An Int64 column."""
    return Column(lift, lambda name, values: pl.Series(name, values, dtype=pl.Int64))


def cents(lift: Lift) -> Column:
    """An Int64 column of whole cents from decimal prices: 35.79 is 3579."""
    return Column(lift, _cents_series, bad=_bad_price)


def _ident_series(name: str, values: list[Any]) -> pl.Series:
    try:
        return pl.Series(name, values, dtype=pl.String)
    except TypeError:
        return pl.Series(name, list(map(str, values)), dtype=pl.String)


def _cents_series(name: str, values: list[Any]) -> pl.Series:
    scaled = pl.Series(values, dtype=pl.Float64).to_numpy() * 100
    rounded = np.rint(scaled)
    # Prices have at most 1e11 whole units, so that the error of the product stays below this.
    whole = np.abs(scaled - rounded) <= 1e-9 * np.maximum(rounded, 1000.0)
    found = pl.Series(name, rounded.astype(np.int64), dtype=pl.Int64)
    if whole.all():
        return found
    return pl.select(pl.when(pl.Series(whole)).then(found).alias(name)).to_series()


def _bad_price(value: Any) -> str | None:
    if _cents_series("", [value]).null_count():
        return f"price {value} is not a whole number of cents"
    return None


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
    _decoder: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_decoder", msgspec.json.Decoder(self.struct))

    def __reduce__(self) -> Any:
        return Records, (
            self.struct,
            self.time,
            self.columns,
            self.future_max_ms,
            self.bytes_max,
        )

    def decode(self, flow: str, poll: Poll) -> Batch:
        """The batch of a poll: every record is a row of the frame or a dead letter."""
        bad: dict[int, tuple[Code, str]] = {}
        frame, rows = None if poll.sent_again else self._decode_all(poll), None
        if frame is None:
            bad = dict.fromkeys(poll.sent_again, _SENT_AGAIN)
            frame, rows = self._decode_each(poll, bad)
        frame, rows = self._drop_bad_values(poll, frame, rows, bad)
        dead = _letters(flow, poll, bad) if bad else []
        return Batch(poll, frame, rows, dead)

    def _decode_all(self, poll: Poll) -> pl.DataFrame | None:
        """The frame of all records, or None where one of them is bad."""
        data, view = poll.data, memoryview(poll.data)
        if self.bytes_max < SLICE_BYTES and _may_be_longer(data, self.bytes_max):
            return None
        texts: list[str] = []
        columns = self._columns([[] for _ in self.columns])
        count = 0
        try:
            for start, stop in _cut(data, 0, len(data), BLOCK_BYTES):
                values: list[list[Any]] = [[] for _ in self.columns]
                for first, last in _cut(data, start, stop, SLICE_BYTES):
                    count += self._lift(view[first:last], texts, values)
                for column, more in zip(columns, self._columns(values), strict=True):
                    column.append(more)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, _UnusualError):
            return None
        # Blank lines are skipped by the decoder, but they are records, and bad ones.
        if count != poll.count:
            return None
        times = parse_lines_ms("\n".join([*texts, ""]), count)
        return None if times is None else _frame(times, [column.rechunk() for column in columns])

    def _lift(self, lines: memoryview, texts: list[str], values: list[list[Any]]) -> int:
        """Add the times of records, joined by newlines, and their values; how many they are.

        The records are gone on return: the next ones take their place in the cache.
        """
        records = self._decoder.decode_lines(lines)
        # The decoder does not look into text that it skips. A copy of what has just been read
        # is cheap; to look through the whole poll at once is not.
        copy = bytes(lines)
        if not copy.isascii():
            copy.decode()
        texts.append("\n".join(map(attrgetter(self.time), records)))
        for found, column in zip(values, self.columns.values(), strict=True):
            found.extend(column.lift(records))
        return len(records)

    def _decode_each(
        self, poll: Poll, bad: dict[int, tuple[Code, str]]
    ) -> tuple[pl.DataFrame, Int64s]:
        """The frame of the good records and their places, noting in ``bad`` what others are."""
        structs = []
        rows = []
        for row, line in enumerate(poll.data.split(b"\n")[:-1]):
            if row in bad:
                continue
            try:
                structs.append(self._decode_one(line))
                rows.append(row)
            except _BadRecordError as error:
                bad[row] = (error.code, error.reason)
        values = [column.lift(structs) for column in self.columns.values()]
        times = parse_times_ms([*map(attrgetter(self.time), structs)])
        return _frame(times, self._columns(values)), np.array(rows, dtype=np.int64)

    def _columns(self, values: list[list[Any]]) -> list[pl.Series]:
        return [
            column.series(name, found)
            for (name, column), found in zip(self.columns.items(), values, strict=True)
        ]

    def _decode_one(self, line: bytes) -> Any:
        if len(line) > self.bytes_max:
            raise _BadRecordError(
                "too_large", f"the record is over the limit of {self.bytes_max} bytes"
            )
        if not line.strip():
            raise _BadRecordError("empty", "the record is empty")
        try:
            line.decode()
            return self._decoder.decode(line)
        except msgspec.ValidationError as error:
            raise _BadRecordError("wrong_field", str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _BadRecordError("not_json", str(error)) from None
        except RecursionError:
            raise _BadRecordError("not_json", "JSON is nested too deeply") from None

    def _drop_bad_values(
        self,
        poll: Poll,
        frame: pl.DataFrame,
        rows: Int64s | None,
        bad: dict[int, tuple[Code, str]],
    ) -> tuple[pl.DataFrame, Int64s | None]:
        """Drop rows whose types are right but whose time or values are not."""
        if frame.is_empty():
            return frame, rows
        times = frame[TIME_MS]
        future_from_ms = 2**62
        if self.future_max_ms is not None:
            future_from_ms = poll.polled_at_ms + self.future_max_ms
        checked = [name for name, column in self.columns.items() if column.bad]
        nulls = any(frame[name].null_count() for name in checked)
        if times.min() != BAD_TIME and times.max() <= future_from_ms and not nulls:  # type: ignore[operator]
            return frame, rows
        good = pl.col(TIME_MS).is_between(0, future_from_ms)
        for name in checked:
            good &= pl.col(name).is_not_null()
        keep = frame.select(good).to_series().to_numpy()
        places = np.arange(poll.count) if rows is None else rows
        lines = poll.data.split(b"\n")
        for place in places[~keep]:
            bad[int(place)] = self._why_bad(lines[place], future_from_ms)
        return frame.filter(pl.Series(keep)), places[keep]

    def _why_bad(self, line: bytes, future_from_ms: int) -> tuple[Code, str]:
        record = self._decoder.decode(line)
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


_SENT_AGAIN: tuple[Code, str] = ("sent_again", "the record was sent again, and counts there")


class _UnusualError(Exception):
    """Some record is not for the fast path."""


class _BadRecordError(Exception):
    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code: Code = code
        self.reason = reason


def _cut(data: bytes, start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Where whole lines begin and end, about ``size`` bytes at a time, from start to stop.

    Raises _UnusualError for a longer line.
    """
    while start < stop:
        end = data.rfind(b"\n", start, min(start + size, stop)) + 1
        if end == 0:
            # Longer than a piece, if not than a record may be: the careful path measures it.
            raise _UnusualError
        yield start, end
        start = end


def _may_be_longer(lines: bytes, bytes_max: int) -> bool:
    """False where no line is longer; true where one may be.

    A longer line leaves some block of half its length without a newline, and to look for one in
    each block is far cheaper than to find them all.
    """
    block = bytes_max // 2
    return any(
        lines.find(b"\n", start, start + block) < 0
        for start in range(0, len(lines) - block + 1, block)
    )


def _letters(flow: str, poll: Poll, bad: dict[int, tuple[Code, str]]) -> list[DeadLetter]:
    lines = poll.data.split(b"\n")
    return [
        DeadLetter(
            flow=flow,
            topic=poll.topic,
            partition=poll.partition,
            offset=poll.offset_of(row),
            code=code,
            reason=reason,
            **payload_fields(lines[row]),  # type: ignore[arg-type]
        )
        for row, (code, reason) in sorted(bad.items())
    ]
