"""Reading Kafka with confluent-kafka: whole polls of one partition, with their offsets.

A partition is assigned, never subscribed: where to go on from stands in the recovery store.
Offsets are committed to the consumer group as well, for the eyes of lag tools alone.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streams.batch import Poll
from streams.source import EARLIEST, Position, SourceError

REQUEST_TIMEOUT_S = 15.0
QUEUE_KIB_MAX = 16_384
"""What librdkafka may hold of one partition before it is asked for."""


class KafkaTopic:
    """A Kafka topic that can be read. ``end`` None follows what is appended."""

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
    ) -> None:
        self.bootstrap = bootstrap
        self.name = name
        self.poll_timeout_s = poll_timeout_s
        self.poll_records_max = poll_records_max
        self.start = start
        self.end = end
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
        consumer = self.consumer()
        try:
            found = consumer.list_topics(self.name, timeout=REQUEST_TIMEOUT_S).topics[self.name]
        except KafkaException as error:
            raise SourceError(
                f"Kafka at {self.bootstrap} does not answer: {_text(error)}"
            ) from None
        finally:
            consumer.close()
        if found.error is not None or not found.partitions:
            raise SourceError(
                f"there is no topic {self.name} at {self.bootstrap}: `footfall init` makes it"
            )
        return len(found.partitions)

    def open(self, partition: int, state: Any | None) -> KafkaReader:
        """A reader of one partition; ``state`` is the offset to go on from."""
        return KafkaReader(self, partition, state)


class KafkaReader:
    """Reads one partition from an offset on."""

    def __init__(self, topic: KafkaTopic, partition: int, state: int | None) -> None:
        self._topic = topic
        self._partition = partition
        self._consumer = topic.consumer()
        self._name = f"{topic.name}/{partition}"
        try:
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(topic.name, partition), timeout=REQUEST_TIMEOUT_S
            )
            self._offset = state if state is not None else self._find(topic.start, low, high)
            self._end = 2**62 if topic.end is None else self._find(topic.end, low, high)
            self._check_retained(low, high)
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
        for message in self._consume(topic.poll_timeout_s if behind else 0.0):
            error = message.error()
            if error is None:
                if message.offset() >= self._end:
                    break
                payloads.append(message.value() or b"")
                offsets.append(message.offset())
            elif error.code() == KafkaError._PARTITION_EOF:
                self._offset = max(self._offset, message.offset())
            else:
                self._raise_unless_passing(error)
        first = offsets[0] if offsets else self._offset
        if offsets:
            self._offset = max(self._offset, offsets[-1] + 1)
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

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _consume(self, timeout_s: float) -> list[Any]:
        try:
            found: list[Any] = self._consumer.consume(self._topic.poll_records_max, timeout_s)
        except KafkaException as error:
            raise SourceError(f"{self._name}: {_text(error)}") from None
        return found

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

    def _check_retained(self, low: int, high: int) -> None:
        if low <= self._offset <= high:
            return
        where = f"{self._name}: offset {self._offset}"
        if self._offset > high:
            raise SourceError(f"{where} is past the topic's end at {high}: was it made anew?")
        raise SourceError(
            f"{where} was removed by retention, the oldest left is {low}. Nothing was skipped: "
            "start the flow anew from the earliest offset, or restore the records first"
        )

    def _raise_unless_passing(self, error: KafkaError) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise SourceError(f"{self._name}: offset {self._offset} was removed by retention")
        # The client itself connects again after these.
        if not (error.retriable() or error.code() in _PASSING):
            raise SourceError(f"{self._name}: {error.str()}")


_PASSING = (
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
)


def _text(error: KafkaException) -> str:
    cause = error.args[0]
    return str(cause.str() if isinstance(cause, KafkaError) else cause)
