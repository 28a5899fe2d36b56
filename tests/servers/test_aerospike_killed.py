"""An Aerospike server that is killed forgets what it acknowledged last; flows write it again."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from footfall.sinks.aerospike_aggregates import AerospikeAggregates, BucketSum
from footfall.sinks.open import open_profiles
from tests.aerospike_house_support import (
    START,
    WIDTH,
    House,
    Profiles,
    wait_until,
)
from tests.aerospike_process import Node
from tests.clickhouse_support import serving


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    node.start()
    yield node
    node.kill()


@pytest.fixture
def house(node: Node, tmp_path: Path) -> House:
    return House(tmp_path / "home", node.at)


def stored(house: House) -> Profiles:
    """Return the profiles, by a client that knows nothing of an earlier life of the server."""
    with closing(open_profiles(house.settings)) as store:
        return house.found(store)


def summed(house: House, action: str = "VIEW") -> list[BucketSum]:
    aggregates = AerospikeAggregates(
        house.at.host, house.at.port, namespace=house.at.aggregates, buckets_per_key=WIDTH
    )
    with closing(aggregates):
        end = START + timedelta(hours=1)
        return aggregates.get(house.group(action), START - timedelta(minutes=1), end)


def test_profiles_are_exact_though_worker_and_server_are_killed_together(
    node: Node, house: House
) -> None:
    for _ in range(3):
        house.send(4_000)
        with house.worker("user_profiles") as worker:
            worker.wait_until(lambda: stored(house) == house.profiles(), "wrote all")
            # By then its state says that all was written, and the server's files have less.
            time.sleep(1.3)
            node.kill()
            worker.process.send_signal(signal.SIGKILL)
            worker.process.wait(30)
        node.start()
    house.to_the_end("user_profiles")
    assert stored(house) == house.profiles()


def test_a_run_to_the_end_has_ended_when_its_server_may_be_killed(
    node: Node, house: House
) -> None:
    for _ in range(3):
        house.send(2_000)
        house.to_the_end("user_profiles")
        node.restart()
        assert stored(house) == house.profiles()


def test_a_worker_that_was_stopped_has_ended_when_its_server_may_be_killed(
    node: Node, house: House
) -> None:
    house.send(2_000)
    with house.worker("user_profiles") as worker:
        worker.wait_until(lambda: stored(house) == house.profiles(), "wrote all")
        assert worker.end(signal.SIGTERM) == 0, worker.output()
    node.restart()
    assert stored(house) == house.profiles()


def test_a_quiet_worker_writes_again_what_its_server_forgot(node: Node, house: House) -> None:
    with house.worker("user_profiles") as worker:
        for _ in range(2):
            house.send(2_000)
            worker.wait_until(lambda: stored(house) == house.profiles(), "wrote all")
            node.restart()
            wait_until(lambda: stored(house) == house.profiles(), "wrote all again")


def test_aggregates_are_exact_though_worker_and_server_are_killed_together(
    node: Node, house: House, tmp_path: Path
) -> None:
    pytest.importorskip("chdb", reason="chdb is not installed")
    with serving(tmp_path / "clickhouse") as clickhouse:
        others = {"CLICKHOUSE_URL": clickhouse.url, "AEROSPIKE_AGGREGATES": "1"}
        house.ask("init", **others)
        for _ in range(2):
            before = summed(house)
            house.send(6_000)
            with house.worker("minute_buckets", **others) as worker:
                worker.wait_until(lambda before=before: summed(house) != before, "wrote")
                node.kill()
                worker.process.send_signal(signal.SIGKILL)
                worker.process.wait(30)
            node.start()
        house.to_the_end("minute_buckets", **others)
        node.restart()
        for action in ("VIEW", "BUY"):
            assert summed(house, action) == house.buckets(action)
