"""Users online: logins, users by minute, and sessions.

``online_users_per_minute_rows`` has one row per (minute, topic partition), also where nobody was
online. ``sessions_rows`` has the sessions of platform_logs and of shop_events, each with its own
reasons.
"""

from __future__ import annotations

from footfall.schemas.tables.clickhouse import PLACE, Table, View
from footfall.schemas.tables.raw import raw_table, raw_view
from footfall.schemas.topics import PLATFORM_LOGS, SHOP_EVENTS

_NAME = "LowCardinality(String)"
_MOMENT = "DateTime64(3, 'UTC')"

ONLINE_USER = raw_table(
    "online_user", {"user_id": "String", "time": _MOMENT}, by=("user_id", "time"), time="time"
)
ONLINE_USER_VIEW = raw_view(ONLINE_USER)

ONLINE_PER_MINUTE = Table(
    name="online_users_per_minute_rows",
    columns={
        "minute": "DateTime('UTC')",
        **PLACE,
        "active": "UInt64",
        "online": "UInt64",
        "version": "UInt64",
    },
    order_by=("minute", *PLACE),
    partition_by="toYYYYMMDD(minute)",
    start="minute",
    sums=("active", "online"),
)
ONLINE_PER_MINUTE_VIEW = View(
    name="online_users_per_minute",
    select="""
        SELECT minute, sum(r.active) AS active, sum(r.online) AS online
        FROM online_users_per_minute_rows AS r FINAL
        GROUP BY minute
        HAVING active > 0 OR online > 0
    """,
)

SESSIONS = Table(
    name="sessions_rows",
    columns={
        "source": _NAME,
        "user_id": "String",
        "login": _MOMENT,
        "ended": _MOMENT,
        "spent_s": "Float64",
        "ended_by": _NAME,
        **PLACE,
        "version": "UInt64",
    },
    order_by=("source", "user_id", "login", *PLACE),
    partition_by="toYYYYMMDD(login)",
    start="login",
)


def _sessions_of(name: str, topic: str) -> View:
    return View(
        name,
        f"""
        SELECT user_id, login, ended, spent_s, ended_by
        FROM sessions_rows FINAL WHERE source = '{topic}'
        """,
    )


SPEND_TIME_VIEW = _sessions_of("users_spend_time_online", PLATFORM_LOGS.name)
SHOP_SESSIONS_VIEW = _sessions_of("shop_sessions", SHOP_EVENTS.name)
