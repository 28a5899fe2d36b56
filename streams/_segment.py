"""One segment of an embedded partition, read in order."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import numpy as np

from footfall.schemas.records import TopicRecord
from footfall.schemas.topic_files import (
    Append,
    Appends,
    DamagedError,
    Segment,
    count_records,
    known_to,
    line_end,
    opened,
)
from footfall.schemas.topics import RECORD_BYTES_MAX
from footfall.streams._appends import (
    NOTHING,
    Entries,
    Found,
    checked_lines,
    entries_of,
    first_lines,
    whole_appends,
)
from footfall.streams._keys import KeysReader

LINE_BYTES_MAX = 8 * 1_048_576
"""Longest line that is read whole. Of a longer one only the beginning is given, which exceeds the
limit of a record too."""
QUIET_S = 1.0
"""Seconds without growth after which a last line without a newline counts as finished."""
_SEEK_BYTES, _LOOK_BYTES = 1_048_576, 65_536
"""Bytes read at once on the way to a record, and to look at it."""
_ENTRIES_ASKED = 64


class HoleError(Exception):
    """Lost records; ``offset`` and ``position`` are those of the next record that is there."""

    def __init__(self, offset: int, position: int) -> None:
        super().__init__()
        self.offset, self.position = offset, position


class OpenSegment:
    """A segment that is read; ``offset`` and ``position`` are those of its next record."""

    def __init__(self, segment: Segment) -> None:
        """Open the files. Raises DamagedError."""
        self.segment = segment
        self.offset, self.position = segment.first, 0
        try:
            self._fd = os.open(segment.records, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._fd = -1
        self._appends = Appends(segment.appends)
        self._cursor = 0
        """Number of an entry: all before it end at the position or before it."""
        self._counted = segment.first, 0
        """Offset of a record, and where it starts: lines were counted up to there."""

    @property
    def partition_id(self) -> int:
        """Return the id of the partition's files; 0 where it is not known."""
        return self._appends.partition_id

    @property
    def has_file(self) -> bool:
        """Return False where there was no file when it was opened."""
        return self._fd >= 0

    @property
    def size(self) -> int:
        """Return the size of its records in bytes now."""
        return os.fstat(self._fd).st_size if self.has_file else 0

    def is_active(self) -> bool:
        """Return whether it is still the file at the path of the active segment."""
        if not self.segment.is_active:
            return False
        try:
            found = self.segment.records.stat()
        except FileNotFoundError:
            return not self.has_file
        return self.has_file and os.path.samestat(found, os.fstat(self._fd))

    def check_not_cut(self) -> None:
        """Check a file that was read to its end. Raises HoleError and DamagedError."""
        # In this order: a writer writes the entry before the lines.
        last = self._appends.last()
        size = self.size
        if size < self.position:
            raise DamagedError(f"{self.segment.records} was cut while it was read")
        if last is not None and last.position > size and self.offset < last.next_offset:
            raise HoleError(last.next_offset, size)

    def seek(self, offset: int) -> bool:
        """Go to an offset. Returns False, at the segment's end, where that comes first."""
        number = self._appends.number_at(offset)
        self._cursor = max(0, number)
        self.offset, self.position = self.segment.first, 0
        if number >= 0:
            entry = self._appends.at(number)
            if number and self._appends.at(number - 1).next_offset > entry.first:
                raise self._appends.damaged("its entries overlap")
            if offset >= entry.next_offset and entry.end <= self.size:
                self.go_to(entry.next_offset, entry.end)
            elif entry.position <= self.size:
                self.go_to(entry.first, entry.position)
        while self.offset < offset:
            lines, width = self._whole_lines(self._pread(_SEEK_BYTES), _SEEK_BYTES)
            if not width:
                return False
            count, wanted = lines.count(b"\n"), offset - self.offset
            if count > wanted:
                count, width = wanted, len(first_lines(lines, wanted))
            self.passed(count, width)
        return True

    def go_to(self, offset: int, position: int) -> None:
        """Go to a record that is known to start there."""
        self.offset, self.position = offset, position

    def passed(self, count: int, width: int) -> None:
        """Move on by a number of records and bytes."""
        self.offset += count
        self.position += width

    def end_offset(self) -> int:
        """Return the offset after the last record that is there."""
        # The size is taken first, so that all lines up to it have their entries.
        size = self.size if self.has_file else -1
        known = known_to(self.segment, self._appends.last(), size)
        offset, position = self._counted = max(self._counted, known, key=itemgetter(1))
        if position < size:
            offset += count_records(self._fd, position, size)
            self._counted = offset, line_end(self._fd, position, size)
        return offset

    def read(self, size: int) -> Found:
        """Return whole lines, about ``size`` bytes of them, or no lines where there are none yet.

        Raises HoleError, and DamagedError where an entry is not true.
        """
        data = self._pread(size)
        if not data:
            return NOTHING
        # The entries are read after the data, so that all lines in it have theirs.
        entries = self._entries_before(self.position + len(data))
        place = self.offset, self.position
        found = whole_appends(data, entries, *place)
        if found is not None:
            return found
        if len(entries) and b"\0" in data:
            # Only at the end of an append is it known whether records are missing.
            size = max(size, int(entries["position"][-1] + entries["size"][-1]) - self.position)
            data = self._pread(size)
        lines, width = self._whole_lines(data, size)
        if width > len(data):
            entries = self._entries_before(self.position + width)
        if width:
            found = checked_lines(lines, width, entries, *place)
            if found.records:
                return found
        elif not len(entries) or entries["position"][0] + entries["size"][0] > self.size:
            # The line has no end yet.
            return NOTHING
        raise self._broken(data)

    def records(self, end: int) -> Iterator[tuple[int, TopicRecord]]:
        """Yield the next records before an offset, with all that is kept of them.

        Raises DamagedError.
        """
        keys = KeysReader(self.segment)
        while self.offset < end:
            try:
                found = self.read(_LOOK_BYTES)
            except HoleError as hole:
                self.go_to(hole.offset, hole.position)
                continue
            if not found.records:
                return
            lines = found.data.split(b"\n", found.records)
            for row in range(min(found.records, end - self.offset)):
                offset = self.offset + row
                append = self._append_of(offset)
                if append is None:
                    yield offset, TopicRecord(lines[row])
                else:
                    key, headers = keys.of(append, offset)
                    yield offset, TopicRecord(lines[row], key, headers, append.appended_ms)
            self.passed(found.records, found.width)

    def _append_of(self, offset: int) -> Append | None:
        """Return the append of a record that is there; None for a line added by hand."""
        number = self._appends.number_at(offset)
        append = self._appends.at(number) if number >= 0 else None
        return append if append is not None and offset < append.next_offset else None

    def close(self) -> None:
        """Close the files."""
        self._appends.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _pread(self, size: int, position: int | None = None) -> bytes:
        if not self.has_file:
            return b""
        return os.pread(self._fd, size, self.position if position is None else position)

    def _entries_before(self, stop: int) -> Entries:
        """Return the entries that end after the position and begin before ``stop``."""
        if self._appends.fd < 0:
            self._appends = Appends(self.segment.appends)
        found, number, asked = [], self._cursor, _ENTRIES_ASKED
        while True:
            entries = entries_of(self._appends, number, asked)
            found.append(entries)
            number += len(entries)
            if len(entries) < asked or entries["position"][-1] >= stop:
                break
            asked *= 4
        entries = np.concatenate(found) if len(found) > 1 else found[0]
        if not entries["records"].all():
            # A machine that lost power leaves zeros at the end.
            entries = entries[: int(np.argmin(entries["records"]))]
        ends = entries["position"] + entries["size"]
        if (entries["position"] < 0).any() or (entries["position"][1:] < ends[:-1]).any():
            raise self._appends.damaged("its entries overlap")
        done = int(np.searchsorted(ends, self.position, side="right"))
        self._cursor += done
        return entries[done : int(np.searchsorted(entries["position"], stop))]

    def _broken(self, data: bytes) -> Exception:
        """Return the error for what is at the position."""
        if b"\0" not in data:
            where = f"offset {self.offset}, byte {self.position} of {self.segment.records.name}"
            return self._appends.damaged(where)
        for number in range(self._cursor, self._appends.count):
            entry = self._appends.at(number)
            before, first = (self._pread(1, entry.position + by) for by in (-1, 0))
            if entry.position > self.position and before in b"\0\n" and first not in b"\0":
                return HoleError(entry.first, entry.position)
        return HoleError(self.end_offset(), self.size)

    def _whole_lines(self, data: bytes, size: int) -> tuple[bytes, int]:
        """Return whole lines from the position on, and their number of bytes in the file."""
        width = data.rfind(b"\n") + 1
        if width or len(data) < size:
            return (data if width == len(data) else data[:width]), width
        data = self._pread(LINE_BYTES_MAX)
        width = data.find(b"\n") + 1
        if width or len(data) < LINE_BYTES_MAX:
            return data[:width], width
        end = self._newline_after(self.position + len(data))
        if end is None:
            return b"", 0
        return data[: RECORD_BYTES_MAX + 1] + b"\n", end - self.position

    def _newline_after(self, position: int) -> int | None:
        """Return the position after the next newline; None if there is no newline yet."""
        while block := self._pread(LINE_BYTES_MAX, position):
            found = block.find(b"\n")
            if found >= 0:
                return position + found + 1
            position += len(block)
        return None


