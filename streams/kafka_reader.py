"""Reading one partition of Kafka: whole polls in order, out of the process's one consumer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from footfall.streams.batch import UNKNOWN_MS, Int64s, Poll
from footfall.streams.kafka_consumer import NO_END, UNKNOWN_EPOCH, Buffer, Chunk
from footfall.streams.source import (
    Position,
    ReadState,
    SourceError,
    check_same_topic,
    made_anew_remedy,
    pass_over,
)

if TYPE_CHECKING:
    from footfall.streams.kafka import KafkaTopic


class KafkaReader:
    """A reader of one partition from an offset on."""

    def __init__(
        self,
        topic: KafkaTopic,
        partition: int,
        state: tuple[str, str, int, int] | int | None,
        start: Position,
    ) -> None:
        """Begin at ``state``, a ReadState or a bare offset without a known topic, or else at
        ``start``."""
        self._topic = topic
        self._place = TopicPartition(topic.name, partition)
        self._name = f"{topic.name}/{partition}"
        self._consumer = topic.shared()
        self._buffer: Buffer
        self._offset: int
        self._leader_epoch: int
        topic_id = topic.topic_id
        read = ReadState(*state) if isinstance(state, tuple) else None
        if read is not None:
            check_same_topic(read, topic.name, topic_id, topic.flow)
        try:
            low, self._high = topic.bounds(partition)
            self._end = NO_END if topic.end is None else self._find(topic.end, low, self._high)
            if read is not None:
                self._begin(read.offset, read.position, low, self._high)
            else:
                offset = state if isinstance(state, int) else self._find(start, low, self._high)
                self._begin(offset, UNKNOWN_EPOCH, low, self._high)
        except KafkaException as error:
            raise SourceError(f"{self._name} at {topic.bootstrap}: {text_of(error)}") from None

    def poll(self, now_ms: int) -> Poll:
        """Return the records that have arrived, at most ``poll_records_max``."""
        topic, buffer = self._topic, self._buffer
        topic.check_same()
        is_behind = self._offset < self._high
        try:
            chunks = self._consumer.take(buffer, topic.poll_timeout_s if is_behind else 0.0)
            first = self._offset
            if chunks:
                first = chunks[0].offsets[0]
                self._offset = chunks[-1].offsets[-1] + 1
                self._leader_epoch = chunks[-1].leader_epoch
            elif buffer.error is not None:
                self._settle(buffer.error)
            if not buffer.chunks and buffer.passed > self._offset:
                # With the epoch of an earlier record the broker would believe that the log was
                # truncated.
                self._offset, self._leader_epoch = buffer.passed, UNKNOWN_EPOCH
            known = self._consumer.client.get_watermark_offsets(self._place, cached=True)
        except KafkaException as error:
            raise SourceError(f"{self._name}: {text_of(error)}") from None
        if known is not None:
            self._high = max(self._high, known[1])
        lag = max(0, min(self._high, self._end) - self._offset)
        return _poll_of(self._place, chunks, first=first, lag=lag, now_ms=now_ms)

    def finished(self) -> bool:
        """Return True once all records before the end were given."""
        return self._offset >= self._end

    def state(self) -> ReadState:
        """Return where to resume, and commit it to the consumer group."""
        self._consumer.commit(self._place.partition, self._offset)
        topic = self._topic
        return ReadState(topic.name, topic.topic_id, self._offset, self._leader_epoch)

    def bounds(self) -> tuple[int, int]:
        """Return (the offset of the next record, the end that was asked for)."""
        return self._offset, self._end

    def close(self) -> None:
        """Stop reading the partition."""
        self._consumer.close(self._buffer)

    def _begin(self, offset: int, leader_epoch: int, low: int, high: int) -> None:
        """Read from an offset on, where ``low`` to ``high`` are there. Raises SourceError."""
        self._offset = self._retained(offset, low, high)
        self._leader_epoch = leader_epoch if self._offset == offset else UNKNOWN_EPOCH
        self._buffer = self._consumer.open(
            self._place.partition, self._offset, self._end, self._leader_epoch
        )

    def _settle(self, error: KafkaError) -> None:
        """Go on where retention has removed the next record. Raises SourceError for all else."""
        topic = self._topic
        # Most errors, and the worst of them, come from a topic that was replaced.
        topic.partitions()
        topic.check_same()
        if error.code() != KafkaError._AUTO_OFFSET_RESET:
            raise SourceError(f"{self._name}: {error.str()}")
        low, high = topic.bounds(self._place.partition)
        if low <= self._offset <= high:
            raise SourceError(
                f"{self._name}: Kafka has lost records before the next offset {self._offset}, "
                f"and has others in their place ({error.str()})" + made_anew_remedy(topic.flow)
            )
        self._consumer.close(self._buffer)
        self._begin(self._offset, UNKNOWN_EPOCH, low, high)

    def _find(self, position: Position, low: int, high: int) -> int:
        if position.at == "earliest":
            return low
        if position.at == "latest":
            return high
        if position.at == "offset":
            return position.value
        found = self._topic.offset_at(self._place.partition, position.value)
        return high if found is None else found

    def _retained(self, offset: int, low: int, high: int) -> int:
        """Return the offset to read from, where ``low`` to ``high`` are there.

        Raises SourceError where that would skip records without permission.
        """
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


def _poll_of(
    place: TopicPartition, chunks: Sequence[Chunk], *, first: int, lag: int, now_ms: int
) -> Poll:
    """Return chunks as one poll; a mark where there are no chunks."""
    count = 0
    tombstones: list[int] = []
    for chunk in chunks:
        tombstones += [count + row for row in chunk.tombstones]
        count += len(chunk.offsets)
    offsets: Int64s | None = None
    appended_ms: Int64s | None = None
    if chunks:
        if chunks[-1].offsets[-1] - first != count - 1:
            offsets = np.array([*chain.from_iterable(chunk.offsets for chunk in chunks)])
        appended_ms = np.concatenate([chunk.appended_ms for chunk in chunks])
        if appended_ms.max() == UNKNOWN_MS:
            appended_ms = None
    return Poll(
        topic=place.topic,
        partition=place.partition,
        first_offset=first,
        data=b"".join([chunk.data for chunk in chunks]),
        count=count,
        lag=lag,
        polled_at_ms=now_ms,
        offsets=offsets,
        appended_ms=appended_ms,
        tombstones=tuple(tombstones),
    )


def text_of(error: KafkaException) -> str:
    """Return what Kafka or its client says is wrong."""
    cause = error.args[0]
    return str(cause.str() if isinstance(cause, KafkaError) else cause)
