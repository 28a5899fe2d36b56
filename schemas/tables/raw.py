"""What tables of rows that stand for one record each have in common.

Such a row is known by where its record stands in its topic: written again, it is the same row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.tables.clickhouse import PLACE, Table, View
from schemas.topics import OFFSET

RECORD = {**PLACE, OFFSET: "UInt64"}


def raw_table(name: str, columns: Mapping[str, str], by: Sequence[str], *, time: str) -> Table:
    """A table of raw rows, sorted for those who ask by ``by``; ``time`` must be one of them."""
    return Table(
        name=f"{name}_rows",
        columns={**columns, **RECORD, "version": "UInt64"},
        order_by=(*by, *RECORD),
        partition_by=f"toYYYYMMDD({time})",
        start=time,
    )


def raw_view(table: Table, *, condition: str = "") -> View:
    """Each row of a raw table once, under the table's own name and without its housekeeping."""
    names = [name for name in table.columns if name not in (*RECORD, table.version)]
    where = f" WHERE {condition}" if condition else ""
    return View(
        name=table.name.removesuffix("_rows"),
        select=f"SELECT {', '.join(names)} FROM {table.name} FINAL{where}",
    )
