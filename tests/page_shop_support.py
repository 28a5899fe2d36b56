"""A small shop of the past, as rows of the real tables and alerts of the real topic.

It has ten minutes of 2019. ``NEWEST`` is the newest in which something happened; what the tables
say of later minutes (sessions that run out) is not "now".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.tables import (
    logins,
    product_views,
    service_health,
    sessions,
    shop_events,
    traces,
)
from footfall.schemas.tables.clickhouse import Table, View
from footfall.schemas.times import iso_ms
from footfall.sinks.clickhouse import ClickHouseTable, create_tables
from footfall.sinks.topic_files import FileTopics

START = datetime(2019, 10, 1, 12, 55, tzinfo=UTC)
MINUTES = 10
NEWEST = START + timedelta(minutes=MINUTES - 1)

HOSTILE = '<img src=x onerror="window.hurt=1">/?#%41 "\' \\ \n{id:String} ü'
LONG = "w" * 200
HUGE = 10**15

BUY_OK, BUY_FAILED, BUY_GAP, REVISED = "buy-ok", "buy-failed", "buy-gap", "buy-revised"
ALICE = "alice"

Rows = list[dict[str, Any]]

_KINDS: dict[str, pl.DataType] = {
    "String": pl.String(),
    "LowCardinality(String)": pl.String(),
    "DateTime('UTC')": pl.Datetime("ms", "UTC"),
    "DateTime64(3, 'UTC')": pl.Datetime("ms", "UTC"),
    "UInt16": pl.UInt16(),
    "UInt32": pl.UInt32(),
    "UInt64": pl.UInt64(),
    "Int64": pl.Int64(),
    "Nullable(Int64)": pl.Int64(),
    "Float64": pl.Float64(),
    "Bool": pl.Boolean(),
    "UInt8": pl.UInt8(),
    "Array(String)": pl.List(pl.String()),
    "Array(UInt32)": pl.List(pl.UInt32()),
}


def settings_of(home: Path, clickhouse_url: str) -> Settings:
    """Return the settings of a server with embedded topics in the folder."""
    return read_settings({"FOOTFALL_HOME": str(home), "CLICKHOUSE_URL": clickhouse_url})


def tables_and_views() -> list[Table | View]:
    """Return all that the shop's panels read."""
    found: list[object] = [*shop_events.TABLES.values(), *shop_events.VIEWS.values()]
    for module in (logins, product_views, service_health, sessions, traces, shop_events):
        found += vars(module).values()
    tables = [one for one in found if isinstance(one, Table)]
    # The views of some stand on those of others, which were described before them.
    views = [one for one in found if isinstance(one, View)]
    return [*tables, *views]


