"""The age of a record when a reader first sees it: rows carry it, and stores show it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from footfall.flows import minute_buckets
from footfall.operations.freshness import (
    ASK_EVERY_S,
    QUIET_MS,
    SEEN_WITHIN_S,
    Store,
    first_seen_s,
    turns,
)
from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.tables import store_metrics
from footfall.schemas.tables.clickhouse import BESIDE
from footfall.schemas.tables.minute_buckets import ROWS
from footfall.schemas.times import parse_time_ms
from footfall.schemas.topics import APPENDED, USER_TAGS
from footfall.sinks.clickhouse import ClickHouseTable, create_tables, query_rows
from footfall.sinks.open import open_profiles
from footfall.sinks.sql import SqlRollup
from footfall.sinks.sql import create_tables as create_sql_tables
from footfall.sinks.topic_files import FileTopics
from footfall.streams.testing import run_flow
from tests.clickhouse_support import Server, any_server

NOW_MS = 1_700_000_000_000
MINUTE = datetime(2023, 11, 14, 22, 13, tzinfo=UTC)


@dataclass
class Shown(Store):
    """A store that shows another record by and by, and the clock of who looks."""

    by_ms: dict[int, int]
    """By the time since NOW_MS the append time of what is newest from then on."""
    now_ms: int = NOW_MS
    asked_ms: list[int] = field(default_factory=list)
    waits: bool = False

    def newest_ms(self) -> int:
        self.asked_ms.append(self.now_ms)
        return [at for since, at in self.by_ms.items() if NOW_MS + since <= self.now_ms][-1]

    def is_waiting(self) -> bool:
        return self.waits

    def close(self) -> None:
        """Nothing is held."""

    def age_s(self) -> float | None:
        return first_seen_s(self, clock_ms=lambda: self.now_ms, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


def test_the_age_is_that_of_the_first_record_that_was_not_there_before() -> None:
    shown = Shown({0: NOW_MS - 5_000, 1_050: NOW_MS + 600, 1_150: NOW_MS + 1_100})
    assert shown.age_s() == 0.5
    assert shown.now_ms == NOW_MS + 1_100
    assert len(shown.asked_ms) == 1 + 11


def test_a_store_that_is_late_by_up_to_a_minute_is_measured() -> None:
    late = Shown({0: NOW_MS - 55_000, 1_050: NOW_MS - 54_000})
    assert late.age_s() == 55.1
    # The one record that is waited for shows after 40 s.
    waited = Shown({0: NOW_MS, 40_050: NOW_MS + 100}, waits=True)
    assert waited.age_s() == 40.0
    never = Shown({0: NOW_MS}, waits=True)
    assert never.age_s() is None
    assert never.now_ms == NOW_MS + QUIET_MS + 100


def test_what_shows_nothing_new_is_left_after_a_while_and_what_is_quiet_at_once() -> None:
    stuck = Shown({0: NOW_MS - 1_000})
    assert stuck.age_s() is None
    assert 0 <= stuck.now_ms - NOW_MS - SEEN_WITHIN_S * 1000 <= 2 * ASK_EVERY_S * 1000
    for newest_ms in (0, NOW_MS - QUIET_MS - 1):
        quiet = Shown({0: newest_ms})
        assert quiet.age_s() is None
        assert quiet.asked_ms == [NOW_MS]


# What rows carry


def tag(second: int, cookie: str = "c") -> dict[str, Any]:
    product = {"product_id": "p", "brand_id": "b", "category_id": "c", "price": 10}
    return {
        "time": f"2023-11-14T22:13:{second:02d}.000Z", "cookie": cookie, "country": "PL",
        "device": "PC", "action": "VIEW", "origin": "o", "product_info": product,
    }  # fmt: skip


def test_rows_carry_the_newest_append_time_that_was_read_before_them() -> None:
    appended = [NOW_MS + 5, NOW_MS + 9, NOW_MS + 7, NOW_MS + 20]
    events = [tag(0), tag(1), {"bad": 1}, {"bad": 2}]
    ran = run_flow(minute_buckets.FLOW.dataflow, events, cuts=(3, 1), appended_ms=appended)
    # The minute is written at the end, after all were read.
    assert [item[APPENDED].to_list() for item in ran.items] == [[NOW_MS + 20]]  # type: ignore[call-overload, union-attr]
    unknown = run_flow(minute_buckets.FLOW.dataflow, [tag(0)], appended_ms=[-1])
    assert [item[APPENDED].to_list() for item in unknown.items] == [[0]]  # type: ignore[call-overload, union-attr]


# What stores show


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with any_server(tmp_path_factory.mktemp("fresh") / "data") as running:
        yield running


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> Settings:
    return read_settings({"FOOTFALL_HOME": str(tmp_path), "CLICKHOUSE_URL": server.url})


def store_of(settings: Settings, flow: str) -> Store:
    (found,) = (turn for turn in turns(settings) if turn.flow == flow)
    return found.open()


def bucket_rows(origin: str, appended_ms: int | None) -> pl.DataFrame:
    row = {
        "bucket": MINUTE, "action": "VIEW", "origin": origin, "brand_id": "b",
        "category_id": "c", "topic": "t", "topic_partition": 0, "count": 1, "sum_price": 1,
        "version": 1,
    }  # fmt: skip
    if appended_ms is not None:
        row[APPENDED] = appended_ms
    return pl.DataFrame([row]).cast({"bucket": pl.Datetime("ms", "UTC")})


def test_clickhouse_shows_the_newest_record_of_its_last_inserts(settings: Settings) -> None:
    create_tables(settings.clickhouse_url, [ROWS])
    writer = ClickHouseTable(settings.clickhouse_url, ROWS)
    found = []
    with closing(store_of(settings, "minute_buckets")) as store:
        found.append(store.newest_ms())
        for number, appended_ms in enumerate((NOW_MS, NOW_MS - 9, None, NOW_MS + 9)):
            writer.write([bucket_rows(str(number), appended_ms)])
            found.append(store.newest_ms())
    writer.close()
    assert found == [0, NOW_MS, NOW_MS, NOW_MS, NOW_MS + 9]


def test_a_table_of_before_gets_the_column_and_keeps_its_rows(settings: Settings) -> None:
    url = settings.clickhouse_url
    old = ROWS.create().replace(f",\n    `{APPENDED}` {BESIDE[APPENDED]} DEFAULT 0", "")
    assert APPENDED not in old
    query_rows(url, "DROP TABLE IF EXISTS minute_buckets_rows")
    query_rows(url, old)
    query_rows(url, "INSERT INTO minute_buckets_rows (topic, count) VALUES ('t', 3)")
    for _ in range(2):
        create_tables(url, [ROWS])
    assert query_rows(url, f"SELECT count, {APPENDED} FROM minute_buckets_rows")[1] == [[3, 0]]


def windows(window: int, appended_ms: int) -> pl.DataFrame:
    at = pl.Series([MINUTE.replace(second=window)]).cast(pl.Datetime("ms", "UTC"))
    return pl.DataFrame(
        {
            "start_event_time": at, "end_event_time": at, "topic": "t", "topic_partition": 0,
            **dict.fromkeys(store_metrics.SUMS, 1), "version": 4, APPENDED: appended_ms,
        }
    )  # fmt: skip


def test_the_store_shows_the_newest_record_that_was_committed(settings: Settings) -> None:
    create_sql_tables(settings.postgres_url, store_metrics.METADATA)
    writer = SqlRollup(settings.postgres_url, store_metrics.ROLLUP)
    with closing(store_of(settings, "store_metrics")) as store:
        assert store.newest_ms() == 0
        writer.write([windows(0, NOW_MS), windows(1, NOW_MS + 9)])
        assert store.newest_ms() == NOW_MS + 9
    writer.close()


def test_a_profile_shows_a_tag_that_was_not_there(settings: Settings) -> None:
    topics = FileTopics(settings.footfall_home / "topics")
    topics.create(USER_TAGS.name, 1)
    profiles = open_profiles(settings)

    def append(second: int, put: Callable[[bytes], object]) -> None:
        value = json.dumps(tag(second)).encode()
        put(value)
        topics.write(USER_TAGS.name, [(b"c", value)])

    def put(second: int, value: bytes) -> None:
        time_ms = parse_time_ms(tag(second)["time"])
        row = ("c", "VIEW", time_ms, USER_TAGS.name, 0, second, value)
        profiles.put(
            pl.DataFrame(
                [row],
                schema=[
                    "cookie",
                    "action",
                    "time_ms",
                    "topic",
                    "topic_partition",
                    "offset",
                    "tag",
                ],
                orient="row",
            )
        )

    waiting: list[bytes] = []
    with closing(store_of(settings, "user_profiles")) as store:
        assert not store.is_waiting()
        before_ms = store.newest_ms()
        # Since when one shows that is there at the first look, nobody knows.
        append(0, lambda value: put(0, value))
        assert store.newest_ms() == before_ms
        append(1, waiting.append)
        assert [store.newest_ms(), store.newest_ms()] == [before_ms, before_ms]
        assert store.is_waiting()
        put(1, waiting[0])
        seen_ms = store.newest_ms()
    assert seen_ms >= before_ms
    assert store.newest_ms() == seen_ms
    topics.close()
    profiles.close()
