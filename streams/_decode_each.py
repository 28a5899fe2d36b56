"""Lines among which one is bad: decoded as many at once as can be, the others one by one.

What the decoder says tells mostly which line it is that is bad, so that those around it need not
be looked for. That is a guess: nothing but the speed depends on it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from schemas.dead_letters import Code

Bad = dict[int, tuple[Code, str]]
"""What is bad about records, by their place among others."""

FEW = 16
"""So many lines are taken one by one where a bad one is among them."""
_PARTS = 8
_NEWLINE, _OPENING, _CLOSING = b"\n{}"
_AT_BYTE = re.compile(r"\(byte (\d+)\)$")
_AT_RECORD = re.compile(r" - at `\$\[(\d+)\][^`]*`$")

NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What ``decode_all`` raises where a record is bad."""

_SENT_AGAIN: tuple[Code, str] = ("sent_again", "the record was sent again, and counts there")


class _OddLineError(msgspec.DecodeError):
    """It, or the one before, does not look as lines with one record do."""

    def __init__(self, place: int) -> None:
        super().__init__(f"line {place} or the one before it is hardly one record")
        self.place = place


class _BadRecordError(Exception):
    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code: Code = code
        self.reason = reason


# Nobody who writes records can know it.
_MARK = 10**17 + secrets.randbelow(10**17)


@dataclass(frozen=True, slots=True)
class Decoders:
    """Of one record, and of many with marks between them."""

    one: Any
    marked: Any

    @staticmethod
    def of(struct: Any) -> Decoders:
        """For records of this type."""
        marked = list[struct | Literal[_MARK]]  # type: ignore[valid-type]
        return Decoders(msgspec.json.Decoder(struct), msgspec.json.Decoder(marked))


def decode_all(decoders: Decoders, lines: bytes) -> list[Any]:
    """The records of lines, without the last newline: one of each.

    Raises one of NOT_DECODED, also where a line is none or holds two.
    """
    chars = np.frombuffer(lines, np.uint8)
    is_newline = chars == _NEWLINE
    count = int(np.count_nonzero(is_newline)) + 1
    is_between = is_newline[1:-1] & (chars[:-2] == _CLOSING) & (chars[2:] == _OPENING)
    odd = count - 1 - int(np.count_nonzero(is_between))
    if not odd:
        # In JSON nothing but a record can end between these two, so that each line has one.
        records = decoders.one.decode_lines(lines)
    elif 2 * odd > count:
        records = _decode_marked(decoders, lines)
    else:
        is_newline[1:-1] &= ~is_between
        raise _OddLineError(lines.count(b"\n", 0, int(is_newline.argmax())) + 1)
    if len(records) != count:
        raise msgspec.DecodeError("not every line is one record")
    # The decoder does not look into text that it skips. What has just been read is cheap to
    # read again; to look through the whole poll at once is not.
    if not lines.isascii():
        lines.decode()
    return records  # type: ignore[no-any-return]


def _decode_marked(decoders: Decoders, lines: bytes) -> list[Any]:
    """The same of lines with blanks around the records; an eighth slower."""
    items = decoders.marked.decode(b"[%b]" % lines.replace(b"\n", b",%d," % _MARK))
    records, marks = items[::2], items[1::2]
    if marks.count(_MARK) != len(marks) or _MARK in records:
        raise msgspec.DecodeError("not every line is one record")
    return records  # type: ignore[no-any-return]


def culprit_of(error: Exception, lines: bytes, start: int = 0) -> int | None:
    """The line, counted from byte ``start`` on, that an error of ``decode_all`` is likely about.

    It may be the one before too, which a quote or a bracket is missing in.
    """
    if isinstance(error, _OddLineError):
        return error.place
    if isinstance(error, UnicodeDecodeError):
        return lines.count(b"\n", start, start + error.start)
    said = str(error)
    if found := _AT_BYTE.search(said):
        return lines.count(b"\n", start, start + int(found[1]))
    found = _AT_RECORD.search(said)
    return int(found[1]) if found else None


def decode_each(
    decoders: Decoders,
    bytes_max: int,
    lines: list[bytes],
    sent_again: Set[int],
    culprit: int | None = None,
) -> tuple[list[Any], list[int], Bad]:
    """The good records, their places among the lines, and what is bad about the others.

    ``culprit`` is the line that all of them together failed at, where that is known.
    """
    records: list[Any] = []
    places: list[int] = []
    bad: Bad = {}
    parts = _around(range(len(lines)), culprit)
    while parts:
        part = parts.pop()
        culprit = None
        if sent_again.isdisjoint(part):
            found, culprit = _try_all(decoders, bytes_max, lines[part.start : part.stop])
            if found is not None:
                records += found
                places += part
                continue
        if len(part) > FEW:
            parts += _around(part, culprit)
            continue
        for place in part:
            if place in sent_again:
                bad[place] = _SENT_AGAIN
                continue
            try:
                records.append(_decode_one(decoders.one, bytes_max, lines[place]))
                places.append(place)
            except _BadRecordError as error:
                bad[place] = (error.code, error.reason)
    return records, places, bad


def _around(part: range, culprit: int | None) -> list[range]:
    """A part as smaller ones, the last first: all that stand before the culprit in one."""
    if culprit is None or culprit >= len(part) or len(part) == 2:
        return _split(part)
    before, rest = part[: max(culprit - 1, 0)], part[culprit + 1 :]
    parts = [*_split(rest), part[len(before) : culprit + 1], before]
    return parts if before else parts[:-1]


def _split(part: range) -> list[range]:
    size = max(len(part) // _PARTS, FEW)
    return [part[start : start + size] for start in range(0, len(part), size)][::-1]


def _try_all(
    decoders: Decoders, bytes_max: int, lines: list[bytes]
) -> tuple[list[Any] | None, int | None]:
    """The records of the lines; or None where one of them is bad, and which, if that is said."""
    if max(map(len, lines)) > bytes_max:
        return None, None
    joined = b"\n".join(lines)
    try:
        records = decode_all(decoders, joined)
    except NOT_DECODED as error:
        return None, culprit_of(error, joined)
    return records, None


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
