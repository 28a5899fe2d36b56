"""Raw rows written again: each record's row replaced, taken back or left, in whatever table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from footfall.cli import verify_rows
from footfall.schemas.tables.raw import raw_table
from footfall.schemas.versions import FINAL, version_of
from footfall.sinks import SinkRefusedError, clickhouse_raw_replay
from footfall.sinks.clickhouse import create_tables, query_rows
from footfall.sinks.clickhouse_raw_replay import ClickHouseRawReplay, Unequal
from footfall.sinks.replay import Span
from footfall.streams.batch import TableRows
from footfall.streams.replay import Range, Replayed
from tests.clickhouse_support import any_server

BASE_MS = 1_647_950_400_000  # 2022-03-22T12:00:00Z
MINUTE_MS = 60_000
TABLES = {
    name: raw_table(
        name,
        {"user_id": "String", "time": "DateTime64(3, 'UTC')", "price": "Nullable(Float64)"},
        by=("user_id", "time"),
        time="time",
    )
    for name in ("left", "right")
}

Place = tuple[int, int]
"""(partition, offset)"""
Row = tuple[str, str, float | None]
"""(table, user, price)"""
Rows = Mapping[Place, Row | None]

TOPIC, OTHER = "of_eu", "of_us"
PLACES = [(partition, offset) for partition in (0, 1) for offset in range(8)]


def time_ms(place: Place) -> int:
    """Return a record's time: every other offset is a minute later, unlike the order of
    offsets."""
    return BASE_MS + place[1] % 3 * MINUTE_MS + place[1]


def written(rows: Rows, generation: int = 0, topic: str = TOPIC) -> TableRows:
    by_table: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for place, row in sorted(rows.items()):
        if row is not None:
            by_table[TABLES[row[0]].name].append(
                {
                    "user_id": row[1],
                    "time": time_ms(place),
                    "price": row[2],
                    "topic": topic,
                    "topic_partition": place[0],
                    "offset": place[1],
                    "version": version_of(generation, 0, FINAL),
                }
            )
    schema = {"time": pl.Datetime("ms", "UTC"), "price": pl.Float64}
    return TableRows(
        {
            name: pl.DataFrame(found, schema_overrides={"price": pl.Float64}).cast(schema)  # type: ignore[arg-type]
            for name, found in by_table.items()
        }
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("chdb", reason="chdb is not installed")
    with any_server(tmp_path_factory.mktemp("engine") / "data") as found:
        yield found.url


_databases = count()


class Side:
    """The tables of a database of their own."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/raw{next(_databases)}"
        create_tables(self._url, [*TABLES.values()])
        self.target = ClickHouseRawReplay(self._url, [*TABLES.values()], TOPIC)

    def write(self, rows: Rows, generation: int = 0, topic: str = TOPIC) -> None:
        self.target.write([written(rows, generation, topic)], shadow=False)

    def seen(self, topic: str = TOPIC) -> dict[Place, Row]:
        found: dict[Place, Row] = {}
        for name, table in TABLES.items():
            sql = (
                f"SELECT topic_partition, offset, user_id, price FROM {table.name} FINAL "
                f"WHERE topic = '{topic}'"
            )
            for partition, offset, user, price in query_rows(self._url, sql)[1]:
                assert (partition, offset) not in found, "two rows of one record"
                found[partition, offset] = (name, user, price)
        return found


def standing(rows: Rows) -> dict[Place, Row]:
    return {place: row for place, row in rows.items() if row is not None}


