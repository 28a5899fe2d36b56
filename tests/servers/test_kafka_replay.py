"""``footfall verify`` and ``footfall replay`` of flows of each kind, reading a real Kafka."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import clickhouse_support
from tests.kafka_house_support import House, stream
from tests.kafka_support import Server
from tests.laws.worlds import LAWS

RECORDS = 3_000
PARTITIONS = 2
BEGINNING = "2019-10-01"

pytest.importorskip("chdb", reason="chdb is not installed")


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clickhouse_support.Server]:
    with clickhouse_support.serving(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


def plain(house: House) -> dict[str, list[list[str]]]:
    """Return the tables without versions, which a replay raises; those of ClickHouse come
    without."""
    found = {}
    for name, rows in house.contents().tables.items():
        if name.endswith(("shadow", "to_announce")):
            continue
        found[name] = sorted(_without_version(row) for row in rows)
    return found


def _without_version(row: str) -> list[str]:
    if row.startswith("{"):
        return [row]
    # The version of the store's tables is their last column.
    return row.rsplit(",", 1)[:1] if "'2019-10-01 " in row else [row]


REPLAYED = ("minute_buckets", "store_metrics", "user_profiles", "user_trace")
"""One flow of each kind: rows of windows, windows summed by the sink, and a row per record."""


@pytest.mark.parametrize("flow", REPLAYED)
def test_a_range_is_verified_and_replayed_from_kafka(
    flow: str, kafka: Server, clickhouse: clickhouse_support.Server, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    topic = kafka.topic(flow, PARTITIONS)
    house = House(tmp_path / "house", clickhouse, topic, kafka, database="house")
    records = stream(LAWS[flow], seed, RECORDS, PARTITIONS)
    house.init()
    house.fill(records)
    house.run_once(flow)
    before = plain(house)
    verified = house.command("verify", flow, "--complete")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert f"{RECORDS:,} records read" in verified.stdout
    replayed = house.command("replay", flow, "--from", BEGINNING, "--complete")
    assert replayed.returncode == 0, replayed.stderr
    assert " 0 of earlier generations taken back" in replayed.stdout
    assert plain(house) == before
    # Without records of the beginning the first windows cannot be counted any more, and are left;
    # so are rows of the records themselves.
    kafka.delete_records(topic, dict.fromkeys(range(PARTITIONS), 700))
    again = house.command("replay", flow, "--from", BEGINNING, "--complete")
    assert again.returncode == 0, again.stderr
    assert plain(house) == before
    assert "retention has removed" in again.stderr
    if flow == "user_trace":
        assert house.command("verify", flow).returncode == 0
