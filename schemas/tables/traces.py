"""Traces and request summaries.

``request_trace`` and ``user_trace`` have every record of platform_logs, by request and by user.
``request_summary`` has the outcome of each request, the newest where an id was used again.
``flows._request_lives`` says which steps make one request.
"""

from __future__ import annotations

from footfall.schemas.tables.clickhouse import PLACE, Table, View
from footfall.schemas.tables.raw import raw_table, raw_view

_NAME = "LowCardinality(String)"
_MOMENT = "DateTime64(3, 'UTC')"

REQUEST_TRACE = raw_table(
    "request_trace",
    {
        "request_id": "String",
        "time": _MOMENT,
        "server": _NAME,
        "log": _NAME,
        "user_id": "String",
        # Empty where the record has no status.
        "status": _NAME,
        "error": "String",
        "failed": "Bool",
    },
    by=("request_id", "time"),
    time="time",
)
REQUEST_TRACE_VIEW = raw_view(REQUEST_TRACE)

USER_TRACE = raw_table(
    "user_trace",
    {
        "user_id": "String",
        "time": _MOMENT,
        "log": _NAME,
        "request_id": "String",
        "server": _NAME,
    },
    by=("user_id", "time"),
    time="time",
)
USER_TRACE_VIEW = raw_view(USER_TRACE)

REQUEST_SUMMARY = Table(
    name="request_summary_rows",
    columns={
        "request_id": "String",
        "user_id": "String",
        "started": _MOMENT,
        "duration_ms": "UInt64",
        "steps": "UInt32",
        "hops": "UInt32",
        "servers": "Array(String)",
        "operation": _NAME,
        "outcome": _NAME,
        # "Server.Action" of the first missing step; empty where no step is missing.
        "missing": _NAME,
        **PLACE,
        "version": "UInt64",
    },
    order_by=("request_id", *PLACE),
    # The start of a request may turn out to be earlier: it cannot be part of the key.
    partition_by="tuple()",
    start="started",
)
REQUEST_SUMMARY_VIEW = View(
    name="request_summary",
    select="""
        SELECT request_id, user_id, started, duration_ms, steps, hops, servers, operation,
               outcome, missing
        FROM request_summary_rows FINAL
    """,
)
