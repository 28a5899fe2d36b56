"""From the bytes of a request to records of a topic. Pure: no network, no clock.

A record is stored as the bytes that were sent. Only newlines between its tokens become spaces
(a record is one line of an embedded topic); inside a string JSON has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec

from footfall.schemas import topics
from footfall.schemas.client_reports import ClientReport
from footfall.schemas.platform_logs import PlatformLog, id_text
from footfall.schemas.prices import BadPriceError, cents_of
from footfall.schemas.reasons import UNREADABLE, bytes_reason, field_reason
from footfall.schemas.shop_events import ShopEvent
from footfall.schemas.store_events import StoreEvent
from footfall.schemas.times import FUTURE_MAX_MS, BadTimeError, parse_time_ms
from footfall.schemas.user_tags import UserTag
from footfall.sinks import Record

_NEWLINES = bytes.maketrans(b"\r\n", b"  ")
_SPACE = b" \t\r\n"


class BadRecordError(ValueError):
    """A record that its topic cannot take; the message begins with the field that is wrong."""

    status = 400


class TooLargeError(BadRecordError):
    """A record with more bytes than its topic takes."""

    status = 413


@dataclass(frozen=True, slots=True)
class Incoming:
    """A topic that may be written from outside."""

    topic: str
    decoder: msgspec.json.Decoder[Any]
    """Decodes one record."""

    def record(self, data: bytes, now_ms: int) -> Record:
        """Return the checked record, keyed by the topic's key field. Raises BadRecordError.

        ``now_ms`` is the wall clock: the flows refuse what is far in the future, and what they
        would refuse is not taken in.
        """
        topic = topics.TOPICS[self.topic]
        if len(data) > topic.record_bytes_max:
            raise TooLargeError(
                f"body: a record of {len(data)} bytes; {self.topic} takes at most "
                f"{topic.record_bytes_max}"
            )
        value = _decoded(self.decoder, data)
        check_time(topic.time, attrgetter(topic.time)(value), now_ms)
        if type(value) is _PRICED:
            check_price(value.price)
        # However an id is written, it decides the same partition.
        return id_text(attrgetter(topic.key)(value)).encode(), one_line(data)


# A float cannot tell whether a price has more than two decimals: the number's text can.
_PRICED: Any = msgspec.defstruct(
    "StoreEvent", [("price", msgspec.Raw)], bases=(StoreEvent,), frozen=True, gc=False
)

INCOMING: dict[str, Incoming] = {
    topic.name: Incoming(topic.name, msgspec.json.Decoder(type_))
    for topic, type_ in (
        (topics.USER_TAGS, UserTag),
        (topics.STORE_EVENTS, _PRICED),
        (topics.PLATFORM_LOGS, PlatformLog),
        (topics.SHOP_EVENTS, ShopEvent),
        (topics.VISITS, ClientReport),
        (topics.ACTIVITIES, ClientReport),
    )
}
"""Topics that clients may write; the others are written by flows alone."""


def one_line(data: bytes) -> bytes:
    """Return the same JSON on one line."""
    return data.translate(_NEWLINES) if b"\n" in data or b"\r" in data else data


def check_time(field: str, text: str, now_ms: int) -> None:
    """Check that a field is a time, and not far in the future. Raises BadRecordError naming it."""
    try:
        time_ms = parse_time_ms(text)
    except BadTimeError as error:
        raise BadRecordError(f"{field}: {error}") from None
    if time_ms > now_ms + FUTURE_MAX_MS:
        raise BadRecordError(f"{field}: {text[:40]!r} is more than an hour in the future")


def check_price(number: msgspec.Raw) -> None:
    """Check a price, given as the JSON of its field. Raises BadRecordError naming the field."""
    try:
        cents_of(bytes(number).decode())
    except BadPriceError as error:
        raise BadRecordError(f"price: {error}") from None


def _decoded(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    try:
        if not data.isascii():
            # The decoder does not look into text of fields that it skips.
            data.decode()
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        path, reason = field_reason(decoder.type, error)
        raise BadRecordError(f"{path or 'body'}: {reason}") from None
    except UNREADABLE as error:
        raise BadRecordError(f"body: {bytes_reason(data, error)}") from None


def split_records(body: bytes, content_type: str = "") -> list[bytes]:
    """Return the records of a body: one JSON object, a JSON array of them, or NDJSON.

    Raises BadRecordError for an array that is no JSON, and for a body without a record.
    """
    start = body.lstrip(_SPACE)[:1]
    if not start:
        raise BadRecordError("body: empty")
    if start == b"[":
        records = [bytes(raw) for raw in _decoded(_array, body)]
    elif "ndjson" not in content_type and _is_json(body):
        records = [body]
    else:
        records = [line for line in body.split(b"\n") if line.strip(_SPACE)]
    if not records:
        raise BadRecordError("body: holds no record")
    return records


_array = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder(msgspec.Raw)


def _is_json(body: bytes) -> bool:
    try:
        _any.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def read_records(
    incoming: Incoming, body: bytes, now_ms: int, content_type: str = ""
) -> list[Record]:
    """Return all records of a body. BadRecordError names the first that is bad, counted from 0."""
    found = []
    for index, data in enumerate(split_records(body, content_type)):
        try:
            found.append(incoming.record(data, now_ms))
        except BadRecordError as error:
            raise type(error)(f"record {index}: {error}") from None
    return found
