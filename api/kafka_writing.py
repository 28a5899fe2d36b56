"""Writing to Kafka: one idempotent aiokafka producer, acknowledged by all replicas.

Delivery      a write returns when the brokers have every record; a retry within the producer
              stores nothing twice. A write that timed out may still arrive.
Back pressure at most RECORDS_IN_FLIGHT_MAX records wait; more are refused at once.
Keys          Kafka's own default partitioner (murmur2), as every other client uses it.
Size          a record over its topic's max.message.bytes is refused by name and never sent: the
              batch that it came in would be refused, and the idempotent producer end with it
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    RecordListTooLargeError,
)

from footfall.api.records import INCOMING
from footfall.api.writing import BusyError, NotStoredError, RecordTooLargeError
from footfall.schemas.topics import RECORD_BYTES_TAKEN_MAX, TOPICS
from footfall.sinks import Record, SinkRefusedError, SinkUnavailableError
from footfall.sinks.kafka import KafkaTopics

RECORDS_IN_FLIGHT_MAX = 20_000
WRITE_WITHIN_S = 10.0
CHECK_WITHIN_S = 2.0
MAKE_WITHIN_S = 2.0
"""Limit of one request about topics; a stop of the server may have to wait for it."""
RETRY_AFTER_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits between attempts to reach the brokers at start; the last is repeated."""

FRAME_BYTES = 80
"""The most that a batch with a single record has around its key and value."""
BATCH_BYTES = 16_384
"""A larger record is a batch of its own."""
LIMITS_KEPT_S = 60.0
"""For so long a record is refused without asking again whether its topic takes more now."""

ENDS_THE_PRODUCER = (KafkaError, OutOfOrderSequenceNumber, ProducerFenced)
"""Exactly these types: after them every further send fails the same way."""

log = logging.getLogger("footfall.api")


