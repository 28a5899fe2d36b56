"""The place of each table's rows, and the key of a row.

A query gives the columns of the truth by their names there, in any order: moments as
milliseconds since 1970 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

from footfall.generator.shop_tables import SHOP_ANSWERS

Where = Literal["clickhouse", "store", "profiles", "alerts", "split", "accounts"]
SPLIT = "split_topics"
"""The good records in the topics of this flow, by kind; the truth has them as events."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The question for a table's rows. ``sql`` is empty where no database holds them."""

    where: Where
    key: tuple[str, ...]
    sql: str = ""


def _ms(column: str, name: str | None = None) -> str:
    moment = f"toUnixTimestamp64Milli(toDateTime64({column}, 3, 'UTC'))"
    return f"{moment} AS {name or column}_ms"


def _trace(table: str) -> Asked:
    return Asked(
        "clickhouse",
        ("request_id", "time_ms", "server", "log", "user_id"),
        f"SELECT request_id, {_ms('time')}, server, log, user_id FROM {table}",
    )


def _sessions(view: str) -> Asked:
    return Asked(
        "clickhouse",
        ("user_id", "login_ms"),
        f"SELECT user_id, {_ms('login')}, {_ms('ended', 'end')}, spent_s, ended_by FROM {view}",
    )


def _views(view: str, *of: str) -> Asked:
    key = ("source", "product_id", *of)
    return Asked(
        "clickhouse",
        ("minute_ms", *key),
        f"SELECT {_ms('minute')}, {', '.join(key)}, views, impressions FROM {view}",
    )


def _answers(view: str) -> Asked:
    """Return the question for a view of shop_events, whose key is all columns but the counts."""
    columns = SHOP_ANSWERS[view]
    key = tuple(name for name, kind in columns.items() if kind == pl.String or _is_moment(name))
    asked = [
        _ms(name.removesuffix("_ms")) if _is_moment(name)
        # Ids are text in the truth.
        else f"toString({name}) AS {name}" if name in key
        else name
        for name in columns
    ]  # fmt: skip
    return Asked("clickhouse", key, f"SELECT {', '.join(asked)} FROM {view}")


def _is_moment(name: str) -> bool:
    return name.endswith("_ms")


ASKED: dict[str, Asked] = {
    "request_trace": _trace("request_trace"),
    "user_trace": _trace("user_trace"),
    "request_summary": Asked(
        "clickhouse",
        ("request_id",),
        f"SELECT request_id, user_id, {_ms('started')}, duration_ms, steps, hops, servers, "
        "operation, outcome, missing FROM request_summary",
    ),
    "online_user": Asked(
        "clickhouse", ("user_id", "time_ms"), f"SELECT user_id, {_ms('time')} FROM online_user"
    ),
    "online_users_per_minute": Asked(
        "clickhouse",
        ("minute_ms",),
        f"SELECT {_ms('minute')}, active, online FROM online_users_per_minute",
    ),
    "users_spend_time_online": _sessions("users_spend_time_online"),
    "shop_sessions": _sessions("shop_sessions"),
    "failed_login": Asked(
        "clickhouse",
        ("user_id", "time_ms", "request_id"),
        f"SELECT user_id, {_ms('time')}, request_id FROM failed_login",
    ),
    "failed_logins_per_minute": Asked(
        "clickhouse",
        ("minute_ms", "user_id"),
        f"SELECT {_ms('minute')}, user_id, failures FROM failed_logins_per_minute",
    ),
    "login_alerts": Asked("alerts", ("user_id", "time_ms")),
    "product_views_per_minute": _views("product_views_per_minute"),
    "product_user_views_per_minute": _views("product_user_views_per_minute", "user_id"),
    "service_health": Asked(
        "clickhouse",
        ("minute_ms", "server", "operation"),
        f"SELECT {_ms('minute')}, server, operation, requests, errors, p50_ms, p95_ms, p99_ms "
        "FROM service_health",
    ),
    "service_health_anomalies": Asked(
        "clickhouse",
        ("minute_ms", "server", "operation", "measure"),
        f"SELECT {_ms('minute')}, server, operation, measure, value, expected "
        "FROM service_health_anomalies",
    ),
    **{view: _answers(view) for view in SHOP_ANSWERS},
    SPLIT: Asked("split", ("kind",)),
    "events": Asked(
        "store",
        ("start_event_time_ms", "end_event_time_ms"),
        "SELECT start_event_time AS start_event_time_ms, end_event_time AS end_event_time_ms, "
        "nr_of_events, nr_items_viewed, nr_items_put_in_cart, nr_items_sold, "
        "value_items_sold_in_cent FROM events",
    ),
    "minute_buckets": Asked(
        "clickhouse",
        ("bucket_ms", "action", "origin", "brand_id", "category_id"),
        f"SELECT {_ms('bucket')}, action, origin, brand_id, category_id, count, sum_price "
        "FROM minute_buckets",
    ),
    "user_profiles": Asked("profiles", ("cookie", "action", "time_ms", "tag")),
    "accounts": Asked("accounts", ("flow", "topic")),
}
