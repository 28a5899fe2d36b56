"""``shop_events``: a table per kind of event, and the views that answer the usual questions.

``shop_page_visit``, ``shop_searching``, ...   each event of a kind once: ``time``, ``user_id``,
                                               then the fields of the kind
``shop_events_rows``              by kind that occurs: number of events
``shop_funnel_by_hour``           by hour of event time: users who visited a page (PageVisit), then
                                  searched, then added to the cart, then ordered. A user counts
                                  for a step after the steps before it in the same hour, and
                                  once per step and hour
``shop_searches_without_visit``   by query: searches after which their user visited no page from
                                  the search itself to VISIT_WITHIN_S later, both included
``shop_compared_pairs``           by pair of items, the smaller id first, and comparison type
``shop_returns_by_reason``        by reason and item
``shop_campaign_sales``           by sale: participations, items and users
``shop_coupon_orders``            by coupon: number of orders that it was used on
``shop_support_load``             by hour and way of contact: contacts and users
``shop_registrations_by_hour``    by hour: registrations
``shop_logins_by_hour``           by hour and login type: logins and users

Views that count by a code show its name; in the tables codes are numbers. An hour, a query or a
pair without any event has no row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from footfall.schemas.shop_events import (
    COMPARISON_TYPES,
    LOGIN_TYPES,
    REASON_TYPES,
    SCHEMA,
    SUPPORT_TYPES,
    Field,
    Kind,
)
from footfall.schemas.tables.clickhouse import Table, View
from footfall.schemas.tables.raw import raw_table, raw_view

VISIT_WITHIN_S: Final = 300
"""Seconds after a search within which a visited page counts as found by it."""

_TYPES = {"int": "Int64", "double": "Float64", "text": "String", "code": "UInt8"}
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


def view_name(kind: str) -> str:
    """Return the view's name of a kind: ``shop_page_visit`` for ``PageVisit``."""
    return f"shop_{_WORD.sub('_', kind).lower()}"


def _column_type(field: Field) -> str:
    plain = _TYPES[field.type]
    return f"Nullable({plain})" if field.optional else plain


def table_of(kind: Kind) -> Table:
    """Return the table of a kind."""
    fields = {field.name: _column_type(field) for field in kind.fields}
    return raw_table(
        view_name(kind.name),
        {"time": "DateTime64(3, 'UTC')", "user_id": "Int64", **fields},
        by=("time", "user_id"),
        time="time",
    )


TABLES: Final[dict[str, Table]] = {
    name: table_of(kind) for name, kind in SCHEMA.kinds.items()
}  # fmt: skip
"""Tables by kind."""
VIEWS: Final[dict[str, View]] = {name: raw_view(table) for name, table in TABLES.items()}
"""Views by kind, with each event once."""


def named(column: str, codes: Mapping[int, str]) -> str:
    """Return SQL for a code's name, or for its number where it is of a later version than this
    view."""
    names = ", ".join(f"'{name}'" for name in codes.values())
    return f"transform({column}, {list(codes)}, [{names}], toString({column}))"


ROWS_BY_KIND_VIEW = View(
    name="shop_events_rows",
    select=" UNION ALL ".join(
        f"SELECT '{kind}' AS kind, count() AS rows FROM {view.name} HAVING rows > 0"
        for kind, view in VIEWS.items()
    ),
)

_STEPS = {
    "visited": "PageVisit",
    "searched": "Searching",
    "added_to_cart": "CartAdd",
    "ordered": "Ordering",
}
_HOUR_MS = 3_600_000
_STEP_COUNTS = ", ".join(
    f"countIf(level >= {level}) AS {step}" for level, step in enumerate(_STEPS, 1)
)
_STEP_ROWS = " UNION ALL ".join(
    f"SELECT time, user_id, '{step}' AS step FROM {view_name(kind)}"
    for step, kind in _STEPS.items()
)
_IN_ORDER = ", ".join(f"step = '{step}'" for step in _STEPS)
FUNNEL_VIEW = View(
    name="shop_funnel_by_hour",
    # Events of the same time are taken in the order of the steps.
    select=f"""
        SELECT hour, {_STEP_COUNTS}
        FROM (
            SELECT toStartOfHour(time) AS hour, user_id,
                   windowFunnel({_HOUR_MS})(
                       toUInt64(toUnixTimestamp64Milli(time)), {_IN_ORDER}) AS level
            FROM ({_STEP_ROWS})
            GROUP BY hour, user_id
        )
        GROUP BY hour
    """,
)

SEARCHES_VIEW = View(
    name="shop_searches_without_visit",
    # For each search the first visit that is not before it decides.
    select=f"""
        SELECT query, count() AS searches
        FROM shop_searching AS s
        ASOF LEFT JOIN (SELECT user_id, time, 1 AS found FROM shop_page_visit) AS v
            ON s.user_id = v.user_id AND s.time <= v.time
        WHERE ifNull(v.found, 0) = 0 OR v.time > s.time + INTERVAL {VISIT_WITHIN_S} SECOND
        GROUP BY query
    """,
)

PAIRS_VIEW = View(
    name="shop_compared_pairs",
    select=f"""
        SELECT least(c.first_item_id, c.second_item_id) AS item_id,
               greatest(c.first_item_id, c.second_item_id) AS other_item_id,
               {named("c.comparison_type", COMPARISON_TYPES)} AS compared_by,
               count() AS comparisons
        FROM shop_item_comparison AS c
        GROUP BY item_id, other_item_id, compared_by
    """,
)

RETURNS_VIEW = View(
    name="shop_returns_by_reason",
    select=f"""
        SELECT {named("reason_type", REASON_TYPES)} AS reason, item_id, count() AS returns
        FROM shop_item_return
        GROUP BY reason, item_id
    """,
)

SALES_VIEW = View(
    name="shop_campaign_sales",
    select="""
        SELECT sale_id, count() AS participations, uniqExact(item_id) AS items,
               uniqExact(user_id) AS users
        FROM shop_sale_participation
        GROUP BY sale_id
    """,
)

COUPONS_VIEW = View(
    name="shop_coupon_orders",
    select="""
        SELECT coupon_id, uniqExact(order_id) AS orders
        FROM shop_promo_usage
        GROUP BY coupon_id
    """,
)

SUPPORT_VIEW = View(
    name="shop_support_load",
    select=f"""
        SELECT toStartOfHour(time) AS hour,
               {named("support_type", SUPPORT_TYPES)} AS contacted_by,
               count() AS contacts, uniqExact(user_id) AS users
        FROM shop_support_contact
        GROUP BY hour, contacted_by
    """,
)

REGISTRATIONS_VIEW = View(
    name="shop_registrations_by_hour",
    select="""
        SELECT toStartOfHour(time) AS hour, count() AS registrations
        FROM shop_registering
        GROUP BY hour
    """,
)

LOGINS_VIEW = View(
    name="shop_logins_by_hour",
    select=f"""
        SELECT toStartOfHour(time) AS hour,
               {named("login_type", LOGIN_TYPES)} AS logged_in_by,
               count() AS logins, uniqExact(user_id) AS users
        FROM shop_logging_in
        GROUP BY hour, logged_in_by
    """,
)
