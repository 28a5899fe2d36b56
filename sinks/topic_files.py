"""Append records to embedded topics, folders of partition files (schemas.topic_files).

Delivery    at-least-once: what was acknowledged is there; a write that failed or was killed may
            have left some of its whole records, and a second try repeats them
Durability  as Kafka's default: no fsync, so it survives the crash of every process but not of
            the machine
Writers     any number of processes at once; one writer may be shared by threads, but must not
            be carried over a fork (the lock belongs to the open file)
Retention   as Kafka's, by time and by size: a partition's writer begins a new segment when one
            is large or old, and removes the oldest whole segments
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from threading import RLock
from typing import NamedTuple
from zlib import crc32

from footfall.schemas.records import TopicRecord
from footfall.schemas.settings import RETENTION_BYTES
from footfall.schemas.topic_files import (
    FILE_MODE,
    FOLDER_MODE,
    FORMAT,
    META_FILE,
    DamagedError,
    end_offset,
    first_offset,
    partitions_of,
    read_meta,
    records_path,
)
from footfall.schemas.topics import RETENTION_H, TOPICS
from footfall.sinks import (
    PartitionBatch,
    Place,
    Record,
    SinkError,
    SinkRefusedError,
    SinkUnavailableError,
)
from footfall.sinks._partition_file import Limits, Lines, PartitionFile, lines_of
from footfall.sinks.attempts import ATTEMPTS

TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
"""Pattern of the names that Kafka takes, so that a topic may move there."""
LOCK_WAIT_S = 30.0
"""Longest wait in seconds for another writer's append."""
OPEN_PARTITIONS_MAX = 128
"""Most partition files held open; each takes three descriptors."""
PARTITIONS_MAX = 10_000
SEGMENT_BYTES_MAX = 268_435_456
SEGMENTS_MIN = 8
"""Number of segments of a partition at its limit, if each has SEGMENT_BYTES_MIN at least."""
SEGMENT_BYTES_MIN = 65_536

_LOCK_POLL_S = (0.0002, 0.01)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def wall_clock_ms() -> int:
    """Return the present time in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class Retention(NamedTuple):
    """The part of a topic that is kept."""

    hours: int | None = None
    """Hours that records are kept; None for the catalogue's value of the topic."""
    bytes: int = RETENTION_BYTES
    """Bytes kept of the whole topic; each partition has an equal share."""


_DEFAULT = Retention()


