"""Check a segment's entries against the lines that were read: how many, and when appended.

Pure: bytes and entries in, lines out. Nothing is believed that the bytes contradict.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from footfall.schemas.topic_files import Appends
from footfall.streams.batch import UNKNOWN_MS, Int64s

_COUNTED_BYTES_MAX = 65_536
"""Most bytes whose lines are counted, whatever the entries say."""
_PAGE_BYTES = 4_096
"""Size of a page: a machine that loses power loses whole pages."""
_NEWLINE = ord("\n")
_ENTRY = np.dtype(
    [
        ("first", "<i8"),
        ("position", "<i8"),
        ("appended_ms", "<i8"),
        ("keys", "<i8"),
        ("records", "<u4"),
        ("size", "<u4"),
    ]
)
"""Layout of an entry, as in schemas.topic_files.ENTRY."""

Entries = npt.NDArray[np.void]


class Found(NamedTuple):
    """Whole lines from a position on."""

    data: bytes
    width: int
    """Bytes that the lines take in the file."""
    records: int
    appended_ms: Int64s | None
    """The append time of each line; None where it is known of no line."""


NOTHING = Found(b"", 0, 0, None)


def entries_of(appends: Appends, number: int = 0, count: int | None = None) -> Entries:
    """Return some entries, or all of them, as an array."""
    raw = appends.raw(number, appends.count if count is None else count)
    return np.frombuffer(raw, _ENTRY, len(raw) // _ENTRY.itemsize)


def whole_appends(data: bytes, entries: Entries, offset: int, position: int) -> Found | None:
    """Return the lines of whole appends, which need not be counted or cut at a newline.

    ``offset`` and ``position`` are those of the data's first line. Returns None where the appends
    are not most of the data, or where it is not certain that they are whole.
    """
    ends = entries["position"] + entries["size"] - position
    entries = entries[: int(np.searchsorted(ends, len(data), side="right"))]
    ends = ends[: len(entries)]
    if not len(entries) or ends[-1] < len(data) // 2:
        return None
    firsts, records = entries["first"], entries["records"].astype(np.int64)
    starts, nexts = entries["position"] - position, firsts + records
    if (
        starts[0] > 0
        or (starts[0] == 0 and firsts[0] != offset)
        or nexts[0] <= offset
        or (starts[1:] != ends[:-1]).any()
        or (firsts[1:] != nexts[:-1]).any()
    ):
        return None
    width, count = int(ends[-1]), int(nexts[-1]) - offset
    octets = np.frombuffer(data, dtype=np.uint8, count=width)
    if (octets[ends - 1] != _NEWLINE).any() or not octets[::_PAGE_BYTES].all():
        return None
    if width <= _COUNTED_BYTES_MAX and np.count_nonzero(octets == _NEWLINE) != count:
        return None
    records[0] = nexts[0] - offset
    lines = data if width == len(data) else data[:width]
    return Found(lines, width, count, np.repeat(entries["appended_ms"], records))


def checked_lines(lines: bytes, width: int, entries: Entries, offset: int, position: int) -> Found:
    """Return the lines before the first entry that is not true of them.

    ``width`` is the number of bytes that they are in the file, more where a single line was
    shortened.
    """
    octets = np.frombuffer(lines, dtype=np.uint8)
    starts = np.zeros(1, np.int64)
    if width == len(lines):
        starts = np.concatenate([starts, np.flatnonzero(octets == _NEWLINE)[:-1] + 1])
    begins = entries["position"] - position
    entries, begins = entries[begins < width], begins[begins < width]
    true = _true_lines(starts, width, entries, begins, offset)
    if true < len(starts):
        width = int(starts[true])
        lines, starts = lines[:width], starts[:true]
    return Found(lines, width, len(starts), _times(starts, entries, begins))


def _true_lines(starts: Int64s, width: int, entries: Entries, begins: Int64s, offset: int) -> int:
    """Count the lines before the first entry that is not true of them."""
    boundaries = np.append(starts, width)
    ends = begins + entries["size"]
    first_line, last_line = np.searchsorted(starts, begins), np.searchsorted(boundaries, ends)
    ends_line = boundaries[np.minimum(last_line, len(starts))] == ends
    firsts = entries["first"] - offset
    begins_wrong = (boundaries[first_line] != begins) | (firsts != first_line)
    ends_wrong = ~ends_line | (firsts + entries["records"] != last_line)
    # A killed writer may have left the last append unfinished.
    ends_wrong[-1:] &= ends_line[-1:]
    is_wrong = ((begins >= 0) & begins_wrong) | ((ends <= width) & ends_wrong)
    if not is_wrong.any():
        return len(starts)
    wrong = int(begins[int(np.argmax(is_wrong))])
    return max(0, int(np.searchsorted(starts, wrong, side="right")) - 1)


def _times(starts: Int64s, entries: Entries, begins: Int64s) -> Int64s | None:
    """Return when the lines were appended; UNKNOWN_MS for lines that no entry covers."""
    if not len(entries):
        return None
    number = np.searchsorted(begins, starts, side="right") - 1
    is_known = (number >= 0) & (starts < (begins + entries["size"])[number])
    if not is_known.any():
        return None
    return np.where(is_known, entries["appended_ms"][number], UNKNOWN_MS)


def first_lines(data: bytes, count: int) -> bytes:
    """Return the first ``count`` lines."""
    ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == _NEWLINE)
    return data[: int(ends[count - 1]) + 1] if count else b""
