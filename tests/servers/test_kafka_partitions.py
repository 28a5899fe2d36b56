"""Topics of many partitions: threads and files of a process, and that each is read whole."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from footfall.streams.kafka import KafkaTopic
from footfall.streams.replay import TopicPartitions
from footfall.streams.source import LATEST, Position, Reader, SourceError
from tests.kafka_support import Server
from tests.servers.test_kafka_workers import House, read_by, wait_until

MANY = 500
THREADS_MAX, DESCRIPTORS_MAX = 100, 100
READ_S_MAX = 240


def threads() -> int:
    """Return the number of threads of this process, those of clients included."""
    return len(list(Path("/proc/self/task").iterdir()))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_worker_of_500_partitions_needs_few_threads_and_descriptors(
    kafka: Server, tmp_path: Path
) -> None:
    house = House(kafka, tmp_path, MANY)
    house.send(0, 0, 40)
    house.send(MANY - 1, 0, 60)
    before = threads(), descriptors()
    needed: list[tuple[int, int]] = []

    def look(run: object) -> None:
        wait_until(lambda: read_by(run) == 100)  # type: ignore[arg-type]
        house.send(7, 0, 30)
        wait_until(lambda: read_by(run) == 130)  # type: ignore[arg-type]
        needed.append((threads() - before[0], descriptors() - before[1]))

    house.run(once=False, meanwhile=look)
    assert needed[0][0] < THREADS_MAX and needed[0][1] < DESCRIPTORS_MAX, needed
    assert len(house.parts) == MANY
    assert {number: part.read for number, part in house.parts.items() if part.read} == {
        0: 40,
        7: 30,
        MANY - 1: 60,
    }
    assert sorted(house.rows) == [
        *((0, n) for n in range(40)),
        *((7, n) for n in range(30)),
        *((MANY - 1, n) for n in range(60)),
    ]


def test_each_of_many_partitions_is_read_in_order_once_from_small_buffers(kafka: Server) -> None:
    count, records = 60, 400
    name = kafka.topic("many", count)

    def produce(partition: int) -> None:
        kafka.produce(
            name, [b"%d-%d" % (partition, n) + b"x" * 100 for n in range(records)],
            partition=partition, linger_ms=0,
        )  # fmt: skip

    for partition in range(1, count):
        produce(partition)
    topic = KafkaTopic(kafka.bootstrap, name, group=kafka.name("g"), poll_records_max=50)
    # Room for some partitions only, so that all of them are in each other's way.
    topic.shared()._bytes_max = 100_000
    readers = {partition: topic.open(partition, None) for partition in range(count)}
    until_s = time.monotonic() + READ_S_MAX
    # Only one reads, and finds nothing, so that the others fill the buffers.
    while not any(reader._buffer.is_paused for reader in readers.values()):
        assert time.monotonic() < until_s
        assert readers[0].poll(0).count == 0
    produce(0)
    found: dict[int, list[int]] = defaultdict(list)
    while len(found) < count or any(len(offsets) < records for offsets in found.values()):
        assert time.monotonic() < until_s
        for partition, reader in readers.items():
            poll = reader.poll(0)
            lines = poll.data.split(b"\n")
            for row in range(poll.count):
                offset = poll.offset_of(row)
                assert lines[row].startswith(b"%d-%d" % (partition, offset))
                found[partition].append(offset)
    assert all(offsets == [*range(records)] for offsets in found.values())
    for reader in readers.values():
        reader.close()


def test_hundreds_of_probes_share_a_consumer(kafka: Server) -> None:
    count = 20
    name = kafka.topic("probed", count)
    for partition in range(count):
        kafka.produce(name, [b"%d" % n for n in range(100)], partition=partition)
    topic = KafkaTopic(kafka.bootstrap, name, group=kafka.name("g"), end=LATEST)
    partitions = TopicPartitions(topic)
    assert partitions.count() == count
    most = before = threads()
    for partition in range(count):
        for start in (90, 3, 50, 0):
            reader = partitions.open(partition, Position("offset", start))
            assert reader.bounds() == (start, 100)
            assert read_whole(reader) == [*range(start, 100)]
            reader.close()
            most = max(most, threads())
    assert most - before < 20


def read_whole(reader: Reader) -> list[int]:
    found: list[int] = []
    until_s = time.monotonic() + READ_S_MAX
    while not reader.finished():
        assert time.monotonic() < until_s
        poll = reader.poll(0)
        found += [poll.offset_of(row) for row in range(poll.count)]
    return found


def test_a_consumer_lives_no_longer_than_its_topic(kafka: Server) -> None:
    name = kafka.topic("short", 1)
    before = threads()
    for _ in range(5):
        topic = KafkaTopic(kafka.bootstrap, name, group=kafka.name("g"))
        reader = topic.open(0, None)
        reader.poll(0)
        reader.close()
        del topic, reader
    kafka.eventually(lambda: threads() <= before + 2)


def test_too_few_descriptors_are_named_and_a_low_limit_is_raised(kafka: Server) -> None:
    name = kafka.topic("few", 1)
    code = f"""
import resource, sys
from footfall.streams.process import allow_descriptors
from footfall.streams.kafka import KafkaTopic
from footfall.streams.source import SourceError
hard = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (12, hard))
allow_descriptors()
try:
    KafkaTopic({kafka.bootstrap!r}, {name!r}, group="g").open(0, None)
except SourceError as error:
    print(error)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""

    def run(hard: int) -> list[str]:
        ended = subprocess.run(
            [sys.executable, "-c", code, str(hard)],
            capture_output=True, text=True, timeout=120, check=True,
            cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip
        return ended.stdout.splitlines()

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 200 if hard == resource.RLIM_INFINITY else min(200, hard)
    assert run(enough) == [str(enough)]
    text, limit = run(12)
    assert limit == "12"
    assert text.startswith(f"to read {name} this process needs 16 more files and connections")
    assert text.endswith("raise the limit, as with `ulimit -n 4096`")


def test_a_partition_that_cannot_be_read_stops_its_own_reader(kafka: Server) -> None:
    name = kafka.topic("one-bad", 2)
    for partition in (0, 1):
        kafka.produce(name, [b"x" * 1_000] * 100, partition=partition)
    topic = KafkaTopic(kafka.bootstrap, name, group=kafka.name("g"), end=LATEST)
    first, second = topic.open(0, None), topic.open(1, None)
    kafka.delete_records(name, {0: 50})
    assert read_whole(second) == [*range(100)]
    with pytest.raises(SourceError, match=f"{name}/0: the next offset 0 was removed by retention"):
        read_whole(first)
