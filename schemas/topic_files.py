"""The layout of embedded topics: a folder a topic, two append-only files a partition.

    <folder>/<topic>/topic.json      {"partitions": 10}
    <folder>/<topic>/<n>.jsonl       the records, one a line, each ended by a newline
    <folder>/<topic>/<n>.index       24-byte entries (record number, byte position, wall ms)

A record's offset is its number in the partition, as in Kafka. The index is sparse and
written after the records it speaks of, so it may lag but never lies; from its last entry on,
records are counted. A writer holds an exclusive ``flock`` on the ``.jsonl`` file for each
append and first cuts off a torn last line (a crash in its middle), which no reader has taken:
readers take whole lines alone. A newline inside a record is written as a space.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import NamedTuple

INDEX_ENTRY = struct.Struct("<qqq")
"""(number of the next record, byte position where it starts, wall-clock ms of the append)"""
INDEX_EVERY_BYTES = 65_536
"""A new index entry is due when this many bytes were appended since the last one."""
META_FILE = "topic.json"
_BLOCK_BYTES = 1 << 20


class IndexEntry(NamedTuple):
    """A known place of a partition: the records before it were all appended by ``wall_ms``."""

    record: int
    """Number of the record that starts here."""
    position: int
    """Byte where it starts."""
    wall_ms: int


START = IndexEntry(0, 0, 0)
"""The beginning of every partition; it is not written down."""


def records_path(folder: Path, topic: str, partition: int) -> Path:
    """Where the records of a partition stand."""
    return folder / topic / f"{partition}.jsonl"


def index_path(folder: Path, topic: str, partition: int) -> Path:
    """Where the sparse index of a partition stands."""
    return folder / topic / f"{partition}.index"


def partition_of(key: bytes | None, partitions: int) -> int:
    """The partition of a key in embedded topics (CRC-32; records without a key go to 0)."""
    return zlib.crc32(key) % partitions if key else 0


def partitions_of(folder: Path, topic: str) -> int | None:
    """How many partitions a topic has, or None where it does not exist.

    Raises ValueError where its topic.json does not say.
    """
    path = folder / topic / META_FILE
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        count = json.loads(text)["partitions"]
    except (ValueError, KeyError, TypeError):
        count = None
    if not isinstance(count, int) or count < 1:
        raise ValueError(f'{path} does not say how many partitions: {{"partitions": 10}}')
    return count


class PartitionIndex:
    """The entries of a partition's index, read in place. One that is missing has none.

    ``records_bytes`` is the size of the records' file: entries past it (a machine that lost
    power) and a torn last entry do not count.
    """

    def __init__(self, fd: int, records_bytes: int) -> None:
        self._fd = fd
        count = os.fstat(fd).st_size // INDEX_ENTRY.size
        while count and not self._can_be_true(count - 1, records_bytes):
            count -= 1
        self.count = count

    def _at(self, number: int) -> IndexEntry:
        data = os.pread(self._fd, INDEX_ENTRY.size, number * INDEX_ENTRY.size)
        # Short where a writer has just cut the entry off as torn or lying.
        return IndexEntry(*INDEX_ENTRY.unpack(data)) if len(data) == INDEX_ENTRY.size else START

    def _can_be_true(self, number: int, records_bytes: int) -> bool:
        entry = self._at(number)
        return 0 < entry.record <= entry.position <= records_bytes

    def last(self) -> IndexEntry:
        """The last entry, or START."""
        return self._at(self.count - 1) if self.count else START

    def before_record(self, record: int) -> IndexEntry:
        """The last entry whose record number is at most ``record``, or START."""
        found = bisect_right(range(self.count), record, key=lambda n: self._at(n).record)
        return self._at(found - 1) if found else START

    def before_position(self, position: int) -> IndexEntry:
        """The last entry that stands at most at this byte, or START."""
        found = bisect_right(range(self.count), position, key=lambda n: self._at(n).position)
        return self._at(found - 1) if found else START

    def before_time(self, wall_ms: int) -> IndexEntry:
        """The last entry before which all was appended earlier than ``wall_ms``, or START."""
        found = bisect_left(range(self.count), wall_ms, key=lambda n: self._at(n).wall_ms)
        return self._at(found - 1) if found else START

    def from_time(self, wall_ms: int) -> IndexEntry | None:
        """The first entry that was written at ``wall_ms`` or later, None if there is none."""
        found = bisect_left(range(self.count), wall_ms, key=lambda n: self._at(n).wall_ms)
        return self._at(found) if found < self.count else None


def count_records(fd: int, start: int, stop: int) -> tuple[int, int]:
    """Whole records from byte ``start`` to ``stop``, and the byte after the last of them."""
    records, end, position = 0, start, start
    while position < stop:
        block = os.pread(fd, min(_BLOCK_BYTES, stop - position), position)
        if not block:
            break
        last = block.rfind(b"\n")
        if last >= 0:
            records += block.count(b"\n")
            end = position + last + 1
        position += len(block)
    return records, end


def end_offset(folder: Path, topic: str, partition: int) -> int:
    """The number of whole records in a partition; 0 where there is no such file."""
    try:
        fd = os.open(records_path(folder, topic, partition), os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    try:
        size = os.fstat(fd).st_size
        entry = START
        try:
            index_fd = os.open(index_path(folder, topic, partition), os.O_RDONLY)
        except FileNotFoundError:
            pass
        else:
            try:
                entry = PartitionIndex(index_fd, size).last()
            finally:
                os.close(index_fd)
        return entry.record + count_records(fd, entry.position, size)[0]
    finally:
        os.close(fd)
