"""From the bytes of a poll to a frame: columnar, with a dead letter for each bad record.

The fast path decodes all records of a slice that fits the processor's cache and lifts out the
columns. Only where that fails are the records taken one by one, so that a bad record never
costs a good one beside it.
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
from streams.times import BAD_TIME, parse_joined_ms, parse_times_ms

SLICE_BYTES = 131_072
"""About 500 records: their objects stay in the cache while the columns are lifted out."""

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


_Lifted = tuple[Int64s, dict[str, list[Any]], Int64s | None]
"""Event times, columns, and the places in the poll where not every record is good."""


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
    _decoder: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_decoder", msgspec.json.Decoder(self.struct))

    def __reduce__(self) -> Any:
        return Records, (self.struct, self.time, self.columns, self.future_max_ms)

    def decode(self, flow: str, poll: Poll) -> Batch:
        """The batch of a poll: every record is a row of the frame or a dead letter."""
        bad: dict[int, tuple[Code, str]] = {}
        times, values, rows = self._lift_all(poll) or self._lift_each(poll, bad)
        columns = [column.series(name, values[name]) for name, column in self.columns.items()]
        frame = pl.DataFrame([pl.Series(TIME_MS, times), *columns])
        frame, rows = self._drop_bad_values(poll, frame, rows, bad)
        dead = _letters(flow, poll, bad) if bad else []
        return Batch(poll, frame, rows, dead)

    def _lift_all(self, poll: Poll) -> _Lifted | None:
        """Event times and columns of all records, or None where one of them is bad."""
        decode_lines = self._decoder.decode_lines
        texts: list[str] = []
        count = 0
        values: dict[str, list[Any]] = {name: [] for name in self.columns}
        get_time = attrgetter(self.time)
        lifts = [(values[name], column.lift) for name, column in self.columns.items()]
        try:
            if not poll.data.isascii():
                # The decoder does not look into text that it skips.
                poll.data.decode()
            for piece in _slices(poll.data):
                structs = decode_lines(piece)
                count += len(structs)
                # Joined, so that the texts need not be kept.
                texts.append("\n".join(map(get_time, structs)))
                for found, lift in lifts:
                    found.extend(lift(structs))
                # The next slice takes the place of this one in the cache.
                del structs
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, _TooLargeError):
            return None
        # Blank lines are skipped by the decoder, but they are records, and bad ones.
        if count != poll.count:
            return None
        times = parse_joined_ms("\n".join(texts), count)
        return None if times is None else (times, values, None)

    def _lift_each(self, poll: Poll, bad: dict[int, tuple[Code, str]]) -> _Lifted:
        """The same for the good records alone, noting in ``bad`` what is wrong with others."""
        structs = []
        rows = []
        for row, line in enumerate(poll.data.split(b"\n")[:-1]):
            try:
                structs.append(self._decode_one(line))
                rows.append(row)
            except _BadRecordError as error:
                bad[row] = (error.code, error.reason)
        values = {name: column.lift(structs) for name, column in self.columns.items()}
        texts = [*map(attrgetter(self.time), structs)]
        return parse_times_ms(texts), values, np.array(rows, dtype=np.int64)

    def _decode_one(self, line: bytes) -> Any:
        if len(line) > RECORD_BYTES_MAX:
            raise _BadRecordError(
                "too_large", f"the record is over the limit of {RECORD_BYTES_MAX} bytes"
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


class _TooLargeError(Exception):
    pass


class _BadRecordError(Exception):
    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code: Code = code
        self.reason = reason


def _slices(data: bytes) -> Iterator[memoryview]:
    """Whole lines, about SLICE_BYTES at a time. Raises _TooLargeError for a longer line."""
    view = memoryview(data)
    start, size = 0, len(data)
    while start < size:
        end = data.rfind(b"\n", start, start + SLICE_BYTES) + 1
        if end == 0:
            # Longer than a slice, if not than a record may be: the careful path measures it.
            raise _TooLargeError
        yield view[start:end]
        start = end


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
