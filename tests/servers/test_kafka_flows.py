"""Every flow of the catalogue from a real Kafka to its sinks, as its worker process runs."""

from __future__ import annotations

import os
import random
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from footfall import flows
from footfall.sinks.topic_files import FileTopics
from tests import clickhouse_support
from tests.kafka_house_support import House, check_same, ended, stream
from tests.kafka_support import Server
from tests.laws.worlds import LAWS

RECORDS = 2_000
PARTITIONS = 3

pytest.importorskip("chdb", reason="chdb is not installed")


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clickhouse_support.Server]:
    with clickhouse_support.serving(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


FLOWS = {
    name: contract
    for name, contract in flows.catalogue().items()
    if contract.tables or name in ("store_metrics", "user_profiles")
}
"""Flows that fill tables. split_topics and login_alerts write to topics and have tests of their
own."""
ONE_TOPIC = [name for name, contract in FLOWS.items() if len(contract.topics) == 1]
MORE_TOPICS = [name for name, contract in FLOWS.items() if len(contract.topics) > 1]


@pytest.mark.parametrize("flow", ONE_TOPIC)
def test_a_flow_leaves_the_same_from_kafka_as_from_a_folder_and_tells_its_group(
    flow: str, kafka: Server, clickhouse: clickhouse_support.Server, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    topic = kafka.topic(flow, PARTITIONS)
    real = House(tmp_path / "real", clickhouse, topic, kafka, database="real")
    twin = House(tmp_path / "twin", clickhouse, topic, database="twin")
    records = stream(LAWS[flow], seed, RECORDS, PARTITIONS)
    FileTopics(twin.home / "topics").create(topic, PARTITIONS)
    for house in (real, twin):
        house.init()
        house.fill(records)
    assert kafka.group_offsets(f"{real.group}-{flow}", topic) == [None] * PARTITIONS
    check_same_from_both(flow, real, twin)
    ends = [len(part) for part in records]
    assert kafka.end_offsets(topic) == ends
    assert kafka.group_offsets(f"{real.group}-{flow}", topic) == ends


@pytest.mark.parametrize("flow", MORE_TOPICS)
def test_a_flow_of_several_topics_leaves_the_same_too(
    flow: str, kafka: Server, clickhouse: clickhouse_support.Server, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    first, *more = FLOWS[flow].topics
    real = House(tmp_path / "real", clickhouse, first, kafka, more_topics=more, database="real")
    twin = House(tmp_path / "twin", clickhouse, first, more_topics=more, database="twin")
    for house in (real, twin):
        house.init()
    for topic in FLOWS[flow].topics:
        real.fill(stream(LAWS[f"{flow}[{topic}]"], seed, RECORDS, PARTITIONS), topic)
        # What other tests have written there counts too.
        standing: dict[int, list[bytes]] = defaultdict(list)
        for record in kafka.consume_all(topic):
            standing[record.partition].append(record.value or b"")
        twin.fill([standing[part] for part in kafka.partitions(topic)], topic)
    check_same_from_both(flow, real, twin)
    for topic in FLOWS[flow].topics:
        assert kafka.lag(f"{real.group}-{flow}", topic) == 0


def check_same_from_both(flow: str, real: House, twin: House) -> None:
    """Run both to their ends at once; both must be left with the same, and with something."""
    with ended([real.start(flow, "--once"), twin.start(flow, "--once")]) as workers:
        for house, worker in zip((real, twin), workers, strict=True):
            house.finish(flow, worker)
    expected = twin.contents()
    check_same(real.contents(), expected)
    # The stream has all kinds in it: neither side is empty, and nothing was forgotten.
    assert expected.aside["dead_letters"]


def test_the_lag_of_a_worker_is_seen_while_it_is_held_up(
    kafka: Server, clickhouse: clickhouse_support.Server, tmp_path: Path
) -> None:
    flow = "store_metrics"
    topic = kafka.topic(flow, 2)
    house = House(tmp_path / "home", clickhouse, topic, kafka)
    house.init()
    records = stream(LAWS[flow], 7, 600, 2)
    house.fill([part[:100] for part in records])
    group = f"{house.group}-{flow}"
    with house.running(flow) as worker:

        def lag() -> int:
            code = worker.process.poll()
            assert code is None, f"ended with {code}: {house.said(flow)}"
            return kafka.lag(group, topic)

        kafka.eventually(lambda: lag() == 0)
        os.kill(worker.process.pid, signal.SIGSTOP)
        house.fill([part[100:] for part in records])
        assert lag() == 400
        os.kill(worker.process.pid, signal.SIGCONT)
        kafka.eventually(lambda: lag() == 0)
        house.fill([[records[0][0]] * 5, []])
    # Told to stop, it has written what it read and said how far it came; the next goes on there.
    assert kafka.lag(group, topic) <= 5
    house.run_once(flow)
    assert kafka.lag(group, topic) == 0
