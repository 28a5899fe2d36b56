"""Raw tables, in which each row stands for one record.

Such a row is identified by its record's place in the topic: written again, it is the same row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from footfall.schemas.tables.clickhouse import PLACE, Table, View
from footfall.schemas.topics import OFFSET

RECORD = {**PLACE, OFFSET: "UInt64"}


def raw_table(name: str, columns: Mapping[str, str], by: Sequence[str], *, time: str) -> Table:
    """Return a table of raw rows, sorted for queries by ``by``; ``time`` must be one of them."""
    return Table(
        name=f"{name}_rows",
        columns={**columns, **RECORD, "version": "UInt64"},
        order_by=(*by, *RECORD),
        partition_by=f"toYYYYMMDD({time})",
        start=time,
    )


def raw_view(table: Table, *, condition: str = "") -> View:
    """Return a view of each row once, under the table's own name and without its housekeeping."""
    names = [name for name in table.columns if name not in (*RECORD, table.version)]
    where = f" WHERE {condition}" if condition else ""
    return View(
        name=table.name.removesuffix("_rows"),
        select=f"SELECT {', '.join(names)} FROM {table.name} FINAL{where}",
    )