def put(url: str, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert rows; partition, offset and version are given to those that have none."""
    full = [
        {"topic": "t", "topic_partition": 0, "offset": place, "version": 1} | dict(row)
        for place, row in enumerate(rows)
    ]
    schema = {name: _KINDS[kind] for name, kind in table.columns.items()}
    frame = pl.DataFrame(
        [[row[name] for name in schema] for row in full], schema=schema, orient="row"
    )
    writer = ClickHouseTable(url, table)
    writer.write([frame])
    writer.close()


def minute(number: int) -> datetime:
    return START + timedelta(minutes=number)


def fill(url: str, home: Path) -> None:
    """Make the tables, and write everything that the tests look for."""
    create_tables(url, tables_and_views())
    _users(url)
    _requests(url)
    _health(url)
    _behaviour(url)
    FileTopics(home / "topics").write("login_alerts", _alerts())


def _users(url: str) -> None:
    # What was known less of comes last: the version decides, and not the order of writing. In
    # inserts of their own: rows of one are merged when they are written.
    for version in (2, 1):
        per_minute = [
            {"minute": minute(number), "topic": topic, "active": active + version,
             "online": online + version, "version": version}
            for number in range(MINUTES)
            for topic, active, online in (("eu", number, 100 + number), ("us", 3, 7))
        ]  # fmt: skip
        put(url, sessions.ONLINE_PER_MINUTE, per_minute)
    # The sessions run out, long after the last record.
    put(
        url,
        sessions.ONLINE_PER_MINUTE,
        [
            {"minute": minute(MINUTES + later), "active": 0, "online": 30 - later}
            for later in range(30)
        ],
    )
    put(
        url,
        sessions.ONLINE_USER,
        [
            {"user_id": f"u{number}-{one}", "time": minute(number) + timedelta(seconds=one)}
            for number in range(MINUTES)
            for one in range(number)
        ],
    )
    put(
        url,
        logins.FAILED_LOGIN,
        [
            {"user_id": ALICE, "request_id": f"l{number}-{one}",
             "time": minute(number) + timedelta(seconds=one)}
            for number in range(MINUTES)
            for one in range(2 if number == MINUTES - 2 else 1)
        ],
    )  # fmt: skip
    ended = [
        ("platform_logs", "logout", 30.0), ("platform_logs", "logout", 200.0),
        ("platform_logs", "logout", 280.0), ("platform_logs", "timeout", 1800.0),
        ("platform_logs", "relogin", 5000.0), ("shop_events", "inactivity", 2400.0),
    ]  # fmt: skip
    put(
        url,
        sessions.SESSIONS,
        [
            {"source": source, "user_id": ALICE, "ended_by": ended_by, "spent_s": spent_s,
             "login": minute(0) + timedelta(seconds=place),
             "ended": minute(0) + timedelta(seconds=place + spent_s)}
            for place, (source, ended_by, spent_s) in enumerate(ended)
        ],
    )  # fmt: skip


Moment = tuple[int, str, str, str, str]
"""(ms after the start, server, log, status, error)"""

PAID: list[Moment] = [
    (0, "Payment", "BuyReq", "", ""),
    (20, "Reservation", "ReserveDbReq", "", ""),
    (50, "Payment", "PaymentProviderReq", "", ""),
    (450, "Payment", "PaymentProviderRep", "Ok", ""),
    (480, "Payment", "BuyRep", "Ok", ""),
]
DECLINED: list[Moment] = [
    *PAID[:3],
    (950, "Payment", "PaymentProviderRep", "Declined", "no funds"),
    (1480, "Payment", "BuyRep", "Declined", ""),
]
GAP = [*PAID[:3], PAID[4]]


def _requests(url: str) -> None:
    made: list[tuple[str, str, list[Moment], str, str, datetime]] = [
        (BUY_OK, ALICE, PAID, "ok", "", minute(5)),
        (BUY_FAILED, ALICE, DECLINED, "failed", "", minute(8)),
        (BUY_GAP, "bob", GAP, "incomplete", "Payment.PaymentProviderRep", minute(7)),
        (REVISED, "bob", PAID, "ok", "", minute(9)),
        (HOSTILE, HOSTILE, DECLINED, "failed", "", minute(6)),
        (LONG, LONG, DECLINED, "failed", "", minute(4)),
    ]
    steps = [
        {"request_id": request_id, "user_id": user_id, "server": server, "log": log,
         "status": status, "error": error, "failed": status == "Declined",
         "time": start + timedelta(milliseconds=at)}
        for request_id, user_id, moments, _, _, start in made
        for at, server, log, status, error in moments
    ]  # fmt: skip
    put(url, traces.REQUEST_TRACE, steps)
    put(url, traces.USER_TRACE, steps)
    summaries = [
        {"request_id": request_id, "user_id": user_id, "started": start,
         "duration_ms": moments[-1][0], "steps": len(moments), "hops": 2,
         "servers": ["Payment", "Reservation", "Payment"], "operation": "buy",
         "outcome": outcome, "missing": missing, "version": 2}
        for request_id, user_id, moments, outcome, missing, start in made
    ]  # fmt: skip
    early = [row for row in summaries if row["request_id"] == REVISED]
    before = {"outcome": "incomplete", "missing": "Payment.BuyRep", "version": 1}
    put(url, traces.REQUEST_SUMMARY, [row | before for row in early])
    put(url, traces.REQUEST_SUMMARY, summaries)


def _health(url: str) -> None:
    rows: Rows = [
        {"minute": minute(number), "server": "Payment", "operation": "buy", "requests": 10,
         "errors": 0, "durations_ms": [100] * 10}
        for number in range(-60, MINUTES)
    ]  # fmt: skip
    rows[-2] |= {"errors": 6, "durations_ms": [*range(100, 1000, 100), 4000]}
    rows.append(
        {"minute": minute(MINUTES - 2), "server": "Catalog", "operation": "catalog",
         "requests": 50, "errors": 0, "durations_ms": [7]}
    )  # fmt: skip
    put(url, service_health.ROWS, rows)


def _behaviour(url: str) -> None:
    views: list[tuple[str, str, int, int]] = [
        ("platform_logs", "p1", 11, 40), ("platform_logs", "p2", 5, 0),
        ("platform_logs", LONG, HUGE, HUGE), ("store_events", "s1", 3, 0),
    ]  # fmt: skip
    put(
        url,
        product_views.PRODUCT_USER_VIEWS,
        [
            {"minute": minute(number), "source": source, "product_id": product, "user_id": ALICE,
             "views": count, "impressions": shown}
            for number in (MINUTES - 2, MINUTES - 1)
            for source, product, count, shown in views
        ],
    )  # fmt: skip
    # A user every minute back from the newest one: five of them are in the newest hour.
    for kind, users in (("PageVisit", 20), ("Searching", 10), ("CartAdd", 4), ("Ordering", 1)):
        table = shop_events.TABLES[kind]
        fields = {name: "q" if name == "query" else 1 for name in table.columns}
        put(
            url,
            table,
            [
                fields | {"user_id": user, "time": NEWEST - timedelta(minutes=user),
                          "topic": "t", "offset": place}
                for place, user in enumerate([*range(users), 0])
            ],
        )  # fmt: skip


def alert(user_id: str, after_s: Sequence[int]) -> bytes:
    """Return an alert of failures so many seconds after the newest minute began."""
    newest_ms = round(NEWEST.timestamp() * 1000)
    times = [iso_ms(newest_ms + second * 1000) for second in after_s]
    fields = {"user_id": user_id, "time": times[-1], "failures": len(times), "times": times}
    return json.dumps(fields).encode()


def _alerts() -> list[tuple[bytes, bytes]]:
    sent = [
        alert(ALICE, (1, 2, 3, 9)),
        alert(HOSTILE, (20, 21, 22, 23)),
        alert(ALICE, (1, 2, 3, 9)),
        alert(LONG, (0, 1, 2, 3)),
        b"no alert",
    ]
    return [(b"k", value) for value in sent]
