"""Embedded topics: appends records to a folder of partition files (schemas.topic_files).

Delivery    at least once: what was acknowledged is there; a write that failed or was killed may
            have left some of its whole records, and a second try repeats them
Durability  as Kafka's default: no fsync, so it survives the crash of every process but not of
            the machine
Writers     any number of processes at once; one writer may be shared by threads, but must not
            be carried over a fork (the lock belongs to the open file)
Retention   none: embedded topics are for a laptop, a demo and tests
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from zlib import crc32

from schemas.topic_files import (
    META_FILE,
    end_offset,
    index_path,
    partitions_of,
    records_path,
)
from schemas.topics import TOPICS
from sinks import (
    PartitionBatch,
    Place,
    Record,
    SinkError,
    SinkRefusedError,
    SinkUnavailableError,
)
from sinks._partition_file import PartitionFile

TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
"""What Kafka takes for a name, so that a topic may move there."""
LOCK_WAIT_S = 30.0
"""Longest wait for another writer's append."""
OPEN_PARTITIONS_MAX = 128
"""Partition files held open; each takes two descriptors."""
PARTITIONS_MAX = 10_000

_LOCK_POLL_S = (0.0002, 0.01)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def wall_clock_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class FileTopics:
    """A TopicWriter on a folder. The folder is made when the first topic is."""

    def __init__(self, folder: Path, *, clock_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._folder = folder
        self._clock_ms = clock_ms
        self._lock = RLock()
        self._files: OrderedDict[tuple[str, int], PartitionFile] = OrderedDict()
        self._counts: dict[str, tuple[tuple[int, int], int]] = {}

    def create(self, topic: str, partitions: int, retention_h: int | None = None) -> None:
        """Make a topic, or give it more partitions; harmless where it has as many.

        ``retention_h`` is for Kafka: nothing is removed here. Raises SinkRefusedError for a bad
        name and for fewer partitions than it has.
        """
        _check_name(topic)
        if not 1 <= partitions <= PARTITIONS_MAX:
            raise SinkRefusedError(
                f"topic {topic}: {partitions} partitions asked; takes 1 to {PARTITIONS_MAX}"
            )
        folder = self._folder / topic
        with self._explained(topic):
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                lock_exclusively(fd, folder)
                self._create_locked(topic, partitions)
            finally:
                os.close(fd)

    def _create_locked(self, topic: str, partitions: int) -> None:
        existing = self.partitions(topic)
        if existing is not None and existing > partitions:
            raise SinkRefusedError(
                f"topic {topic} in {self._folder} has {existing} partitions, {partitions} asked: "
                "a topic cannot shrink; ask for as many, or delete its folder"
            )
        if existing == partitions:
            return
        # The files come first: a topic that can be seen is whole.
        for partition in range(existing or 0, partitions):
            records_path(self._folder, topic, partition).touch()
        path = self._folder / topic / META_FILE
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_text(json.dumps({"partitions": partitions}) + "\n")
        fresh.replace(path)

    def partitions(self, topic: str) -> int | None:
        """How many partitions a topic has, or None where it does not exist."""
        try:
            return partitions_of(self._folder, topic)
        except ValueError as error:
            raise SinkRefusedError(str(error)) from None

    def topics(self) -> list[str]:
        """The names of all topics."""
        return [path.parent.name for path in self._folder.glob(f"*/{META_FILE}")]

    def end_offsets(self, places: Sequence[Place]) -> list[int]:
        """The next offset of each (topic, partition): the number of its whole records."""
        return [end_offset(self._folder, *place) for place in places]

    def first_offset(self, topic: str, partition: int) -> int:
        """0: nothing is removed."""
        return 0

    def write(self, topic: str, records: Sequence[Record]) -> None:
        """Append records, each to the partition of its key, in order; return when all are.

        A topic of the catalogue is made at its first record. A newline inside a record is
        written as a space. Raises SinkUnavailableError (full disk, a stuck writer) and
        SinkRefusedError (bad or unknown topic, read-only disk); some may have been written.
        """
        if not records:
            return
        with self._lock, self._explained(topic):
            count = self._partition_count(topic)
            grouped: list[list[bytes]] = [[] for _ in range(count)]
            for key, value in records:
                # partition_of, written out: a call a record would be the dearest part here.
                grouped[crc32(key) % count if key else 0].append(value)
            for partition, values in enumerate(grouped):
                if values:
                    self._file(topic, partition).append(_lines(values))

    def write_to(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        """Append records to one partition, in order. Raises as ``write`` does."""
        if values:
            self.append(topic, partition, _lines(list(values)), len(values))

    def write_each(self, batches: Sequence[PartitionBatch]) -> None:
        """Append each batch to its partition, in order. Raises as ``write`` does."""
        for topic, partition, values in batches:
            self.write_to(topic, partition, values)

    def append(self, topic: str, partition: int, payloads: bytes, count: int) -> int:
        """Append ``count`` lines, each ended by a newline, to one partition.

        Returns the offset of the first. Raises as ``write`` does.
        """
        if payloads.count(b"\n") != count or payloads[-1:] not in (b"", b"\n"):
            raise SinkRefusedError(
                f"topic {topic}: the payloads are not {count} lines, each ended by a newline"
            )
        with self._lock, self._explained(topic):
            partitions = self._partition_count(topic)
            if not 0 <= partition < partitions:
                raise SinkRefusedError(f"topic {topic} has no partition {partition}")
            return self._file(topic, partition).append(payloads)

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
                records_path(self._folder, topic, partition),
                index_path(self._folder, topic, partition),
                lock_exclusively,
                self._clock_ms,
            )
        else:
            self._files.move_to_end(key)
        return file

    def _forget_files(self, topic: str | None = None) -> None:
        for key in [key for key in self._files if topic in (None, key[0])]:
            self._files.pop(key).close()
        if topic is not None:
            self._counts.pop(topic, None)

    @contextmanager
    def _explained(self, topic: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._forget_files(topic)
            raise _sink_error(error, topic, self._folder) from error


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


def _lines(values: list[bytes]) -> bytes:
    blob = b"\n".join(values) + b"\n"
    if blob.count(b"\n") != len(values):
        blob = b"\n".join([value.replace(b"\n", b" ") for value in values]) + b"\n"
    return blob


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
