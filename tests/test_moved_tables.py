"""Tables of before, whose rows do not say of which topic they are, moved by ``footfall init``; and
how long rows of single records are kept."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import polars.selectors as cs
import psycopg
import pytest

from footfall.cli.databases import ask_clickhouse, ask_store
from footfall.cli.errors import UsageError
from footfall.cli.init import make_clickhouse_tables, make_store_tables
from footfall.cli.verify_rows import unexpired
from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.status import WorkerStatus, status_path
from footfall.schemas.tables.clickhouse import Table
from footfall.schemas.tables.minute_buckets import ROWS as BUCKETS
from footfall.schemas.tables.minute_buckets import VIEW as BUCKETS_VIEW
from footfall.schemas.tables.product_views import PRODUCT_USER_VIEWS
from footfall.schemas.tables.store_metrics import ROLLUP
from footfall.schemas.tables.traces import USER_TRACE
from footfall.sinks import SinkRefusedError, clickhouse_move
from footfall.sinks.clickhouse import create_tables
from footfall.sinks.clickhouse_replay import ClickHouseReplay
from footfall.sinks.profiles.sqlite import SqliteProfiles
from footfall.sinks.sql_replay import SqlReplay
from footfall.streams.replay import Range
from footfall.streams.testing import run_flow
from tests.clickhouse_support import Server, any_server
from tests.laws.worlds import LAWS
from tests.postgres_support import a_database, postgres
from tests.profile_store_contract import FOREVER, KEEP, frame, names

__all__ = ["postgres"]

pytest.importorskip("chdb", reason="chdb is not installed")

_databases = iter(range(1_000))


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with any_server(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture
def settings(clickhouse: Server, tmp_path: Path) -> Settings:
    url = f"{clickhouse.url}/moved{next(_databases)}"
    return read_settings(
        {"FOOTFALL_HOME": str(tmp_path), "CLICKHOUSE_URL": url, "KAFKA_TOPIC": "it's tags"}
    )


def statement_of_before(table: Table) -> str:
    """Return the statement that made the table when its rows did not say of which topic they
    are."""
    made = re.sub(r",\n *(CONSTRAINT|`appended_ms`) [^,\n]*", "", table.create())
    return made.replace("    `topic` LowCardinality(String),\n", "").replace("topic, ", "")


def ask(settings: Settings, sql: str) -> list[list[Any]]:
    return ask_clickhouse(settings, sql)[1]


def tables_of_before(settings: Settings) -> None:
    """Make tables with rows: of two days, of a superseded version, and one deleted."""
    create_tables(settings.clickhouse_url, [])
    for table in (BUCKETS, clickhouse_move.shadow_of(BUCKETS), PRODUCT_USER_VIEWS, USER_TRACE):
        ask(settings, statement_of_before(table))
    ask(settings, BUCKETS_VIEW.create())
    for version, count, deleted in ((1, 5, 0), (2, 6, 0), (3, 7, 1)):
        ask(
            settings,
            "INSERT INTO minute_buckets_rows SELECT toDateTime('2022-03-22', 'UTC') + number * "
            f"43200, 'VIEW', 'o', 'b', 'c', number % 2, {count}, 10, {version}, {deleted} "
            f"FROM numbers({4 - deleted})",
        )
    ask(
        settings,
        "INSERT INTO product_user_views_rows SELECT '2022-03-22 12:00:00', "
        "['user_tags', 'store_events'][number % 2 + 1], 'p', 'u', 0, number, 0, 1, 0 "
        "FROM numbers(2)",
    )
    ask(
        settings,
        "INSERT INTO user_trace_rows (user_id, time, topic_partition, offset, version) "
        "SELECT 'u', '2022-03-22 12:00:00', 0, number, 1 FROM numbers(3)",
    )


def made(settings: Settings) -> dict[str, str]:
    return {name: made for _, name, made in make_clickhouse_tables(settings)}


def assert_moved(settings: Settings) -> None:
    stood = ask(
        settings,
        "SELECT topic, topic_partition, toDate(bucket), count FROM minute_buckets_rows FINAL "
        "ORDER BY ALL",
    )
    assert stood == [["it's tags", 1, "2022-03-23", 6]]
    assert ask(settings, "SELECT source, topic FROM product_user_views_rows ORDER BY ALL") == [
        ["store_events", "store_events"],
        ["user_tags", "user_tags"],
    ]
    assert ask(settings, "SELECT topic, count() FROM user_trace_rows GROUP BY topic") == [
        ["it's tags", 3]
    ]
    assert ask(settings, "SELECT count() FROM minute_buckets_rows_before") == [[11]]
    assert ask(settings, "SELECT count FROM minute_buckets") == [[6]]
    target = ClickHouseReplay(settings.clickhouse_url, BUCKETS, "it's tags")
    target.make_shadow([])
    target.close()


def test_clickhouse_tables_are_moved_once_with_all_of_their_rows(settings: Settings) -> None:
    tables_of_before(settings)
    said = made(settings)
    assert said["minute_buckets_rows"] == (
        "moved: its 11 rows of before are now of it's tags; drop table "
        "minute_buckets_rows_before when you need it no more"
    )
    assert "3 rows of before are now of it's tags" in said["user_trace_rows"]
    assert "the topic that their source names" in said["product_user_views_rows"]
    assert said["failed_login_rows"] == "made"
    assert_moved(settings)
    assert {*made(settings).values()} == {"stood"}
    assert_moved(settings)


def test_a_move_that_was_broken_off_goes_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables_of_before(settings)
    copy = clickhouse_move._copy

    def copied_and_killed(*args: Any) -> None:
        copy(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(clickhouse_move, "_copy", copied_and_killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            made(settings)
    monkeypatch.undo()
    made(settings)
    assert_moved(settings)


def test_a_table_of_an_earlier_move_is_not_overwritten(settings: Settings) -> None:
    tables_of_before(settings)
    ask(settings, "CREATE TABLE minute_buckets_rows_before (a UInt8) ENGINE = Memory")
    with pytest.raises(SinkRefusedError, match="minute_buckets_rows_before stands there"):
        made(settings)
    assert ask(settings, "SELECT count() FROM minute_buckets_rows") == [[11]]


def test_a_row_without_its_topic_is_refused(settings: Settings) -> None:
    made(settings)
    with pytest.raises(SinkRefusedError, match="of_a_topic"):
        ask(
            settings,
            "INSERT INTO user_trace_rows (user_id, time, topic_partition, offset, version) "
            "VALUES ('u', '2022-03-22 12:00:00', 0, 0, 1)",
        )


def test_the_topic_is_the_one_that_the_workers_have_read(settings: Settings) -> None:
    tables_of_before(settings)
    result = run_flow(LAWS["minute_buckets"].build, [], topic="of_eu")
    status = WorkerStatus("minute_buckets", 0, 0, 1, 0, 0, 0, True, result.partitions)
    path = status_path(settings.footfall_home, status.flow, 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(msgspec.json.encode(status))
    said = made(settings)
    assert "are now of of_eu" in said["minute_buckets_rows"]
    assert "are now of it's tags" in said["user_trace_rows"]


def test_raw_rows_expire_so_many_days_after_their_event_time(settings: Settings) -> None:
    assert made(settings)["user_trace_rows"] == "made"
    now = datetime.now(UTC)

    def seen() -> dict[str, list[int]]:
        found = {}
        for table, column in (("user_trace_rows", "time"), ("minute_buckets_rows", "bucket")):
            ask(settings, f"OPTIMIZE TABLE {table} FINAL")
            rows = ask(settings, f"SELECT toUnixTimestamp({column}) FROM {table} ORDER BY 1")
            found[table] = [round((now.timestamp() - at) / 86_400) for (at,) in rows]
        return found

    def write(*days_ago: int) -> None:
        for number in days_ago:
            at = f"{now - timedelta(days=number):%F %T}"
            ask(
                settings,
                "INSERT INTO user_trace_rows (user_id, time, topic, topic_partition, offset, "
                f"version) VALUES ('u', '{at}', 't', 0, {number}, 1)",
            )
            ask(
                settings,
                "INSERT INTO minute_buckets_rows (bucket, topic, topic_partition, count, version) "
                f"VALUES ('{at}', 't', 0, 1, 1)",
            )

    write(1, 20, 40, 2_000)
    expiring = replace(settings, raw_rows_ttl_days=30)
    said = made(expiring)
    assert said["user_trace_rows"] == "stood, rows expire 30 days after their event time"
    assert said["minute_buckets_rows"] == "stood"
    assert {*made(expiring).values()} == {"stood"}
    assert seen() == {"user_trace_rows": [20, 1], "minute_buckets_rows": [2_000, 40, 20, 1]}
    longer = replace(settings, raw_rows_ttl_days=100)
    assert "100 days" in made(longer)["user_trace_rows"]
    write(40)
    assert seen()["user_trace_rows"] == [40, 20, 1]
    assert made(settings)["user_trace_rows"] == "stood, rows expire no more"
    write(2_000)
    assert seen()["user_trace_rows"] == [2_000, 40, 20, 1]


def test_rows_that_have_expired_are_not_missed() -> None:
    day_ms = 86_400_000
    asked = Range(5 * day_ms, 50 * day_ms)
    assert unexpired(asked, 0, 100 * day_ms) == asked
    assert unexpired(asked, 60, 100 * day_ms) == Range(40 * day_ms, 50 * day_ms)
    assert unexpired(asked, 99, 100 * day_ms) == asked
    with pytest.raises(UsageError, match="before 1970-02-20T00:00 have expired"):
        unexpired(asked, 50, 100 * day_ms)


STORE_BEFORE = (
    "CREATE TABLE events_by_partition (start_event_time {time}, end_event_time {time}, "
    "topic_partition INTEGER, nr_of_events BIGINT, nr_items_viewed BIGINT, "
    "nr_items_put_in_cart BIGINT, nr_items_sold BIGINT, value_items_sold_in_cent BIGINT, "
    "version BIGINT NOT NULL, PRIMARY KEY (start_event_time, end_event_time, topic_partition))",
    "INSERT INTO events_by_partition SELECT {start}, {start}, partition, 1, 2, 3, 4, 5, 6 "
    "FROM (SELECT 0 AS partition UNION ALL SELECT 1) AS of",
    "CREATE TABLE events_by_partition_shadow AS SELECT * FROM events_by_partition",
)
"""A table as it was made before topics were part of its key, with a window of two partitions."""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_store_s_table_is_moved_once_with_all_of_its_rows(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    env = {"FOOTFALL_HOME": str(tmp_path), "KAFKA_TOPIC": "it's rows"}
    start = "'2019-10-01 00:00:05'"
    if kind == "postgresql":
        url = a_database(request)
        env["POSTGRES_URL"] = url
        with psycopg.connect(url, autocommit=True) as server:
            for sql in STORE_BEFORE:
                server.execute(
                    sql.format(time="timestamptz", start=f"timestamptz {start[:-1]}+00'")
                )
    else:
        with sqlite3.connect(tmp_path / "store.sqlite") as file:
            for sql in STORE_BEFORE:
                file.execute(sql.format(time="VARCHAR(26)", start=start))
    settings = read_settings(env)
    (said,) = [made for _, name, made in make_store_tables(settings) if "by_part" in name]
    assert said == "moved: its 2 rows of before are now of it's rows"
    assert {made for _, _, made in make_store_tables(settings)} == {"stood"}
    found = ask_store(settings, "SELECT * FROM events_by_partition ORDER BY topic_partition")
    for partition, row in enumerate(found[1]):
        expected = {"topic": "it's rows", "topic_partition": partition, "version": 6}
        assert expected.items() <= dict(zip(found[0], row, strict=True)).items()
    # The key is the new one: another topic's row of the same window and partition has its place.
    target = SqlReplay(settings.postgres_url, ROLLUP, "others")
    of_window = {"start_event_time": START, "end_event_time": START, "topic": "others"}
    counts = dict.fromkeys(ROLLUP.sums, 10)
    row = pl.DataFrame([of_window | {"topic_partition": 0, **counts, "version": 1}])
    target.write([row.with_columns(cs.datetime().cast(pl.Datetime("ms", "UTC")))], shadow=False)
    target.make_shadow(["it's rows"])
    target.close()
    assert ask_store(settings, "SELECT nr_of_events FROM events")[1] == [[12]]


START = datetime(2019, 10, 1, 0, 0, 5, tzinfo=UTC)


LAYOUT_1 = (
    "PRAGMA journal_mode = WAL",
    "CREATE TABLE tags (cookie TEXT NOT NULL, buy INTEGER NOT NULL,"
    " time_ms INTEGER NOT NULL, topic_partition INTEGER NOT NULL, offset INTEGER NOT NULL,"
    " tag BLOB NOT NULL)",
    "CREATE UNIQUE INDEX tags_of_cookie ON tags (cookie, buy, time_ms, topic_partition, offset)",
    "PRAGMA user_version = 1",
)
"""A file as it was made before topics were part of a tag's key."""


def test_a_file_of_before_is_moved(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    store = SqliteProfiles(path, KEEP)
    assert store.move("it's tags") is None
    assert not path.exists()
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in LAYOUT_1:
        connection.execute(statement)
    for n in range(KEEP):
        connection.execute("INSERT INTO tags VALUES ('c1', 0, ?, 0, ?, ?)", (n, n, names(n)[0]))
    connection.close()
    with pytest.raises(SinkRefusedError, match="`footfall init` adds that"):
        store.get("c1", 0, FOREVER, 9)
    assert store.move("it's tags") == KEEP
    assert store.move("other") is None
    assert store.get("c1", 0, FOREVER, 9) == (names(4, 3, 2, 1, 0), [])
    again = [("c1", "VIEW", n, "it's tags", 0, n, names(n)[0]) for n in range(KEEP)]
    store.put(frame(again))
    assert store.get("c1", 0, FOREVER, 9) == (names(4, 3, 2, 1, 0), [])
    store.put(frame([("c1", "VIEW", 4, "others", 0, 4, b"other")]))
    assert store.get("c1", 0, FOREVER, 9) == ([b"other", *names(4, 3, 2, 1)], [])
    store.close()