some_row = st.one_of(
    st.none(),
    st.tuples(
        st.sampled_from((*TABLES,)), st.sampled_from("ab"), st.sampled_from((None, 0.1, 1e300))
    ),
)
some_rows = st.fixed_dictionaries(dict.fromkeys(PLACES, some_row))
SAME = ("", "", None)
corrected_rows = st.fixed_dictionaries(
    dict.fromkeys(PLACES, st.one_of(st.just(SAME), st.just(SAME), some_row))
)
"""Rows that a corrected flow makes of each record; SAME where the old one was right."""


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    live=some_rows,
    new=corrected_rows,
    offsets=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    minutes=st.sampled_from(((0, 3), (1, 3), (1, 2))),
    at_once=st.sampled_from((1, 2, 100)),
)
def test_the_records_of_a_range_have_the_new_rows_and_all_others_the_old(
    server: str, *, live: Rows, new: Rows, offsets: Place, minutes: tuple[int, int], at_once: int
) -> None:
    side, (first, end) = Side(server), offsets
    from_ms, to_ms = (BASE_MS + minute * MINUTE_MS for minute in minutes)
    span = Span(1, from_ms, to_ms, (first, end))

    def is_meant(place: Place) -> bool:
        return place[0] == 1 and first <= place[1] < end and from_ms <= time_ms(place) < to_ms

    side.write(live)
    # Another topic has the same rows, and keeps them.
    side.write(live, topic=OTHER)
    meant = {
        place: live[place] if row == SAME else row for place, row in new.items() if is_meant(place)
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(clickhouse_raw_replay, "COMPARED_MAX", at_once)
        before = side.target.unequal([written(meant)], span)
        assert before == differing(live, meant)
        side.write(meant, generation=side.target.newest_generation() + 1)
        side.target.remove_older([span], 1, shadow=False)
        right = standing({**live, **meant})
        assert side.seen() == right
        # The live worker writes what it had written once more, as one that was killed does.
        side.write(live)
        assert side.seen() == right
        assert side.target.unequal([written(meant)], span) == {}
        assert side.target.remove_older([span], 1, shadow=False) == 0
        assert side.seen(OTHER) == standing(live)
        counts = Counter((topic, at[0]) for topic in (TOPIC, OTHER) for at in side.seen(topic))
        assert side.target.partitions(BASE_MS, BASE_MS + 9 * MINUTE_MS) == counts
    side.target.close()


def differing(live: Rows, meant: Rows) -> dict[tuple[int, str], Unequal]:
    """Return the rows that differ from those meant, by minute and table."""
    kinds: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    for place, row in meant.items():
        stands = live[place]
        minute_ms = time_ms(place) // MINUTE_MS * MINUTE_MS
        for name, table in TABLES.items():
            is_there, is_wanted = ((of and of[0]) == name for of in (stands, row))
            if is_there and is_wanted and stands != row:
                kinds[minute_ms, table.name]["other"] += 1
            elif is_there != is_wanted:
                kinds[minute_ms, table.name]["missing" if is_wanted else "surplus"] += 1
    return {key: Unequal(**counts) for key, counts in kinds.items()}


def test_several_rows_of_a_record_are_looked_at_together(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clickhouse_raw_replay, "COMPARED_MAX", 2)
    side = Side(server)
    right = {(0, offset): ("left", "a", None) for offset in range(4)}
    side.write(right)
    side.write({(0, 1): ("left", "of a fault", 1.0)})
    span = Span(0, BASE_MS, BASE_MS + 3 * MINUTE_MS, (0, 4))
    key = (BASE_MS + MINUTE_MS, TABLES["left"].name)
    assert side.target.unequal([written(right)], span) == {key: Unequal(surplus=1)}
    side.write(right, generation=1)
    assert side.target.remove_older([span], 1, shadow=False) == 1
    assert side.seen() == right
    side.target.close()


def test_a_next_replay_may_bring_back_what_one_has_taken_back(server: str) -> None:
    side = Side(server)
    side.write({(0, 1): ("left", "a", 1.0)})
    span = Span(0, BASE_MS, BASE_MS + 3 * MINUTE_MS, (0, 8))
    assert side.target.remove_older([span], 1, shadow=False) == 1
    assert side.seen() == {}
    side.write({(0, 1): ("left", "a", 1.0)}, generation=2)
    assert side.seen() == {(0, 1): ("left", "a", 1.0)}
    assert side.target.newest_generation() == 2
    with pytest.raises(SinkRefusedError, match="no shadow"):
        side.target.swap([TOPIC])
    side.target.close()


@pytest.mark.parametrize("rows_max", [1, 3, 100])
def test_every_offset_that_was_read_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch, rows_max: int
) -> None:
    monkeypatch.setattr(verify_rows, "ROWS_MAX", rows_max)
    looked: list[tuple[int, list[int]]] = []
    given_rows = 0

    def unequal(frames: list[Any], span: Span) -> dict[tuple[int, str], Unequal]:
        nonlocal given_rows
        assert span.offsets is not None
        first, end = span.offsets
        looked.append((span.partition or 0, [*range(first, end)]))
        for frame in frames:
            given_rows += len(frame)
            assert frame.frames["left"]["offset"].is_between(first, end - 1).all()
        return {(0, "left"): Unequal(missing=1)}

    compared = verify_rows.Compared(unequal, Range(0, 1))
    # Rows of some of the records only, in frames of several polls; one partition without any.
    for partition, offsets in enumerate(([[12, 14], [15, 19, 22]], [], [[5], [6]])):
        for of_poll in offsets:
            rows = {"topic_partition": [partition] * len(of_poll), "offset": of_poll}
            compared.take(TableRows({"left": pl.DataFrame(rows), "right": pl.DataFrame()}))
        done = Replayed(partition, Range(0, 1), first_offset=3, next_offset=30)
        compared.end(done)
    for partition in (0, 1, 2):
        offsets = [at for number, found in looked for at in found if number == partition]
        assert sorted(offsets) == [*range(3, 30)]
    assert compared.rows == given_rows == 7
    assert compared.differing == {(0, "left"): Unequal(missing=len(looked))}
