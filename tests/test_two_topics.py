"""Two topics into one table, as two regions write that have a home each: each keeps its rows."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from footfall import flows
from footfall.cli.databases import ask_clickhouse, ask_store
from footfall.cli.main import main
from footfall.schemas.settings import Settings, read_settings
from footfall.sinks.clickhouse import ClickHouseReader
from footfall.sinks.open import open_profiles
from footfall.streams.testing import Result, newest, run_flow
from tests.cli_support import environment
from tests.clickhouse_support import Server, any_server
from tests.laws.worlds import BASE_MS, LAWS, Law
from tests.truth_support import settings_of, write

TOPICS = ("of_eu", "of_us")
RECORDS = 300
LAWS_OF_PARTITIONS = [
    law for law in LAWS.values() if law.flow not in ("login_alerts", "split_topics")
]
"""The flows whose rows are known by a partition."""

pytest.importorskip("chdb", reason="chdb is not installed")


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with any_server(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


def result_of(law: Law, topic: str) -> Result:
    """Return what the flow makes of a topic, which is the same but for its name."""
    records = [law.event(BASE_MS + place * 1_000, place) for place in range(RECORDS)]
    return run_flow(law.build, [records[0::2], records[1::2]], topic=topic)


@pytest.mark.parametrize("law", LAWS_OF_PARTITIONS, ids=lambda law: law.name)
def test_each_of_two_topics_keeps_its_rows(clickhouse: Server, tmp_path: Path, law: Law) -> None:
    settings = settings_of(tmp_path, clickhouse.url)
    contract = flows.catalogue()[law.flow]
    results = [result_of(law, topic) for topic in TOPICS]
    for result in results:
        write(settings, contract, result.items)
    for result in results:
        # A worker that goes on after a crash writes again what the other has written since.
        write(settings, contract, result.items)
    assert standing(settings, law, results[0]) == {
        name: len(TOPICS) * count for name, count in of_one(law, results[0]).items()
    }


def of_one(law: Law, result: Result) -> dict[str, int]:
    """Return the number of a topic's rows by table, or what profiles and metrics hold."""
    tables = flows.catalogue()[law.flow].tables
    if law.flow == "user_profiles":
        return {cookie: len(rows) for (cookie,), rows in result.rows.group_by("cookie")}
    if law.flow == "store_metrics":
        rows = newest(result.rows, ("start_event_time", "topic_partition"))
        return {"rows": len(rows), "events": int(rows["nr_of_events"].sum())}
    if len(tables) == 1:
        return {tables[0].name: len(newest(result.rows, key_of(tables[0])))}
    found = {of.name: len(newest(result.rows_of(of.name), key_of(of))) for of in tables}
    assert any(found.values())
    return found


def key_of(table: Any) -> list[str]:
    return [name for name in table.order_by if name != "topic"]


def standing(settings: Settings, law: Law, result: Result) -> dict[str, int]:
    """Return the same for the stores."""
    if law.flow == "user_profiles":
        store = open_profiles(settings)
        found = {
            cookie: sum(map(len, store.get(cookie, 0, 2**53, 1_000)))
            for cookie in result.rows["cookie"].unique()
        }
        store.close()
        return found
    if law.flow == "store_metrics":
        sql = "SELECT (SELECT count(*) FROM events_by_partition), sum(nr_of_events) FROM events"
        ((rows, events),) = ask_store(settings, sql)[1]
        return {"rows": rows, "events": events}
    return {
        table.name: int(
            ask_clickhouse(settings, f"SELECT count() FROM {table.name} FINAL")[1][0][0]
        )
        for table in flows.catalogue()[law.flow].tables
    }


@dataclass(frozen=True)
class Region:
    """A home with topics of its own, whose rows go into tables that others share."""

    name: str
    home: Path
    shared: Mapping[str, str]

    def run(self, *words: str, topic: str, code: int = 0) -> str:
        """Run a command; return its output with its errors. Fail on another exit code."""
        said = StringIO()
        environ = environment(self.home, {**self.shared, "KAFKA_TOPIC": f"{self.name}.{topic}"})
        with (
            patch.dict(os.environ, environ, clear=True),
            redirect_stdout(said),
            redirect_stderr(said),
        ):
            ended = main(words)
        assert ended == code, said.getvalue()
        return said.getvalue()


