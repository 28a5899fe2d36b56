"""Dead letters and late events, as they are in their topics.

Both are identified by (flow, topic, partition, offset): after a crash the same letter may
be written again, and a reader counts it once.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from footfall.schemas.times import iso_ms
from footfall.schemas.topics import RECORD_BYTES_MAX

PAYLOAD_BYTES_MAX = 524_288
"""Most bytes of a payload that are kept (the whole record is still at its topic and offset)."""

_HEADROOM_BYTES = 1_024
"""Bytes left in a record for its key and what the broker adds."""

Code = Literal[
    "empty",
    "too_large",
    "not_json",
    "wrong_field",
    "bad_time",
    "future_time",
    "bad_row",
    "sent_again",
]


class DeadLetter(Struct, frozen=True, omit_defaults=True):
    """A record that can never be processed, and why."""

    flow: str
    topic: str
    partition: int
    offset: int
    code: Code
    reason: str
    payload_bytes: int
    payload: str | None = None
    payload_base64: str | None = None
    """Payload where its bytes are not UTF-8."""


class LateEvent(Struct, frozen=True, omit_defaults=True):
    """An event that came after its window could still be corrected."""

    flow: str
    topic: str
    partition: int
    offset: int
    time: str
    watermark: str
    payload_bytes: int
    payload: str | None = None
    payload_base64: str | None = None


RetryStep = Literal["intent", "sent", "not_sent"]


class RetryNote(Struct, frozen=True):
    """A step of sending a dead letter's record again; it holds for the letters of all flows.

    ``intent``    it is about to be appended to its partition, which ends at ``end_offset`` now
    ``sent``      it is there again: never send it another time
    ``not_sent``  the intent was broken off, and it is not there
    """

    topic: str
    partition: int
    offset: int
    """Offset of the record as it was first read."""
    step: RetryStep
    end_offset: int
    noted_ms: int


class Retry(Struct, frozen=True):
    """A note among the dead letters: ``{"retry": {...}}``, which is not a letter."""

    retry: RetryNote

    @property
    def topic(self) -> str:
        """Return the key of the note, that of the letters it is about, so that it comes after
        them."""
        return self.retry.topic


class StoreMetricsAvailable(Struct, frozen=True):
    """The notice that a window of store metrics was written."""

    start_event_time: str
    end_event_time: str
    nr_of_events: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> StoreMetricsAvailable:
        """Return the notice of a row of ``events``."""
        start, end = (
            iso_ms(round(row[name].timestamp() * 1000))
            for name in ("start_event_time", "end_event_time")
        )
        return cls(start, end, row["nr_of_events"])


def payload_fields(payload: bytes) -> dict[str, str | int]:
    """Return the payload fields of a letter: text where it is UTF-8, base64 otherwise."""
    kept = payload[:PAYLOAD_BYTES_MAX]
    try:
        return {"payload": kept.decode(), "payload_bytes": len(payload)}
    except UnicodeDecodeError as error:
        if len(kept) < len(payload) and error.start >= len(kept) - 3:
            # The cut itself split a character.
            return {"payload": kept[: error.start].decode(), "payload_bytes": len(payload)}
        return {
            "payload_base64": base64.b64encode(kept).decode(),
            "payload_bytes": len(payload),
        }


def payload_of(letter: DeadLetter | LateEvent) -> bytes:
    """Return the bytes of the record, cut at PAYLOAD_BYTES_MAX."""
    if letter.payload_base64 is not None:
        return base64.b64decode(letter.payload_base64)
    return (letter.payload or "").encode()


encode = msgspec.json.Encoder().encode


def record_of(letter: Struct, key: str = "topic") -> tuple[bytes, bytes]:
    """Return the record of a letter, keyed by its field ``key``.

    A letter that would exceed the limit of a record has more of its payload cut off.
    """
    key_bytes, value = str(getattr(letter, key)).encode(), encode(letter)
    if isinstance(letter, DeadLetter | LateEvent) and letter.payload is not None:
        text = letter.payload
        while len(value) > RECORD_BYTES_MAX - _HEADROOM_BYTES - len(key_bytes) and text:
            # Characters that JSON must escape take up to six bytes each.
            text = text[: len(text) // 2]
            value = encode(msgspec.structs.replace(letter, payload=text))
    return key_bytes, value


_NOTE_BEGINS = b'{"retry":'
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode_letter = msgspec.json.Decoder(DeadLetter).decode
_decode_late = msgspec.json.Decoder(LateEvent).decode
_decode_retry = msgspec.json.Decoder(Retry).decode


def dead_letter_of(record: bytes) -> DeadLetter | None:
    """Return the letter; None where the record is a note or of another version."""
    if record.startswith(_NOTE_BEGINS):
        return None
    try:
        return _decode_letter(record)
    except _UNREADABLE:
        return None


def late_event_of(record: bytes) -> LateEvent | None:
    """Return the late event; None where the record is of another version."""
    try:
        return _decode_late(record)
    except _UNREADABLE:
        return None


def retry_note_of(record: bytes) -> RetryNote | None:
    """Return the note; None where the record is a letter or of another version."""
    if not record.startswith(_NOTE_BEGINS):
        return None
    try:
        return _decode_retry(record).retry
    except _UNREADABLE:
        return None