class KafkaWriting:
    """Writing for Kafka. It connects in the background: the server starts without a broker.

    ``topics_made`` are created where they are missing.
    """

    def __init__(self, bootstrap: str, topics_made: Sequence[str] = ()) -> None:
        self._bootstrap = bootstrap
        self._topics_made = topics_made
        self._topics = set(INCOMING)
        self._limits: dict[str, int] = {}
        self._asked_s = -math.inf
        """Time at which the limits of the topics were last asked for, in seconds of the clock."""
        self._records = 0
        self._producer: AIOKafkaProducer | None = None
        self._closing = False
        self._connecting = asyncio.create_task(self._connect(), name="kafka-connect")

    @property
    def records_waiting(self) -> int:
        return self._records

    async def write(self, topic: str, records: Sequence[Record]) -> None:
        await self._check_sizes(topic, records)
        producer = self._ready()
        if self._records and self._records + len(records) > RECORDS_IN_FLIGHT_MAX:
            raise BusyError
        self._records += len(records)
        try:
            async with asyncio.timeout(WRITE_WITHIN_S):
                sent = [await producer.send(topic, value, key=key) for key, value in records]
                await asyncio.gather(*sent)
        except TimeoutError:
            raise NotStoredError(
                f"Kafka at {self._bootstrap} did not acknowledge within {WRITE_WITHIN_S:g} s"
            ) from None
        except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
            # The limit was lowered, or is not known. The producer has used sequence numbers that
            # no broker has seen, so a new producer is needed.
            self._topics.add(topic)
            self._begin_anew(producer)
            await asyncio.to_thread(self._ask_limits)
            await self._check_sizes(topic, records)
            raise NotStoredError(f"Kafka at {self._bootstrap}: {error}") from None
        except KafkaError as error:
            if type(error) in ENDS_THE_PRODUCER:
                self._begin_anew(producer)
            raise NotStoredError(f"Kafka at {self._bootstrap}: {error}") from None
        finally:
            self._records -= len(records)

    async def check(self) -> None:
        producer = self._ready()
        try:
            async with asyncio.timeout(CHECK_WITHIN_S):
                answered = await producer.client.force_metadata_update()
        except (TimeoutError, KafkaError) as error:
            raise NotStoredError(f"Kafka at {self._bootstrap} does not answer: {error}") from None
        if not answered:
            raise NotStoredError(f"Kafka at {self._bootstrap} does not answer")

    async def close(self) -> None:
        self._closing = True
        self._connecting.cancel()
        if self._producer is not None:
            try:
                async with asyncio.timeout(1.0):
                    await self._producer.stop()
            except (TimeoutError, KafkaError) as error:
                log.error("Kafka at %s: stopped with records unsent (%s)", self._bootstrap, error)

    def _ready(self) -> AIOKafkaProducer:
        if self._closing:
            raise NotStoredError("the server is stopping")
        if self._producer is None:
            raise NotStoredError(f"Kafka at {self._bootstrap} cannot be reached yet")
        return self._producer

    async def _check_sizes(self, topic: str, records: Sequence[Record]) -> None:
        """Raise RecordTooLargeError where the topic does not take one of the records."""
        found = self._too_large(topic, records)
        if found is not None and time.monotonic() - self._asked_s > LIMITS_KEPT_S:
            # Somebody may have raised the limit because of records like this.
            await asyncio.to_thread(self._ask_limits)
            found = self._too_large(topic, records)
        if found is not None:
            place, size, limit = found
            raise RecordTooLargeError(
                place,
                f"a record of {size} bytes, with its key and frame; topic {topic} of Kafka takes "
                f"at most {limit} (max.message.bytes)",
            )

    def _too_large(self, topic: str, records: Sequence[Record]) -> tuple[int, int, int] | None:
        """Return place, size and limit of the first record that is over its topic's limit."""
        limit = self._limits.get(topic, RECORD_BYTES_TAKEN_MAX)
        for place, (key, value) in enumerate(records):
            size = len(key or b"") + len(value) + FRAME_BYTES
            if size > limit:
                return place, size, limit
        return None

    def _ask_limits(self) -> None:
        """Ask for the record size that each topic takes. Blocking."""
        topics = KafkaTopics(self._bootstrap, give_up_after_s=MAKE_WITHIN_S)
        self._limits |= topics.record_bytes_max(self._topics)
        self._asked_s = time.monotonic()

    def _begin_anew(self, broken: AIOKafkaProducer) -> None:
        """Connect again after an error that an idempotent producer cannot go on from."""
        if self._producer is broken and not self._closing:
            log.error("Kafka at %s: the producer broke; connecting anew", self._bootstrap)
            self._producer = None
            self._connecting = asyncio.create_task(self._connect(broken), name="kafka-connect")

    async def _connect(self, broken: AIOKafkaProducer | None = None) -> None:
        if broken is not None:
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(CHECK_WITHIN_S):
                    await broken.stop()
        attempt = 0
        while self._producer is None:
            try:
                await asyncio.to_thread(self._make_topics)
                await asyncio.to_thread(self._ask_limits)
                self._producer = await self._started()
            except (KafkaError, OSError, SinkUnavailableError) as error:
                wait_s = RETRY_AFTER_S[min(attempt, len(RETRY_AFTER_S) - 1)]
                attempt += 1
                log.warning("Kafka at %s: %s (again in %g s)", self._bootstrap, error, wait_s)
                await asyncio.sleep(wait_s)

    async def _started(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            client_id="footfall-api",
            enable_idempotence=True,
            acks="all",
            linger_ms=2,
            max_request_size=RECORD_BYTES_TAKEN_MAX,
            # Records of one batch must fit their topic together, too.
            max_batch_size=min([BATCH_BYTES, *self._limits.values()]),
            request_timeout_ms=int(WRITE_WITHIN_S * 1000),
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    def _make_topics(self) -> None:
        """Create missing topics. Blocking; brokers that refuse are left to make topics themselves.

        Raises SinkUnavailableError.
        """
        topics = KafkaTopics(self._bootstrap, give_up_after_s=MAKE_WITHIN_S)
        try:
            for topic in (TOPICS[name] for name in self._topics_made):
                if topics.partitions(topic.name) is None:
                    topics.create(topic.name, topic.partitions, topic.retention_h)
        except SinkRefusedError as error:
            log.warning("%s", error)
        finally:
            topics.close()
