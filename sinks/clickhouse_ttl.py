"""Expiry of single records' rows in ClickHouse: a number of days after their event time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from footfall.schemas.tables.clickhouse import Table
from footfall.sinks.clickhouse import ClickHouseReader

_STANDING = re.compile(r"\bTTL toDateTime\(`?\w+`?\) \+ toIntervalDay\((\d+)\)")
"""Pattern of a table's TTL as ``set_ttl`` makes it; a TTL of another form is not ours."""


def set_ttl(
    url: str, tables: Sequence[Table], days: int, *, home: Path | None = None
) -> dict[str, str]:
    """Let rows of raw tables expire ``days`` after their event time; 0 keeps them.

    Returns what has changed, by table. The server's clock decides, also for rows that are there
    already. Raises SinkError.
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
                # A part holds a day: dropping it whole costs nothing, rewriting it much.
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
