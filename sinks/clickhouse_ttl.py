"""How long ClickHouse keeps the rows of single records: so many days after their event time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from schemas.tables.clickhouse import Table
from sinks.clickhouse import ClickHouseReader

_STANDING = re.compile(r"\bTTL toDateTime\(`?\w+`?\) \+ toIntervalDay\((\d+)\)")
"""Of a table's engine, as ``set_ttl`` has made it; a TTL of another form is not ours."""


def set_ttl(
    url: str, tables: Sequence[Table], days: int, *, home: Path | None = None
) -> dict[str, str]:
    """Let rows of those of the tables that have a row per record expire so many days after their
    event time; 0 keeps them. What has changed, by table. Raises SinkError.

    The days are counted by the server's clock, also for rows that stand there already.
    """
    reader = ClickHouseReader(url, home=home)
    changed = {}
    try:
        _, rows = reader.rows(
            "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()"
        )
        engines = dict(rows)
        for table in tables:
            found = _STANDING.search(engines[table.name])
            if not table.is_raw or days == (int(found[1]) if found else 0):
                continue
            if days:
                # A part holds a day: to drop it whole costs nothing, to rewrite it much.
                reader.rows(f"ALTER TABLE {table.name} MODIFY SETTING ttl_only_drop_parts = 1")
                ttl = f"toDateTime(`{table.start}`) + toIntervalDay({days})"
                reader.rows(f"ALTER TABLE {table.name} MODIFY TTL {ttl}")
                changed[table.name] = f"rows expire {days} days after their event time"
            else:
                reader.rows(f"ALTER TABLE {table.name} REMOVE TTL")
                changed[table.name] = "rows expire no more"
    finally:
        reader.close()
    return changed
