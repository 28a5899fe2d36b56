"""Aggregates and the page's minutes from a real engine behind ClickHouse's HTTP interface."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from footfall.api.clickhouse import DATETIME_S_MAX, ClickHouse, MinuteBuckets
from footfall.api.tables import MINUTES_SHOWN, MinutesSource
from footfall.schemas.tables.minute_buckets import ROWS, VIEW
from footfall.schemas.versions import FINAL, version_of
from footfall.sinks import SinkRefusedError, SinkUnavailableError
from footfall.sinks.clickhouse import query_rows
from tests.api_process_support import free_port
from tests.clickhouse_support import serving

INSERT = (
    f"INSERT INTO {ROWS.name} (bucket, action, origin, brand_id, category_id, topic_partition,"
    f" {', '.join(ROWS.sums)}, version, topic) VALUES"
)
START_S = 1_647_951_300
"""2022-03-22T12:15:00"""
ODD = 'it\'s \\ a\ttab "and" a\nline {x:String} ü %41'


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield a server in a process of its own: the engine allows one folder per process."""
    with serving(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server.url


Row = tuple[int, str, str, str, str, int, int, int, int]


@pytest.fixture(scope="module")
def rows(url: str) -> list[Row]:
    """Write rows of three partitions, some of them twice, the second time fuller; return them."""
    query_rows(url, ROWS.create())
    query_rows(url, VIEW.create())
    chance = random.Random(7)
    groups = {
        (
            START_S + 60 * chance.randrange(40),
            chance.choice(["VIEW", "BUY"]),
            chance.choice(["o1", "o2", ODD]),
            chance.choice(["b1", "b2", ODD]),
            chance.choice(["c1", ""]),
            chance.randrange(3),
        )
        for _ in range(600)
    }
    last = []
    for _ in range(2):
        last = [
            (*group, count, chance.randrange(-(2**31), 2**31) * count, version_of(0, count, FINAL))
            for group in sorted(groups)
            for count in [chance.randrange(1, 50) if not last else 60]
        ]
        values = ", ".join("(" + ", ".join(map(_literal, (*row, "tags"))) + ")" for row in last)
        query_rows(url, f"{INSERT} {values}")
    return last


def _literal(value: int | str) -> str:
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


FILTERS = [
    {},
    {"origin": "o1"},
    {"origin": ODD},
    {"brand_id": ODD, "category_id": ""},
    {"origin": "o2", "brand_id": "b2", "category_id": "c1"},
    {"origin": "nobody' OR 1=1 --"},
]


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("action", ["VIEW", "BUY"])
def test_sums_equal_brute_force(
    url: str, rows: list[Row], action: str, filters: dict[str, str]
) -> None:
    from_s, to_s = START_S + 120, START_S + 720

    async def ask() -> dict[int, tuple[int, int]]:
        clickhouse = ClickHouse(url)
        found = await MinuteBuckets(clickhouse).sums(from_s * 1000, to_s * 1000, action, filters)
        await clickhouse.close()
        return dict(found)

    expected: dict[int, tuple[int, int]] = {}
    for bucket, acted, origin, brand, category, _, count, price, _ in rows:
        fields = {"origin": origin, "brand_id": brand, "category_id": category}
        wanted = all(fields[name] == value for name, value in filters.items())
        if from_s <= bucket < to_s and acted == action and wanted:
            counts, prices = expected.get(bucket * 1000, (0, 0))
            expected[bucket * 1000] = (counts + count, prices + price)
    assert asyncio.run(ask()) == expected


def test_minutes_past_the_end_of_clickhouses_time_are_empty(url: str, rows: list[Row]) -> None:
    async def ask() -> None:
        clickhouse = ClickHouse(url)
        buckets = MinuteBuckets(clickhouse)
        for from_s in (DATETIME_S_MAX - 60, DATETIME_S_MAX, DATETIME_S_MAX + 10**9, 0):
            assert await buckets.sums(from_s * 1000, (from_s + 60) * 1000, "BUY", {}) == {}
        await buckets.check()
        await clickhouse.close()

    asyncio.run(ask())


def test_the_page_sees_the_newest_minutes_and_no_stray_one(url: str, rows: list[Row]) -> None:
    newest_s = max(row[0] for row in rows)
    stray_s = newest_s + 86_400
    query_rows(
        url,
        f"{INSERT} ({stray_s}, 'BUY', 'o', 'stray', 'c', 0, 1, 1, 1, 'tags')",
    )

    async def ask() -> None:
        clickhouse = ClickHouse(url)
        source = MinutesSource(clickhouse, lambda: newest_s * 1000 - 60_000)
        first = await source.minutes()
        assert await source.minutes() == first
        assert 1 < len(first.start_ms) <= MINUTES_SHOWN
        for place, start_ms in enumerate(first.start_ms):
            of_minute = [row for row in rows if row[0] * 1000 == start_ms]
            views = sum(row[6] for row in of_minute if row[1] == "VIEW")
            buys = [row for row in of_minute if row[1] == "BUY"]
            assert first.views[place] == views
            assert first.buys[place] == sum(row[6] for row in buys)
            assert first.revenue[place] == sum(row[7] for row in buys)
        assert first.start_ms[-1] == newest_s * 1000

        top = await source.top()
        in_range = [
            row for row in rows if top.from_ms <= row[0] * 1000 < top.to_ms and row[1] == "BUY"
        ]
        for shown, column in ((top.origins, 2), (top.brands, 3), (top.categories, 4)):
            sums: dict[object, int] = {}
            for row in in_range:
                sums[row[column]] = sums.get(row[column], 0) + row[7]
            told = {one.name: one.revenue for one in shown if one.buys}
            assert told == sums
            revenues = [one.revenue for one in shown]
            assert revenues == sorted(revenues, reverse=True)
        await clickhouse.close()

    asyncio.run(ask())


def test_its_refusals_and_its_absence_are_told_apart(url: str) -> None:
    address = url.partition("@")[2]
    stranger = f"http://shop:pass%40word@{address}"

    async def ask() -> None:
        clickhouse = ClickHouse(url)
        with pytest.raises(SinkRefusedError, match="no_such_table"):
            await clickhouse.rows("SELECT 1 FROM no_such_table")
        await clickhouse.close()
        absent = ClickHouse(f"http://shop:pass%40word@127.0.0.1:{free_port()}/shop")
        with pytest.raises(SinkUnavailableError, match="does not answer") as failure:
            await absent.rows("SELECT 1")
        assert "word" not in str(failure.value)
        await absent.close()
        unknown = ClickHouse(stranger)
        with pytest.raises(SinkRefusedError, match="AUTHENTICATION_FAILED"):
            await unknown.rows("SELECT 1")
        await unknown.close()
        known = ClickHouse(f"{url}/footfall")
        assert await known.rows("SELECT {x:String}", {"x": ODD}) == [[ODD]]
        await known.close()

    asyncio.run(ask())


def test_something_else_at_its_address_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "0"]
    with subprocess.Popen(
        [*command[:1], "-u", *command[1:]],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().split(" port ")[1].split()[0]

            async def ask() -> None:
                clickhouse = ClickHouse(f"http://127.0.0.1:{port}")
                with pytest.raises(SinkRefusedError):
                    await clickhouse.rows("SELECT 1")
                await clickhouse.close()

            asyncio.run(ask())
        finally:
            server.terminate()
