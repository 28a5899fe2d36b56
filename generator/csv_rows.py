"""One line of a shop's CSV export as one record: a store event, or a dead letter.

Pure: bytes in, records out, the same each time. A row is one line; a quoted field may hold
commas and doubled quotes, but no line end.
"""

from __future__ import annotations

import csv
import re
from typing import Final

import msgspec

from generator.sources import Record, SourceError
from schemas.dead_letters import DeadLetter, encode, payload_fields
from schemas.store_events import CSV_COLUMNS
from schemas.times import BadTimeError, parse_time_ms
from schemas.topics import DEAD_LETTERS, STORE_EVENTS

FLOW = "csv_replay"
"""Names the replay as the one who gave up on a row."""

_EVENT_TYPES: Final = frozenset({"view", "cart", "remove_from_cart", "purchase"})
_PRICE: Final = re.compile(r"(?:0|[1-9][0-9]{0,10})(?:\.[0-9]{1,2})?")
_ID_MAX: Final = 2**63 - 1
_SHOWN_CHARS: Final = 40
_TIMES_CACHED_MAX: Final = 100_000

_json_text = msgspec.json.encode


class _BadRowError(ValueError):
    """The rest of the reason, after the number of the line."""


class RowReader:
    """Turns the lines of one file into records.

    ``file_name`` stands in the dead letters as their topic; ``header`` is the first line.
    Raises SourceError when the header lacks a column.
    """

    def __init__(self, file_name: str, header: bytes) -> None:
        self._file_name = file_name
        names = _header_names(file_name, header)
        self._fields = len(names)
        self._positions = tuple(names.index(column) for column in CSV_COLUMNS)
        self._in_order = self._positions == tuple(range(self._fields))
        self._times: dict[str, int] = {}

    def record(
        self, number: int, line: bytes, cut_bytes: int = 0
    ) -> tuple[str, Record, int | None]:
        """(topic, record, event time in ms or None) of line ``number``, the header being 1.

        ``line`` is without its line end; ``cut_bytes`` more were cut off for its length.
        """
        try:
            if cut_bytes:
                raise _BadRowError(f"has {len(line) + cut_bytes:,} bytes, too many for a row")
            time_ms, record = self._event(line)
        except _BadRowError as error:
            return DEAD_LETTERS.name, self._letter(number, line, cut_bytes, str(error)), None
        return STORE_EVENTS.name, record, time_ms

    def _event(self, line: bytes) -> tuple[int, Record]:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise _BadRowError("is not UTF-8") from None
        fields = text.split(",") if '"' not in text else _quoted_fields(text)
        if len(fields) != self._fields:
            if not text:
                raise _BadRowError("is empty")
            raise _BadRowError(f"has {len(fields)} fields instead of {self._fields}")
        if not self._in_order:
            fields = [fields[position] for position in self._positions]
        time, kind, product, category, code, brand, price, user, session = fields
        if kind not in _EVENT_TYPES:
            raise _BadRowError(f"has event_type {_shown(kind)}")
        if not _PRICE.fullmatch(price):
            raise _BadRowError(
                f"has price {_shown(price)}, not a decimal number of at most two places"
            )
        time_ms = self._times.get(time)
        if time_ms is None:
            time_ms = self._time_ms(time)
        user_key = _id("user_id", user)
        # Nearly all rows need no escapes, and an f-string costs a quarter of an encoder.
        if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
            code = f'"{code}"' if code else "null"
            brand = f'"{brand}"' if brand else "null"
            session = f'"{session}"' if session else "null"
        else:
            code, brand, session = _optional(code), _optional(brand), _optional(session)
        value = (
            f'{{"event_time":"{time}","event_type":"{kind}",'
            f'"product_id":{_id("product_id", product)},'
            f'"category_id":{_id("category_id", category)},"category_code":{code},'
            f'"brand":{brand},"price":{price},"user_id":{user_key},"user_session":{session}}}'
        )
        return time_ms, (user_key.encode(), value.encode())

    def _time_ms(self, text: str) -> int:
        try:
            if not text.isascii():
                raise BadTimeError("not a date and time")
            time_ms = parse_time_ms(text)
        except BadTimeError as error:
            raise _BadRowError(f"has event_time {_shown(text)}: {error}") from None
        if len(self._times) >= _TIMES_CACHED_MAX:
            self._times.clear()
        self._times[text] = time_ms
        return time_ms

    def _letter(self, number: int, line: bytes, cut_bytes: int, reason: str) -> Record:
        payload = msgspec.convert(
            payload_fields(line) | {"payload_bytes": len(line) + cut_bytes}, _Payload
        )
        letter = DeadLetter(
            flow=FLOW,
            topic=self._file_name,
            partition=0,
            offset=number,
            code="bad_row",
            reason=f"line {number} {reason}",
            payload_bytes=payload.payload_bytes,
            payload=payload.payload,
            payload_base64=payload.payload_base64,
        )
        return self._file_name.encode(), encode(letter)


class _Payload(msgspec.Struct):
    payload_bytes: int
    payload: str | None = None
    payload_base64: str | None = None


def _header_names(file_name: str, header: bytes) -> list[str]:
    try:
        text = header.decode("utf-8-sig")
        names = [name.strip() for name in _quoted_fields(text)]
    except (UnicodeDecodeError, _BadRowError):
        names = []
    missing = [column for column in CSV_COLUMNS if column not in names]
    if missing:
        raise SourceError(
            f"{file_name}: the first line lacks the columns {', '.join(missing)}; it must be "
            f"the header {','.join(CSV_COLUMNS)}"
        )
    return names


def _quoted_fields(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise _BadRowError(f"has a wrong quote: {error}") from None


def _id(column: str, text: str) -> str:
    if text.isascii() and text.isdigit() and len(text) <= 19:
        if len(text) < 19 and text[0] != "0":
            return text
        number = int(text)
        if number <= _ID_MAX:
            return str(number)
    raise _BadRowError(f"has {column} {_shown(text)}, not a whole number up to {_ID_MAX}")


def _optional(text: str) -> str:
    return _json_text(text).decode() if text else "null"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
