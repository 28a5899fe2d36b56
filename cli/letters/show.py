"""Shows one dead record as lines of text: what is wrong with it, where, and its payload."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from footfall.cli.letters.read import Place, printable

if TYPE_CHECKING:
    from footfall.schemas.dead_letters import DeadLetter, LateEvent, RetryNote

TEXT_CHARS_MAX = 4_000
DUMP_BYTES_MAX = 1_024
_DUMP_WIDTH = 16
_NEAR = 24
"""Bytes shown on each side of the one that is wrong."""

_PATH = re.compile(r"([A-Za-z_][\w.\[\]]*): ")
_BYTE = re.compile(r"\(byte (\d+)\)|in position (\d+)")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def record_lines(
    letters: Sequence[DeadLetter | LateEvent], note: RetryNote | None
) -> Iterator[str]:
    """Yield the lines for one record; ``letters`` are those of all flows, at least one."""
    from footfall.schemas.dead_letters import payload_of

    letter = letters[0]
    yield str(Place(letter.topic, letter.partition, letter.offset))
    if note is not None:
        yield f"  {_state(note)}"
    width = max(len(one.flow) for one in letters)
    for one in letters:
        code, why = _reason(one)
        yield f"  {one.flow:<{width}}  {code}: {printable(why)}"
    best = max(letters, key=lambda one: len(payload_of(one)))
    payload = payload_of(best)
    wrong = {line for one in letters for line in wrong_lines(_reason(one)[1], payload)}
    yield from (f"  {line}" for line in sorted(wrong))
    yield ""
    yield f"payload, {_size(len(payload), best.payload_bytes)}:"
    yield from (f"  {line}" for line in payload_lines(payload))


def wrong_lines(reason: str, payload: bytes) -> list[str]:
    """Return lines for the places in the payload that the reason points to, if any."""
    path, byte = _PATH.match(reason), _BYTE.search(reason)
    if path is not None:
        try:
            found = _at(json.loads(payload), f".{path[1]}")
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            return []
        text = json.dumps(found, ensure_ascii=False)
        return [f"at {path[1]} stands {_cut(printable(text), 200)}"]
    if byte is not None:
        at = int(byte[1] or byte[2])
        if at > len(payload):
            return []
        before = _shown(payload[max(0, at - _NEAR) : at])
        after = _shown(payload[at + 1 : at + 1 + _NEAR])
        here = _shown(payload[at : at + 1]) or "the end"
        return [f"at byte {at}: {before} >>{here}<< {after}".rstrip()]
    return []


def payload_lines(payload: bytes) -> Iterator[str]:
    """Yield JSON indented, other text as it is, and bytes that are not text as a hex dump."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        yield from _dump(payload)
        return
    with contextlib.suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    yield from printable(text[:TEXT_CHARS_MAX]).split("\n")
    if len(text) > TEXT_CHARS_MAX:
        yield f"... and {len(text) - TEXT_CHARS_MAX:,} characters more"


def _dump(payload: bytes) -> Iterator[str]:
    for start in range(0, min(len(payload), DUMP_BYTES_MAX), _DUMP_WIDTH):
        row = payload[start : start + _DUMP_WIDTH]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{start:06x}  {row.hex(' '):<{_DUMP_WIDTH * 3}} {text}"
    if len(payload) > DUMP_BYTES_MAX:
        yield f"... and {len(payload) - DUMP_BYTES_MAX:,} bytes more"


def _reason(letter: DeadLetter | LateEvent) -> tuple[str, str]:
    from footfall.schemas.dead_letters import LateEvent

    if isinstance(letter, LateEvent):
        return "late", f"an event of {letter.time} came with the watermark at {letter.watermark}"
    return letter.code, letter.reason


def _state(note: RetryNote) -> str:
    from footfall.schemas.times import iso_ms

    if note.step == "sent":
        return f"sent again at {iso_ms(note.noted_ms)}, at offset {note.end_offset} or after it"
    return f"a retry was broken off at {iso_ms(note.noted_ms)}: the next one settles it"


def _size(kept: int, whole: int) -> str:
    if kept == whole:
        return f"{whole:,} bytes"
    return f"the first {kept:,} of {whole:,} bytes (the whole stands in its topic, if retained)"


def _at(value: Any, path: str) -> Any:
    for name, number in _STEP.findall(path):
        value = value[int(number)] if number else value[name]
    return value


def _shown(some: bytes) -> str:
    return printable(some.decode(errors="backslashreplace"))


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[:chars_max] + "..."
