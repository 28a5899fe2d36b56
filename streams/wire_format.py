"""Make the values of Kafka's records, as they are stored there, into the lines of a poll.

PLAIN       a value is JSON
CONFLUENT   before it are a zero byte and the four bytes of a schema's id, which Confluent's
            serializers write
"""

from __future__ import annotations

from collections.abc import Sequence

PLAIN, CONFLUENT = "PLAIN", "CONFLUENT"
"""Values of KAFKA_WIRE_FORMAT."""
HEAD_BYTES = 5


def is_confluent(record: bytes) -> bool:
    """Return True for a record in Confluent's wire format; no JSON begins with a zero byte."""
    return len(record) > HEAD_BYTES and record[0] == 0


def wire_format_reason(record: bytes) -> str:
    """Return what to do about a record in Confluent's wire format; "" for any other."""
    if not is_confluent(record):
        return ""
    return (
        "in Confluent's wire format, a zero byte and the id of a schema before the JSON: "
        "KAFKA_WIRE_FORMAT=CONFLUENT reads it"
    )


def lines_of(values: Sequence[bytes | None], wire_format: str) -> tuple[bytes, list[int]]:
    """Return a line per value, and the indexes of the tombstones, which have no value.

    With CONFLUENT the head is left out; a value without a head stays as it is.
    """
    if wire_format == CONFLUENT:
        values = [
            value[HEAD_BYTES:] if value is not None and is_confluent(value) else value
            for value in values
        ]
    tombstones: list[int] = []
    try:
        data = b"\n".join(values) + b"\n"  # type: ignore[arg-type]
    except TypeError:
        tombstones = [place for place, value in enumerate(values) if value is None]
        data = b"\n".join([value or b"" for value in values]) + b"\n"
    if data.count(b"\n") != len(values):
        # JSON may be written over several lines; between its tokens a space is the same.
        data = b"".join((value or b"").replace(b"\n", b" ") + b"\n" for value in values)
    return data, tombstones
