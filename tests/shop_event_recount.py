"""The views of shop_events, answered again from the records alone; as slow as it is plain."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from footfall.schemas.shop_events import COMPARISON_TYPES, LOGIN_TYPES, REASON_TYPES, SUPPORT_TYPES

Row = tuple[Any, ...]
Event = tuple[int, dict[str, Any]]
"""(event time in ms, the record)"""
HOUR_MS = 3_600_000
FUNNEL = ("PageVisit", "Searching", "CartAdd", "Ordering")


def answers(events: Iterable[Event]) -> dict[str, list[Row]]:
    """Return each view's rows, in the order of the truth's columns, from all events that count."""
    found = list(events)

    def of(kind: str) -> list[Event]:
        return [event for event in found if event[1]["event"] == kind]

    visits = of("PageVisit")
    return {
        "shop_events_rows": grouped(found, lambda _, e: (e["event"],), len),
        "shop_funnel_by_hour": [
            (hour_ms, *(came_to(step, hour_ms, found) for step in range(len(FUNNEL))))
            for hour_ms in {hour(event) for kind in FUNNEL for event in of(kind)}
        ],
        "shop_searches_without_visit": grouped(
            [event for event in of("Searching") if not led_to_visit(event, visits)],
            lambda _, e: (e["query"],),
            len,
        ),
        "shop_compared_pairs": grouped(
            of("ItemComparison"),
            lambda _, e: (
                *map(str, sorted((e["first_item_id"], e["second_item_id"]))),
                COMPARISON_TYPES[e["comparison_type"]],
            ),
            len,
        ),
        "shop_returns_by_reason": grouped(
            of("ItemReturn"),
            lambda _, e: (REASON_TYPES[e["reason_type"]], str(e["item_id"])),
            len,
        ),
        "shop_campaign_sales": grouped(
            of("SaleParticipation"),
            lambda _, e: (str(e["sale_id"]),),
            len,
            lambda rows: different(rows, "item_id"),
            users,
        ),
        "shop_coupon_orders": grouped(
            of("PromoUsage"),
            lambda _, e: (str(e["coupon_id"]),),
            lambda rows: different(rows, "order_id"),
        ),
        "shop_support_load": grouped(
            of("SupportContact"),
            lambda time_ms, e: (hour((time_ms, e)), SUPPORT_TYPES[e["support_type"]]),
            len,
            users,
        ),
        "shop_registrations_by_hour": grouped(
            of("Registering"), lambda time_ms, e: (hour((time_ms, e)),), len
        ),
        "shop_logins_by_hour": grouped(
            of("LoggingIn"),
            lambda time_ms, e: (hour((time_ms, e)), LOGIN_TYPES[e["login_type"]]),
            len,
            users,
        ),
    }


def grouped(
    events: list[Event],
    key: Callable[[int, dict[str, Any]], Row],
    *figures: Callable[[list[Event]], int],
) -> list[Row]:
    groups: dict[Row, list[Event]] = {}
    for event in events:
        groups.setdefault(key(*event), []).append(event)
    return [(*of, *(figure(rows) for figure in figures)) for of, rows in groups.items()]


def hour(event: Event) -> int:
    return event[0] // HOUR_MS * HOUR_MS


def users(events: Iterable[Event]) -> int:
    return different(events, "user_id")


def different(events: Iterable[Event], name: str) -> int:
    return len({record[name] for _, record in events})


def came_to(step: int, hour_ms: int, events: list[Event]) -> int:
    """Count the users who did all steps up to this one in the hour, each step in its order."""
    of_user: dict[int, list[Event]] = {}
    for event in events:
        if hour(event) == hour_ms:
            of_user.setdefault(event[1]["user_id"], []).append(event)

    def did(rows: list[Event], step: int, until_ms: int) -> bool:
        return step < 0 or any(
            record["event"] == FUNNEL[step]
            and time_ms <= until_ms
            and did(rows, step - 1, time_ms)
            for time_ms, record in rows
        )

    return sum(did(rows, step, hour_ms + HOUR_MS) for rows in of_user.values())


def led_to_visit(search: Event, visits: list[Event]) -> bool:
    time_ms, record = search
    return any(
        visit["user_id"] == record["user_id"] and 0 <= visit_ms - time_ms <= 5 * 60 * 1000
        for visit_ms, visit in visits
    )
