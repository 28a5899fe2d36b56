"""Reading Kafka with confluent-kafka: a topic, its identity, and its readers.

Partitions are assigned, never subscribed: where to resume is in the recovery store. Offsets are
committed to the consumer group as well, but only lag tools look at them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from footfall.schemas.records import TopicRecord
from footfall.streams.batch import UNKNOWN_MS
from footfall.streams.kafka_consumer import UNKNOWN_EPOCH, SharedConsumer, is_passing
from footfall.streams.kafka_reader import KafkaReader, text_of
from footfall.streams.process import descriptors_left
from footfall.streams.source import (
    EARLIEST,
    NoTopicError,
    Position,
    ReadState,
    SourceError,
    check_same_topic,
)
from footfall.streams.wire_format import PLAIN, lines_of

REQUEST_TIMEOUT_S = 15.0
QUEUE_KIB_MAX = 8_192
"""Most KiB that librdkafka holds before it is asked for them: more than one full poll."""
RESPONSE_BYTES_MAX = 8_388_608
"""Most bytes of a response, for all partitions together; decompressed it becomes a few times as
large."""
RECORDS_ASKED = 1_000
"""Records asked for at once, where they are looked at one by one."""
CONSUMER_DESCRIPTORS = 16
"""File descriptors that a consumer needs, with room for a few brokers."""


class KafkaTopic:
    """A Kafka topic that can be read; with ``end`` None it follows what is appended.

    One consumer reads all partitions; the readers belong to one thread. ``flow`` names who reads,
    for the remedies in errors. Where retention has removed the record to resume at, reading stops
    with SourceError or, with ``skipped``, goes on from the oldest record left; ``skipped`` is
    given a line that says which offsets are missing.
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
        wire_format: str = PLAIN,
        start: Position = EARLIEST,
        end: Position | None = None,
        flow: str = "",
        skipped: Callable[[str], None] | None = None,
    ) -> None:
        self.bootstrap = bootstrap
        self.name = name
        self.poll_timeout_s = poll_timeout_s
        self.poll_records_max = poll_records_max
        self.wire_format = wire_format
        self.start = start
        self.end = end
        self.flow = flow
        self.skipped = skipped
        self._admin: AdminClient | None = None
        self._shared: SharedConsumer | None = None
        self._single: Consumer | None = None
        """Consumer that gives single records."""
        self._is_known = False
        self._topic_id = self.seen_id = ""
        """Id of the topic when it was found first; ``seen_id`` is what ``partitions`` found
        last."""
        self._config = {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "client.id": client_id,
            "enable.auto.commit": False,
            # An unanswered commit keeps the process from ending for this long.
            "session.timeout.ms": 3_000,
            "heartbeat.interval.ms": 1_000,
            "enable.partition.eof": True,
            # An offset that retention removed is an error, never a silent jump.
            "auto.offset.reset": "error",
            # Without these two a consumer spends its time waiting for its own queue.
            "fetch.queue.backoff.ms": 5,
            "queued.min.messages": 1_000_000,
            "queued.max.messages.kbytes": QUEUE_KIB_MAX,
            "fetch.max.bytes": RESPONSE_BYTES_MAX,
            # The broker answers a request after this at the latest, and does not look at other
            # partitions before it has. Where partitions are read to their ends one after the
            # other, each would wait.
            "fetch.wait.max.ms": 500 if end is None else 20,
            "log_level": 2,
        }

    def consumer(self, config: Mapping[str, Any] = MappingProxyType({})) -> Consumer:
        """Return a new consumer with the topic's settings. Raises SourceError."""
        left = descriptors_left()
        if left < CONSUMER_DESCRIPTORS:
            # The client itself would say that the broker is down.
            raise SourceError(
                f"to read {self.name} this process needs {CONSUMER_DESCRIPTORS} more files and "
                f"connections, and may open {left}: raise the limit, as with `ulimit -n 4096`"
            )
        return Consumer({**self._config, **config})

    def partitions(self) -> int:
        """Return the number of partitions. Raises SourceError without a topic or a broker.

        It also sees whether the topic was made again, upon which the readers stop: whoever follows
        a topic calls this from time to time.
        """
        admin = self._asked()
        try:
            listed = admin.list_topics(self.name, timeout=REQUEST_TIMEOUT_S)
            found = listed.topics[self.name]
            if found.error is not None or not found.partitions:
                raise NoTopicError(
                    f"there is no topic {self.name} at {self.bootstrap}: `footfall init` makes it"
                )
            if listed.controller_id in listed.brokers:
                self.seen_id = _topic_id(admin, self.name)
        except KafkaException as error:
            raise SourceError(
                f"Kafka at {self.bootstrap} does not answer: {text_of(error)}"
            ) from None
        self._topic_id = self._topic_id or self.seen_id
        self._is_known = True
        return len(found.partitions)

    @property
    def topic_id(self) -> str:
        """Return the topic's id, which differs once it was deleted and made again; "" where the
        broker has no ids."""
        if not self._is_known:
            self.partitions()
        return self._topic_id

    def check_same(self) -> None:
        """Raise SourceError where ``partitions`` has found another topic than at first."""
        if self.seen_id != self._topic_id:
            read = ReadState(self.name, self._topic_id, 0, UNKNOWN_EPOCH)
            check_same_topic(read, self.name, self.seen_id, self.flow)

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return (the oldest offset left, the end). Raises KafkaException."""
        low, high = self._offsets(partition, OffsetSpec.earliest(), OffsetSpec.latest())
        return low, high

    def offset_at(self, partition: int, time_ms: int) -> int | None:
        """Return the offset of the first record appended then or later; None without one.

        Raises KafkaException.
        """
        (found,) = self._offsets(partition, OffsetSpec.for_timestamp(time_ms))
        return None if found < 0 else found

    def open(
        self, partition: int, state: Any | None, start: Position | None = None
    ) -> KafkaReader:
        """Return a reader of one partition that resumes at a state, or begins at ``start``."""
        return KafkaReader(self, partition, state, start or self.start)

    def shared(self) -> SharedConsumer:
        """Return the consumer of all readers."""
        if self._shared is None:
            self._shared = SharedConsumer(
                self.consumer,
                self.name,
                partial(lines_of, wire_format=self.wire_format),
                records_max=self.poll_records_max,
            )
        return self._shared

    def kept(self, partition: int) -> tuple[int, int]:
        """Return (the oldest offset left, the end). Raises SourceError."""
        try:
            return self.bounds(partition)
        except KafkaException as error:
            raise self._wrong(partition, error) from None

    def records(self, partition: int, start: int, end: int) -> Iterator[tuple[int, TopicRecord]]:
        """Yield the records from offset ``start`` to before ``end`` that are there by now."""
        if self._single is None:
            self._single = self.consumer({"queued.min.messages": 1})
        try:
            self._single.assign([TopicPartition(self.name, partition, start)])
            until_s = time.monotonic() + REQUEST_TIMEOUT_S
            while start < end:
                for message in self._single.consume(RECORDS_ASKED, 0.1):
                    error = message.error()
                    if error is None and message.offset() < end:
                        until_s = time.monotonic() + REQUEST_TIMEOUT_S
                        start = message.offset() + 1
                        yield message.offset(), _record_of(message)
                    elif error is None or error.code() == KafkaError._PARTITION_EOF:
                        return
                    elif not is_passing(error):
                        raise KafkaException(error)
                if time.monotonic() > until_s:
                    raise SourceError(
                        f"{self.name}/{partition} at {self.bootstrap}: no record came within "
                        f"{REQUEST_TIMEOUT_S:g} s"
                    )
        except KafkaException as error:
            raise self._wrong(partition, error) from None
        finally:
            self._single.unassign()

    def record_at(self, partition: int, offset: int) -> TopicRecord:
        """Return one record with all that the topic keeps of it. Raises SourceError."""
        low, high = self.kept(partition)
        if low <= offset < high:
            for _, record in self.records(partition, offset, offset + 1):
                return record
        raise SourceError(
            f"{self.name}/{partition} has no record at offset {offset}: it has offsets {low} to "
            f"{high - 1}, without what compaction or an aborted transaction has removed"
        )

    def _wrong(self, partition: int, error: KafkaException) -> SourceError:
        return SourceError(f"{self.name}/{partition} at {self.bootstrap}: {text_of(error)}")

    def _asked(self) -> AdminClient:
        """Return the client for questions.

        The consumer is not asked: its answers would wait behind records, and it checks an epoch
        only if it learns of the topic after that.
        """
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})
        return self._admin

    def _offsets(self, partition: int, *specs: OffsetSpec) -> list[int]:
        """Ask for offsets, again while a broker goes and comes back."""
        place = TopicPartition(self.name, partition)
        until_s = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            left_s = until_s - time.monotonic()
            try:
                answers = [
                    self._asked().list_offsets(
                        {place: spec},
                        isolation_level=IsolationLevel.READ_COMMITTED,
                        request_timeout=max(0.1, left_s),
                    )[place]
                    for spec in specs
                ]
                return [int(answer.result().offset) for answer in answers]
            except KafkaException as error:
                if left_s <= 0 or not is_passing(error.args[0]):
                    raise
                # Use another client: this one may know an outdated leader.
                self._admin = None
                time.sleep(0.1)


def _record_of(message: Message) -> TopicRecord:
    _, appended_ms = message.timestamp()
    return TopicRecord(
        message.value() or b"",
        message.key(),
        tuple(message.headers() or ()),
        None if appended_ms == UNKNOWN_MS else appended_ms,
    )


def _topic_id(admin: AdminClient, name: str) -> str:
    """Return the id of a topic; "" where the broker has no ids."""
    asked = admin.describe_topics(TopicCollection([name]), request_timeout=REQUEST_TIMEOUT_S)
    found = asked[name].result().topic_id
    has_none = not (found.get_most_significant_bits() or found.get_least_significant_bits())
    return "" if has_none else str(found)
