"""One Kafka consumer for all partitions of a topic that a process reads.

A consumer holds half a dozen threads and connections, so one per partition costs more than the
records do. Here the client gives what has come of any partition. It is sorted into a buffer per
partition, from which that partition's reader takes it, in order and each record once.

The buffers are bounded together. A reader that finds them full and has nothing itself waits for
the others to be read. Only partitions that are not read meanwhile, and hold more than their share,
are not fetched for a while: what the client has already fetched of them is lost, and fetched again
later. The client's own call for that, ``pause``, can also lose an error that is on its way.
"""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakMethod

import numpy as np
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from footfall.streams.batch import Int64s
from footfall.streams.source import POLL_BYTES_MAX

BUFFERED_BYTES_MAX = 33_554_432
"""Most bytes in the buffers of all partitions that are not paused, before more is taken from the
client."""
CHUNK_RECORDS = 1_024
"""Records taken from the client at once: more of its objects than the processor's cache holds are
slow."""
COMMITTED_WITHIN_S = 1.0
"""Longest wait in seconds for the group to accept the last reader's offset."""
COMMIT_AGAIN_S = 3_600.0
"""Seconds after which all offsets are committed again: a group forgets a partition's offset that
nobody has committed for days."""
UNKNOWN_EPOCH = -1
NO_END = 2**62

ToLines = Callable[[Sequence[bytes | None]], tuple[bytes, list[int]]]
"""Function from values to (a line per record, the indexes of those without a value)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records of one partition that came together, in order."""

    offsets: Sequence[int]
    data: bytes
    """Lines, one per record."""
    appended_ms: Int64s
    tombstones: list[int]
    """Indexes of the records without a value."""
    leader_epoch: int
    """Epoch of the last record; UNKNOWN_EPOCH where the broker does not say."""


@dataclass(slots=True, eq=False)
class Buffer:
    """Records of one partition that have come and were not taken yet."""

    partition: int
    next_offset: int
    """Offset from which the client's next record comes."""
    leader_epoch: int
    """Epoch of the record before it."""
    end: int
    """Offset from which on records are passed over."""
    chunks: deque[Chunk] = field(default_factory=deque)
    records: int = 0
    size_bytes: int = 0
    passed: int = 0
    """Offset before which nothing comes behind the chunks: there are gaps up to it."""
    error: KafkaError | None = None
    """Error behind the chunks; the client gives no more of the partition after it."""
    taken_at: int = 0
    """Turn at which its reader was last here."""
    waits_since: int | None = None
    """Turn at which the reader found nothing, and no room for more."""
    is_paused: bool = False
    """True while nothing is fetched until the chunks are taken."""


