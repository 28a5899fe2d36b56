"""Files of the truth: one Parquet file per table, sorted by all its columns.

Moments are milliseconds since 1970 UTC (``_ms``), ids are text, names are those of the tables
that the flows write.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

CHUNK_ROWS = 65_536

_TEXT, _INT = pl.String(), pl.Int64()
_TRACE: dict[str, pl.DataType] = {
    "request_id": _TEXT, "time_ms": _INT, "server": _TEXT, "log": _TEXT, "user_id": _TEXT,
}  # fmt: skip
_SESSION: dict[str, pl.DataType] = {
    "user_id": _TEXT, "login_ms": _INT, "end_ms": _INT, "spent_s": pl.Float64(), "ended_by": _TEXT,
}  # fmt: skip
_VIEWS: dict[str, pl.DataType] = {"minute_ms": _INT, "source": _TEXT, "product_id": _TEXT}

SHOP_ANSWERS: dict[str, dict[str, pl.DataType]] = {
    "shop_events_rows": {"kind": _TEXT, "rows": _INT},
    "shop_funnel_by_hour": {
        "hour_ms": _INT, "visited": _INT, "searched": _INT, "added_to_cart": _INT,
        "ordered": _INT,
    },
    "shop_searches_without_visit": {"query": _TEXT, "searches": _INT},
    "shop_compared_pairs": {
        "item_id": _TEXT, "other_item_id": _TEXT, "compared_by": _TEXT, "comparisons": _INT,
    },
    "shop_returns_by_reason": {"reason": _TEXT, "item_id": _TEXT, "returns": _INT},
    "shop_campaign_sales": {
        "sale_id": _TEXT, "participations": _INT, "items": _INT, "users": _INT,
    },
    "shop_coupon_orders": {"coupon_id": _TEXT, "orders": _INT},
    "shop_support_load": {
        "hour_ms": _INT, "contacted_by": _TEXT, "contacts": _INT, "users": _INT,
    },
    "shop_registrations_by_hour": {"hour_ms": _INT, "registrations": _INT},
    "shop_logins_by_hour": {
        "hour_ms": _INT, "logged_in_by": _TEXT, "logins": _INT, "users": _INT,
    },
}  # fmt: skip
"""Columns of the views of shop_events."""

TABLES: dict[str, dict[str, pl.DataType]] = {
    "request_trace": _TRACE,
    "user_trace": _TRACE,
    "request_summary": {
        "request_id": _TEXT, "user_id": _TEXT, "started_ms": _INT, "duration_ms": _INT,
        "steps": _INT, "hops": _INT, "servers": pl.List(_TEXT), "operation": _TEXT,
        "outcome": _TEXT,
        # "Server.Action"; empty where no step is missing.
        "missing": _TEXT,
    },
    "online_user": {"user_id": _TEXT, "time_ms": _INT},
    "online_users_per_minute": {"minute_ms": _INT, "active": _INT, "online": _INT},
    "users_spend_time_online": _SESSION,
    "shop_sessions": _SESSION,
    "failed_login": {"user_id": _TEXT, "time_ms": _INT, "request_id": _TEXT},
    "failed_logins_per_minute": {"minute_ms": _INT, "user_id": _TEXT, "failures": _INT},
    "login_alerts": {
        "user_id": _TEXT, "time_ms": _INT, "failures": _INT, "times_ms": pl.List(_INT),
    },
    # The source is the topic.
    "product_views_per_minute": _VIEWS | {"views": _INT, "impressions": _INT},
    "product_user_views_per_minute": _VIEWS
    | {"user_id": _TEXT, "views": _INT, "impressions": _INT},
    "service_health": {
        "minute_ms": _INT, "server": _TEXT, "operation": _TEXT, "requests": _INT,
        "errors": _INT, "p50_ms": _INT, "p95_ms": _INT, "p99_ms": _INT,
    },
    "service_health_anomalies": {
        "minute_ms": _INT, "server": _TEXT, "operation": _TEXT, "measure": _TEXT,
        "value": pl.Float64(), "expected": pl.Float64(),
    },
    **SHOP_ANSWERS,
    "events": {
        "start_event_time_ms": _INT, "end_event_time_ms": _INT, "nr_of_events": _INT,
        "nr_items_viewed": _INT, "nr_items_put_in_cart": _INT, "nr_items_sold": _INT,
        "value_items_sold_in_cent": _INT,
    },
    "minute_buckets": {
        "bucket_ms": _INT, "action": _TEXT, "origin": _TEXT, "brand_id": _TEXT,
        "category_id": _TEXT, "count": _INT, "sum_price": _INT,
    },
    # The tag is the record as it was sent.
    "user_profiles": {"cookie": _TEXT, "action": _TEXT, "time_ms": _INT, "tag": _TEXT},
    # Numbers of records that were sent, that were dead (malformed, future), and that were late.
    "accounts": {
        "topic": _TEXT, "records": _INT, "malformed": _INT, "future": _INT, "late": _INT,
    },
}  # fmt: skip


class Rows:
    """Rows of one table, packed as they come."""

    def __init__(self, columns: dict[str, pl.DataType]) -> None:
        self._columns = columns
        self._new: list[tuple[Any, ...]] = []
        self._packed: list[pl.DataFrame] = []

    def add(self, row: tuple[Any, ...]) -> None:
        """Add a row: a value for each column, in order."""
        self._new.append(row)
        if len(self._new) >= CHUNK_ROWS:
            self._pack()

    def add_all(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add many rows."""
        for row in rows:
            self.add(row)

    def frame(self) -> pl.DataFrame:
        """Return all rows, sorted by all columns but lists, the first one first."""
        self._pack()
        by = [name for name, kind in self._columns.items() if not isinstance(kind, pl.List)]
        return pl.concat(self._packed).sort(by)

    def _pack(self) -> None:
        self._packed.append(pl.DataFrame(self._new, schema=self._columns, orient="row"))
        self._new = []


def write_tables(tables: dict[str, Rows], folder: Path) -> dict[str, int]:
    """Write each table to ``<folder>/<name>.parquet``; return the number of rows by table.

    Raises OSError where the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, columns in TABLES.items():
        frame = tables[name].frame().select(list(columns))
        frame.write_parquet(folder / f"{name}.parquet")
        written[name] = frame.height
    return written
