"""Sorting what one Kafka client gives of all partitions: in order, each record once, bounded."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from hypothesis import event, given
from hypothesis import strategies as st

from footfall.operations.positions import _committed
from footfall.streams.kafka_consumer import NO_END, UNKNOWN_EPOCH, Buffer, Chunk, SharedConsumer
from footfall.streams.wire_format import PLAIN, lines_of

RECORDS_MAX, BYTES_MAX = 4, 30
RECORD_BYTES_MAX = 9
CHUNK_BYTES_MAX = RECORDS_MAX * (RECORD_BYTES_MAX + 1)
"""A chunk is taken from the client where there is room for one byte."""


@dataclass(frozen=True)
class FakeMessage:
    """A record, or an event, as the client hands it over."""

    of: int | None
    at: int
    payload: bytes | None = b""
    failure: KafkaError | None = None

    def partition(self) -> int | None:
        return self.of

    def offset(self) -> int:
        return self.at

    def value(self) -> bytes | None:
        return self.payload

    def error(self) -> KafkaError | None:
        return self.failure

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_000 + self.at

    def leader_epoch(self) -> int | None:
        return self.at // 10 or None


@dataclass
class FakeClient:
    """One queue of what was fetched of all partitions, as librdkafka has it.

    What it has of a partition is thrown away when that is fetched no more.
    """

    logs: dict[int, list[int]]
    """The offsets of the records of each partition."""
    queue: deque[FakeMessage] = field(default_factory=deque)
    fetched: dict[int, int] = field(default_factory=dict)
    """The next offset to fetch, by assigned partition."""
    stopped: set[int] = field(default_factory=set)
    """Partitions for which an error has come."""
    committed: list[list[tuple[int, int]]] = field(default_factory=list)
    config: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, config: Mapping[str, Any]) -> FakeClient:
        """Take the configuration as the making of a consumer does."""
        self.config = config
        return self

    def fetch(self, partition: int, count: int) -> None:
        """Let the broker answer with some records, or say that there are no more."""
        if partition not in self.fetched or partition in self.stopped:
            return
        left = [at for at in self.logs[partition] if at >= self.fetched[partition]]
        for at in left[:count]:
            payload = b"x" * (1 + at % RECORD_BYTES_MAX)
            self.queue.append(FakeMessage(partition, at, payload))
            self.fetched[partition] = at + 1
        if len(left) <= count:
            end = self.logs[partition][-1] + 1 if self.logs[partition] else 0
            eof = KafkaError(KafkaError._PARTITION_EOF)
            self.queue.append(FakeMessage(partition, end, failure=eof))

    def fail(self, partition: int | None, code: int) -> None:
        """Let the broker answer with an error."""
        self.queue.append(FakeMessage(partition, 0, failure=KafkaError(code)))
        if partition is not None:
            self.stopped.add(partition)

    def consume(self, count: int, timeout: float) -> list[FakeMessage]:
        assert timeout == 0
        return [self.queue.popleft() for _ in range(min(count, len(self.queue)))]

    def incremental_assign(self, places: Sequence[TopicPartition]) -> None:
        for place in places:
            assert place.partition not in self.fetched
            assert place.leader_epoch in (None, (place.offset - 1) // 10)
            self.fetched[place.partition] = place.offset
            self.stopped.discard(place.partition)

    def incremental_unassign(self, places: Sequence[TopicPartition]) -> None:
        for place in places:
            del self.fetched[place.partition]
            left = [message for message in self.queue if message.of != place.partition]
            self.queue = deque(left)

    def commit(self, offsets: Sequence[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        self.committed.append([(place.partition, place.offset) for place in offsets])
        self.config["on_commit"](None, offsets)


def shared(client: FakeClient, **bounds: int) -> SharedConsumer:
    bounds = {"records_max": RECORDS_MAX, "bytes_max": BYTES_MAX, **bounds}
    return SharedConsumer(client, "t", partial(lines_of, wire_format=PLAIN), **bounds)


def offsets_of(chunks: Sequence[Chunk]) -> list[int]:
    return [offset for chunk in chunks for offset in chunk.offsets]


PARTITIONS = 4
gaps = st.sets(st.integers(0, 40))
logs = st.lists(
    st.tuples(st.integers(0, 40), gaps).map(
        lambda of: [n for n in range(of[0]) if n not in of[1]]
    ),
    min_size=PARTITIONS,
    max_size=PARTITIONS,
)
partitions = st.integers(0, PARTITIONS - 1)
fetch = st.tuples(st.just("fetch"), partitions, st.integers(1, 30))
poll = st.tuples(st.just("poll"), partitions, st.just(0))
actions = st.lists(
    st.one_of(
        fetch,
        fetch,
        poll,
        poll,
        poll,
        st.tuples(st.just("fail"), partitions, st.just(0)),
        st.tuples(st.just("reopen"), partitions, st.integers(0, 40)),
        st.tuples(st.just("trouble"), st.just(0), st.just(0)),
    ),
    min_size=20,
    max_size=120,
)


class Readers:
    """The readers of all partitions on a shared consumer, and what they have seen."""

    def __init__(self, client: FakeClient) -> None:
        self.client = client
        self.consumer = shared(client)
        self.seen: dict[int, list[int]] = defaultdict(list)
        self.begun: dict[int, int] = {}
        self.buffers: dict[int, Buffer] = {}
        self.were_paused: set[int] = set()
        for partition in client.logs:
            self.open(partition, 0)
        # Nothing is fetched before one of them comes.
        self.poll(0)

    def open(self, partition: int, offset: int) -> None:
        self.begun[partition] = offset
        self.seen[partition] = []
        self.buffers[partition] = self.consumer.open(partition, offset)

    def reopen(self, partition: int, offset: int) -> None:
        self.consumer.close(self.buffers[partition])
        self.open(partition, offset)

    def poll(self, partition: int) -> None:
        buffer = self.buffers[partition]
        chunks = self.consumer.take(buffer, 0.0)
        found = offsets_of(chunks)
        self.seen[partition] += found
        assert len(found) <= RECORDS_MAX
        assert sum(chunk.data.count(b"\n") for chunk in chunks) == len(found)
        for chunk in chunks:
            assert chunk.appended_ms.tolist() == [1_000 + at for at in chunk.offsets]
            assert chunk.leader_epoch == (chunk.offsets[-1] // 10 or UNKNOWN_EPOCH)
        if not chunks and buffer.error is not None:
            # As a reader does once it has seen why.
            self.consumer.close(buffer)
            seen = self.seen[partition]
            resumed = seen[-1] + 1 if seen else self.begun[partition]
            self.buffers[partition] = self.consumer.open(partition, resumed)

    def check(self) -> None:
        """Check that each has seen the first of its records, and no more is held than allowed."""
        for partition, seen in self.seen.items():
            log = [at for at in self.client.logs[partition] if at >= self.begun[partition]]
            assert seen == log[: len(seen)], partition
        self.were_paused |= self.paused()
        held = [buffer for buffer in self.buffers.values() if not buffer.is_paused]
        size_bytes = sum(len(chunk.data) for buffer in held for chunk in buffer.chunks)
        assert self.consumer.size_bytes == size_bytes
        assert size_bytes < BYTES_MAX + CHUNK_BYTES_MAX

    def paused(self) -> set[int]:
        return {partition for partition, buffer in self.buffers.items() if buffer.is_paused}

    def is_done(self) -> bool:
        return all(
            seen == [at for at in self.client.logs[partition] if at >= self.begun[partition]]
            for partition, seen in self.seen.items()
        )


@given(logs, actions, st.sets(partitions, max_size=PARTITIONS - 1))
def test_each_partition_gives_its_records_in_order_each_once_within_the_bound(
    logs: list[list[int]], actions: list[tuple[str, int, int]], asleep: set[int]
) -> None:
    readers = Readers(FakeClient(dict(enumerate(logs))))
    for action, partition, number in actions:
        if action == "fetch":
            readers.client.fetch(partition, number)
        elif action == "poll":
            if partition not in asleep:
                readers.poll(partition)
        elif action == "reopen":
            readers.reopen(partition, number)
        elif action == "fail":
            readers.client.fail(partition, KafkaError._AUTO_OFFSET_RESET)
        else:
            readers.client.fail(None, KafkaError._ALL_BROKERS_DOWN)
        readers.check()
    event(f"paused: {bool(readers.were_paused)}")
    # And all of them come in the end, where every partition is polled in turn.
    for _ in range(200):
        for partition in readers.buffers:
            readers.client.fetch(partition, 5)
            readers.poll(partition)
            readers.check()
        if readers.is_done():
            return
    raise AssertionError("some records never come")


def test_only_a_partition_that_nobody_polls_is_paused_and_loses_nothing() -> None:
    client = FakeClient({0: list(range(30)), 1: list(range(30))})
    readers = Readers(client)
    client.fetch(0, 30)
    client.fetch(1, 30)
    while not readers.paused():
        readers.poll(1)
        readers.check()
    assert readers.paused() == {0}
    while len(readers.seen[1]) < 30:
        client.fetch(1, 30)
        readers.poll(1)
        readers.check()
    while len(readers.seen[0]) < 30:
        client.fetch(0, 30)
        readers.poll(0)
        readers.check()
    assert not readers.paused()


def test_partitions_that_are_polled_in_turn_are_never_paused() -> None:
    client = FakeClient({partition: list(range(60)) for partition in range(4)})
    readers = Readers(client)
    while not readers.is_done():
        for partition in (0, 3, 1, 2):
            client.fetch(partition, 20)
            readers.poll(partition)
            readers.check()
    assert not readers.were_paused


def test_an_error_comes_behind_the_records_before_it() -> None:
    client = FakeClient({0: [0, 1, 2, 3, 4, 5], 1: [0]})
    consumer = shared(client)
    first, second = consumer.open(0, 0), consumer.open(1, 0)
    consumer.take(first, 0.0)
    client.fetch(0, 6)
    client.fail(0, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    client.fetch(1, 1)
    assert offsets_of(consumer.take(second, 0.0)) == [0]
    assert second.error is None
    assert offsets_of(consumer.take(first, 0.0)) == [0, 1, 2, 3]
    assert offsets_of(consumer.take(first, 0.0)) == [4, 5]
    assert first.error is not None
    assert first.error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def test_an_error_of_no_partition_is_raised_unless_it_passes() -> None:
    client = FakeClient({0: [0]})
    consumer = shared(client)
    buffer = consumer.open(0, 0)
    client.fail(None, KafkaError._ALL_BROKERS_DOWN)
    client.fail(None, KafkaError._TRANSPORT)
    assert consumer.take(buffer, 0.0) == []
    client.fail(None, KafkaError._AUTHENTICATION)
    with pytest.raises(KafkaException):
        consumer.take(buffer, 0.0)


def test_records_from_the_end_on_are_passed_over_and_gaps_are_known() -> None:
    client = FakeClient({0: [0, 1, 7, 9], 1: [0, 1]})
    consumer = shared(client)
    ended, open_ended = consumer.open(0, 0, end=5), consumer.open(1, 0, end=NO_END)
    consumer.take(ended, 0.0)
    client.logs[1] = [0, 1]
    client.fetch(0, 9)
    client.fetch(1, 9)
    assert offsets_of(consumer.take(ended, 0.0)) == [0, 1]
    assert ended.passed >= 5
    assert offsets_of(consumer.take(open_ended, 0.0)) == [0, 1]
    assert open_ended.passed == 2


def test_what_comes_of_a_closed_partition_is_dropped() -> None:
    client = FakeClient({0: [0, 1], 1: [0]})
    consumer = shared(client)
    closed, kept = consumer.open(0, 0), consumer.open(1, 0)
    consumer.take(kept, 0.0)
    on_its_way = [FakeMessage(0, 0), FakeMessage(0, 2, failure=KafkaError(-191))]
    consumer.close(closed)
    consumer.close(closed)
    client.queue.extend(on_its_way)
    client.fetch(1, 1)
    assert offsets_of(consumer.take(kept, 0.0)) == [0]


def test_a_record_that_comes_twice_is_an_error_and_no_silent_jump() -> None:
    client = FakeClient({0: [0, 1, 2]})
    consumer = shared(client)
    buffer = consumer.open(0, 0)
    consumer.take(buffer, 0.0)
    client.queue.extend([FakeMessage(0, 0, b"a"), FakeMessage(0, 1, b"b")])
    assert offsets_of(consumer.take(buffer, 0.0)) == [0, 1]
    client.queue.append(FakeMessage(0, 1, b"b"))
    with pytest.raises(KafkaException, match="t/0"):
        consumer.take(buffer, 0.0)


def test_the_group_is_told_of_all_partitions_at_once_and_of_each_offset_once() -> None:
    client = FakeClient({partition: [] for partition in range(3)})
    consumer = shared(client)
    buffers = [consumer.open(partition, 0) for partition in range(3)]
    for partition in range(3):
        consumer.commit(partition, 5)
    assert client.committed == []
    consumer.take(buffers[0], 0.0)
    for partition in range(3):
        consumer.commit(partition, 5 + partition // 2)
    consumer.take(buffers[1], 0.0)
    assert client.committed == [[(0, 5), (1, 5), (2, 5)], [(2, 6)]]
    # The last is told at the latest with the last partition.
    consumer.commit(0, 9)
    for buffer in buffers:
        consumer.close(buffer)
    assert client.committed[-1] == [(0, 9)]


def test_the_group_is_told_again_what_it_did_not_take() -> None:
    client = FakeClient({0: []})
    consumer = shared(client)
    buffer = consumer.open(0, 0)
    for _ in range(2):
        consumer.commit(0, 5)
        consumer.take(buffer, 0.0)
    assert client.committed == [[(0, 5)]]
    client.config["on_commit"](KafkaError(KafkaError._WAIT_COORD), [])
    consumer.commit(0, 5)
    consumer.take(buffer, 0.0)
    assert client.committed == [[(0, 5)]] * 2


def test_hundreds_of_partitions_wait_once_in_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient({partition: [] for partition in range(300)})
    waits: list[float] = []

    def consume(count: int, timeout: float) -> list[Any]:
        waits.append(timeout)
        return []

    monkeypatch.setattr(client, "consume", consume)
    consumer = shared(client)
    buffers = [consumer.open(partition, 0) for partition in range(300)]
    for _ in range(2):
        for buffer in buffers:
            consumer.take(buffer, 0.1)
    assert sum(waits) == pytest.approx(0.2)


@pytest.mark.parametrize("code", [KafkaError.NOT_COORDINATOR, KafkaError._TRANSPORT])
def test_a_group_whose_coordinator_moves_is_asked_again(code: int) -> None:
    class Moving:
        asked = 0

        def committed(self, places: list[TopicPartition], _timeout_s: float) -> Any:
            self.asked += 1
            if self.asked < 3:
                raise KafkaException(KafkaError(code))
            return places

    places = [TopicPartition("t", 0, 7)]
    assert _committed(Moving(), places, 10.0) == places  # type: ignore[arg-type]
    with pytest.raises(KafkaException):
        _committed(Moving(), places, 0.0)  # type: ignore[arg-type]