class FileTopics:
    """A TopicWriter on a folder. The folder is made with the first topic."""

    def __init__(
        self,
        folder: Path,
        *,
        retention: Retention = _DEFAULT,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._folder = folder
        self._retention = retention
        self._clock_ms = clock_ms
        self._lock = RLock()
        self._files: OrderedDict[tuple[str, int], PartitionFile] = OrderedDict()
        self._counts: dict[str, tuple[tuple[int, int], int]] = {}

    def create(self, topic: str, partitions: int, retention_h: int | None = None) -> None:
        """Make a topic, or give it more partitions; harmless where it has as many.

        ``retention_h`` is for Kafka: here the writer's own retention holds. Raises
        SinkRefusedError for a bad name and for fewer partitions than it has.
        """
        _check_name(topic)
        if not 1 <= partitions <= PARTITIONS_MAX:
            raise SinkRefusedError(
                f"topic {topic}: {partitions} partitions asked; takes 1 to {PARTITIONS_MAX}"
            )
        folder = self._folder / topic
        with self._explained(topic):
            self._folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            folder.mkdir(FOLDER_MODE, exist_ok=True)
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                lock_exclusively(fd, folder)
                self._create_locked(topic, partitions)
            finally:
                os.close(fd)

    def _create_locked(self, topic: str, partitions: int) -> None:
        meta = read_meta(self._folder, topic)
        if meta is not None and meta.partitions > partitions:
            raise SinkRefusedError(
                f"topic {topic} in {self._folder} has {meta.partitions} partitions, {partitions} "
                "asked: a topic cannot shrink; ask for as many, or delete its folder"
            )
        if meta is not None and meta.partitions == partitions:
            return
        # The files come first: a topic that can be seen is whole.
        for partition in range(meta.partitions if meta else 0, partitions):
            records_path(self._folder, topic, partition).touch(FILE_MODE)
        id_ = meta.id if meta else secrets.token_hex(8)
        path = self._folder / topic / META_FILE
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        fresh.touch(FILE_MODE)
        fresh.write_text(
            json.dumps({"format": FORMAT, "id": id_, "partitions": partitions}) + "\n"
        )
        fresh.replace(path)

    def partitions(self, topic: str) -> int | None:
        """Return the number of a topic's partitions; None where it does not exist."""
        with self._explained(topic):
            return partitions_of(self._folder, topic)

    def topics(self) -> list[str]:
        """Return the names of all topics."""
        return [path.parent.name for path in self._folder.glob(f"*/{META_FILE}")]

    def end_offsets(self, places: Sequence[Place]) -> list[int]:
        """Return the next offset of each (topic, partition)."""
        return [self._asked(end_offset, *place) for place in places]

    def first_offset(self, topic: str, partition: int) -> int:
        """Return the offset of the oldest record left in a partition."""
        return self._asked(first_offset, topic, partition)

    def _asked(self, offset: Callable[[Path, str, int], int], topic: str, partition: int) -> int:
        with self._explained(topic):
            return offset(self._folder, topic, partition)

    def write(self, topic: str, records: Sequence[Record]) -> None:
        """Append records in order, each to the partition of its key; return when all are there.

        A topic of the catalogue is made at its first record. A newline inside a record is written
        as a space. Raises SinkUnavailableError (full disk, a stuck writer) and SinkRefusedError
        (bad or unknown topic, read-only disk); some may have been written.
        """
        if not records:
            return
        with self._lock, self._counted(), self._explained(topic):
            count = self._partition_count(topic)
            grouped: list[list[Record]] = [[] for _ in range(count)]
            for record in records:
                key = record[0]
                # This is partition_of, inlined: one call per record would cost the most here.
                grouped[crc32(key) % count if key else 0].append(record)
            for partition, group in enumerate(grouped):
                if group:
                    keys, values = zip(*group, strict=True)
                    self._file(topic, partition).append(lines_of(values, keys))

    def write_to(self, topic: str, partition: int, records: Sequence[TopicRecord]) -> None:
        """Append records with all they carry to one partition, in order. Raises as ``write``."""
        batches: list[Lines] = []
        for timestamp_ms, group in groupby(records, key=lambda record: record.timestamp_ms):
            values, keys, headers, _ = zip(*group, strict=True)
            batches += lines_of(values, keys, headers, timestamp_ms)
        self._append(topic, partition, batches)

    def write_each(self, batches: Sequence[PartitionBatch]) -> None:
        """Append each batch to its partition, in order, without keys. Raises as ``write``."""
        for topic, partition, values in batches:
            self._append(topic, partition, lines_of(values))

    def _append(self, topic: str, partition: int, batches: Sequence[Lines]) -> None:
        if not batches:
            return
        with self._lock, self._counted(), self._explained(topic):
            partitions = self._partition_count(topic)
            if not 0 <= partition < partitions:
                raise SinkRefusedError(f"topic {topic} has no partition {partition}")
            self._file(topic, partition).append(batches)

    def close(self) -> None:
        """Close the files. Never raises."""
        with self._lock:
            self._forget_files()

    def _partition_count(self, topic: str) -> int:
        path = self._folder / topic / META_FILE
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._forget_files(topic)
            self._create_known(topic)
            status = path.stat()
        # Another process may have given the topic more partitions, or deleted and made it again.
        stamp = (status.st_ino, status.st_mtime_ns)
        known = self._counts.get(topic)
        if known is None or known[0] != stamp:
            self._forget_files(topic)
            count = self.partitions(topic)
            if count is None:
                raise SinkUnavailableError(f"topic {topic} in {self._folder} was just deleted")
            known = self._counts[topic] = (stamp, count)
        return known[1]

    def _create_known(self, topic: str) -> None:
        _check_name(topic)
        if topic not in TOPICS:
            raise SinkRefusedError(
                f"no topic {topic} in {self._folder}, and it is none of the catalogue: check the "
                "name, or make it first (`footfall init` makes those of the catalogue)"
            )
        try:
            self.create(topic, TOPICS[topic].partitions)
        except SinkRefusedError:
            # Another process made it, larger, in the meantime.
            if self.partitions(topic) is None:
                raise

    def _file(self, topic: str, partition: int) -> PartitionFile:
        key = (topic, partition)
        file = self._files.get(key)
        if file is None:
            while len(self._files) >= OPEN_PARTITIONS_MAX:
                self._files.popitem(last=False)[1].close()
            file = self._files[key] = PartitionFile(
                (self._folder, topic, partition),
                self._limits(topic),
                lock_exclusively,
                self._clock_ms,
            )
        else:
            self._files.move_to_end(key)
        return file

    def _limits(self, topic: str) -> Limits:
        hours = self._retention.hours
        if hours is None:
            hours = TOPICS[topic].retention_h if topic in TOPICS else RETENTION_H
        kept_ms = hours * 3_600_000
        kept_bytes = self._retention.bytes // self._counts[topic][1]
        segment_bytes = max(SEGMENT_BYTES_MIN, min(SEGMENT_BYTES_MAX, kept_bytes // SEGMENTS_MIN))
        return Limits(segment_bytes, kept_ms // SEGMENTS_MIN, kept_bytes, kept_ms)

    def _forget_files(self, topic: str | None = None) -> None:
        for key in [key for key in self._files if topic in (None, key[0])]:
            self._files.pop(key).close()
        if topic is not None:
            self._counts.pop(topic, None)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a write that fails; it is not repeated here, but by whoever goes on later."""
        try:
            yield
        except SinkError as error:
            is_passing = not isinstance(error, SinkRefusedError)
            ATTEMPTS.failed("files", error, is_passing=is_passing)
            raise

    @contextmanager
    def _explained(self, topic: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._forget_files(topic)
            raise _sink_error(error, topic, self._folder) from error
        except DamagedError as error:
            raise SinkRefusedError(str(error)) from None


def lock_exclusively(fd: int, path: Path, wait_s: float = LOCK_WAIT_S) -> None:
    """Take the exclusive lock on an open file. Raises SinkUnavailableError after ``wait_s``."""
    deadline, pause_s = time.monotonic() + wait_s, _LOCK_POLL_S[0]
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise SinkUnavailableError(
                    f"{path} was locked by another writer for {wait_s:g} s: is one stopped?"
                ) from None
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _LOCK_POLL_S[1])
        else:
            return


def _check_name(topic: str) -> None:
    if not TOPIC_NAME.fullmatch(topic) or topic in (".", ".."):
        raise SinkRefusedError(
            f"{topic[:60]!r} is no name for a topic: takes 1 to 249 of a-z A-Z 0-9 . _ -"
        )


def _sink_error(error: OSError, topic: str, folder: Path) -> SinkError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return SinkUnavailableError(
            f"topic {topic}: the disk of {folder} is full ({reason}): free some space"
        )
    if error.errno in _READ_ONLY:
        return SinkRefusedError(
            f"topic {topic}: {folder} cannot be written ({reason}): make it writable, or set "
            "TOPICS_URL or FOOTFALL_HOME to another folder"
        )
    if error.filename:
        reason = f"{reason}: {error.filename}"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return SinkRefusedError(f"topic {topic}: {folder} cannot be a folder ({reason})")
    return SinkUnavailableError(f"topic {topic}: cannot append in {folder} ({reason})")
