"""Decode the bytes of a poll into a frame, with a dead letter for each bad record.

Lines are decoded in blocks whose records fit the processor's cache, and the columns are taken out
of each block at once. The decoder stops at a bad line; the line is noted, and decoding goes on
behind it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import polars as pl

from footfall.schemas.dead_letters import Code, DeadLetter, payload_fields
from footfall.schemas.reasons import UNREADABLE, bytes_reason, field_reason
from footfall.schemas.times import FUTURE_MAX_MS, BadTimeError, iso_ms, parse_time_ms
from footfall.schemas.topics import RECORD_BYTES_MAX, Topic
from footfall.streams.batch import TIME_MS, UNKNOWN_MS, Batch, Bools, Int64s, Poll, lines_at
from footfall.streams.columns import Column, Lift
from footfall.streams.frames import where
from footfall.streams.parts import LiftedParts, Parts
from footfall.streams.times import BAD_TIME, parse_times_ms
from footfall.streams.wire_format import wire_format_reason

BLOCK_LINES = 1_000
"""Lines per block, about 250 KB: the records stay in the cache until their columns are taken."""

NO_LIMIT_MS = 2**62
_SENT_AGAIN: tuple[Code, str] = ("sent_again", "the record was sent again, and counts there")


@dataclass(frozen=True, slots=True)
class Records:
    """The reading of a topic by a flow: the struct, its event time, and the columns it needs.

    Every record is checked against the whole struct, whichever columns are asked for.
    """

    struct: type[msgspec.Struct]
    time: str
    columns: Mapping[str, Column]
    future_max_ms: int | None = FUTURE_MAX_MS
    """Most milliseconds that an event may be ahead of its append time, beyond which it is a dead
    letter; None accepts any."""
    bytes_max: int = RECORD_BYTES_MAX
    """Largest record in bytes; a larger one is a dead letter."""
    times: Lift | None = None
    """Function that takes out the event times that ``time`` names, faster than following the
    path."""
    parts: Parts | None = None
    """Parts that are taken out beside the columns, where parts of few records are counted."""
    _decode: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_decode", msgspec.json.Decoder(self.struct).decode)

    @classmethod
    def of(
        cls,
        topic: Topic,
        columns: Mapping[str, Column],
        *,
        struct: type[msgspec.Struct] | None = None,
        **options: Any,
    ) -> Records:
        """Return the reading of ``topic`` with these columns and further fields of Records.

        Without ``struct`` each record is checked against the whole struct of its topic.
        """
        return cls(
            struct or topic.struct,
            topic.time,
            columns,
            bytes_max=topic.record_bytes_max,
            **options,
        )

    def decode(self, flow: str, poll: Poll) -> Batch:
        """Return the batch of a poll: each record is a row of its frame or a dead letter."""
        data, places = poll.data, np.arange(poll.count)
        skipped = [*poll.tombstones, *poll.sent_again, *_unreadable(data, self.bytes_max)]
        if skipped:
            places = np.delete(places, skipped)
            data = b"".join(line + b"\n" for line in lines_at(data, places))
        frame, parts, undecoded, unfit = self._lifted(data, places)
        rows = np.delete(places, undecoded)
        is_good = self._has_good_values(frame, self._latest_ms(poll, rows))
        is_good[unfit] = False
        if not is_good.all():
            frame, rows = where(frame, is_good), rows[is_good]
        if len(rows) == poll.count:
            return Batch(poll, frame, parts=parts, flow=flow)
        is_bad = np.ones(poll.count, dtype=np.bool_)
        is_bad[rows] = is_bad[[*poll.tombstones]] = False
        letters = self._letters(flow, poll, np.flatnonzero(is_bad))
        return Batch(poll, frame, rows, letters, parts, flow=flow)

    def _lifted(
        self, data: bytes, places: Int64s
    ) -> tuple[pl.DataFrame, pl.DataFrame | None, list[int], list[int]]:
        """Return the frame and parts of the lines at ``places`` of a poll, and which are bad.

        The two lists are the indexes of lines that could not be decoded, and of rows with values
        that no column holds.
        """
        times: list[str] = []
        series: list[list[pl.Series]] = [[] for _ in self.columns]
        parts = None if self.parts is None else LiftedParts(self.parts)
        undecoded: list[int] = []
        unfit: list[int] = []
        lines = io.BytesIO(data)
        for first in range(0, max(len(places), 1), BLOCK_LINES):
            records, wrong = self._records(islice(lines, BLOCK_LINES))
            undecoded += [first + place for place in wrong]
            if parts is not None:
                parts.lift(records, len(times))
            for found, (name, column) in zip(series, self.columns.items(), strict=True):
                made, not_held = column.fit(name, column.lift(records))
                found.append(made)
                unfit += [len(times) + place for place in not_held]
            times += self._times_of(records)
        columns = [pl.concat(found, rechunk=True) for found in series]
        frame = pl.DataFrame([pl.Series(TIME_MS, parse_times_ms(times)), *columns])
        lifted = None if parts is None else parts.frame(np.delete(places, undecoded))
        return frame, lifted, undecoded, unfit

    def _records(self, lines: Iterator[bytes]) -> tuple[list[Any], list[int]]:
        """Return (the records of lines, the indexes of bad lines)."""
        records: list[Any] = []
        wrong: list[int] = []
        while True:
            try:
                records.extend(map(self._decode, lines))
            except (msgspec.DecodeError, RecursionError):
                # All records before the bad line are in the list already.
                wrong.append(len(records) + len(wrong))
            else:
                return records, wrong

    def _times_of(self, records: list[Any]) -> list[str]:
        if self.times is not None:
            return self.times(records)
        return [*map(attrgetter(self.time), records)]

    def _latest_ms(self, poll: Poll, rows: Int64s) -> Int64s | int:
        """Return the latest event time that each of the records may have."""
        if self.future_max_ms is None or poll.appended_ms is None:
            return NO_LIMIT_MS
        appended = poll.appended_ms[rows]
        return np.where(appended == UNKNOWN_MS, NO_LIMIT_MS, appended + self.future_max_ms)

    def _has_good_values(self, frame: pl.DataFrame, latest_ms: Int64s | int) -> Bools:
        """Return for each row whether its time and values are good; its types are."""
        times = frame[TIME_MS].to_numpy()
        is_good: Bools = (times != BAD_TIME) & (times <= latest_ms)
        for name, column in self.columns.items():
            if column.bad and frame[name].null_count():
                is_good &= frame[name].is_not_null().to_numpy()
        return is_good

    def _letters(self, flow: str, poll: Poll, places: Int64s) -> list[DeadLetter]:
        latest_ms = np.broadcast_to(self._latest_ms(poll, places), len(places)).tolist()
        letters = []
        for place, line, limit_ms in zip(
            places.tolist(), lines_at(poll.data, places), latest_ms, strict=True
        ):
            is_superseded = place in poll.sent_again
            code, reason = _SENT_AGAIN if is_superseded else self._why_bad(line, limit_ms)
            letters.append(
                DeadLetter(
                    flow=flow,
                    topic=poll.topic,
                    partition=poll.partition,
                    offset=poll.offset_of(place),
                    code=code,
                    reason=reason,
                    **payload_fields(line),  # type: ignore[arg-type]
                )
            )
        return letters

    def _why_bad(self, line: bytes, latest_ms: int) -> tuple[Code, str]:
        """Return the code and the reason why a record is a dead letter."""
        if len(line) > self.bytes_max:
            return "too_large", f"the record is over the limit of {self.bytes_max} bytes"
        if not line.strip():
            return "empty", "the record is empty"
        try:
            line.decode()
            return self._why_bad_values(self._decode(line), latest_ms)
        except msgspec.ValidationError as error:
            path, reason = field_reason(self.struct, error)
            return "wrong_field", f"{path}: {reason}" if path else reason
        except UNREADABLE as error:
            return "not_json", wire_format_reason(line) or bytes_reason(line, error)

    def _why_bad_values(self, record: Any, latest_ms: int) -> tuple[Code, str]:
        try:
            time_ms = parse_time_ms(attrgetter(self.time)(record))
        except BadTimeError as error:
            return "bad_time", f"{self.time}: {error}"
        if time_ms > latest_ms:
            limit = iso_ms(latest_ms)
            return "future_time", f"event time {iso_ms(time_ms)} is past {limit}: in the future"
        for name, column in self.columns.items():
            reason = column.why_bad(name, column.lift([record])[0])
            if reason:
                return "wrong_field", reason
        raise AssertionError("a good record was taken for a bad one")


def _unreadable(data: bytes, bytes_max: int) -> list[int]:
    """Return the indexes of lines that are too large or not UTF-8: the decoder would accept
    them."""
    found: set[int] = set()
    if _has_longer_line(data, bytes_max):
        lines = enumerate(io.BytesIO(data))
        found |= {place for place, line in lines if len(line) > bytes_max + 1}
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            lines = enumerate(io.BytesIO(data))
            found |= {place for place, line in lines if not _is_utf8(line)}
    return [*found]


def _has_longer_line(data: bytes, bytes_max: int) -> bool:
    """Return whether a line is longer than ``bytes_max``, without looking at most lines."""
    start = 0
    while len(data) - start > bytes_max + 1:
        start = data.rfind(b"\n", start, start + bytes_max + 1) + 1
        if start == 0:
            return True
    return False


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
