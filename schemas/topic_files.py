"""The layout of embedded topics: a folder per topic, append-only files per partition.

    <folder>/<topic>/topic.json            {"format": 2, "id": "5f0c...", "partitions": 10}
    <folder>/<topic>/<n>.jsonl             the newest records of partition n, one per line
    <folder>/<topic>/<n>.<first>.appends   a header, then an entry per append (ENTRY)
    <folder>/<topic>/<n>.<first>.keys      a block per append that has keys or headers
    <folder>/<topic>/<n>.<first>.jsonl     older records, from offset <first> on

A partition is a sequence of segments, each named for the offset of its first record. The newest is
the active one; retention removes the oldest, whole. An offset is never used twice: where
records were lost with a file, the next segment begins after them.

A writer holds an exclusive ``flock`` on ``<n>.jsonl``, and writes the keys, then the entry, then
the lines: whoever sees a line can see its entry. An entry that reaches past the file is from
a writer that was killed: the next writer cuts off the torn line and trims the entry.

Lines outside of all entries were appended by hand. They have no append time and no key, and
the last one may lack its newline: the next writer, or a reader after a moment, adds it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

FORMAT = 2
META_FILE = "topic.json"
ENTRY = struct.Struct("<qqqqII")
"""Layout of an Append's fields."""
HEADER = struct.Struct("<8sqq16x")
"""Layout of a header: (MAGIC, the partition's id, wall-clock ms when the segment began); as long
as an entry."""
MAGIC = b"appends2"
NO_KEYS = -1
FILE_MODE, FOLDER_MODE = 0o600, 0o700
"""Modes that keep topics private to their owner."""
_BLOCK_BYTES = 1 << 20
_NAME = re.compile(r"\d+\.(\d+)\.(jsonl|appends)")


class Append(NamedTuple):
    """One append to a segment."""

    first: int
    """Offset of its first record."""
    position: int
    """Byte of the segment where that record starts."""
    appended_ms: int
    """Append time: the wall clock, or what its writer was given."""
    keys: int
    """Byte of the keys file where its block starts; NO_KEYS without a block."""
    records: int
    size: int
    """Bytes of its lines."""

    @property
    def next_offset(self) -> int:
        """Return the offset after its last record."""
        return self.first + self.records

    @property
    def end(self) -> int:
        """Return the byte after its last line."""
        return self.position + self.size


class DamagedError(ValueError):
    """A file of a topic that is not as any writer leaves it; the message names it and a remedy."""


class Meta(NamedTuple):
    """The facts of a topic's topic.json."""

    partitions: int
    id: str
    """Id that differs after the topic was deleted and made again; "" where a person wrote the
    file."""


class Segment(NamedTuple):
    """The files of a segment; each of them may be missing."""

    first: int
    records: Path
    is_active: bool

    @property
    def appends(self) -> Path:
        """Return the file of its entries."""
        return self._beside("appends")

    @property
    def keys(self) -> Path:
        """Return the file of its keys and headers."""
        return self._beside("keys")

    def _beside(self, suffix: str) -> Path:
        partition = self.records.name.partition(".")[0]
        return self.records.with_name(f"{partition}.{self.first}.{suffix}")


def records_path(folder: Path, topic: str, partition: int) -> Path:
    """Return the file of a partition's active segment."""
    return folder / topic / f"{partition}.jsonl"


def closed_path(active: Path, first: int) -> Path:
    """Return the file of a segment that is not active any more."""
    return active.with_name(f"{active.stem}.{first}.jsonl")


def partition_of(key: bytes | None, partitions: int) -> int:
    """Return the partition of a key: its CRC-32, or 0 for a record without a key."""
    return zlib.crc32(key) % partitions if key else 0


