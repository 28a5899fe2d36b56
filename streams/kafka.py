"""Reading Kafka with confluent-kafka: whole polls of one partition, with their offsets.

A partition is assigned, never subscribed: where to go on from stands in the recovery store.
Offsets are committed to the consumer group as well, for the eyes of lag tools alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.records import TopicRecord
from streams.batch import UNKNOWN_MS, Poll
from streams.source import (
    EARLIEST,
    NoTopicError,
    Position,
    SourceError,
    made_anew_remedy,
    pass_over,
)

REQUEST_TIMEOUT_S = 15.0
QUEUE_KIB_MAX = 8_192
"""What librdkafka may hold of one partition before it is asked for: more than one full poll."""
CHUNK_RECORDS = 1_024
"""Taken from the client at once: more of its objects than the processor's cache holds are dear."""


class KafkaTopic:
    """A Kafka topic that can be read. ``end`` None follows what is appended.

    ``flow`` names who reads, for the remedies in errors. Where retention has removed the record
    to go on from, reading stops with SourceError or, with ``skipped``, goes on from the oldest
    one left; ``skipped`` is given a line that says which offsets are missing.
    """

    def __init__(
        self,
        bootstrap: str,
        name: str,
        *,
        group: str,
        client_id: str = "footfall",
        poll_timeout_s: float = 0.1,
        poll_records_max: int = 16_384,
        start: Position = EARLIEST,
        end: Position | None = None,
        flow: str = "",
        skipped: Callable[[str], None] | None = None,
    ) -> None:
        self.bootstrap = bootstrap
        self.name = name
        self.poll_timeout_s = poll_timeout_s
        self.poll_records_max = poll_records_max
        self.start = start
        self.end = end
        self.flow = flow
        self.skipped = skipped
        self._admin: AdminClient | None = None
        self._config = {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "client.id": client_id,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            # An offset that retention removed is an error, never a silent jump.
            "auto.offset.reset": "error",
            # Without these two a consumer spends its time waiting for its own queue.
            "fetch.queue.backoff.ms": 5,
            "queued.min.messages": 1_000_000,
            "queued.max.messages.kbytes": QUEUE_KIB_MAX,
            "log_level": 2,
        }

    def consumer(self) -> Consumer:
        """A new consumer with the topic's settings."""
        return Consumer(self._config)

    def partitions(self) -> int:
        """How many partitions there are. Raises SourceError for no topic or no broker."""
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})
        try:
            listed = self._admin.list_topics(self.name, timeout=REQUEST_TIMEOUT_S)
            found = listed.topics[self.name]
        except KafkaException as error:
            raise SourceError(
                f"Kafka at {self.bootstrap} does not answer: {_text(error)}"
            ) from None
        if found.error is not None or not found.partitions:
            raise NoTopicError(
                f"there is no topic {self.name} at {self.bootstrap}: `footfall init` makes it"
            )
        return len(found.partitions)

    def open(self, partition: int, state: Any | None) -> KafkaReader:
        """A reader of one partition; ``state`` is the offset to go on from."""
        return KafkaReader(self, partition, state)

    def record_at(self, partition: int, offset: int) -> TopicRecord:
        """Return one record with all that the topic keeps of it. Raises SourceError."""
        consumer = self.consumer()
        try:
            consumer.assign([TopicPartition(self.name, partition, offset)])
            for message in consumer.consume(1, REQUEST_TIMEOUT_S):
                if message.error() is None and message.offset() == offset:
                    timestamp_ms = message.timestamp()[1]
                    return TopicRecord(
                        message.value() or b"",
                        message.key(),
                        tuple(message.headers() or ()),
                        None if timestamp_ms == UNKNOWN_MS else timestamp_ms,
                    )
        except KafkaException as error:
            raise SourceError(f"{self.name}/{partition}: {_text(error)}") from None
        finally:
            consumer.close()
        raise SourceError(f"{self.name}/{partition} has no record at offset {offset}")


