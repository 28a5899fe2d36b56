"""The active segment of one partition of an embedded topic, open for appending."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from footfall.schemas.records import Headers, KeysBlock, pack_keys
from footfall.schemas.topic_files import (
    FILE_MODE,
    NO_KEYS,
    Append,
    Appends,
    Segment,
    closed_path,
    count_records,
    line_end,
    records_path,
    segments,
)
from footfall.sinks import SinkUnavailableError

Lock = Callable[[int, Path], None]
Clock = Callable[[], int]

APPEND_BYTES_MAX = 1_048_576
_TRIES_MAX = 100
_APPENDING = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


class Limits(NamedTuple):
    """Limits at which a partition begins a new segment, and for how much of it is kept."""

    segment_bytes: int
    segment_ms: int
    kept_bytes: int
    kept_ms: int


class Lines(NamedTuple):
    """The records of one append, which readers see with one time."""

    data: bytes
    """Lines, each ended by a newline."""
    records: int
    keys: Sequence[bytes | None] | None = None
    headers: Sequence[Headers] | None = None
    appended_ms: int | None = None
    """Append time; None for the wall clock."""


def lines_of(
    values: Sequence[bytes],
    keys: Sequence[bytes | None] | None = None,
    headers: Sequence[Headers] | None = None,
    appended_ms: int | None = None,
) -> list[Lines]:
    """Put records into appends: one, unless a reader's poll might end in the middle of it."""
    if not values:
        return []
    data = b"\n".join(values) + b"\n"
    if data.count(b"\n") != len(values):
        data = b"\n".join([value.replace(b"\n", b" ") for value in values]) + b"\n"
    if len(data) <= APPEND_BYTES_MAX or len(values) == 1:
        return [Lines(data, len(values), keys, headers, appended_ms)]
    half = len(values) // 2
    return [
        lines
        for part in (slice(half), slice(half, None))
        for lines in lines_of(
            values[part], keys and keys[part], headers and headers[part], appended_ms
        )
    ]


