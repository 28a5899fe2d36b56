"""Frames in, rows in ClickHouse out: once each, whole, or an error that says why."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from footfall.schemas.tables.clickhouse import Table, View
from footfall.schemas.tables.minute_buckets import ROWS, VIEW
from footfall.schemas.versions import FINAL, PROVISIONAL, version_of
from footfall.sinks import SinkRefusedError, SinkUnavailableError
from footfall.sinks._clickhouse_rows import RowsError, rows_for
from footfall.sinks.clickhouse import ClickHouseReader, ClickHouseTable, create_tables, query_rows
from footfall.sinks.tables import AT_ONCE, TablesWriter
from footfall.streams.batch import TableRows
from tests.clickhouse_faults import answer, close_after_body, exception, hang, reset_in_body
from tests.clickhouse_support import Server, any_server, serving
from tests.fault_proxy import Fault, FaultProxy
from tests.ports_support import free_port

NOON = datetime(2022, 3, 22, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with any_server(tmp_path_factory.mktemp("sink") / "data") as running:
        yield running


@pytest.fixture
def made(server: Server) -> str:
    """Return the address of a server with empty tables."""
    create_tables(server.url, [ROWS, VIEW])
    server.rows("TRUNCATE TABLE minute_buckets_rows")
    return server.url


def bucket_row(minute: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "bucket": NOON + timedelta(minutes=minute),
        "action": "VIEW",
        "origin": "somewhere",
        "brand_id": "a brand",
        "category_id": "shoes",
        "topic": "tags",
        "topic_partition": 0,
        "count": 1,
        "sum_price": 100,
        "version": version_of(0, 1, PROVISIONAL),
        **changes,
    }


def frame_of(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows)).cast({"bucket": pl.Datetime("ms", "UTC")})


def write(url: str, *frames: pl.DataFrame, **options: Any) -> None:
    writer = ClickHouseTable(url, ROWS, **options)
    try:
        writer.write(frames)
    finally:
        writer.close()


def totals(url: str) -> list[list[Any]]:
    sql = "SELECT count(), sum(count), sum(sum_price) FROM minute_buckets"
    return query_rows(url, sql)[1]


# Rows that fit


def test_rows_are_written_in_their_types(made: str) -> None:
    write(made, frame_of(bucket_row(origin="ž\t'", sum_price=-5)), frame_of(bucket_row(1)))
    columns, rows = query_rows(made, "SELECT * FROM minute_buckets ORDER BY bucket")
    assert columns == ["bucket", "action", "origin", "brand_id", "category_id", "count",
                       "sum_price"]  # fmt: skip
    assert rows == [
        ["2022-03-22 12:00:00", "VIEW", "ž\t'", "a brand", "shoes", 1, -5],
        ["2022-03-22 12:01:00", "VIEW", "somewhere", "a brand", "shoes", 1, 100],
    ]


def test_one_write_is_one_insert(server: Server, made: str) -> None:
    with FaultProxy(made) as between:
        write(between.url, *[frame_of(bucket_row(minute)) for minute in range(50)])
        write(between.url, frame_of(bucket_row()).clear())
        write(between.url)
    assert between.inserts == 1
    assert totals(made) == [[50, 50, 5_000]]


def test_a_long_write_is_cut_into_inserts(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("footfall.sinks.clickhouse.INSERT_ROWS_MAX", 20)
    with FaultProxy(made) as between:
        write(between.url, frame_of(*map(bucket_row, range(50))))
    assert between.inserts == 3
    assert totals(made) == [[50, 50, 5_000]]


def test_a_write_may_touch_many_days(made: str) -> None:
    write(made, frame_of(*(bucket_row(day * 1_440) for day in range(150))))
    assert totals(made) == [[150, 150, 15_000]]


EVERY_KIND = Table(
    name="every_kind",
    columns={
        "id": "Int32",
        "small": "UInt8",
        "large": "UInt64",
        "text": "String",
        "word": "LowCardinality(String)",
        "ratio": "Float64",
        "yes": "Bool",
        "day": "Date",
        "second": "DateTime('UTC')",
        "moment": "DateTime64(3, 'UTC')",
        "fine": "DateTime64(6,'UTC')",
        "maybe": "Nullable(Int64)",
        "nothing": "LowCardinality(Nullable(String))",
        "list": "Array(String)",
        "version": "UInt64",
    },
    order_by=("id",),
    partition_by="id % 4",
    start="id",
)


def test_every_kind_of_column(server: Server) -> None:
    create_tables(server.url, [EVERY_KIND])
    create_tables(server.url, [EVERY_KIND])
    moment = datetime(2019, 10, 1, 0, 0, 1, 123_000, tzinfo=UTC)
    row = {
        "id": -7,
        "small": 255,
        "large": 2**64 - 1,
        "text": "a\x00b",
        "word": "w",
        "ratio": 2,
        "yes": True,
        "day": moment.date(),
        "second": moment,
        "moment": moment.replace(tzinfo=None),
        "fine": moment,
        "maybe": None,
        "nothing": None,
        "list": ["x", "y"],
        "version": 1,
    }
    frame = pl.DataFrame([row], schema_overrides={"large": pl.UInt64, "word": pl.Categorical})
    shuffled = frame.select(sorted(frame.columns))
    writer = ClickHouseTable(server.url, EVERY_KIND)
    writer.write([frame, shuffled])
    writer.close()
    sql = "SELECT * EXCEPT (yes, is_deleted, appended_ms), yes FROM every_kind FINAL"
    assert query_rows(server.url, sql)[1] == [
        [-7, 255, 2**64 - 1, "a\x00b", "w", 2, "2019-10-01", "2019-10-01 00:00:01",
         "2019-10-01 00:00:01.123", "2019-10-01 00:00:01.123000", None, None, ["x", "y"], 1, True]
    ]  # fmt: skip


REFUSED_ROWS = [
    ({"topic_partition": 70_000}, "topic_partition"),
    ({"count": -1}, "count"),
    ({"count": None}, "the column count takes no nulls, 1 rows hold one"),
    ({"count": 1.5}, "the column count is UInt64, the rows hold Float64"),
    ({"count": "1"}, "the column count is UInt64, the rows hold String"),
    ({"origin": 5}, "the column origin is LowCardinality(String), the rows hold Int64"),
    ({"bucket": datetime(2200, 1, 1, tzinfo=UTC)}, "bucket"),
    ({"bucket": datetime(1969, 12, 31, tzinfo=UTC)}, "bucket"),
    ({"surplus": 1}, "it has no column surplus"),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED_ROWS)
def test_rows_that_do_not_fit_are_refused_before_they_are_sent(
    made: str, changes: dict[str, Any], reason: str
) -> None:
    with (
        FaultProxy(made) as between,
        pytest.raises(SinkRefusedError, match=re.escape(reason)) as e,
    ):
        write(between.url, frame_of(bucket_row()), frame_of(bucket_row(**changes)))
    assert str(e.value).startswith(f"ClickHouse at {between.address}, table minute_buckets_rows: ")
    assert (between.inserts, totals(made)) == (0, [[0, 0, 0]])


def test_a_missing_column_is_named() -> None:
    with pytest.raises(RowsError, match="the rows lack the column version"):
        rows_for(ROWS, frame_of(bucket_row()).drop("version"))


# Each row once


@st.composite
def histories(draw: st.DrawFn) -> list[list[dict[str, Any]]]:
    """Return batches of versions of few rows, as workers that crash and repeat would write
    them."""
    keys = st.fixed_dictionaries(
        {
            "minute": st.integers(0, 2),
            "origin": st.sampled_from(["a", "b"]),
            "topic": st.sampled_from(["eu", "us"]),
            "topic_partition": st.integers(0, 1),
            "events": st.integers(1, 4),
            "phase": st.sampled_from([PROVISIONAL, FINAL]),
            "generation": st.integers(0, 1),
        }
    )

    def row(found: dict[str, Any]) -> dict[str, Any]:
        version = version_of(found["generation"], found["events"], found["phase"])
        # What a row holds follows from its key and version, as in a flow.
        return bucket_row(
            found["minute"],
            origin=found["origin"],
            topic=found["topic"],
            topic_partition=found["topic_partition"],
            count=found["events"],
            sum_price=found["events"] * (10 + found["generation"]),
            version=version,
        )

    batches = draw(st.lists(st.lists(keys.map(row), min_size=1, max_size=6), max_size=5))
    again = draw(st.lists(st.sampled_from(batches), max_size=2)) if batches else []
    return batches + again


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories())
def test_the_view_gives_each_row_once_in_its_highest_version(
    made: str, batches: list[list[dict[str, Any]]]
) -> None:
    query_rows(made, "TRUNCATE TABLE minute_buckets_rows")
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for batch in batches:
        write(made, frame_of(*batch))
        for row in batch:
            key = tuple(row[name] for name in ROWS.order_by)
            if key not in best or row["version"] >= best[key]["version"]:
                best[key] = row
    expected: dict[tuple[str, str], tuple[int, int]] = {}
    for row in best.values():
        group = (f"{row['bucket']:%F %T}", row["origin"])
        count, price = expected.get(group, (0, 0))
        expected[group] = (count + row["count"], price + row["sum_price"])
    _, rows = query_rows(made, "SELECT bucket, origin, count, sum_price FROM minute_buckets")
    assert {(bucket, origin): (count, price) for bucket, origin, count, price in rows} == expected
    assert len(rows) == len(expected)


def test_a_few_minutes_are_found_without_reading_all(server: Server, made: str) -> None:
    for version in (4, 8):
        reply = server.ask(
            "INSERT INTO minute_buckets_rows (* EXCEPT (is_deleted, appended_ms)) SELECT"
            " toDateTime('2022-03-22 12:00:00', 'UTC') + 60 * intDiv(number, 10000),"
            " if(number % 10 = 0, 'BUY', 'VIEW'), toString(number % 1000), toString(number % 250),"
            f" toString(number % 67), 'tags', number % 10, 1, 100, {version} FROM numbers(1000000)"
        )
        assert reply.status == 200, reply.body
    reply = server.ask(
        "SELECT bucket, sum(count) FROM minute_buckets"
        " WHERE bucket >= {from:DateTime('UTC')} AND bucket < {to:DateTime('UTC')}"
        " AND action = 'VIEW' GROUP BY bucket ORDER BY bucket",
        param_from="2022-03-22 12:20:00",
        param_to="2022-03-22 12:30:00",
    )
    lines = reply.body.decode().splitlines()
    assert lines == [f"2022-03-22 12:{minute}:00\t9000" for minute in range(20, 30)]
    # 10 of 100 minutes, in at most two versions, and the granules at their edges.
    assert int(json.loads(reply.headers["x-clickhouse-summary"])["read_rows"]) < 300_000


# Trouble


def error_answer(status: int, code: int, name: str) -> Fault:
    return exception(code, name, "Words of the server", status=status)


PASSING: list[Fault] = [
    reset_in_body(),
    close_after_body(done=True),
    answer(503, "Service unavailable"),
    answer(502, "<html>Bad gateway</html>"),
    answer(429, "Too many requests"),
    error_answer(500, 252, "TOO_MANY_PARTS"),
    error_answer(500, 241, "MEMORY_LIMIT_EXCEEDED"),
    error_answer(408, 159, "TIMEOUT_EXCEEDED"),
    error_answer(500, 243, "NOT_ENOUGH_SPACE"),
    error_answer(500, 49, "LOGICAL_ERROR"),
]


@pytest.mark.parametrize("fault", PASSING, ids=str)
def test_what_passes_is_tried_again_until_the_rows_are_there(
    made: str, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    slept_s: list[float] = []
    # A reset is tried once more by the client itself.
    faults = [fault] * 4
    with FaultProxy(made, *faults) as between, caplog.at_level(logging.INFO, "footfall.sinks"):
        write(between.url, frame_of(bucket_row(), bucket_row(1)), sleep=slept_s.append)
    assert totals(made) == [[2, 2, 200]]
    assert between.inserts == 5
    assert len(slept_s) >= 2
    target = f"ClickHouse at {between.address}, table minute_buckets_rows"
    began, ended = caplog.messages
    assert began.startswith(f"{target}: ")
    assert began.endswith("; trying again for 120 s")
    assert ended.startswith(f"{target}: works again after ")


def test_a_server_that_does_not_answer_is_asked_again(made: str) -> None:
    with FaultProxy(made, hang()) as between:
        write(between.url, frame_of(bucket_row()), answer_timeout_s=3, sleep=lambda _: None)
    assert (between.inserts, totals(made)) == (2, [[1, 1, 100]])


def test_a_lasting_outage_ends_in_one_clear_line(made: str) -> None:
    now_s = [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    with (
        FaultProxy(made, *[error_answer(500, 252, "TOO_MANY_PARTS")] * 1_000) as between,
        pytest.raises(SinkUnavailableError) as raised,
    ):
        write(between.url, frame_of(bucket_row()), sleep=sleep, clock=lambda: now_s[0])
    assert re.fullmatch(
        f"ClickHouse at {between.address}, table minute_buckets_rows: "
        r"Words of the server\. \(TOO_MANY_PARTS\) \(tried \d+ times in 120 s\)",
        str(raised.value),
    )
    assert between.inserts < 60


def test_no_server_at_all_is_an_outage() -> None:
    port = free_port()
    with pytest.raises(SinkUnavailableError, match=f"127.0.0.1:{port}.*connection refused"):
        write(f"http://127.0.0.1:{port}", frame_of(bucket_row()), give_up_after_s=0)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (error_answer(404, 60, "UNKNOWN_TABLE"), "(UNKNOWN_TABLE); run `footfall init`"),
        (error_answer(500, 16, "NO_SUCH_COLUMN_IN_TABLE"), "; run `footfall init`"),
        (error_answer(400, 53, "TYPE_MISMATCH"), "Words of the server. (TYPE_MISMATCH)"),
        (error_answer(403, 516, "AUTHENTICATION_FAILED"), "; check the user and password"),
        (error_answer(500, 164, "READONLY"), "; check the user and password"),
        (answer(404, "No such page"), "HTTP status 404: No such page"),
    ],
)
def test_what_can_never_succeed_is_refused_at_once(made: str, fault: Fault, reason: str) -> None:
    with FaultProxy(made, fault) as between, pytest.raises(SinkRefusedError) as raised:
        write(between.url, frame_of(bucket_row()), sleep=lambda _: pytest.fail("it waited"))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)
    assert between.inserts == 1


def test_refusals_of_the_real_server(server: Server) -> None:
    frame = frame_of(bucket_row())
    with pytest.raises(SinkRefusedError, match=r"missing_rows.*run `footfall init`$"):
        ClickHouseTable(server.url, replace(ROWS, name="missing_rows")).write([frame])
    with pytest.raises(SinkRefusedError, match=r"no_such_shop.*run `footfall init`$"):
        write(f"{server.base}/no_such_shop", frame)
    with pytest.raises(SinkRefusedError, match=r"user and password in CLICKHOUSE_URL$") as raised:
        write(server.address.replace("//", "//bob:secret@"), frame)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["", "bob:secret@host", "ftp://host", "http://", "http://h:99999"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(SinkRefusedError, match=r"CLICKHOUSE_URL .* http://host:port") as raised:
        ClickHouseTable(url, ROWS)
    assert "secret" not in str(raised.value)


def test_a_writer_outlives_its_server(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path / "data", port=port) as first:
        create_tables(first.url, [ROWS, VIEW])
        writer = ClickHouseTable(first.url, ROWS, sleep=lambda _: down.wait(0.05))
        writer.write([frame_of(bucket_row())])
        first.stop(9)
    down = threading.Event()
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(writer.write, [frame_of(bucket_row(1))])
        with serving(tmp_path / "data", port=port) as second:
            waiting.result(60)
            assert totals(second.url) == [[2, 2, 200]]
    writer.close()
    writer.close()


# Making and asking


def test_tables_are_made_again_and_again_at_once(server: Server, made: str) -> None:
    write(made, frame_of(bucket_row()))
    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(create_tables, made, [ROWS, VIEW]) for _ in range(8)]:
            future.result(60)
    assert totals(made) == [[1, 1, 100]]


def test_a_database_in_the_address_is_made(server: Server) -> None:
    url = f"{server.base}/shop%2D1"
    create_tables(url, [ROWS, VIEW])
    write(url, frame_of(bucket_row()))
    assert totals(url) == [[1, 1, 100]]
    assert query_rows(url, "SELECT currentDatabase()")[1] == [["shop-1"]]
    server.rows("DROP DATABASE `shop-1`")


def test_a_table_with_other_columns_is_not_taken_for_ours(server: Server) -> None:
    old = replace(EVERY_KIND, name="drifted", columns={"id": "Int64", "version": "UInt64"})
    new = replace(old, columns={"id": "Int32", "text": "String", "version": "UInt64"})
    create_tables(server.url, [old])
    with pytest.raises(SinkRefusedError, match=r"id is Int64, not Int32; text is missing") as e:
        create_tables(server.url, [new])
    assert "RENAME TABLE drifted TO drifted_old" in str(e.value)


def test_a_view_that_cannot_be_made_says_so(server: Server) -> None:
    with pytest.raises(SinkRefusedError, match=r"view broken: .*nope"):
        create_tables(server.url, [View("broken", "SELECT nope FROM minute_buckets_rows")])


def test_queries_answer_names_and_rows(server: Server) -> None:
    reader = ClickHouseReader(server.url)
    assert reader.rows(
        "SELECT {s:String} AS s, {n:UInt64} AS n, NULL AS x, [1, 2] AS l -- and no more",
        {"s": "it's\t{}", "n": 2**64 - 1},
    ) == (["s", "n", "x", "l"], [["it's\t{}", 2**64 - 1, None, [1, 2]]])
    assert reader.rows("SELECT number AS n FROM numbers(3) WHERE n > 5;") == (["n"], [])
    assert reader.rows("CREATE TABLE IF NOT EXISTS one (n Int8) ENGINE = Memory") == ([], [])
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda n: reader.rows(f"SELECT {n}")[1], range(40)))
    assert found == [[[number]] for number in range(40)]
    reader.close()


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELEC 1", "Syntax error"),
        ("SELECT * FROM nope", "UNKNOWN_TABLE"),
        ("SELECT throwIf(1)", "non-zero"),
        ("SELECT {x:String}", "Substitution `x` is not set"),
        ("SELECT 1 FORMAT CSV", "the query chooses its own FORMAT"),
    ],
)
def test_a_query_that_cannot_be_answered_says_why(server: Server, sql: str, reason: str) -> None:
    with pytest.raises(SinkRefusedError, match=re.escape(reason)) as raised:
        query_rows(server.url, sql)
    assert "\n" not in str(raised.value)


# Several tables


class Meeting:
    """A writer of one table that returns when as many others write as it waits for."""

    def __init__(self, others: threading.Barrier, error: Exception | None = None) -> None:
        self._others = others
        self._error = error
        self.written = 0

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        self._others.wait(10)
        if self._error is not None:
            raise self._error
        self.written += sum(map(len, frames))

    def close(self) -> None:
        pass


def test_tables_are_written_at_the_same_time_and_an_error_waits_for_the_others() -> None:
    barrier = threading.Barrier(AT_ONCE)
    writers = {str(number): Meeting(barrier) for number in range(2 * AT_ONCE)}
    rows = TableRows({name: frame_of(bucket_row()) for name in writers})
    writer = TablesWriter(writers)
    writer.write([rows, rows])
    assert [one.written for one in writers.values()] == [2] * len(writers)
    writers["0"] = Meeting(barrier, SinkRefusedError("the server will not"))
    with pytest.raises(SinkRefusedError, match="will not"):
        writer.write([rows])
    assert [one.written for one in writers.values()] == [0] + [3] * (len(writers) - 1)
    writer.close()