@pytest.fixture
def regions(clickhouse: Server, tmp_path: Path) -> list[Region]:
    """Return two regions, of 900 and 600 records of each kind, which their flows have read."""
    shared = {
        "CLICKHOUSE_URL": f"{clickhouse.url}/regions",
        "POSTGRES_URL": f"sqlite:///{tmp_path}/store.sqlite",
    }
    found = [Region(name, tmp_path / name, shared) for name in ("eu", "us")]
    for region, total in zip(found, (900, 600), strict=True):
        for world, flow in FLOWS.items():
            region.run("init", topic=world)
            sent = ("generate", world, "--total", str(total), "--seed", "1", "--fast")
            region.run(*sent, topic=world)
            region.run("run", flow, "--once", topic=world)
    return found


FLOWS = {"tags": "minute_buckets", "store": "store_metrics"}
"""The flow of each world's topic."""


def counted(region: Region) -> tuple[int, int]:
    """Return the numbers of tags and of store events that readers of the tables see."""
    settings = read_settings(environment(region.home, region.shared))
    ((tags,),) = ask_clickhouse(settings, "SELECT sum(count) FROM minute_buckets")[1]
    ((events,),) = ask_store(settings, "SELECT sum(nr_of_events) FROM events")[1]
    return tags, events


def lose(region: Region, of: Region) -> None:
    """Take a fault's part: rows of a region's topics are no more, and one of no partition is."""
    settings = read_settings(environment(region.home, region.shared))
    url, home = settings.clickhouse_url, settings.footfall_home
    reader = ClickHouseReader(url, home=home)
    name = f"{of.name}.tags"
    reader.rows(f"DELETE FROM minute_buckets_rows WHERE topic = '{name}'")
    reader.rows(
        "INSERT INTO minute_buckets_rows (bucket, topic, topic_partition, count, version) "
        f"VALUES ('2022-03-22 12:15:00', '{name}', 12, 1, 1)"
    )
    reader.close()
    with closing(sqlite3.connect(region.home.parent / "store.sqlite")) as store, store:
        store.execute(
            "UPDATE events_by_partition SET topic_partition = topic_partition + 10 "
            f"WHERE topic = '{of.name}.store'"
        )


def test_two_regions_are_summed_and_each_verified_and_mended_by_itself(
    regions: list[Region],
) -> None:
    eu, us = regions
    assert counted(eu) == (1_500, 1_500)
    for world, flow in FLOWS.items():
        for region in regions:
            said = region.run("verify", flow, "--complete", topic=world)
            assert "topic and table are equal" in said
        assert f"rows are of {eu.name}.{world}, which is no topic of" in said
    lose(eu, of=us)
    for world, flow in FLOWS.items():
        eu.run("verify", flow, "--complete", topic=world)
        said = us.run("verify", flow, "--complete", topic=world, code=1)
        assert "windows differ" in said
        assert "which the topic does not have" in said
        us.run("replay", flow, "--complete", "--from", "2000-01-01", topic=world)
        # What is of the gone partitions no record speaks of.
        said = us.run("verify", flow, "--complete", topic=world, code=1)
        assert "windows differ" not in said
        assert "of partitions from 10 on" in said
        assert "taken back" in us.run("replay", flow, "--gone", topic=world)
    assert counted(eu) == (1_500, 1_500)
    for world, flow in FLOWS.items():
        for region in regions:
            said = region.run("verify", flow, "--complete", topic=world)
            assert "does not have" not in said
        # A region that is closed: all of its rows are taken back, by its topic's name.
        option = ("--gone", "--topic", f"{us.name}.{world}")
        assert "taken back" in eu.run("replay", flow, *option, topic=world)
        assert "no topic of" not in eu.run("verify", flow, "--complete", topic=world)
    assert counted(eu) == (900, 900)