def finish_line(segment: Segment, *, wait: bool = False) -> bool:
    """Add the newline that a person left out of the last line, once the file is quiet.

    With ``wait``, wait until it is quiet. Returns True where the newline was added. Raises
    DamagedError where the file may not be written.
    """
    with opened(segment) as (fd, appends):
        while fd >= 0:
            # In this order: a writer writes the entry before the lines.
            seen = os.fstat(fd)
            last = appends.last()
            begin = line_end(fd, 0 if last is None else last.end, seen.st_size)
            if begin >= seen.st_size or not os.pread(fd, seen.st_size, begin).strip(b"\0"):
                return False
            quiet_s = time.time() - seen.st_mtime
            if not 0 <= quiet_s < QUIET_S:
                return _add_newline(segment.records, seen)
            if not wait:
                return False
            time.sleep(QUIET_S - quiet_s)
    return False


def _add_newline(path: Path, seen: os.stat_result) -> bool:
    """Add a newline to a file that is unchanged since ``seen``, unless a writer has it."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    except OSError as error:
        raise DamagedError(
            f"{path} ends in a line without a newline, which cannot be added "
            f"({error.strerror}): add it, so that the line is a record"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        now = os.fstat(fd)
        is_same = os.path.samestat(now, seen) and now.st_size == seen.st_size
        return is_same and os.write(fd, b"\n") == 1
    except BlockingIOError:
        # The writer adds the newline itself.
        return False
    finally:
        os.close(fd)
