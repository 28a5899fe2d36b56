"""Right answers of the views of ``shop_events``, counted from what the world knows.

    hour          of the event time in the record
    funnel        users who did a step in the hour after the steps before it, each once
    searches      without a PageVisit of their user from the moment of the search to
                  VISIT_WITHIN_MS later, both included; by query
    pairs         of compared items, the smaller id first
    sales, coupons, support, logins   ``items``, ``users`` and ``orders`` are distinct

Late records count with the time in them, so nothing is decided before the end.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from footfall.schemas.shop_events import COMPARISON_TYPES, LOGIN_TYPES, REASON_TYPES, SUPPORT_TYPES

HOUR_MS = 3_600_000
VISIT_WITHIN_MS = 300_000
_STEPS = {"PageVisit": 0, "Searching": 1, "CartAdd": 2, "Ordering": 3}

Counted = tuple[str, tuple[Any, ...]]
"""Row of a table: (table, row)."""


class Answers:
    """Counts of events. Its memory is its tables, and the visits and searches of each user."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._funnel: dict[int, dict[int, array[int]]] = defaultdict(
            lambda: defaultdict(lambda: array("q"))
        )
        """Steps by hour and user: time_ms * len(_STEPS) + step, which sorts by time, then step."""
        self._visits: dict[int, array[int]] = defaultdict(lambda: array("q"))
        self._searches: list[tuple[int, int, str]] = []
        self._pairs: Counter[tuple[int, int, int]] = Counter()
        self._returns: Counter[tuple[int, int]] = Counter()
        self._sales: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._coupons: dict[int, set[int]] = defaultdict(set)
        self._support: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._logins: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._registrations: Counter[int] = Counter()

    def event(self, user: int, time_ms: int, kind: str, facts: tuple[Any, ...]) -> None:
        """Count one event; ``facts`` as in Observer."""
        self._kinds[kind] += 1
        hour_ms = time_ms // HOUR_MS * HOUR_MS
        if kind in _STEPS:
            self._funnel[hour_ms][user].append(time_ms * len(_STEPS) + _STEPS[kind])
        match kind, facts:
            case "PageVisit", _:
                self._visits[user].append(time_ms)
            case "Searching", (query,):
                self._searches.append((user, time_ms, query))
            case "ItemComparison", (first, second, compared_by):
                self._pairs[min(first, second), max(first, second), compared_by] += 1
            case "ItemReturn", (item, reason):
                self._returns[reason, item] += 1
            case "SaleParticipation", (sale, item):
                self._sales[sale].append((item, user))
            case "PromoUsage", (coupon, order):
                self._coupons[coupon].add(order)
            case "SupportContact", (contacted_by,):
                self._support[hour_ms, contacted_by].append(user)
            case "LoggingIn", (logged_in_by,):
                self._logins[hour_ms, logged_in_by].append(user)
            case "Registering", _:
                self._registrations[hour_ms] += 1

    def rows(self) -> Iterator[Counted]:
        """Yield the rows of all views, in any order; nothing more may be counted."""
        for kind, count in self._kinds.items():
            yield "shop_events_rows", (kind, count)
        for hour_ms, events_of in self._funnel.items():
            levels = [_level(events) for events in events_of.values()]
            counts = (sum(level > step for level in levels) for step in _STEPS.values())
            yield "shop_funnel_by_hour", (hour_ms, *counts)
        for query, count in self._without_visit().items():
            yield "shop_searches_without_visit", (query, count)
        for (first, second, code), count in self._pairs.items():
            pair = (str(first), str(second), COMPARISON_TYPES[code], count)
            yield "shop_compared_pairs", pair
        for (code, item), count in self._returns.items():
            yield "shop_returns_by_reason", (REASON_TYPES[code], str(item), count)
        for sale, joined in self._sales.items():
            items, users = map(set, zip(*joined, strict=True))
            row = (str(sale), len(joined), len(items), len(users))
            yield "shop_campaign_sales", row
        for coupon, orders in self._coupons.items():
            yield "shop_coupon_orders", (str(coupon), len(orders))
        for hour_ms, count in self._registrations.items():
            yield "shop_registrations_by_hour", (hour_ms, count)
        for (hour_ms, code), who in self._support.items():
            yield "shop_support_load", (hour_ms, SUPPORT_TYPES[code], len(who), len(set(who)))
        for (hour_ms, code), who in self._logins.items():
            yield "shop_logins_by_hour", (hour_ms, LOGIN_TYPES[code], len(who), len(set(who)))

    def _without_visit(self) -> Counter[str]:
        visits = {user: sorted(times) for user, times in self._visits.items()}
        found: Counter[str] = Counter()
        for user, time_ms, query in self._searches:
            times = visits.get(user, [])
            next_visit = bisect_left(times, time_ms)
            if next_visit == len(times) or times[next_visit] > time_ms + VISIT_WITHIN_MS:
                found[query] += 1
        return found


def _level(events: array[int]) -> int:
    """Return the number of steps that a user did, each after the one before it."""
    level = 0
    for event in sorted(events):
        level += event % len(_STEPS) == level
    return level
