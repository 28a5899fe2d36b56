"""Rows kept by topic partition and their totals, in PostgreSQL or SQLite, in one transaction.

Delivery    upserts guarded by version: writing again changes nothing, a lower version loses
Durability  PostgreSQL's commit; SQLite's, which survives the crash of every process
Notices     at-least-once where ``to_announce`` is given: what a crash kept from being announced
            is announced by the next writer
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import polars as pl
from sqlalchemy import (
    Column,
    Connection,
    Executable,
    Integer,
    MetaData,
    Table,
    and_,
    delete,
    func,
    inspect,
    literal,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import TypeEngine

from footfall.schemas.tables.rollup import Rollup
from footfall.schemas.tables.sql_types import sql_time
from footfall.schemas.topics import APPENDED, PARTITION, TOPIC
from footfall.schemas.versions import GENERATION_SHIFT
from footfall.sinks import SinkRefusedError
from footfall.sinks._sql_engine import GIVE_UP_AFTER_S, Store
from footfall.sinks.tables import Columns, check_columns

READ_S_MAX = 10.0
ROWS_READ_MAX = 1_000_000
"""Most rows that a query may return."""

TotalRow = dict[str, Any]
AfterWrite = Callable[[list[TotalRow]], None]


class SqlRollup:
    """A writer of partial rows that keeps one total row per key.

    The version of a total grows with each of its parts: the highest generation among them, and the
    sum of the rest.
    """

    def __init__(
        self,
        url: str,
        rollup: Rollup,
        *,
        after_write: AfterWrite | None = None,
        give_up_after_s: float = GIVE_UP_AFTER_S,
    ) -> None:
        """Take ``after_write``, which is given the durable totals that a write changed.

        ``rollup.to_announce`` remembers those that it was not given yet.
        """
        self._store = Store(url, give_up_after_s=give_up_after_s)
        self._partial = rollup.partial
        self._total = rollup.total
        self._key = rollup.key
        self._sums = rollup.sums
        self._after_write = after_write
        self._to_announce = rollup.to_announce if after_write is not None else None
        self._left_over_told = self._to_announce is None
        self._put_partial = _Upsert(self._store, self._partial, newer_only=True)
        self._put_to_announce = (
            _Upsert(self._store, self._to_announce, newer_only=False)
            if self._to_announce is not None
            else None
        )
        self._put_newest = (
            _Upsert(self._store, rollup.newest, newer_only=False)
            if rollup.newest is not None
            else None
        )
        self._sum_up = self._sum_up_statement(self._put_partial.staged)

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        """Upsert partial rows and their totals; return when they are durable and announced.

        Frames have the columns of ``partial``, with Datetime('ms', 'UTC') for times, and may hold
        a row more than once: the highest version counts. Raises SinkError, with nothing written.
        """
        self._tell_left_over()
        rows = _newest(frames, self._partial)
        if rows.is_empty():
            return
        appended = _appended(frames)
        write_id = secrets.randbits(63)
        attempts = 0

        def merge(connection: Connection) -> list[TotalRow]:
            nonlocal attempts
            attempts += 1
            if self._put_newest is not None and not appended.is_empty():
                self._put_newest.put(self._store, connection, appended)
            return self.merge(connection, rows, write_id)

        changed = self._store.transaction(self._total.name, merge)
        self.tell(changed, [write_id])
        if attempts > 1:
            # An attempt may have been committed though its answer was lost.
            self._left_over_told = self._to_announce is None
            self._tell_left_over()

    def close(self) -> None:
        """Release connections. Never raises."""
        self._store.close()

    def merge(self, connection: Connection, rows: pl.DataFrame, write_id: int) -> list[TotalRow]:
        """Upsert partial rows and their totals in a transaction; return the totals that
        changed."""
        self._put_partial.put(self._store, connection, rows)
        found = [dict(row) for row in connection.execute(self._sum_up).mappings()]
        changed = [row for row in found if row[self._sums[0]]]
        if len(changed) < len(found):
            # A window without events has no row.
            connection.execute(delete(self._total).where(self._total.c[self._sums[0]] == 0))
        if changed and self._put_to_announce is not None:
            keys = pl.DataFrame({name: [row[name] for row in changed] for name in self._key})
            keys = keys.with_columns(pl.lit(write_id, dtype=pl.Int64).alias("write_id"))
            self._put_to_announce.put(self._store, connection, keys)
        return changed

    def _sum_up_statement(self, staged: Table) -> Executable:
        """Return the statement that sums up the staged keys, and returns the totals that
        changed."""
        partial, total = self._partial, self._total
        key = [partial.c[name] for name in self._key]
        version = partial.c.version
        bits = literal(GENERATION_SHIFT, Integer)
        generation = func.max(version.bitwise_rshift(bits)).bitwise_lshift(bits)
        seen = func.sum(version.bitwise_and((1 << GENERATION_SHIFT) - 1))
        touched = select(*(staged.c[name] for name in self._key))
        found = (
            select(*key, *(func.sum(partial.c[name]) for name in self._sums), generation + seen)
            .where(tuple_(*key).in_(touched))
            .group_by(*key)
        )
        values = (*self._sums, "version")
        insert = _insert(self._store, total).from_select([*self._key, *values], found)
        new = insert.excluded
        statement: Executable = insert.on_conflict_do_update(
            index_elements=[total.c[name] for name in self._key],
            set_={name: new[name] for name in values},
            where=or_(*(total.c[name].is_distinct_from(new[name]) for name in values)),
        ).returning(*total.c)
        return statement

    def tell(self, changed: list[TotalRow], write_ids: list[int]) -> None:
        """Announce durable totals, and note that they were announced."""
        if not changed or self._after_write is None:
            return
        self._after_write(changed)
        table = self._to_announce
        if table is not None:
            told = delete(table).where(table.c.write_id.in_(write_ids))
            self._store.transaction(self._total.name, lambda found: found.execute(told))

    def _tell_left_over(self) -> None:
        """Announce, once, what another writer wrote and could not announce any more."""
        table = self._to_announce
        if self._left_over_told or table is None:
            return
        total = self._total
        left = select(*total.c, table.c.write_id).join_from(
            table, total, and_(*(table.c[name] == total.c[name] for name in self._key))
        )
        rows = self._store.transaction(
            total.name, lambda found: [dict(row) for row in found.execute(left).mappings()]
        )
        self.tell(rows, list({row.pop("write_id") for row in rows}))
        self._left_over_told = True


class _Upsert:
    """An upsert of many rows into a table at once, through a temporary table."""

    def __init__(self, store: Store, table: Table, *, newer_only: bool) -> None:
        self.staged = Table(
            f"staged_{table.name}",
            MetaData(),
            *(Column(column.name, column.type) for column in table.columns),
            prefixes=["TEMPORARY"],
            postgresql_on_commit="DELETE ROWS",
        )
        self._make = CreateTable(self.staged, if_not_exists=True)
        self._empty = delete(self.staged)
        names = list(table.columns.keys())
        insert = _insert(store, table).from_select(
            names,
            # Without a WHERE before it, SQLite reads ON CONFLICT as part of a join.
            select(*(self.staged.c[name] for name in names)).where(true()),
        )
        new = insert.excluded
        self._upsert: Executable = insert.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={c.name: new[c.name] for c in table.columns if not c.primary_key},
            where=new.version >= table.c.version if newer_only else None,
        )

    def put(self, store: Store, connection: Connection, rows: pl.DataFrame) -> None:
        """Upsert the rows; they stay in ``staged`` until the transaction ends."""
        connection.execute(self._make)
        connection.execute(self._empty)
        store.stage(connection, self.staged, rows)
        connection.execute(self._upsert)


def create_tables(
    url: str, metadata: MetaData, *, give_up_after_s: float = GIVE_UP_AFTER_S
) -> None:
    """Make the tables that are missing; several processes may do so at once.

    Raises SinkRefusedError for a table that is there with other columns, and SinkError.
    """
    store = Store(url, give_up_after_s=give_up_after_s)

    def make(connection: Connection) -> None:
        metadata.create_all(connection)
        for table in metadata.sorted_tables:
            move = f"ALTER TABLE {table.name} RENAME TO {table.name}_old"
            check_columns(f"{store.name}, table {table.name}", *_columns(connection, table), move)

    try:
        store.transaction("footfall tables", make)
    finally:
        store.close()


def columns_of(url: str, tables: Sequence[Table]) -> dict[str, tuple[Columns, Columns]]:
    """Return (wanted columns, actual columns) by table; the latter are empty without the table.

    Raises SinkError.
    """
    store = Store(url, give_up_after_s=READ_S_MAX, read_only=True)
    try:
        return store.read(
            lambda connection: {table.name: _columns(connection, table) for table in tables}
        )
    finally:
        store.close()


def _columns(connection: Connection, table: Table) -> tuple[Columns, Columns]:
    """Return (wanted columns, actual columns) of a table, each with its key under a name."""
    looked = inspect(connection)

    def typed(columns: Iterable[tuple[str, TypeEngine[Any]]], key: Iterable[str]) -> Columns:
        types = {name: kind.compile(dialect=connection.dialect) for name, kind in columns}
        return {**types, "its primary key": ", ".join(key)}

    wanted = typed(
        ((column.name, column.type) for column in table.columns),
        (column.name for column in table.primary_key),
    )
    if not looked.has_table(table.name):
        return wanted, {}
    columns = looked.get_columns(table.name)
    key = looked.get_pk_constraint(table.name)["constrained_columns"]
    return wanted, typed(((column["name"], column["type"]) for column in columns), key)


def query_rows(
    url: str, sql: str, *, rows_max: int = ROWS_READ_MAX
) -> tuple[list[str], list[list[Any]]]:
    """Return the names of the columns, and the rows, of one query that only reads.

    Values are None, bool, int, float or text; times are text in UTC, the same for PostgreSQL and
    SQLite. Raises SinkRefusedError with the server's reason, SinkUnavailableError.
    """
    store = Store(url, give_up_after_s=READ_S_MAX, read_only=True)

    def ask(cursor: Any) -> tuple[list[str], list[list[Any]]]:
        # A prepared statement is only one: it cannot end the read-only transaction first.
        cursor.execute(sql) if store.is_sqlite else cursor.execute(sql, prepare=True)
        if cursor.description is None:
            raise SinkRefusedError("that returns no rows: only queries are taken, such as SELECT")
        rows = cursor.fetchmany(rows_max + 1)
        if len(rows) > rows_max:
            raise SinkRefusedError(f"more than {rows_max} rows: add a LIMIT")
        names = [column[0] for column in cursor.description]
        return names, [[_plain(value) for value in row] for row in rows]

    try:
        return store.cursor(ask)
    finally:
        store.close()


def _newest(frames: Sequence[pl.DataFrame], table: Table) -> pl.DataFrame:
    """Return each row of a table once, in its highest version, sorted by key."""
    names = table.columns.keys()
    for frame in frames:
        missing = [name for name in names if name not in frame.columns]
        unknown = [name for name in frame.columns if name not in names and name != APPENDED]
        if missing or unknown:
            raise SinkRefusedError(
                f"rows for {table.name} lack {missing}, and have the unknown {unknown}"
            )
        for name, kind in frame.schema.items():
            if isinstance(kind, pl.Datetime) and kind.time_zone != "UTC":
                raise SinkRefusedError(f"{table.name}.{name} is {kind}: times must be in UTC")
    if not frames:
        return pl.DataFrame()
    rows = pl.concat([frame.select(names) for frame in frames], how="vertical_relaxed")
    key = [column.name for column in table.primary_key]
    return rows.sort([*key, "version"]).unique(key, keep="last", maintain_order=True)


def _appended(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the newest APPENDED by topic and partition, of the rows that have it."""
    given = [frame.select(TOPIC, PARTITION, APPENDED) for frame in frames if APPENDED in frame]
    return pl.concat(given).group_by(TOPIC, PARTITION).max() if given else pl.DataFrame()


def _insert(store: Store, table: Table) -> Any:
    return sqlite.insert(table) if store.is_sqlite else postgresql.insert(table)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return sql_time(value) if value.tzinfo else str(value)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode(errors="replace")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.isoformat() if isinstance(value, date) else str(value)
