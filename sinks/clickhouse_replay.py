"""A ClickHouse table as the target of a replay."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from clickhouse_connect.driver.binding import format_str

from footfall.schemas.tables.clickhouse import DELETED, Table
from footfall.schemas.topics import OFFSET, PARTITION, TOPIC
from footfall.schemas.versions import GENERATION_SHIFT
from footfall.sinks import SinkRefusedError
from footfall.sinks.clickhouse import ClickHouseReader, ClickHouseTable, create_tables
from footfall.sinks.replay import (
    DIFFERENCES_MAX,
    Difference,
    Generations,
    Span,
    Windows,
    check_others,
    check_ours,
    totals_frame,
    waiting,
)

GIVE_UP_AFTER_S = 120.0
STATEMENT_S_MAX = 900
"""Most seconds of a statement, which may copy the rows of a whole range."""
INSERTS_WAIT_S = 60.0
PAGE_ROWS = 100_000
"""Rows read at once, unless one window has more."""
_END_S_MAX = 4_294_967_295
"""Last moment of a DateTime, 2106-02-07, in seconds since 1970 UTC."""


class ClickHouseReplay:
    """A ReplayTarget. The shadow is a table of the same form, ``<name>_shadow``."""

    def __init__(self, url: str, table: Table, topic: str, *, home: Path | None = None) -> None:
        """Take the ``topic`` whose rows are meant; ``url`` and ``home`` are as in
        ClickHouseTable."""
        self.sums = table.sums
        self._topic = topic
        self._create = partial(create_tables, url, home=home)
        self._table = table
        self._shadow = shadow_of(table)
        self._reader = ClickHouseReader(
            url, home=home, give_up_after_s=GIVE_UP_AFTER_S, answer_timeout_s=STATEMENT_S_MAX
        )
        self._writers = {
            shadow: ClickHouseTable(url, of, home=home, give_up_after_s=GIVE_UP_AFTER_S)
            for shadow, of in ((False, table), (True, self._shadow))
        }

    def newest_generation(self) -> int:
        """Return the highest generation among the topic's rows."""
        return self._generations(self._table.name).get(self._topic, 0)

    def make_shadow(self, ours: Collection[str]) -> None:
        """Make an empty shadow; see ReplayTarget."""
        if self._has_shadow():
            check_others(self._shadow.name, waiting(*self._newest()), ours)
        self._ask(f"DROP TABLE IF EXISTS {self._shadow.name} SYNC")
        self._create([self._shadow])

    def write(self, frames: Sequence[pl.DataFrame], *, shadow: bool) -> None:
        """Return when the rows are durable."""
        self._writers[shadow].write(frames)

    def remove_older(self, spans: Sequence[Span], generation: int, *, shadow: bool) -> int:
        """Take back what earlier generations hold of the spans, and return the number of rows.

        The row that takes back is older than any other of its generation: where the replay has
        written a row with the same key, that row wins.
        """
        return self._remove(self._older(spans, generation), generation, shadow=shadow)

    def remove_replaced(self, spans: Sequence[Span], generation: int, *, shadow: bool) -> int:
        """Take back the same, but only in windows that the generation has a row of."""
        where = self._older(spans, generation)
        replaced = self._is_replaced(spans, generation, shadow=shadow)
        return self._remove(f"{where} AND {replaced}", generation, shadow=shadow)

    def not_replaced(
        self, spans: Sequence[Span], generation: int, *, shadow: bool
    ) -> Windows | None:
        """Return the windows of which only earlier generations have rows."""
        start = f"`{self._table.start}`"
        at = f"toUnixTimestamp64Milli(toDateTime64({start}, 3, 'UTC'))"
        ((count, first_ms, last_ms),) = self._ask(
            f"SELECT uniqExact({start}), min({at}), max({at}) FROM {self._table.name} FINAL "
            f"WHERE {self._older(spans, generation)} "
            f"AND NOT {self._is_replaced(spans, generation, shadow=shadow)}"
        )
        return Windows(int(count), int(first_ms), int(last_ms)) if count else None

    def _older(self, spans: Sequence[Span], generation: int) -> str:
        version = generation << GENERATION_SHIFT
        return f"({self._within(spans)}) AND {self._table.version} < {version}"

    def _is_replaced(self, spans: Sequence[Span], generation: int, *, shadow: bool) -> str:
        table, start = self._table, f"`{self._table.start}`"
        into = self._shadow if shadow else table
        return (
            f"({start} IN (SELECT {start} FROM {into.name} FINAL WHERE ({self._within(spans)}) "
            f"AND {table.version} >= {generation << GENERATION_SHIFT}))"
        )

    def _remove(self, where: str, generation: int, *, shadow: bool) -> int:
        table = self._table
        ((count,),) = self._ask(f"SELECT count() FROM {table.name} FINAL WHERE {where}")
        if not count:
            return 0
        kept = [name for name in table.columns if name != table.version]
        into = self._shadow if shadow else table
        names = ", ".join(f"`{name}`" for name in kept)
        self._ask(
            f"INSERT INTO {into.name} ({names}, {table.version}, {DELETED}) "
            f"SELECT {names}, {generation << GENERATION_SHIFT}, 1 "
            f"FROM {table.name} FINAL WHERE {where}"
        )
        if not shadow:
            return int(count)
        key = ", ".join(f"`{name}`" for name in table.order_by)
        ((again,),) = self._ask(
            f"SELECT count() FROM {table.name} FINAL WHERE {where} "
            f"AND ({key}) IN (SELECT {key} FROM {into.name} FINAL)"
        )
        return int(count) - int(again)

    def differences(self, spans: Sequence[Span]) -> list[Difference]:
        """Return the windows in which table and shadow differ."""
        if not spans:
            return []
        places = range(len(self.sums))
        sums = ", ".join(f"sum(`{name}`) AS s{place}" for place, name in enumerate(self.sums))
        start = f"toUnixTimestamp64Milli(toDateTime64(`{self._table.start}`, 3, 'UTC'))"
        within = self._within(spans)

        def windows(name: str) -> str:
            # Two rows with equal sums may be of different groups: so their keys are hashed too.
            key = ", ".join(f"`{column}`" for column in self._table.order_by)
            rows = f"sum(cityHash64({key}, {', '.join(f'`{x}`' for x in self.sums)}))"
            return (
                f"SELECT {start} AS at, {sums}, {rows} AS hashed, 1 AS here "
                f"FROM {name} FINAL WHERE {within} GROUP BY at"
            )

        pairs = ", ".join(f"l.s{place}, r.s{place}" for place in places)
        found = self._ask(
            f"SELECT if(l.here = 1, l.at, r.at) AS at, l.here, r.here, {pairs} "
            f"FROM ({windows(self._table.name)}) AS l "
            f"FULL OUTER JOIN ({windows(self._shadow.name)}) AS r ON l.at = r.at "
            "WHERE l.here != r.here OR l.hashed != r.hashed "
            f"ORDER BY at LIMIT {DIFFERENCES_MAX} SETTINGS join_use_nulls = 0"
        )
        return [
            Difference(
                int(at),
                tuple(map(int, values[0::2])) if live else None,
                tuple(map(int, values[1::2])) if shadow else None,
            )
            for at, live, shadow, *values in found
        ]

    def swap(self, ours: Collection[str]) -> None:
        """Fill the shadow with all other rows, and exchange the names of the two.

        Rows that were inserted meanwhile, of any topic, are copied afterwards. Then the shadow
        holds the earlier rows. Raises as ReplayTarget says.
        """
        table, shadow = self._table.name, self._shadow.name
        self._need_newer_shadow(ours)
        copied = self._parts(table)
        for (partition,) in self._ask(
            "SELECT DISTINCT partition_id FROM system.parts WHERE active "
            f"AND database = currentDatabase() AND table = '{table}'"
        ):
            self._ask(f"ALTER TABLE {shadow} ATTACH PARTITION ID '{partition}' FROM {table}")
        self._ask(f"EXCHANGE TABLES {table} AND {shadow}")
        # An insert that began before goes to the old table, now the shadow, until it ends.
        wait_for_inserts(self._reader, table)
        names = ", ".join(f"`{name}`" for name in (*self._table.columns, DELETED))
        # Parts merge meanwhile: a row that is in none of the listed parts is in a new one.
        while missed := self._parts(shadow) - copied:
            for part in sorted(missed):
                self._ask(
                    f"INSERT INTO {table} ({names}) SELECT {names} FROM {shadow} "
                    f"WHERE _part = '{part}'"
                )
            copied |= missed

    def rows_where(self, where: str) -> Iterator[pl.DataFrame]:
        """Yield the rows that a condition in SQL chooses, some at a time."""
        return self._pages(f"{self._table.name} FINAL", where)

    def shadow_rows(self, ours: Collection[str]) -> Iterator[pl.DataFrame]:
        """Yield all rows of the shadow, some at a time; DELETED marks those that take others back.

        Raises SinkRefusedError as ``swap`` does.
        """
        self._need_newer_shadow(ours)
        return self._pages(self._shadow.name, "1")

    def _need_newer_shadow(self, ours: Collection[str]) -> None:
        table, shadow = self._table.name, self._shadow.name
        if not self._has_shadow():
            raise SinkRefusedError(
                f"there is no table {shadow} to exchange: make it with --into shadow"
            )
        check_ours(table, shadow, self._newest(), ours)

    def _pages(self, table: str, where: str) -> Iterator[pl.DataFrame]:
        start = f"`{self._table.start}`"
        names = ", ".join(f"`{name}`" for name in (*self._table.columns, DELETED))
        counts = self._ask(
            f"SELECT toUnixTimestamp({start}) AS at, count() FROM {table} WHERE {where} "
            "GROUP BY at ORDER BY at"
        )
        windows: list[int] = []
        rows = 0
        for number, (at, count) in enumerate(counts, 1):
            windows.append(at)
            rows += count
            if rows >= PAGE_ROWS or number == len(counts):
                yield self._reader.frame(
                    f"SELECT {names} FROM {table} WHERE ({where}) "
                    f"AND toUnixTimestamp({start}) BETWEEN {windows[0]} AND {windows[-1]}"
                )
                windows, rows = [], 0

    def totals(self, from_ms: int, to_ms: int) -> pl.DataFrame:
        """Return the sums of each (partition, window)."""
        table = self._table
        sums = ", ".join(f"sum(`{name}`)" for name in self.sums)
        rows = self._ask(
            f"SELECT toInt64(`{PARTITION}`) AS part, "
            f"toUnixTimestamp64Milli(toDateTime64(`{table.start}`, 3, 'UTC')) AS at, {sums} "
            f"FROM {table.name} FINAL WHERE {self._of_topic()} AND "
            f"{self._between(from_ms, to_ms)} GROUP BY part, at ORDER BY at, part"
        )
        return totals_frame(rows, self.sums)

    def partitions(self, from_ms: int, to_ms: int) -> dict[tuple[str, int], int]:
        """Return the number of rows by (topic, partition); see ReplayTarget."""
        rows = self._ask(
            f"SELECT `{TOPIC}`, `{PARTITION}`, count() FROM {self._table.name} FINAL "
            f"WHERE {self._between(from_ms, to_ms)} GROUP BY `{TOPIC}`, `{PARTITION}`"
        )
        return {(topic, int(partition)): int(count) for topic, partition, count in rows}

    def rows(self, span: Span, rows_max: int) -> pl.DataFrame:
        """Return at most ``rows_max`` rows of a span of raw rows, each once, in order of their
        offsets."""
        names = ", ".join(f"`{name}`" for name in self._table.columns)
        return self._reader.frame(
            f"SELECT {names} FROM {self._table.name} FINAL WHERE {self._within([span])} "
            f"ORDER BY `{OFFSET}` LIMIT {rows_max}"
        )

    def close(self) -> None:
        """Release connections. Never raises."""
        self._reader.close()
        for writer in self._writers.values():
            writer.close()

    def _ask(self, sql: str) -> list[list[Any]]:
        return self._reader.rows(sql)[1]

    def _generations(self, table: str) -> Generations:
        rows = self._ask(
            f"SELECT `{TOPIC}`, bitShiftRight(max({self._table.version}), {GENERATION_SHIFT}) "
            f"FROM {table} GROUP BY `{TOPIC}`"
        )
        return {topic: int(newest) for topic, newest in rows}

    def _newest(self) -> tuple[Generations, Generations]:
        return self._generations(self._table.name), self._generations(self._shadow.name)

    def _has_shadow(self) -> bool:
        return bool(
            self._ask(
                "SELECT 1 FROM system.tables WHERE database = currentDatabase() "
                f"AND name = '{self._shadow.name}'"
            )
        )

    def _parts(self, table: str) -> set[str]:
        rows = self._ask(
            "SELECT name FROM system.parts WHERE active "
            f"AND database = currentDatabase() AND table = '{table}'"
        )
        return {str(name) for (name,) in rows}

    def _within(self, spans: Sequence[Span]) -> str:
        terms = [" AND ".join(self._terms(span)) for span in spans if span.from_ms < span.to_ms]
        within = " OR ".join(f"({term})" for term in terms) or "0"
        return f"{self._of_topic()} AND ({within})"

    def _of_topic(self) -> str:
        return f"`{TOPIC}` = {format_str(self._topic)}"

    def _terms(self, span: Span) -> Iterator[str]:
        yield self._between(span.from_ms, span.to_ms)
        if span.partition is not None:
            yield f"`{PARTITION}` = {span.partition}"
        if span.offsets is not None:
            first, end = span.offsets
            yield f"`{OFFSET}` >= {first} AND `{OFFSET}` < {end}"

    def _between(self, from_ms: int, to_ms: int) -> str:
        start = f"`{self._table.start}`"
        ends = f"{start} >= {_moment(from_ms)}"
        return ends if to_ms // 1000 > _END_S_MAX else f"{ends} AND {start} < {_moment(to_ms)}"


def shadow_of(table: Table) -> Table:
    """Return the table of the same form in which a replay waits to be exchanged."""
    return replace(table, name=f"{table.name}_shadow")


def wait_for_inserts(reader: ClickHouseReader, table: str) -> None:
    """Wait until no insert into the table runs, at most INSERTS_WAIT_S."""
    until_s = time.monotonic() + INSERTS_WAIT_S
    while time.monotonic() < until_s:
        _, [[running]] = reader.rows(
            "SELECT count() FROM system.processes "
            f"WHERE query_kind = 'Insert' AND position(query, '{table}') > 0"
        )
        if not running:
            return
        time.sleep(0.1)


def _moment(time_ms: int) -> str:
    return f"fromUnixTimestamp64Milli(toInt64({time_ms}), 'UTC')"
