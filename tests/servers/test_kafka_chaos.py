"""Whole workers on a real Kafka, killed with whatever they talk to: the same tables in the end.

Records that carry numbers come in under load through sinks.kafka, while flows read them; a twin
of the house is given the same partitions undisturbed, and both must be left with the same.
"""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from footfall import flows
from footfall.generator.tags import TagWorld
from footfall.schemas.dead_letters import DeadLetter
from footfall.schemas.status import WorkerStatus, status_folder
from footfall.schemas.topics import RECORD_BYTES_TAKEN_MAX
from footfall.sinks.kafka import KafkaTopics
from footfall.sinks.topic_files import FileTopics
from tests import clickhouse_support
from tests.kafka_house_support import House, check_same, ended, stream
from tests.kafka_support import Broker, Server
from tests.laws.worlds import LAWS

PARTITIONS = 3
TAGS = 6_000
TAKES = str(RECORD_BYTES_TAKEN_MAX)
TAG_FLOWS = tuple(
    name for name, contract in flows.catalogue().items() if contract.topics == ("user_tags",)
)

pytest.importorskip("chdb", reason="chdb is not installed")


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clickhouse_support.Server]:
    with clickhouse_support.serving(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture
def seed() -> int:
    found = random.randrange(2**32)
    print("seed", found)
    return found


def check_against_twin(
    house: House, kafka: Server, clickhouse: clickhouse_support.Server, *names: str
) -> None:
    """Run to the end, and compare with a house on embedded topics that was given the records in
    Kafka, and ran undisturbed."""
    twin = House(house.home.parent / "twin", clickhouse, house.topic, database="twin")
    FileTopics(twin.home / "topics").create(house.topic, PARTITIONS)
    twin.init()
    partitions: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    for record in kafka.consume_all(house.topic):
        partitions[record.partition].append(record.value or b"")
    twin.fill(partitions)
    both = [(each, name) for name in names for each in (house, twin)]
    with ended([each.start(name, "--once") for each, name in both]) as workers:
        for (each, name), worker in zip(both, workers, strict=True):
            each.finish(name, worker)
    check_same(house.contents(), twin.contents())
    assert all(kafka.lag(f"{house.group}-{name}", house.topic) == 0 for name in names)


class Pushed:
    """A thread that writes a world's records by batches until all are acknowledged."""

    def __init__(self, kafka: Server, topic: str, world: TagWorld, total: int) -> None:
        self._kafka, self._topic, self._world, self._total = kafka, topic, world, total
        self.sent = 0
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        topics = KafkaTopics(self._kafka.bootstrap)
        try:
            while self.sent < self._total:
                topics.write(self._topic, self._world.batch(self.sent, 100))
                self.sent += 100
                time.sleep(0.02)
        except BaseException as error:
            self.error = error
        finally:
            topics.close()

    def wait_for(self, sent: int) -> None:
        deadline = time.monotonic() + 60
        while self.sent < min(sent, self._total):
            assert self.error is None, self.error
            assert time.monotonic() < deadline, f"only {self.sent} sent"
            time.sleep(0.01)

    def end(self) -> None:
        self.wait_for(self._total)
        self._thread.join(60)
        assert self.error is None


def test_kill_9_of_the_broker_under_load_changes_nothing(
    own_kafka: Broker, clickhouse: clickhouse_support.Server, tmp_path: Path, seed: int
) -> None:
    topic = own_kafka.topic("broker-killed", PARTITIONS, max_message_bytes=TAKES)
    house = House(tmp_path / "real", clickhouse, topic, own_kafka, database="real")
    house.init()
    world = TagWorld(seed=seed, out_of_order=0.02, late=0.002, duplicate=0.01, malformed=0.01)
    with ended([house.start(flow) for flow in TAG_FLOWS]) as workers:
        pushed = Pushed(own_kafka, topic, world, TAGS)
        own_kafka.eventually(lambda: all(statuses_read(house, flow) for flow in TAG_FLOWS))
        own_kafka.restart()
        pushed.end()
        for flow, worker in zip(TAG_FLOWS, workers, strict=True):
            assert worker.poll() is None, f"{flow} did not outlive it: {house.said(flow)}"
            worker.terminate()
            house.finish(flow, worker)
    stored = sorted(record.value or b"" for record in own_kafka.consume_all(topic))
    assert stored == sorted(value for _, value in world.batch(0, TAGS))
    check_against_twin(house, own_kafka, clickhouse, *TAG_FLOWS)


@pytest.mark.parametrize("flow", ["store_metrics"])
def test_kill_9_of_a_worker_at_any_moment_changes_nothing(
    flow: str, kafka: Server, clickhouse: clickhouse_support.Server, tmp_path: Path, seed: int
) -> None:
    topic = kafka.topic("worker-killed", PARTITIONS)
    house = House(tmp_path / "real", clickhouse, topic, kafka, database="real")
    house.init()
    records = stream(LAWS[flow], seed, 3_000, PARTITIONS)
    chance = random.Random(seed)
    for half in (0, 1):
        before = statuses_read(house, flow)
        house.fill([part[half * len(part) // 2 : (half + 1) * len(part) // 2] for part in records])
        with ended([house.start(flow)]) as (worker,):
            kafka.eventually(lambda before=before: statuses_read(house, flow) > before)  # type: ignore[misc]
            # From before the snapshot that has these records to after it.
            time.sleep(chance.uniform(0, 2.0))
            assert worker.poll() is None, house.said(flow)
            worker.kill()
    check_against_twin(house, kafka, clickhouse, flow)


def test_kill_9_of_all_workers_at_once_changes_nothing(
    kafka: Server, clickhouse: clickhouse_support.Server, tmp_path: Path, seed: int
) -> None:
    topic = kafka.topic("all-killed", PARTITIONS, max_message_bytes=TAKES)
    house = House(tmp_path / "real", clickhouse, topic, kafka, database="real")
    house.init()
    world = TagWorld(seed=seed, out_of_order=0.02, late=0.002, malformed=0.01)
    pushed = Pushed(kafka, topic, world, TAGS)
    for sent in (TAGS // 3, TAGS * 2 // 3):
        with ended([house.start(flow) for flow in TAG_FLOWS]) as workers:
            pushed.wait_for(sent)
            kafka.eventually(lambda: all(statuses_read(house, flow) for flow in TAG_FLOWS))
            for worker in workers:
                os.kill(worker.pid, signal.SIGKILL)
    pushed.end()
    check_against_twin(house, kafka, clickhouse, *TAG_FLOWS)


def statuses_read(house: House, flow: str) -> int:
    """Return the number of records that a flow reports to have read."""
    paths = status_folder(house.home).glob(f"{flow}.*.json")
    statuses = [msgspec.json.decode(path.read_bytes(), type=WorkerStatus) for path in paths]
    return sum(partition.read for status in statuses for partition in status.partitions)


def time_of(record: bytes) -> bytes:
    """Return the event time of a store event as text; nothing of a record without one."""
    found = re.search(rb'"event_time":"([^"]*)"', record)
    return found[1] if found else b""


def test_gaps_of_transactions_are_no_records_and_no_losses(
    kafka: Server, clickhouse: clickhouse_support.Server, tmp_path: Path
) -> None:
    flow = "store_metrics"
    topic = kafka.topic("gaps", PARTITIONS)
    house = House(tmp_path / "real", clickhouse, topic, kafka, database="real")
    house.init()
    # In order: how late a record is depends on its offset, and the twin's have no gaps.
    first, second = (sorted(stream(LAWS[flow], seed, 300, 1)[0], key=time_of) for seed in (1, 2))
    kafka.transaction(topic, first[:100], commit=True)
    kafka.transaction(topic, first[100:200], commit=False)
    kafka.produce(topic, first[200:], partition=0)
    kafka.transaction(topic, [b"not JSON", *second[:50]], partition=1, commit=True)
    kafka.transaction(topic, second[50:], partition=1, commit=False)
    ends = kafka.end_offsets(topic)
    assert ends[0] == 100 + 1 + 100 + 1 + 100 and ends[2] == 0
    twin = House(tmp_path / "twin", clickhouse, topic, database="twin")
    FileTopics(twin.home / "topics").create(topic, PARTITIONS)
    twin.init()
    twin.fill([first[:100] + first[200:], [b"not JSON", *second[:50]], []])
    with ended([house.start(flow, "--once"), twin.start(flow, "--once")]) as workers:
        for each, worker in zip((house, twin), workers, strict=True):
            each.finish(flow, worker)
    assert kafka.lag(f"{house.group}-{flow}", topic) == 0
    assert house.contents().tables == twin.contents().tables
    # The letters tell the offsets of Kafka.
    place = {record.offset: record.value for record in kafka.consume_all(topic)}
    letters = [
        msgspec.json.decode(value, type=DeadLetter)
        for value in house.contents().aside["dead_letters"].values()
    ]
    assert len(letters) == len(twin.contents().aside["dead_letters"])
    assert any(letter.partition == 1 and letter.offset == 0 for letter in letters)
    for letter in letters:
        if letter.partition == 0:
            assert letter.offset in place
