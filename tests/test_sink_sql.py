"""Partial rows in, totals and notices out: on SQLite and on a PostgreSQL of our own."""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, select
from sqlalchemy.exc import OperationalError

from footfall.schemas.tables.store_metrics import (
    EVENTS,
    METADATA,
    ROLLUP,
    SUMS,
)
from footfall.schemas.versions import FINAL, REVISED, version_of
from footfall.sinks import SinkRefusedError, SinkUnavailableError
from footfall.sinks._sql_engine import _number
from footfall.sinks.profiles.sqlite import SqliteProfiles
from footfall.sinks.sql import SqlRollup, create_tables, query_rows
from tests.postgres_support import PASSWORD, PostgresServer, a_database, new_database, postgres

__all__ = ["postgres"]

START = datetime(2019, 10, 1, tzinfo=UTC)

Row = tuple[int, int, int, int]
"""(window, partition, events, version); the other sums follow from events."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return an empty store with its tables made."""
    if request.param == "sqlite":
        found = f"sqlite:///{tmp_path / 'deep' / 'store.sqlite'}"
    else:
        found = a_database(request)
    create_tables(found, METADATA)
    return found


def moment(window: int) -> datetime:
    return START + timedelta(seconds=window)


def frame(*rows: Row) -> pl.DataFrame:
    time_kind = pl.Datetime("ms", "UTC")
    return pl.DataFrame(
        [
            (moment(window), moment(window + 1), "t", partition, events, *others(events), version)
            for window, partition, events, version in rows
        ],
        schema={
            "start_event_time": time_kind,
            "end_event_time": time_kind,
            "topic": pl.String,
            "topic_partition": pl.Int64,
            **dict.fromkeys(SUMS, pl.Int64),
            "version": pl.Int64,
        },
        orient="row",
    )


def others(events: int) -> tuple[int, int, int, int]:
    return events * 2, events * 3, events * 5, events * 35_79


def rollup(url: str, notices: list[dict[str, Any]] | None = None, **options: Any) -> SqlRollup:
    if notices is not None:
        options = {"after_write": notices.extend, **options}
    return SqlRollup(url, ROLLUP, **options)


def write(url: str, *frames: pl.DataFrame, notices: list[dict[str, Any]] | None = None) -> None:
    writer = rollup(url, notices)
    writer.write(frames)
    writer.close()


def totals(url: str) -> dict[int, tuple[int, int]]:
    """Return (events, version) of every window, the other sums checked."""
    columns = ", ".join(("start_event_time", *SUMS, "version"))
    _, rows = query_rows(url, f"SELECT {columns} FROM events ORDER BY start_event_time")
    found = {}
    for start, events, *rest, version in rows:
        assert tuple(rest) == others(events)
        window = datetime.fromisoformat(start).replace(tzinfo=UTC) - START
        found[round(window.total_seconds())] = (events, version)
    assert list(found) == sorted(found)
    return found


