"""One open partition file of an embedded topic and its index."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from schemas.topic_files import INDEX_ENTRY, INDEX_EVERY_BYTES, PartitionIndex, count_records

_BLOCK_BYTES = 1 << 16

Lock = Callable[[int, Path], None]
Clock = Callable[[], int]


class PartitionFile:
    """Appends lines under an exclusive lock, and keeps count of them for the index.

    What this writer knows holds up to ``_end``; where the file has grown past it, others have
    appended (or died in the middle of it), and the rest is counted first.
    """

    def __init__(self, records: Path, index: Path, lock: Lock, clock_ms: Clock) -> None:
        self._path = records
        self._lock = lock
        self._clock_ms = clock_ms
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(records, flags, 0o644)
        try:
            self._index_fd = os.open(index, flags, 0o644)
        except BaseException:
            os.close(self._fd)
            raise
        self._end = -1
        self._records = 0
        self._indexed_to = 0
        self._last_wall_ms = 0

    def append(self, lines: bytes) -> int:
        """Append whole lines; the number of the first. Raises OSError and SinkUnavailableError.

        After an error the file ends in a whole line. Whole lines that came through stay there:
        a reader may have taken them already.
        """
        self._lock(self._fd, self._path)
        try:
            size = os.fstat(self._fd).st_size
            if size != self._end:
                self._catch_up(size)
            first = self._records
            self._write(lines)
            indexed = self._add_to_index(lines)
            self._records += lines.count(b"\n")
            self._end = self._end + len(lines) if indexed else -1
            return first
        except BaseException:
            self._end = -1
            raise
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Never raises."""
        for fd in (self._fd, self._index_fd):
            with suppress(OSError):
                os.close(fd)

    def _catch_up(self, size: int) -> None:
        end = self._cut_torn_line(size)
        index = PartitionIndex(self._index_fd, end)
        whole_bytes = index.count * INDEX_ENTRY.size
        if os.fstat(self._index_fd).st_size != whole_bytes:
            os.ftruncate(self._index_fd, whole_bytes)
        entry = index.last()
        self._indexed_to, self._last_wall_ms = entry.position, entry.wall_ms
        known_to, known = entry.position, entry.record
        if known_to < self._end <= end:
            known_to, known = self._end, self._records
        self._records = known + count_records(self._fd, known_to, end)[0]
        self._end = end

    def _cut_torn_line(self, size: int) -> int:
        """Cut what stands after the last newline; the size of what is left."""
        end = size
        while end:
            start = max(0, end - _BLOCK_BYTES)
            newline = os.pread(self._fd, end - start, start).rfind(b"\n")
            end = start + newline + 1 if newline >= 0 else start
            if newline >= 0:
                break
        if end != size:
            os.ftruncate(self._fd, end)
        return end

    def _write(self, lines: bytes) -> None:
        left = memoryview(lines)
        try:
            while left:
                written = os.write(self._fd, left)
                if written == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                left = left[written:]
        except OSError:
            with suppress(OSError):
                self._cut_torn_line(os.fstat(self._fd).st_size)
            raise

    def _add_to_index(self, lines: bytes) -> bool:
        """Entries for the lines just appended at ``_end``; False where the index is in doubt."""
        if self._end + len(lines) - self._indexed_to < INDEX_EVERY_BYTES:
            return True
        # A clock that is set back must not unsort the index.
        wall_ms = max(self._clock_ms(), self._last_wall_ms)
        entries = bytearray()
        done, records, indexed_to = 0, self._records, self._indexed_to
        while True:
            due = max(indexed_to + INDEX_EVERY_BYTES - self._end, done + 1)
            if due > len(lines):
                break
            stop = lines.index(b"\n", due - 1) + 1
            records += lines.count(b"\n", done, stop)
            done, indexed_to = stop, self._end + stop
            entries += INDEX_ENTRY.pack(records, indexed_to, wall_ms)
        try:
            written = os.write(self._index_fd, entries)
        except OSError:
            written = 0
        if written != len(entries):
            # The records are there, which is what counts: the index may lag.
            return False
        self._indexed_to, self._last_wall_ms = indexed_to, wall_ms
        return True
