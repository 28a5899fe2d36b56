"""Records to Kafka: an idempotent producer whose write returns when all are acknowledged.

Delivery    at-least-once: what was acknowledged by all replicas is there once; a write that
            raised may have delivered some, and a second try repeats them. With ``gapless``
            what it delivered to a partition are the first ones, whatever failed
Durability  acks=all, as the topic's replication gives
Partition   murmur2 of the key, as Java's and aiokafka's clients choose it: the same key meets
            in the same partition whoever writes it; without a key in any partition
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
from threading import Lock
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, OffsetSpec

from footfall.schemas.records import TopicRecord
from footfall.schemas.topics import RECORD_BYTES_TAKEN_MAX, kafka_config
from footfall.sinks import (
    PartitionBatch,
    Place,
    Record,
    SinkError,
    SinkRefusedError,
    SinkUnavailableError,
)
from footfall.sinks.attempts import ATTEMPTS

GIVE_UP_AFTER_S = 60.0
RECORDS_QUEUED_MAX = 100_000
"""Most records waiting in the client; a larger write waits for room."""
_REPORTS_GRACE_S = 5.0
_ADMIN_WITHIN_S_MAX = 20.0
"""Most seconds for questions about topics, which somebody waits for at a terminal."""
_ADMIN_ROUND_S = 5.0
_ASK_AGAIN_S = 0.1
_UNKNOWN_TOPIC_S = 3.0
_SEEN_WITHIN_S = 60.0
"""Most seconds until a new topic is seen: hundreds of partitions need leaders first."""
_ANY_PARTITION = -1
_SERVER = "kafka"
"""Name under which attempts are counted."""

AnyRecords = Sequence[Record] | Sequence[TopicRecord]

_REFUSED = {
    KafkaError.MSG_SIZE_TOO_LARGE: "the record is larger than the topic takes",
    KafkaError.RECORD_LIST_TOO_LARGE: "the records are larger than the topic takes",
    KafkaError.INVALID_RECORD: "the broker does not take the record",
    KafkaError.TOPIC_EXCEPTION: "that is no name for a topic",
    KafkaError._UNKNOWN_TOPIC: "there is no such topic: `footfall init` makes it",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "there is no such topic: `footfall init` makes it",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "writing to it is not allowed",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "idempotent writing is not allowed",
    KafkaError.POLICY_VIOLATION: "a policy of the broker forbids it",
    KafkaError.INVALID_REPLICATION_FACTOR: "there are too few brokers for its replication",
    KafkaError.INVALID_CONFIG: "the broker does not take its configuration",
}


class KafkaTopics:
    """A TopicWriter on Kafka. The first write connects, and later ones again if it is lost."""

    def __init__(
        self, bootstrap: str, *, give_up_after_s: float = GIVE_UP_AFTER_S, gapless: bool = False
    ) -> None:
        """Take ``bootstrap``: ``host:port``, or several with commas."""
        self._gapless = gapless
        self._bootstrap = bootstrap
        self._give_up_after_s = give_up_after_s
        self._answer_within_s = min(give_up_after_s, _ADMIN_WITHIN_S_MAX)
        self._lock = Lock()
        self._trouble = ""
        self._producer: Producer | None = None

    def write(self, topic: str, records: Sequence[Record]) -> None:
        """Send records and return when the brokers have acknowledged all of them.

        Raises SinkUnavailableError when they have not within ``give_up_after_s``, and
        SinkRefusedError for what they will never take. The others may have been delivered.
        """
        if not records:
            return
        with self._lock:
            self._write([(topic, _ANY_PARTITION, records)])

    def write_to(self, topic: str, partition: int, records: Sequence[TopicRecord]) -> None:
        """Send records with all they carry to one partition, in order. Raises as ``write``."""
        if records:
            with self._lock:
                self._write([(topic, partition, records)])

    def write_each(self, batches: Sequence[PartitionBatch]) -> None:
        """Send each batch to its partition, in order, without keys, and wait once for all.

        Raises as ``write`` does.
        """
        keyless = [
            (topic, partition, [(None, value) for value in values])
            for topic, partition, values in batches
            if values
        ]
        if keyless:
            with self._lock:
                self._write(keyless)

    def end_offsets(self, places: Sequence[Place]) -> list[int]:
        """Return the next offset of each (topic, partition). Raises SinkError."""
        return self._offsets(places, OffsetSpec.latest())

    def first_offset(self, topic: str, partition: int) -> int:
        """Return the offset of the oldest record left in a partition. Raises SinkError."""
        return self._offsets([(topic, partition)], OffsetSpec.earliest())[0]

    def _offsets(self, places: Sequence[Place], spec: OffsetSpec) -> list[int]:
        deadline = time.monotonic() + self._answer_within_s
        asked = {TopicPartition(*place): spec for place in places}
        admin = self._admin()
        while asked:
            left_s = max(0.1, deadline - time.monotonic())
            try:
                found = admin.list_offsets(asked, request_timeout=min(_ADMIN_ROUND_S, left_s))
                return [found[place].result().offset for place in asked]
            except KafkaException as raised:
                # A topic that was just made may not be known everywhere, or have no leader yet.
                if time.monotonic() > deadline:
                    raise self._no_answer(places[0][0], raised.args[0]) from None
                time.sleep(_ASK_AGAIN_S)
                # Use another client: this one may know an outdated leader.
                admin = self._admin()
        return []

    def create(self, topic: str, partitions: int, retention_h: int) -> None:
        """Make a topic, or give it more partitions; harmless where it has as many.

        An existing topic keeps its retention. Raises SinkRefusedError for fewer partitions than
        it has, SinkUnavailableError when no broker answers in time.
        """
        self.create_with(topic, partitions, kafka_config(retention_h))

    def create_with(self, topic: str, partitions: int, config: Mapping[str, str]) -> None:
        """Do the same, with settings of the topic's own."""
        existing = self.partitions(topic)
        admin = self._admin()
        if existing is None:
            new = NewTopic(
                topic, num_partitions=partitions, replication_factor=-1, config=dict(config)
            )
            made = admin.create_topics([new], request_timeout=self._answer_within_s)
            if self._finish(topic, made[topic], KafkaError.TOPIC_ALREADY_EXISTS):
                self._wait_until_seen(topic, partitions)
                return
            # Another process made it in the meantime, perhaps with other partitions.
            existing = self.partitions(topic) or partitions
        if existing > partitions:
            raise SinkRefusedError(
                f"topic {topic} of Kafka at {self._bootstrap} has {existing} partitions, "
                f"{partitions} asked: a topic cannot shrink; ask for as many, or delete it"
            )
        if existing < partitions:
            grown = admin.create_partitions(
                [NewPartitions(topic, partitions)], request_timeout=self._answer_within_s
            )
            # The broker refuses it as invalid where another process has just done it.
            self._finish(topic, grown[topic], KafkaError.INVALID_PARTITIONS)
        self._wait_until_seen(topic, partitions)

    def _wait_until_seen(self, topic: str, partitions: int) -> None:
        """Return when clients see a topic as it was made, a moment after the broker said so."""
        deadline = time.monotonic() + _SEEN_WITHIN_S
        while True:
            found = self._standing(topic)
            about = found[topic].partitions.values() if topic in found else ()
            if sum(one.leader >= 0 for one in about) >= partitions:
                return
            if time.monotonic() > deadline:
                raise SinkUnavailableError(
                    f"topic {topic} of Kafka at {self._bootstrap} was made, and not all of its "
                    f"{partitions} partitions have a leader after {_SEEN_WITHIN_S:g} s"
                )
            time.sleep(_ASK_AGAIN_S)

    def partitions(self, topic: str) -> int | None:
        """Return the number of a topic's partitions; None where it does not exist."""
        found = self._standing(topic)
        return len(found[topic].partitions) if topic in found else None

    def record_bytes_max(self, topics: Collection[str]) -> dict[str, int]:
        """Return the largest record in bytes by topic, without topics that the broker does not
        describe."""
        resources = {ConfigResource(ConfigResource.Type.TOPIC, topic): topic for topic in topics}
        admin = self._admin()  # Gone, it would answer nothing.
        asked = admin.describe_configs([*resources], request_timeout=self._answer_within_s)
        found = {}
        for resource, future in asked.items():
            # A user who may write to a topic may not always ask about it.
            with contextlib.suppress(KafkaException, TimeoutError):
                config = future.result(timeout=self._answer_within_s + _REPORTS_GRACE_S)
                found[resources[resource]] = int(config["max.message.bytes"].value)
        return found

    def topics(self) -> list[str]:
        """Return the names of all topics."""
        return [*self._standing("list")]

    def _standing(self, asked: str) -> dict[str, Any]:
        deadline = time.monotonic() + self._answer_within_s
        admin = self._admin()
        while True:
            left_s = deadline - time.monotonic()
            try:
                # All topics are asked for: a broker may make one that is asked for by name.
                found = admin.list_topics(timeout=max(0.1, min(_ADMIN_ROUND_S, left_s))).topics
            except KafkaException as raised:
                if left_s <= 0:
                    raise self._no_answer(asked, raised.args[0]) from None
            else:
                return dict(found)

    def close(self) -> None:
        """Let go of the brokers. Never raises."""
        with self._lock:
            self._forget_producer()

    def _write(self, batches: Sequence[tuple[str, int, AnyRecords]]) -> None:
        grace_s = 0.0 if self._gapless else _REPORTS_GRACE_S
        deadline = time.monotonic() + self._give_up_after_s + grace_s
        delivery = _Delivery(self._open_producer(), deadline)
        all_sent = all(delivery.send(*batch) for batch in batches)
        delivery.wait(until_error=self._gapless)
        if all_sent and delivery.error is None and delivery.reported == delivery.sent:
            self._trouble = ""
            return
        # Records still queued must not be delivered after the caller was told that they were not.
        self._forget_producer()
        error = self._sink_error(delivery.topic or batches[0][0], delivery.error)
        ATTEMPTS.failed(_SERVER, error, is_passing=not isinstance(error, SinkRefusedError))
        raise error

    def _open_producer(self) -> Producer:
        if self._producer is None:
            self._producer = Producer(
                {
                    **self._client_settings(),
                    "error_cb": self._count_trouble,
                    "enable.idempotence": True,
                    "acks": "all",
                    "partitioner": "murmur2_random",
                    "delivery.timeout.ms": self._delivery_timeout_ms(),
                    "queue.buffering.max.messages": RECORDS_QUEUED_MAX,
                    "message.max.bytes": RECORD_BYTES_TAKEN_MAX,
                    "linger.ms": 5,
                    # An unknown topic may have just been made: wait this long for it.
                    "topic.metadata.propagation.max.ms": round(_UNKNOWN_TOPIC_S * 1000),
                }
            )
        return self._producer

    def _delivery_timeout_ms(self) -> int:
        # A record that times out is left out, and those behind it may still be delivered. Without
        # a timeout per record all are given up at once.
        return 0 if self._gapless else max(1, round(self._give_up_after_s * 1000))

    def _forget_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(1)

    def _admin(self) -> AdminClient:
        return AdminClient(self._client_settings())

    def _client_settings(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self._bootstrap,
            "error_cb": self._note_trouble,
            # Errors come by error_cb and reports; the log would repeat each several times per
            # second.
            "log_level": 2,
        }

    def _count_trouble(self, error: KafkaError) -> None:
        """Count an attempt of the client itself, which repeats it until it gives up."""
        self._note_trouble(error)
        if error.code() != KafkaError._ALL_BROKERS_DOWN and not error.fatal():
            ATTEMPTS.failed(_SERVER, KafkaException(error), is_passing=True)
            ATTEMPTS.again(_SERVER)

    def _note_trouble(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._trouble:
            self._trouble = error.str()

    def _finish(self, topic: str, future: Any, harmless: int) -> bool:
        """Return True when done, False for the ``harmless`` error."""
        try:
            future.result(timeout=self._answer_within_s + _REPORTS_GRACE_S)
        except (KafkaException, TimeoutError) as raised:
            error = raised.args[0] if isinstance(raised, KafkaException) else None
            if error is not None and error.code() == harmless:
                return False
            raise self._no_answer(topic, error) from None
        return True

    def _sink_error(self, topic: str, error: KafkaError | None) -> SinkError:
        """Return the error for records that were not all acknowledged."""
        return self._error(topic, error, "acknowledge", self._give_up_after_s)

    def _no_answer(self, topic: str, error: KafkaError | None) -> SinkError:
        """Return the error for an unanswered question about a topic."""
        return self._error(topic, error, "answer", self._answer_within_s)

    def _error(
        self, topic: str, error: KafkaError | None, what: str, within_s: float
    ) -> SinkError:
        if error is not None and error.code() in _REFUSED:
            return SinkRefusedError(
                f"topic {topic} of Kafka at {self._bootstrap}: {_REFUSED[error.code()]} "
                f"({error.str()})"
            )
        reasons = dict.fromkeys([error.str() if error else "nothing was said", self._trouble])
        return SinkUnavailableError(
            f"topic {topic}: Kafka at {self._bootstrap} did not {what} within {within_s:g} s "
            f"({'; '.join(filter(None, reasons))}): is it running?"
        )


class _Delivery:
    """The records of one write on their way, and their delivery reports."""

    def __init__(self, producer: Producer, deadline: float) -> None:
        self._producer = producer
        self._deadline = deadline
        self.sent = 0
        self.reported = 0
        self.error: KafkaError | None = None
        self.topic: str | None = None
        """Topic of the error."""

    def send(self, topic: str, partition: int, records: AnyRecords) -> bool:
        """Hand records to the client until one fails; return False where it has not taken all."""
        at, full = 0, False
        while at < len(records) and self.error is None:
            try:
                self._produce(topic, partition, records[at])
            except BufferError:
                full = True
            except KafkaException as raised:
                self.error, self.topic = raised.args[0], topic
                break
            else:
                at += 1
                full = False
            if full or at % 1_000 == 0:
                self._producer.poll(0.05 if full else 0)
            if full and time.monotonic() > self._deadline:
                break
        self.sent += at
        return at == len(records)

    def _produce(self, topic: str, partition: int, record: Record | TopicRecord) -> None:
        if not isinstance(record, TopicRecord):
            key, value = record
            self._producer.produce(topic, value, key, partition, on_delivery=self._take)
            return
        self._producer.produce(
            topic,
            record.value,
            record.key,
            partition,
            on_delivery=self._take,
            # The client takes 0 for now.
            timestamp=record.timestamp_ms or 0,
            headers=list(record.headers),
        )

    def wait(self, *, until_error: bool) -> None:
        """Return when all that was sent is reported, or it is too late."""
        while self.reported < self.sent and time.monotonic() < self._deadline:
            if until_error and self.error is not None:
                return
            self._producer.poll(0.05)

    def _take(self, error: KafkaError | None, message: Message) -> None:
        self.reported += 1
        if error is not None and self.error is None:
            self.error, self.topic = error, message.topic()