def told(notices: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Return (window, events) of every notice, in order of the windows."""
    for row in notices:
        assert row["start_event_time"].tzinfo is not None
        assert row["end_event_time"] - row["start_event_time"] == timedelta(seconds=1)
    return sorted(
        (round((row["start_event_time"] - START).total_seconds()), row["nr_of_events"])
        for row in notices
    )


def test_a_total_is_the_sum_of_its_partitions(url: str) -> None:
    write(url, frame((0, 0, 5, 20), (0, 3, 7, 28), (1, 0, 1, 4)))
    write(url, frame((0, 9, 2, 8)))
    assert totals(url) == {0: (14, 56), 1: (1, 4)}


def test_writing_again_changes_nothing_and_tells_nothing(url: str) -> None:
    notices: list[dict[str, Any]] = []
    rows = frame((0, 0, 5, 20), (0, 3, 7, 28), (1, 0, 1, 4))
    write(url, rows, notices=notices)
    assert told(notices) == [(0, 12), (1, 1)]
    before = totals(url)
    for _ in range(2):
        write(url, rows, notices=notices)
    assert totals(url) == before
    assert told(notices) == [(0, 12), (1, 1)]


def test_a_lower_version_loses_and_a_higher_one_wins(url: str) -> None:
    notices: list[dict[str, Any]] = []
    write(url, frame((0, 0, 5, version_of(0, 5, FINAL))))
    write(url, frame((0, 0, 3, version_of(0, 3, FINAL))), notices=notices)
    assert totals(url) == {0: (5, version_of(0, 5, FINAL))}
    write(url, frame((0, 0, 6, version_of(0, 6, REVISED))), notices=notices)
    assert totals(url) == {0: (6, version_of(0, 6, REVISED))}
    assert told(notices) == [(0, 6)]


def test_a_backfill_wins_with_fewer_events(url: str) -> None:
    write(url, frame((0, 0, 50, version_of(0, 50, FINAL)), (0, 1, 4, version_of(0, 4, FINAL))))
    write(url, frame((0, 0, 40, version_of(1, 40, FINAL))))
    write(url, frame((0, 0, 60, version_of(0, 60, FINAL))))
    assert totals(url) == {0: (44, version_of(1, 44, FINAL) + FINAL)}


def test_of_one_row_twice_in_a_write_the_highest_version_counts(url: str) -> None:
    write(url, frame((0, 0, 5, 20), (0, 0, 9, 36)), frame((0, 0, 7, 28)), frame())
    assert totals(url) == {0: (9, 36)}


def test_only_changed_totals_are_told(url: str) -> None:
    notices: list[dict[str, Any]] = []
    write(url, frame((0, 0, 1, 4), (1, 0, 2, 8), (2, 0, 3, 12)))
    write(url, frame((0, 0, 1, 4), (1, 0, 5, 20), (2, 0, 1, 4), (3, 0, 1, 4)), notices=notices)
    assert told(notices) == [(1, 5), (3, 1)]
    assert set(notices[0]) == {column.name for column in EVENTS.columns}


def test_nothing_to_write_is_no_error(url: str) -> None:
    write(url)
    write(url, frame())
    assert totals(url) == {}


rows_of_one_history = st.dictionaries(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 4)),
    st.integers(0, 2**40),
    max_size=20,
)
"""Events of a row by (window, partition, version): one version is one content."""


@settings(deadline=None, max_examples=40)
@given(rows_of_one_history, st.data())
def test_any_batching_in_any_order_gives_the_same_totals(
    history: dict[tuple[int, int, int], int], data: st.DataObject
) -> None:
    rows = [(at[0], at[1], events, at[2] << 2) for at, events in history.items()]
    again = data.draw(st.lists(st.sampled_from(rows), max_size=5)) if rows else []
    shuffled = data.draw(st.permutations([*rows, *again]))
    newest: dict[tuple[int, int], tuple[int, int]] = {}
    for window, partition, events, version in rows:
        newest[window, partition] = max(newest.get((window, partition), (0, 0)), (version, events))
    expected: dict[int, tuple[int, int]] = {}
    for (window, _), (version, events) in sorted(newest.items()):
        sums = expected.get(window, (0, 0))
        expected[window] = (sums[0] + events, sums[1] + version)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/store.sqlite"
        create_tables(url, METADATA)
        notices: list[dict[str, Any]] = []
        writer = rollup(url, notices)
        while shuffled:
            count = data.draw(st.integers(1, len(shuffled)))
            writer.write([frame(*shuffled[:count])])
            shuffled = shuffled[count:]
        writer.close()
        # A window without events has no row, and its going is not told.
        expected = {window: sums for window, sums in expected.items() if sums[0]}
        assert totals(url) == expected
        standing = {moment(window) for window in expected}
        last = {row["start_event_time"]: row["nr_of_events"] for row in notices}
        assert {start: events for start, events in last.items() if start in standing} == {
            moment(window): sums[0] for window, sums in expected.items()
        }


def test_writers_of_the_same_windows_at_once_give_exact_totals(url: str) -> None:
    """Three workers, each with its partition, revise the same windows again and again."""
    notices: list[dict[str, Any]] = []
    errors: list[Exception] = []
    after_each: list[dict[int, tuple[int, int]]] = []
    together = threading.Barrier(3)

    def work(partition: int) -> None:
        writer = rollup(url, notices)
        try:
            for events in range(1, 16):
                rows = [(window, partition, events, events << 2) for window in range(20)]
                together.wait(30)
                writer.write([frame(*rows)])
                together.wait(30)
                if partition == 0:
                    after_each.append(totals(url))
        except Exception as error:
            errors.append(error)
        writer.close()

    threads = [threading.Thread(target=work, args=(partition,)) for partition in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert errors == []
    assert after_each == [
        dict.fromkeys(range(20), (3 * events, 3 * (events << 2))) for events in range(1, 16)
    ]
    highest = {
        row["start_event_time"]: row for row in sorted(notices, key=lambda row: row["version"])
    }
    assert told(list(highest.values())) == [(window, 45) for window in range(20)]
    assert query_rows(url, "SELECT count(*) FROM events_to_announce")[1] == [[0]]


def test_many_rows_at_once(url: str) -> None:
    notices: list[dict[str, Any]] = []
    rows = [(window, partition, 1, 4) for window in range(10_000) for partition in range(2)]
    write(url, frame(*rows[:15_000]), frame(*rows[10_000:]), notices=notices)
    assert totals(url) == dict.fromkeys(range(10000), (2, 8))
    assert len(notices) == 10_000


def test_what_could_not_be_told_is_told_by_the_next_writer(url: str) -> None:
    """The worker dies between the commit and the notice."""

    def die(_rows: list[dict[str, Any]]) -> None:
        raise SinkUnavailableError("no broker")

    writer = rollup(url, after_write=die)
    with pytest.raises(SinkUnavailableError, match="no broker"):
        writer.write([frame((0, 0, 5, 20), (1, 0, 2, 8))])
    writer.close()
    assert totals(url) == {0: (5, 20), 1: (2, 8)}

    notices: list[dict[str, Any]] = []
    write(url, frame((0, 0, 5, 20), (1, 0, 3, 12)), notices=notices)
    assert told(notices) == [(0, 5), (1, 2), (1, 3)]
    notices.clear()
    write(url, frame((0, 0, 5, 20)), notices=notices)
    assert notices == []


def test_a_commit_whose_answer_was_lost_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    notices: list[dict[str, Any]] = []
    writer = rollup(url, notices)
    writer.write([frame((9, 0, 1, 4))])
    merge, lost = SqlRollup.merge, []

    def merge_and_lose(self: SqlRollup, connection: Connection, *args: Any) -> Any:
        changed = merge(self, connection, *args)
        if not lost:
            lost.append(True)
            connection.commit()
            raise OperationalError("COMMIT", None, Exception("lost"), connection_invalidated=True)
        return changed

    monkeypatch.setattr(SqlRollup, "merge", merge_and_lose)
    writer.write([frame((0, 0, 5, 20))])
    writer.close()
    assert told(notices) == [(0, 5), (9, 1)]
    assert query_rows(url, "SELECT count(*) FROM events_to_announce")[1] == [[0]]


def test_tables_made_by_several_at_once(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for new in (f"sqlite:///{tmp_path / 'new' / 'store.sqlite'}", None):
        address = new or a_database(request)
        errors: list[Exception] = []

        def make(address: str = address, errors: list[Exception] = errors) -> None:
            try:
                create_tables(address, METADATA)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=make) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert errors == []
        assert totals(address) == {}


def test_a_table_with_other_columns_is_told_and_how_to_move_it_away(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wrong = {
        "CREATE TABLE events (start_event_time TIMESTAMP, nr_of_events BIGINT)": [
            "end_event_time is missing, not ",
            "its primary key is , not start_event_time, end_event_time",
        ],
        "ALTER TABLE events DROP COLUMN nr_items_sold": ["nr_items_sold is missing, not BIGINT"],
        "ALTER TABLE events RENAME COLUMN version TO row_version": ["version is missing"],
    }
    for address in (f"sqlite:///{tmp_path / 'store.sqlite'}", a_database(request)):
        for statement, differences in wrong.items():
            driver = address.replace("postgresql:", "postgresql+psycopg:")
            engine = create_engine(driver)
            if statement.startswith("ALTER"):
                create_tables(address, METADATA)
            with engine.begin() as connection:
                connection.exec_driver_sql(statement)
            with pytest.raises(SinkRefusedError, match="table events: stands there with") as one:
                create_tables(address, METADATA)
            assert all(difference in str(one.value) for difference in differences), one.value
            move = re.search(r"ALTER TABLE events RENAME TO events_old", str(one.value))
            assert move is not None
            with engine.begin() as connection:
                connection.exec_driver_sql("DROP TABLE IF EXISTS events_old")
                connection.exec_driver_sql(move[0])
            engine.dispose()
            create_tables(address, METADATA)
            assert totals(address) == {}


def test_files_are_their_user_s_own(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = tmp_path / "home" / "store.sqlite"
        create_tables(f"sqlite:///{store}", METADATA)
        profiles = SqliteProfiles(tmp_path / "home" / "profiles.sqlite", 5)
        profiles.get("cookie", 0, 1, 1)
        with sqlite3.connect(store) as held:
            held.execute("INSERT INTO events_to_announce VALUES ('a', 'b', 1)")
            modes = {path.name: path.stat().st_mode & 0o777 for path in store.parent.iterdir()}
        profiles.close()
    finally:
        os.umask(before)
    assert store.parent.stat().st_mode & 0o777 == 0o700
    assert len(modes) >= 4 and set(modes.values()) == {0o600}, modes


def test_times_read_back_as_utc_and_compare_as_text(url: str) -> None:
    rows = frame((0, 0, 1, 4), (5, 0, 2, 8)).with_columns(
        pl.col("start_event_time") + pl.duration(milliseconds=pl.Series([0, 250]))
    )
    write(url, rows)
    names, found = query_rows(
        url, "SELECT start_event_time, nr_of_events FROM events ORDER BY start_event_time"
    )
    assert names == ["start_event_time", "nr_of_events"]
    assert found == [["2019-10-01 00:00:00", 1], ["2019-10-01 00:00:05.250", 2]]
    for condition, count in [
        ("= '2019-10-01 00:00:00'", 1),
        ("= '2019-10-01 00:00:05.250'", 1),
        ("> '2019-10-01 00:00:05'", 1),
        ("< '2019-10-01 00:00:06'", 2),
    ]:
        sql = f"SELECT count(*) FROM events WHERE start_event_time {condition}"
        assert query_rows(url, sql)[1] == [[count]]
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        starts = connection.execute(
            select(EVENTS.c.start_event_time).where(EVENTS.c.start_event_time == moment(0))
        ).scalars()
        assert [(start, start.utcoffset()) for start in starts] == [(moment(0), timedelta(0))]
    engine.dispose()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows.drop("nr_items_sold"), r"lack \['nr_items_sold'\]"),
        (lambda rows: rows.with_columns(pl.lit(1).alias("extra")), r"unknown \['extra'\]"),
        (
            lambda rows: rows.with_columns(pl.col("start_event_time").dt.replace_time_zone(None)),
            "start_event_time is .* must be in UTC",
        ),
        (
            lambda rows: rows.with_columns(pl.lit(None, pl.Int64).alias("nr_items_sold")),
            "(?i)nr_items_sold.*null|null.*nr_items_sold",
        ),
    ],
)
def test_rows_of_another_shape_are_refused_whole(
    url: str, change: Callable[[pl.DataFrame], pl.DataFrame], reason: str
) -> None:
    good, bad = frame((0, 0, 1, 4)), change(frame((1, 0, 1, 4)))
    with pytest.raises(SinkRefusedError, match=reason) as caught:
        write(url, *([bad] if "lack" in reason or "unknown" in reason else [good, bad]))
    assert "\n" not in str(caught.value)
    assert totals(url) == {}


def test_missing_tables_say_what_to_do(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for new in (f"sqlite:///{tmp_path / 'store.sqlite'}", None):
        address = new or a_database(request)
        with pytest.raises(SinkRefusedError, match="`footfall init` makes the tables"):
            write(address, frame((0, 0, 1, 4)))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("mysql://root@localhost/shop", "takes sqlite:///file or postgresql"),
        ("nonsense", "takes sqlite:///file or postgresql"),
        ("sqlite://", "needs the path of a file"),
        ("sqlite:///:memory:", "needs the path of a file"),
    ],
)
def test_other_urls_are_refused(address: str, reason: str) -> None:
    with pytest.raises(SinkRefusedError, match=reason):
        rollup(address)


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SinkRefusedError, match="no folder for it"):
        rollup(f"sqlite:///{tmp_path}/file/store.sqlite")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_text("not a database at all, but some text" * 100)
    with pytest.raises(SinkRefusedError, match="file is not a database"):
        create_tables(f"sqlite:///{tmp_path}/store.sqlite", METADATA)


def test_a_store_that_is_locked_is_waited_for_and_then_given_up(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.sqlite"
    create_tables(url, METADATA)
    holder = sqlite3.connect(tmp_path / "store.sqlite", check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    writer = rollup(url, give_up_after_s=0.3)
    with pytest.raises(SinkUnavailableError, match="database is locked") as caught:
        writer.write([frame((0, 0, 1, 4))])
    assert "\n" not in str(caught.value)
    writer.close()

    release = threading.Timer(0.3, holder.rollback)
    release.start()
    write(url, frame((0, 0, 1, 4)))
    release.join()
    holder.close()
    assert totals(url) == {0: (1, 4)}


def test_a_write_outlives_a_restart_of_the_server(postgres: PostgresServer) -> None:
    url = new_database(postgres.url)
    create_tables(url, METADATA)
    writer = rollup(url)
    writer.write([frame((0, 0, 1, 4))])
    postgres.stop()
    restart = threading.Timer(0.5, postgres.start)
    restart.start()
    try:
        writer.write([frame((0, 0, 2, 8), (1, 0, 1, 4))])
    finally:
        restart.join()
    writer.close()
    assert totals(url) == {0: (2, 8), 1: (1, 4)}


def test_a_session_that_the_server_ends_is_opened_anew(postgres: PostgresServer) -> None:
    url = new_database(postgres.url)
    create_tables(url, METADATA)
    writer = rollup(url)
    for events in range(1, 4):
        writer.write([frame((0, 0, events, events << 2))])
        with psycopg.connect(postgres.url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname LIKE 'test_%'"
            )
    writer.write([frame((0, 0, 9, 36))])
    writer.close()
    assert totals(url) == {0: (9, 36)}


def test_another_session_that_never_lets_go_is_given_up(postgres: PostgresServer) -> None:
    url = new_database(postgres.url)
    create_tables(url, METADATA)
    for statement in ("LOCK TABLE events", f"SELECT pg_advisory_xact_lock({_number('events')})"):
        with psycopg.connect(url) as holder:
            holder.execute(statement)  # type: ignore[arg-type]
            writer = rollup(url, give_up_after_s=0.5)
            with pytest.raises(SinkUnavailableError, match="lock timeout"):
                writer.write([frame((0, 0, 1, 4))])
            writer.close()


def test_a_server_that_is_not_there_is_an_error_without_the_password() -> None:
    url = f"postgresql://footfall:{PASSWORD}@127.0.0.1:9/postgres"
    started = time.monotonic()
    calls: list[Callable[[], object]] = [
        lambda: create_tables(url, METADATA, give_up_after_s=0.5),
        lambda: query_rows(url, "SELECT 1"),
    ]
    for call in calls:
        with pytest.raises(SinkUnavailableError, match=r"footfall:\*\*\*@127.0.0.1:9") as caught:
            call()
        assert PASSWORD not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 10


def test_a_wrong_password_is_refused_at_once(postgres: PostgresServer) -> None:
    url = postgres.url.replace(PASSWORD, "wrong-secret")
    with pytest.raises(SinkRefusedError, match="password authentication failed") as caught:
        create_tables(url, METADATA)
    assert "wrong-secret" not in str(caught.value)


def test_queries_only_read(url: str) -> None:
    write(url, frame((0, 0, 5, 20)))
    for sql in (
        "DELETE FROM events",
        "DELETE FROM events RETURNING *",
        "DROP TABLE events",
        "COMMIT; DROP TABLE events",
        "SELECT 1; DELETE FROM events",
        "CREATE TABLE other (n INTEGER)",
    ):
        with pytest.raises(SinkRefusedError) as caught:
            query_rows(url, sql)
        assert "\n" not in str(caught.value)
    assert totals(url) == {0: (5, 20)}


def test_queries_give_plain_values(url: str) -> None:
    write(url, frame((0, 0, 5, 20), (1, 0, 4, 16)))
    names, rows = query_rows(
        url,
        "SELECT count(*) AS n, sum(nr_of_events) AS events, avg(nr_of_events) AS mean,"
        " min(start_event_time) AS first, max(NULL) AS none_at_all, '100% :x ?' AS text"
        " FROM events",
    )
    assert names == ["n", "events", "mean", "first", "none_at_all", "text"]
    assert rows == [[2, 9, 4.5, "2019-10-01 00:00:00", None, "100% :x ?"]]
    assert query_rows(url, "SELECT 1 WHERE 1 = 0")[1] == []


def test_queries_that_cannot_be_answered_say_why(url: str) -> None:
    for sql, reason in [
        ("SELEC 1", "syntax error"),
        ("", "only queries are taken"),
        ("SELECT * FROM nowhere", "nowhere.*footfall init"),
    ]:
        with pytest.raises(SinkRefusedError, match=reason):
            query_rows(url, sql)
    write(url, frame(*((window, 0, 1, 4) for window in range(11))))
    with pytest.raises(SinkRefusedError, match="more than 10 rows: add a LIMIT"):
        query_rows(url, "SELECT * FROM events", rows_max=10)


def test_asking_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(SinkRefusedError, match=r"there is no .*store\.sqlite"):
        query_rows(f"sqlite:///{tmp_path}/store.sqlite", "SELECT 1")
    assert list(tmp_path.iterdir()) == []


def test_a_path_of_odd_characters(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/Käse & co #1/store 100%.sqlite"
    create_tables(url, METADATA)
    write(url, frame((0, 0, 1, 4)))
    assert totals(url) == {0: (1, 4)}