class SharedConsumer:
    """Sorts what a client gives of the partitions of a topic. Not safe for several threads."""

    def __init__(
        self,
        open_client: Callable[[Mapping[str, Any]], Any],
        topic: str,
        to_lines: ToLines,
        *,
        records_max: int,
        bytes_max: int = BUFFERED_BYTES_MAX,
    ) -> None:
        """Open the client, by settings of a confluent_kafka.Consumer given to ``open_client``.

        ``records_max`` limits one call of ``take``, ``bytes_max`` all buffers together.
        """
        self.client = open_client({"on_commit": _held_weakly(self._on_committed)})
        self._topic = topic
        self._to_lines = to_lines
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._buffers: dict[int, Buffer] = {}
        self._opened: list[Buffer] = []
        """Buffers that are fetched from the next call of ``take`` on."""
        self.size_bytes = 0
        """Bytes in the buffers that are not paused."""
        self._turn = 0
        self._found_nothing = 0
        """Times in a row that a reader found nothing though records are to come."""
        self._commits: dict[int, int] = {}
        self._commits_sent = 0
        """Number of commits that were not answered yet."""
        self._committed: dict[int, int] = {}
        self._committed_all_s = time.monotonic()

    def open(
        self, partition: int, offset: int, end: int = NO_END, leader_epoch: int = UNKNOWN_EPOCH
    ) -> Buffer:
        """Fetch a partition from an offset on, which the broker checks by its epoch.

        Nothing is fetched before the next call of ``take``: partitions that are opened together
        begin together.
        """
        buffer = self._buffers[partition] = Buffer(partition, offset, leader_epoch, end)
        self._opened.append(buffer)
        return buffer

    def close(self, buffer: Buffer) -> None:
        """Stop fetching the partition, and forget what has come of it.

        When the last one is closed, the group is told where the readers were.
        """
        if self._buffers.pop(buffer.partition, None) is None:
            return
        if buffer in self._opened:
            self._opened.remove(buffer)
        elif not buffer.is_paused:
            self._stop_fetching(buffer)
        if self._buffers:
            return
        self._send_commits()
        until_s = time.monotonic() + COMMITTED_WITHIN_S
        while self._commits_sent and time.monotonic() < until_s:
            self.client.poll(0.05)

    def take(self, buffer: Buffer, timeout_s: float) -> list[Chunk]:
        """Return the records of a partition that have come, at most ``records_max`` of them.

        ``timeout_s`` is how long all readers together wait for records, once in each round. Raises
        KafkaException for an error that belongs to no partition.
        """
        self._turn += 1
        buffer.taken_at = self._turn
        if self._opened:
            self.client.incremental_assign([self._place_of(buffer) for buffer in self._opened])
            self._opened.clear()
        self._send_commits()
        self._fill(buffer, timeout_s)
        taken: list[Chunk] = []
        left, left_bytes = self._records_max, POLL_BYTES_MAX
        while buffer.chunks and left_bytes > 0 and len(buffer.chunks[0].offsets) <= left:
            chunk = buffer.chunks.popleft()
            left -= len(chunk.offsets)
            left_bytes -= len(chunk.data)
            taken.append(chunk)
        if taken:
            self._count(buffer, left - self._records_max, left_bytes - POLL_BYTES_MAX)
        if buffer.is_paused and not buffer.chunks:
            buffer.is_paused = False
            self._opened.append(buffer)
        return taken

    def commit(self, partition: int, offset: int) -> None:
        """Tell the group where a partition's reader is, at the next call of ``take``."""
        self._commits[partition] = offset

    def _fill(self, buffer: Buffer, timeout_s: float) -> None:
        """Sort what the client has, until there is enough of the partition."""
        asked = min(self._records_max, CHUNK_RECORDS)
        found: list[Any] = []
        if timeout_s and not self.size_bytes and self._is_turn_to_wait():
            # Ask for one record only: the client would wait for all that is asked for.
            found = self.client.consume(1, timeout_s)
        while (
            buffer.records + asked <= self._records_max
            and buffer.size_bytes < POLL_BYTES_MAX
            and self._has_room(buffer)
        ):
            if len(found) < asked:
                found += self.client.consume(asked - len(found), 0.0)
            self._sort(found)
            if len(found) < asked:
                return
            found = []

    def _is_turn_to_wait(self) -> bool:
        """Return True for one in each round of readers that find nothing.

        If each waited, hundreds of waits would follow one another.
        """
        self._found_nothing += 1
        return self._found_nothing % len(self._buffers) == 0

    def _has_room(self, buffer: Buffer) -> bool:
        """Return True where more may be taken from the client for a partition.

        Where the others have filled the buffers, their readers come first. Those that did not come
        since are paused if they hold more than their share.
        """
        if self.size_bytes < self._bytes_max:
            buffer.waits_since = None
            return True
        if buffer.chunks:
            return False
        if buffer.waits_since is None:
            buffer.waits_since = self._turn
            return False
        share_bytes = self._bytes_max // len(self._buffers)
        for other in self._buffers.values():
            is_unread = other.taken_at < buffer.waits_since and not other.is_paused
            if is_unread and other.size_bytes > share_bytes:
                self._stop_fetching(other)
                other.is_paused = True
        return self.size_bytes < self._bytes_max

    def _place_of(self, buffer: Buffer) -> TopicPartition:
        place = TopicPartition(self._topic, buffer.partition, buffer.next_offset)
        if buffer.leader_epoch == UNKNOWN_EPOCH:
            return place
        return TopicPartition(
            self._topic, buffer.partition, buffer.next_offset, leader_epoch=buffer.leader_epoch
        )

    def _stop_fetching(self, buffer: Buffer) -> None:
        self.client.incremental_unassign([TopicPartition(self._topic, buffer.partition)])
        self.size_bytes -= buffer.size_bytes

    def _sort(self, messages: Sequence[Any]) -> None:
        if not messages:
            return
        self._found_nothing = -1
        partitions = [message.partition() for message in messages]
        if partitions.count(partitions[0]) == len(partitions):
            self._put(partitions[0], messages)
            return
        of_partition: dict[int | None, list[Any]] = defaultdict(list)
        for partition, message in zip(partitions, messages, strict=True):
            of_partition[partition].append(message)
        for partition, found in of_partition.items():
            self._put(partition, found)

    def _put(self, partition: int | None, messages: Sequence[Any]) -> None:
        """Take in messages of one partition or, for None, those that belong to no partition."""
        buffer = None if partition is None else self._buffers.get(partition)
        if partition is not None and buffer is None:
            # The partition was closed while this was on its way.
            return
        errors = [message for message in messages if message.error() is not None]
        if errors:
            messages = [message for message in messages if message.error() is None]
        if buffer is not None and messages:
            self._append(buffer, messages)
        for message in errors:
            error = message.error()
            if buffer is not None and error.code() == KafkaError._PARTITION_EOF:
                buffer.passed = max(buffer.passed, message.offset())
            elif not is_passing(error):
                if buffer is None:
                    raise KafkaException(error)
                buffer.error = error

    def _append(self, buffer: Buffer, messages: Sequence[Any]) -> None:
        """Put records of a partition behind those that came before, up to its end."""
        offsets = _offsets(messages)
        if offsets[0] < buffer.next_offset:
            raise KafkaException(
                KafkaError(
                    KafkaError._INCONSISTENT,
                    f"{self._topic}/{buffer.partition}: the client gave offset {offsets[0]} "
                    f"behind {buffer.next_offset - 1}",
                )
            )
        buffer.next_offset = offsets[-1] + 1
        leader_epoch = messages[-1].leader_epoch()
        buffer.leader_epoch = UNKNOWN_EPOCH if leader_epoch is None else leader_epoch
        if offsets[-1] >= buffer.end:
            # Between the last record before the end and the end there are no records.
            buffer.passed = max(buffer.passed, buffer.end)
            count = bisect_left(offsets, buffer.end)
            if not count:
                return
            messages, offsets = messages[:count], offsets[:count]
        data, tombstones = self._to_lines([message.value() for message in messages])
        times = [message.timestamp() for message in messages]
        appended_ms = np.array([time_ms for _, time_ms in times], dtype=np.int64)
        buffer.chunks.append(Chunk(offsets, data, appended_ms, tombstones, buffer.leader_epoch))
        self._count(buffer, len(offsets), len(data))

    def _count(self, buffer: Buffer, records: int, size_bytes: int) -> None:
        buffer.records += records
        buffer.size_bytes += size_bytes
        if not buffer.is_paused:
            self.size_bytes += size_bytes

    def _send_commits(self) -> None:
        if not self._commits:
            return
        if time.monotonic() - self._committed_all_s > COMMIT_AGAIN_S:
            self._committed.clear()
            self._committed_all_s = time.monotonic()
        changed = [
            TopicPartition(self._topic, partition, offset)
            for partition, offset in self._commits.items()
            if self._committed.get(partition) != offset
        ]
        self._committed |= self._commits
        self._commits.clear()
        # Only lag tools look at the offset, and the next snapshot commits it again.
        with contextlib.suppress(KafkaException):
            if changed:
                self.client.commit(offsets=changed, asynchronous=True)
                self._commits_sent += 1

    def _on_committed(self, error: KafkaError | None, _places: list[TopicPartition]) -> None:
        self._commits_sent -= 1
        if error is not None:
            self._committed.clear()


def _held_weakly(method: Callable[..., None]) -> Callable[..., None]:
    """Return a callback that keeps its object alive no longer than others do.

    A client has threads and connections, which must end with whoever uses it and not at the next
    garbage collection.
    """
    held = WeakMethod(method)

    def call(*arguments: Any) -> None:
        if (alive := held()) is not None:
            alive(*arguments)

    return call


def _offsets(messages: Sequence[Any]) -> Sequence[int]:
    first, last = messages[0].offset(), messages[-1].offset()
    if last - first == len(messages) - 1:
        return range(first, last + 1)
    return [message.offset() for message in messages]


def is_passing(error: KafkaError) -> bool:
    """Return True for an error after which the client connects again by itself."""
    return bool(error.retriable()) or error.code() in (
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        # The connection went while something was asked over it.
        KafkaError._DESTROY_BROKER,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_LEADER_FOR_PARTITION,
    )
