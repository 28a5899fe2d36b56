"""Durable writes: one commit for many, nothing acknowledged that is not there."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.errors import OutOfOrderSequenceNumber
from aiokafka.partitioner import murmur2
from confluent_kafka import Consumer, Producer, TopicPartition

from footfall.api.kafka_writing import KafkaWriting
from footfall.api.opening import probe_folder
from footfall.api.writing import BusyError, GroupCommit, NotStoredError
from footfall.schemas.topic_files import records_path
from footfall.schemas.topics import USER_TAGS
from footfall.sinks import SinkUnavailableError
from footfall.sinks.topic_files import FileTopics
from tests.api_process_support import WAIT_S, Process, free_port
from tests.api_support import Client, MemoryTopics, encoded, tag


def record(number: int) -> tuple[bytes, bytes]:
    return b"key", b"%d" % number


async def closed(commit: GroupCommit) -> None:
    async with asyncio.timeout(WAIT_S):
        await commit.close()


def test_what_comes_together_is_committed_together_in_order() -> None:
    topics = MemoryTopics()

    async def run() -> None:
        commit = GroupCommit(topics, topics.probe)
        topics.gate.clear()
        first = asyncio.create_task(commit.write("a", [record(-1)]))
        await asyncio.sleep(0.02)
        writes = [
            asyncio.create_task(commit.write("ab"[number % 2], [record(number)]))
            for number in range(200)
        ]
        await asyncio.sleep(0.02)
        assert commit.records_waiting == 201
        topics.gate.set()
        await asyncio.gather(first, *writes)
        assert commit.records_waiting == 0
        await closed(commit)

    asyncio.run(run())
    assert topics.records["a"] == [record(-1), *map(record, range(0, 200, 2))]
    assert topics.records["b"] == [*map(record, range(1, 200, 2))]
    assert topics.writes == 3


def test_a_failure_reaches_its_topic_alone() -> None:
    class HalfBroken(MemoryTopics):
        def write(self, topic: str, records: object) -> None:
            if topic == "bad":
                raise OSError(errno.ENOSPC, "No space left on device")

    async def run() -> list[object]:
        topics = HalfBroken()
        commit = GroupCommit(topics, topics.probe)
        found = await asyncio.gather(
            commit.write("bad", [record(1)]),
            commit.write("good", [record(2)]),
            commit.write("bad", [record(3)]),
            return_exceptions=True,
        )
        await closed(commit)
        return list(found)

    bad, good, too = asyncio.run(run())
    assert good is None
    assert all(isinstance(one, NotStoredError) for one in (bad, too))
    assert "No space left" in str(bad)


def test_the_queue_is_bounded_in_records_and_bytes_and_takes_one_large_request() -> None:
    topics = MemoryTopics()

    async def run() -> None:
        commit = GroupCommit(topics, topics.probe, records_waiting_max=3, bytes_waiting_max=100)
        topics.gate.clear()
        under_way = asyncio.create_task(commit.write("a", [record(0)] * 10))
        await asyncio.sleep(0.02)
        waiting = asyncio.create_task(commit.write("a", [(b"", b"x" * 90)]))
        await asyncio.sleep(0)
        for refused in ([record(1)] * 3, [(b"", b"x" * 90)]):
            with pytest.raises(BusyError):
                await commit.write("a", refused)
        topics.gate.set()
        await asyncio.gather(under_way, waiting)
        await commit.write("a", [record(1)])
        await closed(commit)

    asyncio.run(run())
    assert len(topics.records["a"]) == 12


def test_a_client_that_left_does_not_disturb_the_others() -> None:
    topics = MemoryTopics()

    async def run() -> None:
        commit = GroupCommit(topics, topics.probe)
        topics.gate.clear()
        first, gone, last = (
            asyncio.create_task(commit.write("a", [record(number)])) for number in range(3)
        )
        await asyncio.sleep(0.02)
        gone.cancel()
        topics.gate.set()
        await asyncio.gather(first, last)
        await closed(commit)

    asyncio.run(run())
    assert record(2) in topics.records["a"]


def test_closing_writes_what_waits_and_refuses_what_comes_after() -> None:
    topics = MemoryTopics()

    async def run() -> None:
        commit = GroupCommit(topics, topics.probe)
        writes = [asyncio.create_task(commit.write("a", [record(n)])) for n in range(10)]
        await asyncio.sleep(0)
        await closed(commit)
        await asyncio.gather(*writes)
        with pytest.raises(NotStoredError, match="stopping"):
            await commit.write("a", [record(11)])

    asyncio.run(run())
    assert len(topics.records["a"]) == 10


def test_closing_does_not_wait_for_a_disk_that_hangs() -> None:
    topics = MemoryTopics()

    async def run() -> None:
        commit = GroupCommit(topics, topics.probe)
        topics.gate.clear()
        write = asyncio.create_task(commit.write("a", [record(1)]))
        await asyncio.sleep(0.02)
        await closed(commit)
        assert not write.done()
        write.cancel()
        topics.gate.set()

    asyncio.run(run())


def test_the_probe_tells_whether_a_write_would_work(tmp_path: Path) -> None:
    async def run() -> str:
        commit = GroupCommit(FileTopics(tmp_path), lambda: probe_folder(tmp_path / "topics"))
        await commit.check()
        assert [*(tmp_path / "topics").iterdir()] == []
        (tmp_path / "topics").rmdir()
        (tmp_path / "topics").write_text("a file where the folder should be")
        with pytest.raises(NotStoredError) as failure:
            await commit.check()
        await closed(commit)
        return str(failure.value)

    assert "topics" in asyncio.run(run())


def test_what_was_acknowledged_outlives_kill_9(tmp_path: Path) -> None:
    """Clients send as fast as they can; the server is killed; every 204 is in the topic."""
    port = free_port()
    server = Process(tmp_path, port)
    acknowledged: list[str] = []
    stop = threading.Event()

    def send(sender: int) -> None:
        client = Client(port)
        number = 0
        while not stop.is_set():
            cookie = f"{sender}-{number}"
            try:
                if client.post("/user_tags", encoded(tag(cookie=cookie))).status == 204:
                    acknowledged.append(cookie)
            except OSError:
                return
            number += 1

    senders = [threading.Thread(target=send, args=(number,)) for number in range(16)]
    try:
        for sender in senders:
            sender.start()
        deadline = time.monotonic() + WAIT_S
        while len(acknowledged) < 300 and time.monotonic() < deadline:
            time.sleep(0.01)
        server.kill()
    finally:
        stop.set()
        for sender in senders:
            sender.join(WAIT_S)
        server.close()
    assert len(acknowledged) >= 300
    stored = [
        line
        for partition in range(USER_TAGS.partitions)
        for line in records_path(tmp_path / "topics", "user_tags", partition)
        .read_bytes()
        # What the kill cut off in the middle was not acknowledged.
        .split(b"\n")[:-1]
    ]
    found = {line.split(b'"cookie": "')[1].split(b'"')[0].decode() for line in stored}
    assert set(acknowledged) <= found


PARTITIONS = 4
"""The mock broker makes every topic, with this many."""


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """Yield ``host:port`` of a mock broker, which lives in a producer."""
    home = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 2})
    (found,) = home.list_topics(timeout=10).brokers.values()
    yield f"{found.host}:{found.port}"
    home.flush(1)


def read_all(broker: str, topic: str, count: int) -> list[tuple[int, bytes, bytes]]:
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "test", "log_level": 2})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    found: list[tuple[int, bytes, bytes]] = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < deadline:
        for message in consumer.consume(1000, timeout=0.1):
            assert message.error() is None
            found.append((message.partition(), message.key(), message.value()))
    consumer.close()
    return found


async def connected(bootstrap: str) -> KafkaWriting:
    writing = KafkaWriting(bootstrap)
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await writing.check()
            except NotStoredError:
                await asyncio.sleep(0.05)
            else:
                return writing


def test_kafka_has_every_record_once_in_the_partition_of_its_key(broker: str) -> None:
    records = [(f"cookie-{n % 40}".encode(), b"%d" % n) for n in range(400)]

    async def run() -> None:
        writing = await connected(broker)
        await asyncio.gather(*(writing.write("tags", [one]) for one in records[:200]))
        await writing.write("tags", records[200:])
        assert writing.records_waiting == 0
        await writing.close()

    asyncio.run(run())
    found = read_all(broker, "tags", len(records))
    assert sorted((key, value) for _, key, value in found) == sorted(records)
    for partition, key, _ in found:
        assert partition == (murmur2(key) & 0x7FFFFFFF) % PARTITIONS


def test_a_producer_that_broke_is_replaced(broker: str) -> None:
    async def run() -> None:
        writing = await connected(broker)
        broken = writing._producer

        async def send(*_: object, **__: object) -> None:
            raise OutOfOrderSequenceNumber

        broken.send = send
        with pytest.raises(NotStoredError):
            await writing.write("replaced", [record(1)])
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    await writing.write("replaced", [record(2)])
                except NotStoredError:
                    await asyncio.sleep(0.02)
                else:
                    break
        await writing.close()

    asyncio.run(run())
    assert [found[2] for found in read_all(broker, "replaced", 1)] == [b"2"]


def test_without_a_broker_nothing_is_acknowledged_and_the_reason_is_said() -> None:
    async def run() -> str:
        writing = KafkaWriting(f"127.0.0.1:{free_port()}")
        await asyncio.sleep(0.05)
        with pytest.raises(NotStoredError) as failure:
            await writing.write("tags", [record(1)])
        with pytest.raises(NotStoredError):
            await writing.check()
        await writing.close()
        return str(failure.value)

    assert "cannot be reached" in asyncio.run(run())


def test_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    """A real file-size limit stands for the full disk: 503, then 204 again, and no torn line."""
    port = free_port()
    with Process(tmp_path, port, file_bytes_max=20_000) as server:
        client = Client(port)
        statuses = []
        for number in range(60):
            body = encoded(tag(cookie="one", padding="x" * 1000, number=number))
            statuses.append(client.post("/user_tags", body).status)
        assert statuses == sorted(statuses)
        assert set(statuses) == {204, 503}
        reply = client.post("/user_tags", encoded(tag(cookie="one", padding="x" * 1000)))
        assert "full" in reply.error
        assert server.process.poll() is None
        client.close()
    lines = [
        line
        for path in (tmp_path / "topics" / "user_tags").glob("*.jsonl")
        for line in path.read_bytes().split(b"\n")
        if line
    ]
    assert statuses.count(204) == len(lines)


def test_a_sink_error_is_told_in_its_own_words() -> None:
    topics = MemoryTopics()
    topics.failure = SinkUnavailableError("the disk is full: free some space")

    async def run() -> str:
        commit = GroupCommit(topics, topics.probe)
        with pytest.raises(NotStoredError) as failure:
            await commit.write("a", [record(1)])
        with pytest.raises(NotStoredError):
            await commit.check()
        await closed(commit)
        return str(failure.value)

    assert asyncio.run(run()) == "the disk is full: free some space"
