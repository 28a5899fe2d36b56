"""The Kafka source against librdkafka's own mock broker: offsets, ends, lag, errors."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from footfall.streams.kafka import KafkaTopic
from footfall.streams.source import LATEST, Position, Reader, ReadState, SourceError

TOPIC = "tags"


@pytest.fixture(scope="module")
def broker() -> Iterator[tuple[Producer, str]]:
    """Yield a mock broker with 4 partitions per topic, which lives within a producer."""
    producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "x", "log_level": 0})
    brokers = producer.list_topics(timeout=10).brokers
    (address,) = [f"{found.host}:{found.port}" for found in brokers.values()]
    yield producer, address
    producer.flush(5)


def _send(producer: Producer, topic: str, values: list[bytes], partition: int = 0) -> None:
    for number, value in enumerate(values):
        producer.produce(topic, value, partition=partition, timestamp=1_000 * (number + 1))
    assert producer.flush(10) == 0


def _read(reader: Reader, count: int) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    deadline = time.monotonic() + 60
    while len(found) < count and time.monotonic() < deadline:
        poll = reader.poll(0)
        lines = poll.data.split(b"\n")[:-1]
        assert len(lines) == poll.count
        found += [(poll.offset_of(row), line) for row, line in enumerate(lines)]
    return found


def test_a_partition_is_read_whole_with_its_offsets(broker: tuple[Producer, str]) -> None:
    producer, address = broker
    _send(producer, "whole", [b"a", b"b", b'{\n"c": 1}', b""])
    reader = KafkaTopic(address, "whole", group="g", end=LATEST).open(0, None)
    assert _read(reader, 4) == [(0, b"a"), (1, b"b"), (2, b'{ "c": 1}'), (3, b"")]
    assert reader.finished()
    assert reader.state() == ReadState("whole", "", 4, 0)
    reader.close()


def test_reading_goes_on_from_a_state_and_knows_its_lag(broker: tuple[Producer, str]) -> None:
    producer, address = broker
    _send(producer, "lag", [b"%d" % n for n in range(10)])
    topic = KafkaTopic(address, "lag", group="g", poll_records_max=3)
    reader = topic.open(0, 4)
    deadline = time.monotonic() + 60
    while (poll := reader.poll(0)).count == 0 and time.monotonic() < deadline:
        pass
    assert (poll.first_offset, poll.count, poll.lag) == (4, 3, 3)
    reader.close()


def test_reading_starts_and_ends_where_it_is_told(broker: tuple[Producer, str]) -> None:
    producer, address = broker
    _send(producer, "range", [b"%d" % n for n in range(10)])
    start, end = Position("offset", 3), Position("offset", 6)
    reader = KafkaTopic(address, "range", group="g", start=start, end=end).open(0, None)
    assert [offset for offset, _ in _read(reader, 3)] == [3, 4, 5]
    assert reader.finished()
    reader.close()


def test_an_offset_that_is_gone_is_an_error_that_says_so(broker: tuple[Producer, str]) -> None:
    producer, address = broker
    _send(producer, "gone", [b"a"])
    with pytest.raises(SourceError, match="past the topic's end at 1"):
        KafkaTopic(address, "gone", group="g").open(0, 99)


def test_the_number_of_partitions_is_the_brokers(broker: tuple[Producer, str]) -> None:
    producer, address = broker
    _send(producer, "parts", [b"a"])
    assert KafkaTopic(address, "parts", group="g").partitions() == 4
