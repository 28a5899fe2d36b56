"""Partial rows and their totals, in PostgreSQL or SQLite, as the target of a replay."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import polars as pl
import polars.selectors as cs
from sqlalchemy import (
    ColumnElement,
    Connection,
    MetaData,
    Select,
    Table,
    and_,
    delete,
    distinct,
    exists,
    false,
    func,
    insert,
    inspect,
    or_,
    select,
    tuple_,
)

from footfall.schemas.tables.rollup import Rollup
from footfall.schemas.topics import PARTITION, TOPIC
from footfall.schemas.versions import GENERATION_SHIFT
from footfall.sinks import SinkRefusedError
from footfall.sinks._sql_engine import Store
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
from footfall.sinks.sql import AfterWrite, SqlRollup, TotalRow

T = TypeVar("T")

WINDOWS_AT_ONCE = 5_000
"""Number of windows whose rows are held at once while they are exchanged."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 4_291_747_200_000
"""Milliseconds since 1970 UTC of 2106-01-01, later than any event."""


class SqlReplay:
    """A ReplayTarget. The shadow is the same two tables, each ``<name>_shadow``."""

    def __init__(
        self,
        url: str,
        rollup: Rollup,
        topic: str,
        *,
        after_write: AfterWrite | None = None,
    ) -> None:
        """Take the ``topic`` whose rows are meant.

        ``after_write`` is given the changed totals of the table itself, never of the shadow.
        """
        self.sums = rollup.sums
        self._topic = topic
        self._key = rollup.key
        self._store = Store(url)
        self._live = rollup
        self._shadow = replace(
            rollup,
            partial=shadow_of(rollup.partial),
            total=shadow_of(rollup.total),
            to_announce=None,
        )
        self._rollups = {
            False: SqlRollup(url, rollup, after_write=after_write),
            True: SqlRollup(url, self._shadow),
        }

    def newest_generation(self) -> int:
        """Return the highest generation among the topic's rows."""
        newest = self._in_transaction(lambda found: _generations(found, self._live.partial))
        return newest.get(self._topic, 0)

    def make_shadow(self, ours: Collection[str]) -> None:
        """Make an empty shadow; see ReplayTarget."""

        def make(connection: Connection) -> None:
            if self._has_shadow(connection):
                waits = waiting(*self._newest(connection))
                check_others(self._shadow.partial.name, waits, ours)
            for table in (self._shadow.partial, self._shadow.total):
                table.drop(connection, checkfirst=True)
                table.create(connection)

        self._in_transaction(make)

    def write(self, frames: Sequence[pl.DataFrame], *, shadow: bool) -> None:
        """Return when the rows are durable and announced."""
        self._rollups[shadow].write(frames)

    def remove_older(self, spans: Sequence[Span], generation: int, *, shadow: bool) -> int:
        """Set to 0 what earlier generations hold of the spans; return the number of rows.

        An emptied partial row stays, so that no late write of its generation brings it back.
        """
        return self._remove(self._older(spans, generation), generation, shadow=shadow)

    def remove_replaced(self, spans: Sequence[Span], generation: int, *, shadow: bool) -> int:
        """Do the same, but only in windows that the generation has a row of."""
        replaced = self._is_replaced(generation, shadow=shadow)
        wanted = and_(self._older(spans, generation), replaced)
        return self._remove(wanted, generation, shadow=shadow)

    def not_replaced(
        self, spans: Sequence[Span], generation: int, *, shadow: bool
    ) -> Windows | None:
        """Return the windows of which only earlier generations have rows."""
        start = self._live.partial.c[self._key[0]]
        wanted = select(func.count(distinct(start)), func.min(start), func.max(start)).where(
            self._older(spans, generation), ~self._is_replaced(generation, shadow=shadow)
        )
        count, first, last = self._in_transaction(lambda found: found.execute(wanted).one())
        return Windows(int(count), _ms(first), _ms(last)) if count else None

    def _older(self, spans: Sequence[Span], generation: int) -> ColumnElement[bool]:
        partial = self._live.partial
        return and_(
            self._within(partial, spans),
            partial.c.version < generation << GENERATION_SHIFT,
            partial.c[self.sums[0]] > 0,
        )

    def _is_replaced(self, generation: int, *, shadow: bool) -> ColumnElement[bool]:
        into = (self._shadow if shadow else self._live).partial.alias("replaced")
        start = self._key[0]
        return exists().where(
            into.c[TOPIC] == self._topic,
            into.c[start] == self._live.partial.c[start],
            into.c.version >= generation << GENERATION_SHIFT,
            into.c[self.sums[0]] > 0,
        )

    def _remove(self, older: ColumnElement[bool], generation: int, *, shadow: bool) -> int:
        partial, copy = self._live.partial, self._shadow.partial
        version = generation << GENERATION_SHIFT
        holds = older
        if shadow:
            # NOT IN would have PostgreSQL scan the whole table for each row.
            pairs = zip(self._place_of(partial), self._place_of(copy), strict=True)
            holds = and_(holds, ~exists().where(*(ours == theirs for ours, theirs in pairs)))
        gone = select(*self._place_of(partial)).where(holds)
        write_id = secrets.randbits(63)

        def remove(connection: Connection) -> tuple[int, list[TotalRow]]:
            rows = [
                {**row, **dict.fromkeys(self.sums, 0), "version": version}
                for row in connection.execute(gone).mappings()
            ]
            if not rows:
                return 0, []
            return len(rows), self._merge(connection, rows, write_id, shadow=shadow)

        count, changed = self._in_transaction(remove)
        self._rollups[shadow].tell(changed, [write_id])
        return count

    def differences(self, spans: Sequence[Span]) -> list[Difference]:
        """Return the windows in which table and shadow differ."""
        live = self._by_window(self._live.partial, spans)
        shadow = self._by_window(self._shadow.partial, spans)
        found = [
            Difference(start_ms, live.get(start_ms), shadow.get(start_ms))
            for start_ms in sorted(live.keys() | shadow.keys())
            if live.get(start_ms) != shadow.get(start_ms)
        ]
        return found[:DIFFERENCES_MAX]

    def swap(self, ours: Collection[str]) -> None:
        """Exchange the rows of the shadow with those of the same keys, in one transaction.

        Raises as ReplayTarget says.
        """
        partial, copy = self._live.partial, self._shadow.partial
        write_id = secrets.randbits(63)

        def exchange(connection: Connection) -> list[TotalRow]:
            if not self._has_shadow(connection):
                raise SinkRefusedError(
                    f"there is no table {copy.name} to exchange: make it with --into shadow"
                )
            check_ours(partial.name, copy.name, self._newest(connection), ours)
            start, changed = self._key[0], []
            moments = list(connection.execute(select(copy.c[start]).distinct()).scalars())
            moments.sort()
            for first in range(0, len(moments), WINDOWS_AT_ONCE):
                some = moments[first : first + WINDOWS_AT_ONCE]
                theirs = copy.c[start].between(some[0], some[-1])
                same = self._place(partial).in_(select(*self._place_of(copy)).where(theirs))
                before = _rows(connection, select(partial).where(same))
                after = _rows(connection, select(copy).where(theirs))
                changed += self._merge(connection, after, write_id)
                connection.execute(delete(copy).where(theirs))
                if before:
                    connection.execute(insert(copy), before)
            connection.execute(delete(self._shadow.total))
            return changed

        self._rollups[False].tell(self._in_transaction(exchange), [write_id])

    def totals(self, from_ms: int, to_ms: int) -> pl.DataFrame:
        """Return the sums of each (partition, window)."""
        table = self._live.partial
        wanted = select(
            table.c[PARTITION],
            table.c[self._key[0]],
            *(table.c[name] for name in self.sums),
        ).where(self._within(table, [Span(None, from_ms, to_ms)]), table.c[self.sums[0]] > 0)
        rows = self._in_transaction(lambda found: found.execute(wanted).all())
        return totals_frame([(row[0], _ms(row[1]), *row[2:]) for row in rows], self.sums)

    def partitions(self, from_ms: int, to_ms: int) -> dict[tuple[str, int], int]:
        """Return the number of rows by (topic, partition); see ReplayTarget."""
        table = self._live.partial
        place = (table.c[TOPIC], table.c[PARTITION])
        wanted = (
            select(*place, func.count())
            .where(self._between(table, from_ms, to_ms), table.c[self.sums[0]] > 0)
            .group_by(*place)
        )
        rows = self._in_transaction(lambda found: found.execute(wanted).all())
        return {(topic, partition): count for topic, partition, count in rows}

    def close(self) -> None:
        """Release connections. Never raises."""
        self._store.close()
        for rollup in self._rollups.values():
            rollup.close()

    def _in_transaction(self, work: Callable[[Connection], T]) -> T:
        """Do ``work`` with the lock of the live worker's writes: they wait for each other."""
        return self._store.transaction(self._live.total.name, work)

    def _merge(
        self,
        connection: Connection,
        rows: list[dict[str, Any]],
        write_id: int,
        *,
        shadow: bool = False,
    ) -> list[TotalRow]:
        """Upsert partial rows and their totals; return the totals that changed."""
        of = self._shadow if shadow else self._live
        return self._rollups[shadow].merge(connection, _frame(rows, of.partial), write_id)

    def _has_shadow(self, connection: Connection) -> bool:
        return inspect(connection).has_table(self._shadow.partial.name)

    def _newest(self, connection: Connection) -> tuple[Generations, Generations]:
        live, shadow = self._live.partial, self._shadow.partial
        return _generations(connection, live), _generations(connection, shadow)

    def _place_of(self, table: Table) -> list[Any]:
        return [table.c[name] for name in (*self._key, TOPIC, PARTITION)]

    def _place(self, table: Table) -> Any:
        return tuple_(*self._place_of(table))

    def _by_window(self, table: Table, spans: Sequence[Span]) -> dict[int, tuple[int, ...]]:
        start = table.c[self._key[0]]
        wanted = (
            select(start, *(func.sum(table.c[name]) for name in self.sums))
            .where(self._within(table, spans), table.c[self.sums[0]] > 0)
            .group_by(start)
        )
        rows = self._in_transaction(lambda found: found.execute(wanted).all())
        return {_ms(row[0]): tuple(map(int, row[1:])) for row in rows}

    def _within(self, table: Table, spans: Sequence[Span]) -> ColumnElement[bool]:
        terms = [
            and_(
                self._between(table, span.from_ms, span.to_ms),
                *([] if span.partition is None else [table.c[PARTITION] == span.partition]),
            )
            for span in spans
        ]
        return and_(table.c[TOPIC] == self._topic, or_(false(), *terms))

    def _between(self, table: Table, from_ms: int, to_ms: int) -> ColumnElement[bool]:
        start = table.c[self._key[0]]
        return and_(start >= _moment(from_ms), start < _moment(to_ms))


def shadow_of(table: Table) -> Table:
    """Return the table of the same form in which a replay waits to be exchanged."""
    return table.to_metadata(MetaData(), name=f"{table.name}_shadow")


def _generations(connection: Connection, table: Table) -> dict[str, int]:
    newest = select(table.c[TOPIC], func.max(table.c.version)).group_by(table.c[TOPIC])
    return {topic: int(of) >> GENERATION_SHIFT for topic, of in connection.execute(newest)}


def _rows(connection: Connection, wanted: Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(wanted).mappings()]


def _moment(time_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=min(time_ms, _LAST_MS))


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _frame(rows: list[dict[str, Any]], table: Table) -> pl.DataFrame:
    """Return rows as a writer takes them."""
    columns = {column.name: [row[column.name] for row in rows] for column in table.columns}
    return pl.DataFrame(columns).with_columns(cs.datetime().cast(pl.Datetime("ms", "UTC")))
