"""Lines among which one is bad: decoded as many at once as can be, the others one by one."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import msgspec

from schemas.dead_letters import Code

Bad = dict[int, tuple[Code, str]]
"""What is bad about records, by their place among others."""

FEW = 16
"""So many lines are taken one by one where a bad one is among them."""
_PARTS = 8

NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What ``decode_all`` raises where a record is bad."""

_SENT_AGAIN: tuple[Code, str] = ("sent_again", "the record was sent again, and counts there")


class _BadRecordError(Exception):
    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code: Code = code
        self.reason = reason


def decode_all(decoder: Any, lines: bytes | memoryview) -> list[Any]:
    """The records of lines; blank ones have none. Raises one of NOT_DECODED."""
    records: list[Any] = decoder.decode_lines(lines)
    # The decoder does not look into text that it skips. A copy of what has just been read
    # is cheap; to look through the whole poll at once is not.
    copy = bytes(lines)
    if not copy.isascii():
        copy.decode()
    return records


def decode_each(
    decoder: Any, bytes_max: int, lines: list[bytes], sent_again: Set[int]
) -> tuple[list[Any], list[int], Bad]:
    """The good records, their places among the lines, and what is bad about the others."""
    records: list[Any] = []
    places: list[int] = []
    bad: Bad = {}
    parts = _split(range(len(lines)))
    while parts:
        part = parts.pop()
        if sent_again.isdisjoint(part):
            found = _try_all(decoder, bytes_max, lines[part.start : part.stop])
            if found is not None:
                records += found
                places += part
                continue
        if len(part) > FEW:
            parts += _split(part)
            continue
        for place in part:
            if place in sent_again:
                bad[place] = _SENT_AGAIN
                continue
            try:
                records.append(_decode_one(decoder, bytes_max, lines[place]))
                places.append(place)
            except _BadRecordError as error:
                bad[place] = (error.code, error.reason)
    return records, places, bad


def _split(part: range) -> list[range]:
    """A part as smaller ones, the last first."""
    size = max(len(part) // _PARTS, FEW)
    return [part[start : start + size] for start in range(0, len(part), size)][::-1]


def _try_all(decoder: Any, bytes_max: int, lines: list[bytes]) -> list[Any] | None:
    """The records of the lines, or None where one of them is bad."""
    if max(map(len, lines)) > bytes_max:
        return None
    try:
        records = decode_all(decoder, b"\n".join(lines))
    except NOT_DECODED:
        return None
    # Fewer, where a line is blank, or a record goes on in the next line.
    return records if len(records) == len(lines) else None


def _decode_one(decoder: Any, bytes_max: int, line: bytes) -> Any:
    if len(line) > bytes_max:
        raise _BadRecordError("too_large", f"the record is over the limit of {bytes_max} bytes")
    if not line.strip():
        raise _BadRecordError("empty", "the record is empty")
    try:
        line.decode()
        return decoder.decode(line)
    except msgspec.ValidationError as error:
        raise _BadRecordError("wrong_field", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _BadRecordError("not_json", str(error)) from None
    except RecursionError:
        raise _BadRecordError("not_json", "JSON is nested too deeply") from None