class KafkaReader:
    """Reads one partition from an offset on."""

    def __init__(self, topic: KafkaTopic, partition: int, state: int | None) -> None:
        self._topic = topic
        self._partition = partition
        self._consumer = topic.consumer()
        self._name = f"{topic.name}/{partition}"
        try:
            low, high = self._watermarks()
            self._offset = state if state is not None else self._find(topic.start, low, high)
            self._end = 2**62 if topic.end is None else self._find(topic.end, low, high)
            self._offset = self._retained(self._offset, low, high)
            self._consumer.assign([TopicPartition(topic.name, partition, self._offset)])
        except KafkaException as error:
            self._consumer.close()
            raise SourceError(f"{self._name} at {topic.bootstrap}: {_text(error)}") from None
        except SourceError:
            self._consumer.close()
            raise
        self._high = high

    def poll(self, now_ms: int) -> Poll:
        """The records that have arrived, at most ``poll_records_max``."""
        topic = self._topic
        behind = self._offset < self._high
        payloads: list[bytes] = []
        offsets: list[int] = []
        at_end = False
        for chunk in self._chunks(topic.poll_timeout_s if behind else 0.0):
            if self._is_plain(chunk):
                payloads += [message.value() or b"" for message in chunk]
                offsets += _offsets(chunk)
                continue
            at_end = self._take(chunk, payloads, offsets)
            # What follows is asked for by the next poll.
            break
        first = offsets[0] if offsets else self._offset
        if offsets:
            self._offset = max(self._offset, offsets[-1] + 1)
        if at_end:
            self._offset = max(self._offset, self._end)
        cached = self._consumer.get_watermark_offsets(
            TopicPartition(topic.name, self._partition), cached=True
        )
        if cached is not None:
            self._high = max(self._high, cached[1])
        contiguous = not offsets or offsets[-1] - first == len(offsets) - 1
        data = b"\n".join(payloads) + b"\n" if payloads else b""
        if payloads and data.count(b"\n") != len(payloads):
            # JSON may be written over several lines; between its tokens a space is the same.
            data = b"".join(payload.replace(b"\n", b" ") + b"\n" for payload in payloads)
        return Poll(
            topic=topic.name,
            partition=self._partition,
            first_offset=first,
            data=data,
            count=len(payloads),
            lag=max(0, min(self._high, self._end) - self._offset),
            polled_at_ms=now_ms,
            offsets=None if contiguous else np.array(offsets, dtype=np.int64),
        )

    def finished(self) -> bool:
        """True once all records before the end were given."""
        return self._offset >= self._end

    def state(self) -> int:
        """The next offset, which the consumer group is told as well."""
        # Only lag tools look at it, and the next snapshot tells it again.
        with contextlib.suppress(KafkaException):
            self._consumer.commit(
                offsets=[TopicPartition(self._topic.name, self._partition, self._offset)],
                asynchronous=True,
            )
        return self._offset

    def bounds(self) -> tuple[int, int]:
        """The offset of the record that comes next, and the end that was asked for."""
        return self._offset, self._end

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _chunks(self, timeout_s: float) -> Iterator[list[Any]]:
        """What has arrived or arrives in time, at most ``poll_records_max`` in all."""
        left = self._topic.poll_records_max
        until_s = time.monotonic() + timeout_s
        while left > 0:
            asked = min(left, CHUNK_RECORDS)
            try:
                found = self._consumer.consume(asked, max(0.0, until_s - time.monotonic()))
            except KafkaException as error:
                raise SourceError(f"{self._name}: {_text(error)}") from None
            if found:
                yield found
            if len(found) < asked:
                return
            left -= asked

    def _is_plain(self, chunk: Sequence[Any]) -> bool:
        """True where all are records that stand before the end."""
        wrong = [message for message in chunk if message.error() is not None]
        return not wrong and chunk[-1].offset() < self._end

    def _take(self, chunk: Sequence[Any], payloads: list[bytes], offsets: list[int]) -> bool:
        """Add the records of a chunk that is not plain; True where the end was met."""
        for message in chunk:
            error = message.error()
            if error is None:
                if message.offset() >= self._end:
                    # What stands between the last record and the end is no record.
                    return True
                payloads.append(message.value() or b"")
                offsets.append(message.offset())
            elif error.code() == KafkaError._PARTITION_EOF:
                self._offset = max(self._offset, message.offset())
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                self._go_on_from_retained(offsets[-1] + 1 if offsets else self._offset)
                return False
            else:
                self._raise_unless_passing(error)
        return False

    def _find(self, position: Position, low: int, high: int) -> int:
        if position.at == "earliest":
            return low
        if position.at == "latest":
            return high
        if position.at == "offset":
            return position.value
        asked = TopicPartition(self._topic.name, self._partition, position.value)
        (found,) = self._consumer.offsets_for_times([asked], timeout=REQUEST_TIMEOUT_S)
        return high if found.offset < 0 else int(found.offset)

    def _watermarks(self) -> tuple[int, int]:
        """The oldest offset left, and the end; asked again while a broker goes and comes."""
        where = TopicPartition(self._topic.name, self._partition)
        until_s = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            left_s = until_s - time.monotonic()
            try:
                low, high = self._consumer.get_watermark_offsets(where, timeout=max(0.1, left_s))
            except KafkaException as error:
                if left_s <= 0 or not _is_passing(error.args[0]):
                    raise
                time.sleep(0.1)
            else:
                return low, high

    def _go_on_from_retained(self, offset: int) -> None:
        """Read on after the broker had no record at an offset. Raises SourceError."""
        where = TopicPartition(self._topic.name, self._partition)
        try:
            low, high = self._watermarks()
            self._offset = self._retained(offset, low, high)
            where.offset = self._offset
            self._consumer.assign([where])
        except KafkaException as error:
            raise SourceError(f"{self._name}: {_text(error)}") from None

    def _retained(self, offset: int, low: int, high: int) -> int:
        """The offset to read from, where ``low`` to ``high`` are there. Raises SourceError."""
        if low <= offset <= high:
            return offset
        topic = self._topic
        if offset > high:
            raise SourceError(
                f"{self._name}: the next offset {offset} is past the topic's end at {high}: it "
                "was made anew, or this is another Kafka" + made_anew_remedy(topic.flow)
            )
        pass_over(self._name, offset, low, topic.flow, topic.skipped)
        return low

    def _raise_unless_passing(self, error: KafkaError) -> None:
        # The client itself connects again after these.
        if not _is_passing(error):
            raise SourceError(f"{self._name}: {error.str()}")


def _offsets(chunk: Sequence[Any]) -> Sequence[int]:
    first, last = chunk[0].offset(), chunk[-1].offset()
    if last - first == len(chunk) - 1:
        return range(first, last + 1)
    return [message.offset() for message in chunk]


_PASSING = (
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    # The connection went while something was asked over it.
    KafkaError._DESTROY_BROKER,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
)


def _is_passing(error: KafkaError) -> bool:
    return bool(error.retriable()) or error.code() in _PASSING


def _text(error: KafkaException) -> str:
    cause = error.args[0]
    return str(cause.str() if isinstance(cause, KafkaError) else cause)
