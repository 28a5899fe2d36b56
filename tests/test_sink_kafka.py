"""Records and letters in, records of Kafka topics out: against librdkafka's mock broker."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from aiokafka.partitioner import DefaultPartitioner
from confluent_kafka import Consumer, Producer, TopicPartition

from footfall.schemas.dead_letters import (
    DeadLetter,
    LateEvent,
    StoreMetricsAvailable,
    payload_fields,
    payload_of,
)
from footfall.schemas.topics import RECORD_BYTES_MAX
from footfall.sinks import Record, SinkRefusedError, SinkUnavailableError, kafka
from footfall.sinks.kafka import KafkaTopics
from footfall.sinks.letters import LetterWriter
from tests.ports_support import free_port

PARTITIONS = 4
"""The mock broker makes every topic, with this many."""


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """Yield ``host:port`` of a mock broker, which lives in a producer."""
    home = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 2})
    (found,) = home.list_topics(timeout=10).brokers.values()
    yield f"{found.host}:{found.port}"
    home.flush(1)


@pytest.fixture
def topics(broker: str) -> Iterator[KafkaTopics]:
    writer = KafkaTopics(broker, give_up_after_s=20)
    yield writer
    writer.close()


def read_all(broker: str, topic: str, count: int) -> list[tuple[int, bytes | None, bytes]]:
    """Return (partition, key, value) of the first ``count`` records, in order of each
    partition."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "test", "log_level": 2})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    found: list[tuple[int, bytes | None, bytes]] = []
    deadline = time.monotonic() + 60
    while len(found) < count and time.monotonic() < deadline:
        for message in consumer.consume(10_000, timeout=0.1):
            assert message.error() is None
            found.append((message.partition(), message.key(), message.value()))
    assert consumer.consume(1, timeout=0.2) == []
    consumer.close()
    return found


def test_every_record_is_there_once_and_in_order_when_write_returns(
    broker: str, topics: KafkaTopics
) -> None:
    records: list[Record] = [(b"user-%d" % (n % 50), b"%d" % n) for n in range(3000)]
    topics.write("orders", records[:1])
    topics.write("orders", records[1:])
    topics.write("orders", [])
    found = read_all(broker, "orders", len(records))
    assert sorted((key, value) for _, key, value in found) == sorted(records)
    for partition in range(PARTITIONS):
        numbers = [int(value) for at, _, value in found if at == partition]
        assert numbers == sorted(numbers)


def test_a_key_goes_where_aiokafka_sends_it(broker: str, topics: KafkaTopics) -> None:
    keys = [b"%d" % n for n in range(200)] + ["kéks-🍪".encode(), b"x" * 500, b"\x00\xff\x80"]
    topics.write("keys", [(key, b"v") for key in keys])
    choose = DefaultPartitioner()
    partitions = list(range(PARTITIONS))
    for partition, key, _ in read_all(broker, "keys", len(keys)):
        assert partition == choose(key, partitions, partitions)


def test_more_records_than_the_client_queues_wait_for_room(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "RECORDS_QUEUED_MAX", 100)
    writer = KafkaTopics(broker, give_up_after_s=20)
    writer.write("many", [(b"%d" % n, b"%d" % n) for n in range(5000)])
    writer.close()
    assert {int(value) for _, _, value in read_all(broker, "many", 5000)} == set(range(5000))


def test_a_record_that_is_too_large_is_refused_by_name(broker: str, topics: KafkaTopics) -> None:
    with pytest.raises(
        SinkRefusedError, match=r"topic large .* larger than the topic takes"
    ) as no:
        topics.write("large", [(b"k", b"x" * (2 * RECORD_BYTES_MAX))])
    assert "\n" not in str(no.value)
    topics.write("large", [(b"k", b"small")])
    assert read_all(broker, "large", 1)[0][1:] == (b"k", b"small")


def test_a_topic_was_made_when_clients_see_all_its_partitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def listing(*leaders: int) -> dict[str, Any]:
        about = {number: SimpleNamespace(leader=leader) for number, leader in enumerate(leaders)}
        return {"new": SimpleNamespace(partitions=about)}

    admin = Mock()
    admin.create_topics.return_value = {"new": Mock()}
    listings = [{}, {}, listing(1), listing(1, -1), listing(1, 1), {}]
    topics = KafkaTopics("broker:9092")
    monkeypatch.setattr(topics, "_admin", lambda: admin)
    monkeypatch.setattr(topics, "_standing", lambda _asked: listings.pop(0))
    topics.create("new", 2, 24)
    assert listings == [{}]