def read_meta(folder: Path, topic: str) -> Meta | None:
    """Return what a topic's topic.json says; None where there is no such topic.

    Raises DamagedError where it makes no sense, or is of a newer version.
    """
    path = folder / topic / META_FILE
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = json.loads(text)
        number, partitions, id_ = found.get("format", 1), found["partitions"], found.get("id", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        number, partitions, id_ = 1, None, ""
    if isinstance(number, int) and number > FORMAT:
        raise DamagedError(f"{path} is of a newer version (format {number}): update footfall")
    if not isinstance(partitions, int) or partitions < 1:
        raise DamagedError(f'{path} does not say how many partitions: {{"partitions": 10}}')
    return Meta(partitions, str(id_))


def partitions_of(folder: Path, topic: str) -> int | None:
    """Return the number of a topic's partitions; None and errors as ``read_meta``."""
    meta = read_meta(folder, topic)
    return None if meta is None else meta.partitions


def segments(folder: Path, topic: str, partition: int) -> list[Segment]:
    """Return the segments of a partition, oldest first; the last is the active one."""
    active = records_path(folder, topic, partition)
    firsts: dict[str, set[int]] = {"jsonl": set(), "appends": set()}
    try:
        names = os.listdir(active.parent)  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        names = []
    begin = f"{partition}."
    for found in (_NAME.fullmatch(name) for name in names if name.startswith(begin)):
        if found is not None:
            firsts[found[2]].add(int(found[1]))
    closed = sorted(firsts["jsonl"])
    listed = [Segment(first, closed_path(active, first), False) for first in closed]
    newest = max(firsts["appends"], default=0)
    if listed and newest <= listed[-1].first:
        # The segment was closed, and no writer has come since.
        newest = end_of(listed[-1])
    return [*listed, Segment(newest, active, True)]


class Appends:
    """The entries of a segment, read in place. A missing file has no entries."""

    def __init__(self, path: Path, *, flags: int = os.O_RDONLY) -> None:
        """Open the file, if it is there. Raises DamagedError for any other file."""
        self.path = path
        self.partition_id = 0
        """Id of the partition's files; 0 where there are no entries."""
        self.began_ms = 0
        try:
            self.fd = os.open(path, flags | os.O_CLOEXEC, FILE_MODE)
        except FileNotFoundError:
            self.fd = -1
            return
        header = os.pread(self.fd, HEADER.size, 0)
        # A machine that lost power may have left zeros.
        if len(header) == HEADER.size and header.strip(b"\0"):
            magic, self.partition_id, self.began_ms = HEADER.unpack(header)
            if magic != MAGIC:
                self.close()
                raise self.damaged("it does not begin as an index")

    def begin(self, partition_id: int, now_ms: int) -> None:
        """Write the header of a new file."""
        os.pwrite(self.fd, HEADER.pack(MAGIC, partition_id, now_ms), 0)
        self.partition_id, self.began_ms = partition_id, now_ms

    @property
    def count(self) -> int:
        """Return the number of entries, without zeros that a machine left when it lost power."""
        if self.fd < 0:
            return 0
        count = max(0, os.fstat(self.fd).st_size // ENTRY.size - 1)
        while count and not self.at(count - 1).records:
            count -= 1
        return count

    def at(self, number: int) -> Append:
        """Return an entry, counted from 0; an entry without records where it was just cut off."""
        data = self.raw(number, 1)
        return Append(*ENTRY.unpack(data)) if len(data) == ENTRY.size else Append(0, 0, 0, 0, 0, 0)

    def raw(self, number: int, count: int) -> bytes:
        """Return the bytes of some entries, fewer at the end."""
        if self.fd < 0:
            return b""
        return os.pread(self.fd, count * ENTRY.size, (number + 1) * ENTRY.size)

    def last(self) -> Append | None:
        """Return the last entry; None without entries."""
        count = self.count
        return self.at(count - 1) if count else None

    def number_at(self, offset: int) -> int:
        """Return the number of the last entry that begins at this offset or before it; or -1."""

        def first_of(number: int) -> int:
            return self.at(number).first

        return bisect_right(range(self.count), offset, key=first_of) - 1

    def write(self, number: int, entry: Append) -> None:
        """Write an entry at its place. Raises OSError."""
        data = ENTRY.pack(*entry)
        if os.pwrite(self.fd, data, (number + 1) * ENTRY.size) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def cut(self, count: int) -> None:
        """Cut off all that follows the first ``count`` entries."""
        end = (count + 1) * ENTRY.size
        if os.fstat(self.fd).st_size > end:
            os.ftruncate(self.fd, end)

    def damaged(self, what: str) -> DamagedError:
        """Return the error of an index that is not true."""
        return DamagedError(
            f"{self.path} does not fit its records ({what}): they were changed, or a disk lost "
            f"them. To take the lines that are there as they are, without append times and keys, "
            f"remove {self.path.name}; workers that have read the partition then begin anew"
        )

    def close(self) -> None:
        """Close the file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@contextmanager
def opened(segment: Segment) -> Iterator[tuple[int, Appends]]:
    """Open a segment: (descriptor of its records or -1, its entries). Raises as ``Appends``
    does."""
    try:
        fd = os.open(segment.records, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        fd = -1
    try:
        appends = Appends(segment.appends)
        try:
            yield fd, appends
        finally:
            appends.close()
    finally:
        if fd >= 0:
            os.close(fd)


def count_records(fd: int, start: int, stop: int) -> int:
    """Count the lines from byte ``start`` to ``stop``."""
    records, position = 0, start
    while position < stop and (
        block := os.pread(fd, min(_BLOCK_BYTES, stop - position), position)
    ):
        records += block.count(b"\n")
        position += len(block)
    return records


def line_end(fd: int, start: int, stop: int) -> int:
    """Return the byte after the last newline between two places, or ``start``."""
    while stop > start:
        block_start = max(start, stop - _BLOCK_BYTES)
        newline = os.pread(fd, stop - block_start, block_start).rfind(b"\n")
        if newline >= 0:
            return block_start + newline + 1
        stop = block_start
    return start


def end_of(segment: Segment) -> int:
    """Return the offset after the last record of a segment."""
    with opened(segment) as (fd, appends):
        # The size is taken first, so that all lines up to it have their entries.
        size = os.fstat(fd).st_size if fd >= 0 else -1
        offset, position = known_to(segment, appends.last(), size)
        return offset + count_records(fd, position, size)


def known_to(segment: Segment, last: Append | None, size: int) -> tuple[int, int]:
    """Return the offset and position up to which a segment need not be counted.

    ``last`` is its last entry, ``size`` that of its file, -1 without one. Records that were lost
    with the file keep their offsets, except those of a last append that a killed writer may not
    have finished.
    """
    if last is None:
        return segment.first, 0
    if last.end <= size or size < 0 or not segment.is_active:
        return last.next_offset, last.end
    return last.first, last.position


def end_offset(folder: Path, topic: str, partition: int) -> int:
    """Return the offset of the record that is appended next; 0 without such a partition."""
    while True:
        active = segments(folder, topic, partition)[-1]
        end = end_of(active)
        # Otherwise the segment was closed in the meantime, and the file that was read is the next
        # one.
        if not closed_path(active.records, active.first).exists():
            return end


def first_offset(folder: Path, topic: str, partition: int) -> int:
    """Return the offset of the oldest record that is left in a partition."""
    oldest = segments(folder, topic, partition)[0]
    return oldest.first if oldest.records.exists() else end_of(oldest)
