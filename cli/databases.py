"""Asks the two databases for a command: SQL in, names of columns and plain rows out."""

from __future__ import annotations

from typing import Any

from footfall.schemas.settings import Settings

Rows = tuple[list[str], list[list[Any]]]
"""(names of the columns, rows of None, bool, int, float, text and lists of them)"""


def ask_clickhouse(settings: Settings, sql: str) -> Rows:
    """Ask ClickHouse. Raises sinks.SinkError with the server's reason."""
    from footfall.sinks.clickhouse import query_rows

    return query_rows(settings.clickhouse_url, sql, home=settings.footfall_home)


def ask_store(settings: Settings, sql: str) -> Rows:
    """Ask the store's database. Raises sinks.SinkError with the server's reason."""
    from footfall.sinks.sql import query_rows

    return query_rows(settings.postgres_url, sql)
