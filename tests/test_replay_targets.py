"""The targets of replays: rows of earlier generations taken back, a shadow compared and exchanged.

The same on ClickHouse, alone and with aggregates in Aerospike, PostgreSQL and SQLite.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from footfall.schemas.tables import minute_buckets, store_metrics
from footfall.schemas.topics import PARTITION
from footfall.schemas.versions import FINAL, version_of
from footfall.sinks import SinkRefusedError, clickhouse_replay, sql_replay
from footfall.sinks.aerospike_aggregates import AerospikeAggregates, Group
from footfall.sinks.aerospike_replay import AggregatesReplay
from footfall.sinks.clickhouse import create_tables as create_clickhouse_tables
from footfall.sinks.clickhouse import query_rows as ask_clickhouse
from footfall.sinks.clickhouse_replay import ClickHouseReplay
from footfall.sinks.replay import START_MS, ReplayTarget, Span, Windows
from footfall.sinks.sql import create_tables as create_store_tables
from footfall.sinks.sql import query_rows as ask_store
from footfall.sinks.sql_replay import SqlReplay
from tests.aerospike_support import ModelServer
from tests.clickhouse_support import any_server
from tests.postgres_support import a_database, postgres

__all__ = ["postgres"]

BASE = datetime(2022, 3, 22, 12, tzinfo=UTC)
BASE_MS = round(BASE.timestamp() * 1000)
MINUTE_MS = 60_000
TOPIC, OTHER = "of_eu", "of_us"
"""The topic whose rows are replayed, and another one that writes into the same table."""

Counts = Mapping[tuple[int, int], int]
"""(minute, partition) -> events"""


class Side:
    """A target, how its rows look, and what a reader of the table sees."""

    def __init__(
        self,
        target_of: Callable[[str], ReplayTarget],
        frame: Callable[[Counts, int], pl.DataFrame],
        seen: Callable[[], dict[int, int]],
        notices: list[dict[str, Any]],
        url: str = "",
    ) -> None:
        self.target, self.other = target_of(TOPIC), target_of(OTHER)
        self.url = url
        self._frame = frame
        self.seen = seen
        self.notices = notices

    def write(
        self, counts: Counts, generation: int = 0, *, shadow: bool = False, topic: str = TOPIC
    ) -> None:
        rows = self._frame(counts, generation).with_columns(topic=pl.lit(topic))
        self.target.write([rows], shadow=shadow)

    def close(self) -> None:
        self.target.close()
        self.other.close()


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("chdb", reason="chdb is not installed")
    with any_server(tmp_path_factory.mktemp("engine") / "clickhouse") as server:
        yield server.url


_databases = iter(range(1_000_000))


def clickhouse_side(url: str) -> Side:
    of_database = f"{url}/replay{next(_databases)}"
    create_clickhouse_tables(of_database, [minute_buckets.ROWS, minute_buckets.VIEW])

    def frame(counts: Counts, generation: int) -> pl.DataFrame:
        rows = [
            {
                "bucket": BASE + timedelta(minutes=minute),
                "action": "VIEW",
                "origin": "somewhere",
                "brand_id": "b",
                "category_id": "c",
                "topic_partition": partition,
                "count": events,
                "sum_price": 10 * events,
                "version": version_of(generation, events, FINAL),
            }
            for (minute, partition), events in counts.items()
        ]
        return pl.DataFrame(rows).cast({"bucket": pl.Datetime("ms", "UTC")})

    def seen() -> dict[int, int]:
        _, rows = ask_clickhouse(
            of_database,
            "SELECT toUnixTimestamp(bucket), sum(count), sum(sum_price) FROM minute_buckets "
            "GROUP BY bucket",
        )
        assert all(price == 10 * count for _, count, price in rows)
        return {(at - BASE_MS // 1000) // 60: count for at, count, _ in rows}

    def target_of(topic: str) -> ReplayTarget:
        return ClickHouseReplay(of_database, minute_buckets.ROWS, topic)

    return Side(target_of, frame, seen, [], of_database)


def both_side(url: str) -> Side:
    """Return the side of ClickHouse with an Aerospike, which show the same except in an
    exchange."""
    of_tables = clickhouse_side(url)
    aggregates = AerospikeAggregates(
        "model",
        3000,
        namespace="aggregates",
        buckets_per_key=30,
        keep_s=0.0,
        connect=ModelServer().connect,
    )

    def seen() -> dict[int, int]:
        found = of_tables.seen()
        if threading.current_thread() is threading.main_thread():
            group = Group("VIEW", "somewhere", "b", "c")
            sums = aggregates.get(group, BASE, BASE + timedelta(hours=1))
            assert all(one.sum_price == 10 * one.count for one in sums)
            assert {
                (one.bucket - BASE) // timedelta(minutes=1): one.count for one in sums
            } == found
        return found

    def target_of(topic: str) -> ReplayTarget:
        return AggregatesReplay(of_tables.url, topic, aggregates)

    of_tables.close()
    return Side(target_of, of_tables._frame, seen, [])


def store_side(url: str) -> Side:
    create_store_tables(url, store_metrics.METADATA)
    notices: list[dict[str, Any]] = []

    def frame(counts: Counts, generation: int) -> pl.DataFrame:
        rows = [
            {
                "start_event_time": BASE + timedelta(minutes=minute),
                "end_event_time": BASE + timedelta(minutes=minute + 1),
                "topic_partition": partition,
                **dict.fromkeys(store_metrics.SUMS, events),
                "version": version_of(generation, events, FINAL),
            }
            for (minute, partition), events in counts.items()
        ]
        moment = pl.Datetime("ms", "UTC")
        return pl.DataFrame(rows).cast({"start_event_time": moment, "end_event_time": moment})

    def seen() -> dict[int, int]:
        _, rows = ask_store(
            url, "SELECT start_event_time, nr_of_events, nr_items_sold FROM events"
        )
        assert all(sold == events for _, events, sold in rows)
        found = {}
        for start, events, _ in rows:
            after = datetime.fromisoformat(start).replace(tzinfo=UTC) - BASE
            found[round(after.total_seconds() / 60)] = events
        return found

    def target_of(topic: str) -> ReplayTarget:
        return SqlReplay(url, store_metrics.ROLLUP, topic, after_write=notices.extend)

    return Side(target_of, frame, seen, notices)


@pytest.fixture(params=["clickhouse", "with Aerospike", "postgresql", "sqlite"])
def make_side(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Side]:
    """Return a function that makes a target with empty tables, a new one each time."""
    if request.param == "clickhouse":
        url = request.getfixturevalue("clickhouse")
        return lambda: clickhouse_side(url)
    if request.param == "with Aerospike":
        url = request.getfixturevalue("clickhouse")
        return lambda: both_side(url)
    if request.param == "sqlite":
        return lambda: store_side(f"sqlite:///{tmp_path / f'store{next(_databases)}.sqlite'}")
    return lambda: store_side(a_database(request))


@pytest.fixture
def side(make_side: Callable[[], Side]) -> Iterator[Side]:
    found = make_side()
    yield found
    found.close()


def span(from_minute: int, to_minute: int, partition: int | None = None) -> Span:
    return Span(partition, BASE_MS + from_minute * MINUTE_MS, BASE_MS + to_minute * MINUTE_MS)


def test_a_new_generation_wins_also_where_its_counts_are_lower(side: Side) -> None:
    side.write({(0, 0): 50, (1, 0): 60})
    assert side.target.newest_generation() == 0
    side.write({(0, 0): 40}, generation=1)
    side.write({(0, 0): 55})  # the live worker, later
    assert side.seen() == {0: 40, 1: 60}
    assert side.target.newest_generation() == 1


def test_what_the_new_generation_does_not_have_is_taken_back(side: Side) -> None:
    side.write({(0, 0): 5, (0, 1): 6, (1, 0): 7, (2, 0): 8})
    side.write({(0, 0): 4}, generation=1)
    assert side.target.remove_older([span(0, 2)], 1, shadow=False) == 2
    assert side.seen() == {0: 4, 2: 8}
    # Nothing of its generation brings it back, the next generation may.
    side.write({(0, 1): 60, (1, 0): 70})
    assert side.seen() == {0: 4, 2: 8}
    side.write({(1, 0): 3}, generation=2)
    assert side.seen() == {0: 4, 1: 3, 2: 8}
    assert side.target.remove_older([span(0, 2)], 1, shadow=False) == 0


@pytest.mark.parametrize("shadow", [False, True])
def test_windows_that_the_new_generation_replaces_are_told_from_others(
    side: Side, shadow: bool
) -> None:
    side.write({(0, 0): 5, (0, 1): 6, (1, 0): 7, (3, 1): 8, (7, 0): 9})
    # The same generation of another topic replaces nothing of this one.
    side.write({(1, 0): 50}, generation=1, topic=OTHER)
    if shadow:
        side.target.make_shadow([TOPIC])
    side.write({(0, 0): 4, (2, 0): 3}, generation=1, shadow=shadow)
    spans = [span(0, 5)]
    assert side.target.not_replaced(spans, 1, shadow=shadow) == Windows(
        2, BASE_MS + MINUTE_MS, BASE_MS + 3 * MINUTE_MS
    )
    assert side.target.remove_replaced(spans, 1, shadow=shadow) == 1
    if shadow:
        side.target.swap([TOPIC])
    assert side.seen() == {0: 4, 1: 7 + 50, 2: 3, 3: 8, 7: 9}
    if shadow:
        return
    assert side.target.remove_replaced(spans, 1, shadow=False) == 0
    # What was taken back of a window is no row of it.
    assert side.target.remove_older([span(1, 2)], 1, shadow=False) == 1
    assert side.target.not_replaced(spans, 1, shadow=False) == Windows(
        1, BASE_MS + 3 * MINUTE_MS, BASE_MS + 3 * MINUTE_MS
    )
    assert side.target.not_replaced([span(0, 3)], 1, shadow=False) is None
    assert side.target.not_replaced([], 1, shadow=False) is None


def test_only_the_partition_of_a_span_is_touched(side: Side) -> None:
    side.write({(0, 0): 5, (0, 1): 6, (1, 1): 7})
    assert side.target.remove_older([span(0, 1, partition=1)], 1, shadow=False) == 1
    assert side.seen() == {0: 5, 1: 7}
    assert side.target.remove_older([], 1, shadow=False) == 0


def test_totals_are_by_partition_and_window(side: Side) -> None:
    side.write({(0, 0): 5, (0, 1): 6, (1, 1): 7, (2, 0): 8})
    side.target.remove_older([span(0, 1, partition=1)], 1, shadow=False)
    found = side.target.totals(BASE_MS, BASE_MS + 2 * MINUTE_MS).sort(START_MS, PARTITION)
    counts = found.select(START_MS, PARTITION, side.target.sums[0]).rows()
    assert counts == [(BASE_MS, 0, 5), (BASE_MS + MINUTE_MS, 1, 7)]


def test_a_shadow_is_compared_and_exchanged(side: Side) -> None:
    side.write({(0, 0): 5, (0, 1): 6, (1, 0): 7, (2, 0): 8, (3, 0): 9})
    side.target.make_shadow([TOPIC])
    side.write({(0, 0): 5, (0, 1): 6, (2, 0): 80}, generation=1, shadow=True)
    assert side.target.remove_older([span(0, 3)], 1, shadow=True) == 1
    assert side.seen() == {0: 11, 1: 7, 2: 8, 3: 9}
    found = side.target.differences([span(0, 3)])
    assert [
        (
            (each.start_ms - BASE_MS) // MINUTE_MS,
            each.live and each.live[0],
            each.shadow and each.shadow[0],
        )
        for each in found
    ] == [(1, 7, None), (2, 8, 80)]
    # The live worker goes on beside: outside of the range, and inside where it loses.
    side.write({(2, 0): 81, (3, 0): 10, (4, 0): 1})
    side.target.swap([TOPIC])
    side.write({(2, 0): 82, (4, 0): 2})
    assert side.seen() == {0: 11, 2: 80, 3: 10, 4: 2}
    with pytest.raises(SinkRefusedError, match="exchanged already"):
        side.target.swap([TOPIC])


def test_a_shadow_that_is_equal_has_no_differences(side: Side) -> None:
    side.write({(0, 0): 5, (1, 3): 7})
    side.target.make_shadow([TOPIC])
    side.write({(0, 0): 5, (1, 3): 7}, generation=1, shadow=True)
    side.target.remove_older([span(0, 9)], 1, shadow=True)
    assert side.target.differences([span(0, 9)]) == []


def test_without_a_shadow_there_is_nothing_to_exchange(side: Side) -> None:
    with pytest.raises(SinkRefusedError, match="--into shadow"):
        side.target.swap([TOPIC])


def test_a_shadow_without_a_row_was_not_exchanged(side: Side) -> None:
    side.write({(0, 0): 5})
    side.target.make_shadow([TOPIC])
    with pytest.raises(SinkRefusedError, match="has no row"):
        side.target.swap([TOPIC])
    assert side.seen() == {0: 5}


def test_readers_see_all_of_an_exchange_or_nothing(side: Side) -> None:
    before = dict.fromkeys(((minute, 0) for minute in range(30)), 5)
    side.write(before)
    side.target.make_shadow([TOPIC])
    side.write(dict.fromkeys(before, 2), generation=1, shadow=True)
    side.target.remove_older([span(0, 30)], 1, shadow=True)
    ended = threading.Event()
    seen: list[dict[int, int]] = []

    def look() -> None:
        while not ended.is_set():
            seen.append(side.seen())

    reader = threading.Thread(target=look)
    reader.start()
    side.target.swap([TOPIC])
    ended.set()
    reader.join(30)
    assert side.seen() == dict.fromkeys(range(30), 2)
    for each in seen:
        assert each in (dict.fromkeys(range(30), 5), dict.fromkeys(range(30), 2))


def test_rows_that_came_during_an_exchange_outlive_a_merge(
    clickhouse: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = clickhouse_side(clickhouse)
    side.write({(0, 0): 5})
    side.target.make_shadow([TOPIC])
    side.write({(0, 0): 4}, generation=1, shadow=True)
    assert isinstance(side.target, ClickHouseReplay)
    ask = side.target._ask
    merges = iter(["OPTIMIZE TABLE minute_buckets_rows_shadow FINAL"])

    def merge_before_an_insert(sql: str) -> list[list[Any]]:
        if sql.startswith("INSERT") and (merge := next(merges, None)):
            ask(merge)
        return ask(sql)

    monkeypatch.setattr(side.target, "_ask", merge_before_an_insert)

    # An insert that began before ends in the old table, which is the shadow by then.
    def insert_ends(_reader: Any, _table: str) -> None:
        side.write({(1, 0): 7}, shadow=True)
        side.write({(2, 0): 8}, shadow=True, topic=OTHER)

    monkeypatch.setattr(clickhouse_replay, "wait_for_inserts", insert_ends)
    side.target.swap([TOPIC])
    assert next(merges, None) is None, "there was something to bring over"
    assert side.seen() == {0: 4, 1: 7, 2: 8}


def test_only_rows_of_the_topic_are_touched(side: Side) -> None:
    side.write({(0, 0): 5, (1, 0): 7})
    side.write({(0, 0): 50, (1, 0): 70, (2, 3): 80}, generation=4, topic=OTHER)
    assert (side.target.newest_generation(), side.other.newest_generation()) == (0, 4)
    assert side.target.totals(BASE_MS, BASE_MS + 9 * MINUTE_MS)[START_MS].len() == 2
    side.write({(0, 0): 4}, generation=1)
    assert side.target.remove_older([span(0, 9)], 1, shadow=False) == 1
    assert side.seen() == {0: 54, 1: 70, 2: 80}
    assert side.target.partitions(BASE_MS, BASE_MS + 9 * MINUTE_MS) == {
        (TOPIC, 0): 1, (OTHER, 0): 2, (OTHER, 3): 1,
    }  # fmt: skip
    assert side.target.partitions(BASE_MS + MINUTE_MS, BASE_MS + 2 * MINUTE_MS) == {(OTHER, 0): 1}


def test_an_exchange_leaves_rows_of_other_topics(side: Side) -> None:
    side.write({(0, 0): 5})
    side.write({(0, 0): 50, (1, 0): 70}, generation=9, topic=OTHER)
    side.target.make_shadow([TOPIC])
    side.write({(0, 0): 4}, generation=1, shadow=True)
    side.target.remove_older([span(0, 9)], 1, shadow=True)
    (found,) = side.target.differences([span(0, 9)])
    assert (found.live and found.live[0], found.shadow and found.shadow[0]) == (5, 4)
    side.write({(1, 0): 71, (2, 0): 80}, generation=9, topic=OTHER)
    side.target.swap([TOPIC])
    side.write({(2, 0): 81}, generation=9, topic=OTHER)
    assert side.seen() == {0: 54, 1: 71, 2: 81}


def test_a_shadow_in_which_another_topic_waits_is_not_taken(side: Side) -> None:
    side.write({(0, 0): 5})
    side.write({(0, 0): 50}, topic=OTHER)
    side.target.make_shadow([TOPIC])
    side.write({(0, 0): 4}, generation=1, shadow=True)
    waits = f"holds a replay of {TOPIC} that was not exchanged yet"
    for take in (side.other.make_shadow, side.other.swap):
        with pytest.raises(SinkRefusedError, match=waits):
            take([OTHER])
    # A flow of both topics takes both.
    side.write({(0, 0): 40}, generation=1, shadow=True, topic=OTHER)
    side.target.swap([TOPIC, OTHER])
    assert side.seen() == {0: 44}
    side.other.make_shadow([OTHER])


def test_a_store_s_shadow_is_exchanged_so_many_windows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_replay, "WINDOWS_AT_ONCE", 3, raising=False)
    side = store_side(f"sqlite:///{tmp_path}/store.sqlite")
    side.write({(minute, part): 5 for minute in range(10) for part in (0, 1)})
    side.target.make_shadow([TOPIC])
    side.write({(minute, 0): 2 for minute in range(8)}, generation=1, shadow=True)
    side.target.remove_older([span(0, 7)], 1, shadow=True)
    assert isinstance(side.target, SqlReplay)
    merge = side.target._merge
    merged: list[int] = []

    def counted(connection: Any, rows: Any, *rest: Any, **named: Any) -> Any:
        merged.append(len(rows))
        return merge(connection, rows, *rest, **named)

    monkeypatch.setattr(side.target, "_merge", counted)
    side.target.swap([TOPIC])
    assert side.seen() == {**dict.fromkeys(range(7), 2), 7: 7, 8: 10, 9: 10}
    assert sum(merged) == 15
    assert max(merged) <= 6
    # The shadow holds what stood before.
    _, before = ask_store(
        f"sqlite:///{tmp_path}/store.sqlite",
        "SELECT count(*), sum(nr_of_events) FROM events_by_partition_shadow",
    )
    assert before == [[15, 75]]


def test_notices_tell_of_what_stands(side: Side) -> None:
    side.write({(0, 0): 5, (0, 1): 6, (1, 0): 7})
    side.notices.clear()
    side.write({(0, 0): 4}, generation=1)
    side.target.remove_older([span(0, 2)], 1, shadow=False)
    if isinstance(side.target, SqlReplay):
        assert [row["nr_of_events"] for row in side.notices] == [10, 4]


counts_of = st.dictionaries(
    st.tuples(st.integers(0, 3), st.integers(0, 2)), st.integers(1, 9), max_size=8
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    live=counts_of, new=counts_of, late=counts_of, other=counts_of, through_shadow=st.booleans()
)
def test_after_a_replay_its_range_is_the_new_one_and_the_rest_the_old(
    make_side: Callable[[], Side],
    *,
    live: Counts,
    new: Counts,
    late: Counts,
    other: Counts,
    through_shadow: bool,
) -> None:
    side = make_side()
    corrected = {key: events for key, events in new.items() if key[0] < 2}
    # What the live worker still writes of the range is of keys that it knew: all events of
    # settled windows were read by both.
    late = {
        key: live[key] + events if key in live else events
        for key, events in late.items()
        if key[0] >= 2 or key in live
    }
    if live:
        side.write(live)
    if other:
        side.write(other, generation=2, topic=OTHER)
    if through_shadow:
        side.target.make_shadow([TOPIC])
    if corrected:
        side.write(corrected, generation=1, shadow=through_shadow)
    side.target.remove_older([span(0, 2)], 1, shadow=through_shadow)
    if late:
        side.write(late)
    if through_shadow and (corrected or any(key[0] < 2 for key in live)):
        side.target.swap([TOPIC])
    expected: dict[int, int] = {}
    rest = {key: events for key, events in {**live, **late}.items() if key[0] >= 2}
    for counts in ({**corrected, **rest}, other):
        for (minute, _), events in counts.items():
            expected[minute] = expected.get(minute, 0) + events
    assert side.seen() == expected
    side.close()