class PartitionFile:
    """A file to which lines are appended under an exclusive lock, each append with its entry.

    This writer knows the file up to ``_end``. Where the file has grown past it, others have
    appended (or died while appending), and the rest is read first.
    """

    def __init__(
        self,
        place: tuple[Path, str, int],
        limits: Limits,
        lock: Lock,
        clock_ms: Clock,
    ) -> None:
        """Take the place: (the folder of topics, the topic, the partition)."""
        self._place = place
        self._path = records_path(*place)
        self._lock = lock
        self._clock_ms = clock_ms
        self._limits = limits
        self._fd = self._keys_fd = -1
        self._was_missing = False
        self._segment = Segment(0, self._path, True)
        self._appends: Appends | None = None
        self._count = 0
        """Number of entries that are true."""
        self._end = -1
        self._next = 0
        """Offset of the record that is appended next."""

    def append(self, batches: Sequence[Lines]) -> None:
        """Append lines in order. Raises OSError, SinkError and DamagedError.

        After an error the file ends in a whole line. Whole lines that came through stay there:
        a reader may have taken them already.
        """
        for _ in range(_TRIES_MAX):
            if self._fd < 0:
                self._open()
            try:
                self._lock(self._fd, self._path)
                if self._is_ready():
                    for lines in batches:
                        self._append(lines)
                    if self._is_at_path():
                        fcntl.flock(self._fd, fcntl.LOCK_UN)
                        return
                    # The file was removed meanwhile: nobody would ever read what was written to
                    # it.
            except BaseException:
                self.close()
                raise
            self.close()
        raise SinkUnavailableError(f"{self._path} is replaced again and again: what does that?")

    def close(self) -> None:
        """Close the files, and with them the lock. Never raises."""
        for fd in (self._fd, self._keys_fd):
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)
        if self._appends is not None:
            self._appends.close()
        self._appends = None
        self._fd = self._keys_fd = self._end = -1

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, _APPENDING)
            self._was_missing = False
        except FileNotFoundError:
            self._fd = os.open(self._path, _APPENDING | os.O_CREAT, FILE_MODE)
            self._was_missing = True

    def _is_at_path(self) -> bool:
        """Return whether the segment was neither closed nor removed."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _is_ready(self) -> bool:
        """Check all that is in the segment; return False where another one must be opened."""
        if not self._is_at_path():
            return False
        size = os.fstat(self._fd).st_size
        if self._appends is None:
            *older, self._segment = segments(*self._place)
            self._appends = Appends(self._segment.appends, flags=os.O_RDWR | os.O_CREAT)
            if not self._appends.partition_id:
                self._appends.begin(_partition_id(older), self._clock_ms())
            _expire([*older, self._segment], self._limits, self._clock_ms())
        elif os.fstat(self._appends.fd).st_nlink == 0:
            return False
        if size < self._end or self._end < 0:
            lost_to = self._lost_to(size)
            if lost_to is not None:
                self._close_segment(lost_to)
                return False
        if size != self._end:
            self._catch_up(size)
        is_due = (
            self._end >= self._limits.segment_bytes
            or self._clock_ms() - self._appends.began_ms >= self._limits.segment_ms
        )
        if is_due and self._next > self._segment.first:
            self._close_segment(self._next)
            return False
        return True

    def _lost_to(self, size: int) -> int | None:
        """Return the offset after the last record, where records are lost that were there."""
        assert self._appends is not None
        last = self._appends.last()
        if last is None:
            return None
        if last.position > size or (self._was_missing and last.end > size):
            return last.next_offset
        before = os.pread(self._fd, 1, last.position - 1) if last.position else b"\n"
        lines = os.pread(self._fd, last.size, last.position)
        if before == b"\n" and last.end > size:
            # Perhaps the records never were there: a writer was killed.
            return None
        if before == lines[-1:] == b"\n" and lines.count(b"\n") == last.records:
            return None
        if b"\0" in before + lines:
            # A machine that lost power leaves zeros where it had no time to write.
            return last.next_offset
        raise self._appends.damaged(f"{last.records} records from byte {last.position} on")

    def _catch_up(self, size: int) -> None:
        """Cut off what a killed writer left unfinished, and number what others appended."""
        assert self._appends is not None
        count = self._appends.count
        last = self._appends.at(count - 1) if count else Append(self._segment.first, 0, 0, 0, 0, 0)
        if last.end > size:
            size = line_end(self._fd, last.position, size)
            os.ftruncate(self._fd, size)
            lines = count_records(self._fd, last.position, size)
            last = last._replace(records=lines, size=size - last.position)
            count -= not lines
            if lines:
                self._appends.write(count - 1, last)
        self._appends.cut(count)
        self._count = count
        self._end = self._finish_line(last.end, size)
        self._next = last.next_offset + count_records(self._fd, last.end, self._end)

    def _finish_line(self, start: int, size: int) -> int:
        """End the last line where a person left that out, and return the file's end."""
        begin = line_end(self._fd, start, size)
        if begin < size:
            if os.pread(self._fd, min(size - begin, APPEND_BYTES_MAX), begin).strip(b"\0"):
                os.write(self._fd, b"\n")
                return size + 1
            os.ftruncate(self._fd, begin)
        return begin

    def _append(self, lines: Lines) -> None:
        if not lines.records:
            return
        assert self._appends is not None
        now_ms = self._clock_ms() if lines.appended_ms is None else lines.appended_ms
        keys = self._write_keys(lines)
        entry = Append(self._next, self._end, now_ms, keys, lines.records, len(lines.data))
        try:
            # The entry comes first, so that whoever sees a line knows when it was appended.
            self._appends.write(self._count, entry)
            _write(self._fd, lines.data)
        except OSError:
            with suppress(OSError):
                self._catch_up(os.fstat(self._fd).st_size)
            raise
        self._count += 1
        self._end, self._next = entry.end, entry.next_offset

    def _write_keys(self, lines: Lines) -> int:
        """Write keys and headers, and return their position in their file."""
        keys = lines.keys if lines.keys and any(lines.keys) else None
        headers = lines.headers if lines.headers and any(lines.headers) else None
        if keys is None and headers is None:
            return NO_KEYS
        if self._keys_fd < 0:
            self._keys_fd = os.open(self._segment.keys, _APPENDING | os.O_CREAT, FILE_MODE)
        position = os.fstat(self._keys_fd).st_size
        _write(self._keys_fd, pack_keys(KeysBlock(keys, headers)))
        return position

    def _close_segment(self, next_offset: int) -> None:
        """Close the segment, and begin another at an offset."""
        assert self._appends is not None
        self._path.rename(closed_path(self._path, self._segment.first))
        begun = Segment(next_offset, self._path, True)
        appends = Appends(begun.appends, flags=os.O_RDWR | os.O_CREAT)
        appends.begin(self._appends.partition_id, self._clock_ms())
        appends.close()


def _partition_id(older: Sequence[Segment]) -> int:
    """Return the id from the segments before, or a new one."""
    for segment in reversed(older):
        appends = Appends(segment.appends)
        appends.close()
        if appends.partition_id:
            return appends.partition_id
    return secrets.randbits(62) + 1


def _expire(of_partition: Sequence[Segment], limits: Limits, now_ms: int) -> None:
    """Remove the oldest segments, as far as their records are too old or too many."""
    *closed, active = of_partition
    files = {segment: (segment.records, segment.appends, segment.keys) for segment in closed}
    sizes = {segment: sum(map(_size, files[segment])) for segment in closed}
    kept_bytes = _size(active.records) + sum(sizes.values())
    for segment in closed:
        stat = segment.records.stat()
        is_old = now_ms - stat.st_mtime_ns // 1_000_000 > limits.kept_ms
        if not is_old and kept_bytes <= limits.kept_bytes and stat.st_size:
            return
        for path in files[segment]:
            path.unlink(missing_ok=True)
        kept_bytes -= sizes[segment]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        written = os.write(fd, left)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left = left[written:]
