"""Flows as their workers run, on a real Aerospike server: killed in the middle, and exact."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from footfall.schemas.settings import read_settings
from footfall.sinks.aerospike_aggregates import AerospikeAggregates, BucketSum, Group
from footfall.sinks.open import open_profiles
from tests.aerospike_house_support import FOREVER_MS, KEPT, START, WIDTH, House
from tests.aerospike_support import Gate, server
from tests.cli_support import run_faulty
from tests.clickhouse_support import serving
from tests.faulty_flow import WRONG_ORIGIN

AT = server()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "home", AT)
    yield house
    house.forget()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate(AT.host, AT.port)
    yield gate
    gate.close()


def kill_within_a_write(
    house: House, gate: Gate, flow: str, found: Callable[[], object], **others: str
) -> None:
    """Kill a worker that has written something, while it writes more and has no answer.

    What it has sent comes to the server later, if at all.
    """
    others["PROFILES_URL"] = f"aerospike://127.0.0.1:{gate.port}"
    before = found()
    house.send(6_000)
    with house.worker(flow, **others) as worker:
        worker.wait_until(lambda: found() != before, "wrote")
        gate.stall()
        house.send(1_000)
        # It waits for an answer, or it already asks again whether the server is there.
        worker.wait_until(
            lambda: gate.held_bytes > 0 or "trying again" in worker.output(), "wrote more"
        )
        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait(30)


def test_profiles_are_exact_through_kills_of_the_worker(
    house: House, gate: Gate, tmp_path: Path
) -> None:
    with closing(open_profiles(house.settings)) as store:
        for _ in range(3):
            kill_within_a_write(
                house,
                gate,
                "user_profiles",
                lambda: store.get(house.cookie(0), 0, FOREVER_MS, KEPT),
            )
            assert house.found(store) != house.profiles()
            gate.open()
        house.to_the_end("user_profiles")
        expected = house.profiles()
        assert house.found(store) == expected

    twin = f"sqlite:///{tmp_path / 'twin.sqlite'}"
    house.to_the_end(
        "user_profiles",
        FOOTFALL_HOME=str(tmp_path / "twin"),
        TOPICS_URL=f"file://{house.home / 'topics'}",
        PROFILES_URL=twin,
    )
    with closing(open_profiles(read_settings({"PROFILES_URL": twin}))) as store:
        for cookie, lists in expected.items():
            assert store.get(cookie, 0, FOREVER_MS, KEPT) == lists


def test_aggregates_are_exact_through_kills_of_the_worker(
    house: House, gate: Gate, tmp_path: Path
) -> None:
    pytest.importorskip("chdb", reason="chdb is not installed")
    aggregates = AerospikeAggregates(
        AT.host, AT.port, namespace=AT.aggregates, buckets_per_key=WIDTH
    )
    with serving(tmp_path / "clickhouse") as clickhouse, closing(aggregates):
        others = {"CLICKHOUSE_URL": clickhouse.url, "AEROSPIKE_AGGREGATES": "1"}
        house.ask("init", **others)

        def found(action: str = "VIEW") -> list[BucketSum]:
            end = START + timedelta(hours=1)
            return aggregates.get(house.group(action), START - timedelta(minutes=1), end)

        for _ in range(3):
            kill_within_a_write(house, gate, "minute_buckets", found, **others)
            assert found() != house.buckets("VIEW")
            gate.open()
        house.to_the_end("minute_buckets", **others)
        for action in ("VIEW", "BUY"):
            expected = house.buckets(action)
            assert found(action) == expected
            sql = (
                "SELECT toUnixTimestamp(bucket), count, sum_price FROM minute_buckets "
                f"WHERE origin = '{house.run}' AND action = '{action}' ORDER BY 1"
            )
            assert clickhouse.rows(sql) == [
                f"{bucket.bucket.timestamp():.0f}\t{bucket.count}\t{bucket.sum_price}"
                for bucket in expected
            ]


def test_a_replay_writes_aggregates_anew(house: House, tmp_path: Path) -> None:
    pytest.importorskip("chdb", reason="chdb is not installed")
    house.send(6_000)
    aggregates = AerospikeAggregates(
        AT.host, AT.port, namespace=AT.aggregates, buckets_per_key=WIDTH
    )
    with serving(tmp_path / "clickhouse") as clickhouse, closing(aggregates):
        others = {"CLICKHOUSE_URL": clickhouse.url, "AEROSPIKE_AGGREGATES": "1"}
        house.ask("init", **others)
        run_faulty("faulty_flow", home=house.home, settings=house.environ | others)

        def found(group: Group) -> list[BucketSum]:
            return aggregates.get(group, START - timedelta(minutes=1), START + timedelta(hours=1))

        views = house.group("VIEW")
        wrong = views._replace(origin=WRONG_ORIGIN)
        assert found(wrong) and not found(views), "the flow with the fault takes one for the other"
        for into in ("live", "shadow"):
            house.ask(
                "replay", "minute_buckets", "--from", "2022-03-22", "--complete", "--into", into,
                **others,
            )  # fmt: skip
            if into == "shadow":
                house.ask("replay", "minute_buckets", "--swap", **others)
            for action in ("VIEW", "BUY"):
                assert found(house.group(action)) == house.buckets(action)
            assert found(wrong) == []
