"""Move ClickHouse tables whose rows do not name their topic into the present form.

Such a table is renamed, made again and filled from the old one, which stays as ``<name>_before``.
Until all rows are there the old one is ``<name>_to_move``: a move that was broken off goes on at
the next call, and copying rows again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from clickhouse_connect.driver.binding import format_str

from footfall.schemas.tables.clickhouse import DELETED, Table
from footfall.schemas.topics import TOPIC
from footfall.sinks import SinkRefusedError
from footfall.sinks.clickhouse import ClickHouseReader, create_tables
from footfall.sinks.clickhouse_replay import STATEMENT_S_MAX, shadow_of, wait_for_inserts


def before(table: Table) -> str:
    """Return the name that the old table has in the end."""
    return f"{table.name}_before"


def move_tables(
    url: str, tables: Sequence[Table], topics: Mapping[str, str], *, home: Path | None = None
) -> Iterator[tuple[Table, int]]:
    """Move those tables and shadows that are in their earlier form; yield (table, number of rows).

    ``topics`` gives, by table, the topic of its rows; rows of a table that is not named there have
    it in their column ``source``. Writers must not run. Raises SinkError.
    """
    reader = ClickHouseReader(url, home=home, answer_timeout_s=STATEMENT_S_MAX)
    try:
        standing = _columns(reader)
        for table, topic in _with_shadows(tables, topics):
            old = f"{table.name}_to_move"
            is_of_before = standing.get(table.name) == {*table.columns, DELETED} - {TOPIC}
            if not is_of_before and old not in standing:
                continue
            if before(table) in standing:
                raise SinkRefusedError(
                    f"table {table.name} is to be moved into its new form, and {before(table)} "
                    "stands there from an earlier time: drop it, or rename it"
                )
            if is_of_before:
                reader.rows(f"RENAME TABLE {table.name} TO {old}")
                wait_for_inserts(reader, table.name)
            create_tables(url, [table], home=home)
            _copy(reader, table, old, "source" if topic is None else format_str(topic))
            reader.rows(f"RENAME TABLE {old} TO {before(table)}")
            _, [[count]] = reader.rows(f"SELECT count() FROM {before(table)}")
            yield table, int(count)
    finally:
        reader.close()


def _with_shadows(
    tables: Sequence[Table], topics: Mapping[str, str]
) -> Iterator[tuple[Table, str | None]]:
    for table in tables:
        for each in (table, shadow_of(table)):
            yield each, topics.get(table.name)


def _copy(reader: ClickHouseReader, table: Table, old: str, topic: str) -> None:
    """Copy all rows, also superseded ones and those taken back, one ClickHouse partition per
    statement."""
    names = [name for name in (*table.columns, DELETED) if name != TOPIC]
    columns = ", ".join(f"`{name}`" for name in names)
    _, partitions = reader.rows(f"SELECT DISTINCT _partition_id FROM {old} ORDER BY _partition_id")
    for (partition,) in partitions:
        reader.rows(
            f"INSERT INTO {table.name} ({columns}, `{TOPIC}`) "
            f"SELECT {columns}, {topic} FROM {old} WHERE _partition_id = '{partition}'"
        )


def _columns(reader: ClickHouseReader) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for table, column in reader.rows(
        "SELECT table, name FROM system.columns WHERE database = currentDatabase()"
    )[1]:
        found.setdefault(table, set()).add(column)
    return found