def test_a_broker_that_is_not_there_is_an_error_within_the_bound() -> None:
    address = f"127.0.0.1:{free_port()}"
    writer = KafkaTopics(address, give_up_after_s=3)
    started = time.monotonic()
    with pytest.raises(SinkUnavailableError) as caught:
        writer.write("orders", [(b"k", b"v")] * 1000)
    assert "topic orders" in str(caught.value)
    assert address in str(caught.value)
    assert "Connection refused" in str(caught.value)
    with pytest.raises(SinkUnavailableError, match=address):
        writer.create("orders", 4, 24)
    writer.close()
    writer.close()
    # No figure of speed: the bounds of both calls together, with their grace.
    assert time.monotonic() - started < 2 * (3 + 5) + 5


@contextmanager
def forwarded(port: int, to: str) -> Iterator[None]:
    """Take connections on a port of this machine and pass them on."""
    host, _, to_port = to.partition(":")
    ends: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection((host, int(to_port)), timeout=5)
                ends.extend((near, far))
                for pair in ((near, far), (far, near)):
                    Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", port)) as listener:
        Thread(target=accept, args=(listener,), daemon=True).start()
        yield
        for end in (*ends, listener):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
    for end in ends:
        end.close()


def test_what_was_given_up_is_not_delivered_once_the_broker_is_back(broker: str) -> None:
    port = free_port()
    writer = KafkaTopics(f"127.0.0.1:{port}", give_up_after_s=5)
    with pytest.raises(SinkUnavailableError):
        writer.write("back", [(b"k", b"given up")])
    with forwarded(port, broker):
        writer.write("back", [(b"k", b"delivered")])
    writer.close()
    assert [value for _, _, value in read_all(broker, "back", 1)] == [b"delivered"]


def test_create_leaves_a_topic_that_is_there_and_refuses_to_shrink_it(topics: KafkaTopics) -> None:
    assert topics.partitions("made") is None
    topics.write("made", [(b"k", b"v")])
    assert topics.partitions("made") == PARTITIONS
    topics.create("made", PARTITIONS, retention_h=24)
    with pytest.raises(SinkRefusedError, match="has 4 partitions, 3 asked"):
        topics.create("made", 3, retention_h=24)


def test_letters_are_keyed_as_their_topic_says(broker: str, topics: KafkaTopics) -> None:
    dead = DeadLetter(
        flow="store_metrics",
        topic="store_events",
        partition=3,
        offset=7,
        code="not_json",
        reason="not JSON",
        **payload_fields(b"{\xff"),  # type: ignore[arg-type]
    )
    late = LateEvent(
        flow="store_metrics",
        topic="store_events",
        partition=3,
        offset=8,
        time="2019-10-01T00:00:00.000Z",
        watermark="2019-10-01T01:00:00.000Z",
        **payload_fields(b"{}"),  # type: ignore[arg-type]
    )
    notice = StoreMetricsAvailable("2019-10-01T00:00:00.000Z", "2019-10-01T00:00:01.000Z", 5)
    LetterWriter(topics, "dead_letters").write([[dead, dead], [dead]])
    LetterWriter(topics, "late_events").write([late])
    LetterWriter(topics, "store_metrics_available").write([notice])
    LetterWriter(topics, "store_metrics_available").write([])

    found = read_all(broker, "dead_letters", 3)
    assert [key for _, key, _ in found] == [b"store_events"] * 3
    assert [msgspec.json.decode(value, type=DeadLetter) for _, _, value in found] == [dead] * 3
    ((_, key, value),) = read_all(broker, "late_events", 1)
    assert (key, msgspec.json.decode(value, type=LateEvent)) == (b"store_events", late)
    ((_, key, value),) = read_all(broker, "store_metrics_available", 1)
    assert key == b"2019-10-01T00:00:00.000Z"
    assert msgspec.json.decode(value, type=StoreMetricsAvailable) == notice


class Kept:
    """A TopicWriter that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, topic: str, records: list[Record]) -> None:
        self.records += records

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "payload", [b"\x01" * 2_000_000, "\u2028é".encode() * 500_000, b"\xff" * 10**6]
)
def test_no_letter_is_larger_than_a_record_may_be(payload: bytes) -> None:
    letter = DeadLetter(
        flow="user_profiles",
        topic="user_tags",
        partition=0,
        offset=0,
        code="too_large",
        reason="x" * 200,
        **payload_fields(payload),  # type: ignore[arg-type]
    )
    kept = Kept()
    LetterWriter(kept, "dead_letters").write([letter])
    ((key, value),) = kept.records
    assert len(key or b"") + len(value) <= RECORD_BYTES_MAX
    read = msgspec.json.decode(value, type=DeadLetter)
    assert read.payload_bytes == len(payload)
    assert payload.startswith(payload_of(read))
    assert len(payload_of(read)) > 100_000
