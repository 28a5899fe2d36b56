"""Streams of events for the laws: small worlds in which every rare thing is common."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import polars as pl
from hypothesis import strategies as st

from footfall import flows
from footfall.flows import Flow, Reading
from footfall.schemas.profiles import ORDER
from footfall.schemas.settings import read_settings
from footfall.schemas.tables.clickhouse import Table
from footfall.schemas.tables.minute_buckets import ROWS as MINUTE_BUCKETS
from footfall.schemas.tables.service_health import ROWS as HEALTH
from footfall.schemas.times import datetime_of, iso_ms
from footfall.schemas.topics import PLATFORM_LOGS, SHOP_EVENTS, STORE_EVENTS, USER_TAGS
from footfall.streams.testing import Build, Result, newest

EXAMPLES = int(os.environ.get("FOOTFALL_LAW_EXAMPLES", "25"))
"""Examples per law and flow; `make test-all` takes 60."""
BASE_MS = 1_569_888_000_000  # 2019-10-01T00:00:00Z
DELAY_MS = 5_000
PROFILE_KEEP = 3
SETTINGS = read_settings({"FOOTFALL_HOME": "/nowhere", "NUM_TAGS_TO_KEEP": str(PROFILE_KEEP)})

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Law:
    """The properties of a flow and one of its topics that the laws need."""

    name: str
    """The flow's, and where it reads several topics which of them."""
    flow: str
    topic: str
    build: Build
    event: Callable[[int, int], bytes]
    """(event time in ms, a number that decides the rest) -> a record"""
    table: Callable[[Result], Rows]
    """Rows of the flow's tables in the end."""

    def reading(self) -> Reading:
        """Return what the flow does with the topic, without an engine."""
        return flows.catalogue()[self.flow].readings(SETTINGS)[self.topic]


def tag(time_ms: int, choice: int) -> bytes:
    """Return a record of user_tags."""
    return msgspec.json.encode(
        {
            "time": iso_ms(time_ms),
            "cookie": f"cookie{choice % 3}",
            "country": "PL",
            "device": "PC",
            "action": "VIEW" if choice % 4 else "BUY",
            "origin": f"origin{choice % 2}",
            "product_info": {
                "product_id": choice % 7,
                "brand_id": f"brand{choice % 2}",
                "category_id": choice % 2,
                "price": choice,
            },
        }
    )


def store_event(time_ms: int, choice: int) -> bytes:
    """Return a record of store_events; its times are whole seconds."""
    kind = ("view", "cart", "remove_from_cart", "purchase")[choice % 4]
    return msgspec.json.encode(
        {
            "event_time": datetime_of(time_ms).strftime("%Y-%m-%d %H:%M:%S UTC"),
            "event_type": kind,
            "product_id": choice % 7,
            "category_id": 1,
            "price": choice / 100,
            "user_id": choice % 5,
        }
    )


STEPS = (
    ("Login", "LoginReq", {}),
    ("Login", "LoginRep", {"status": "Valid"}),
    ("Login", "LoginRep", {"status": "Invalid", "error": "wrong password"}),
    ("Login", "LoginRep", {"status": "Invalid"}),
    ("Login", "LogoutReq", {}),
    ("Catalog", "CatalogReq", {}),
    ("Catalog", "CatalogDbRep", {"products": [{"productId": 5}, {"productId": {"productId": 5}}]}),
    ("Catalog", "CatalogDbRep", {"products": []}),
    ("Catalog", "CatalogProductReq", {"productId": 5}),
    ("Payment", "BuyReq", {"amount_cents": 100}),
    ("Payment", "BuyRep", {"status": "Declined"}),
    ("Search", "SearchRankReq", None),
)

REQUESTS = 5


def platform_log(time_ms: int, choice: int) -> bytes:
    """Return a record of platform_logs; a request may go on for as long as the stream."""
    server, action, data = STEPS[choice % len(STEPS)]
    user = choice % 3
    return msgspec.json.encode(
        {
            "action": action,
            "commonData": {
                "time": iso_ms(time_ms),
                "userId": user if choice % 2 else {"userId": str(user)},
                "requestId": f"r{choice % REQUESTS}",
                "serverName": server,
            },
            "data": data,
        }
    )


SHOP_EVENT_FIELDS: tuple[dict[str, Any], ...] = (
    {"event": "LoggingIn", "login_type": 1},
    {"event": "PageVisit", "page_id": 7},
    {"event": "Searching", "query": "shoes"},
    {"event": "Registering"},
    {"event": "Filtering", "price_min": 0.5},
    {"event": "ItemReturn", "item_id": 3, "order_id": 4, "reason_type": 0},
)


def shop_event(time_ms: int, choice: int) -> bytes:
    """Return a record of shop_events."""
    fields = SHOP_EVENT_FIELDS[choice % len(SHOP_EVENT_FIELDS)]
    return msgspec.json.encode({**fields, "timestamp": iso_ms(time_ms), "user_id": choice % 4})


EVENTS: dict[str, Callable[[int, int], bytes]] = {
    PLATFORM_LOGS.name: platform_log,
    SHOP_EVENTS.name: shop_event,
    STORE_EVENTS.name: store_event,
    USER_TAGS.name: tag,
}


def _profiles(result: Result) -> Rows:
    if result.rows.is_empty():
        return []
    identity = ("cookie", "action", *ORDER)
    tags = result.rows.unique(identity).sort(identity)
    return tags.group_by("cookie", "action", maintain_order=True).tail(PROFILE_KEEP).to_dicts()


def _in_tables(tables: tuple[Table, ...], result: Result) -> Rows:
    """Return the rows of all tables, each with the name of its own."""
    if len(tables) == 1 and not result.rows.is_empty():
        return _rows(newest(result.rows, tables[0].order_by), tables[0])
    return [row for table in tables for row in _rows(result.table(table), table)]


def _rows(found: pl.DataFrame, table: Table) -> Rows:
    rows = found.drop(table.version, strict=False).to_dicts()
    return [{"table": table.name, **row} for row in rows]


def _health(result: Result) -> Rows:
    # A row of no request takes an earlier one back; readers are not shown it.
    return [row for row in _in_tables((HEALTH,), result) if row["requests"]]


def _alerts(result: Result) -> Rows:
    if result.rows.is_empty():
        return []
    return newest(result.rows, ("user_id", "time_ms")).drop("version", strict=False).to_dicts()


SPECIAL: dict[str, Callable[[Result], Rows]] = {
    "login_alerts": _alerts,
    # That each record is written once, and in which order, is for its sink to see to.
    "split_topics": lambda result: result.rows.unique(maintain_order=True).to_dicts(),
    # Their versions follow from the events alone.
    "minute_buckets": lambda result: result.upserts(*MINUTE_BUCKETS.order_by),
    "service_health": _health,
    "store_metrics": lambda result: result.upserts("start_event_time", "topic_partition"),
    "user_profiles": _profiles,
}
"""Rows in the end of flows whose result is more than rows of ClickHouse."""


def _laws() -> Iterator[Law]:
    for contract in flows.catalogue().values():
        for topic in contract.topics:
            several = len(contract.topics) > 1
            yield Law(
                f"{contract.name}[{topic}]" if several else contract.name,
                contract.name,
                topic,
                _build(contract, topic),
                EVENTS[topic],
                SPECIAL.get(contract.name) or partial(_in_tables, contract.tables),
            )


def _build(contract: Flow, topic: str) -> Build:
    build = partial(contract.dataflow, settings=SETTINGS)
    if len(contract.topics) == 1:
        return build
    return lambda source, outputs, progress: build({topic: source}, outputs, progress)


LAWS = {law.name: law for law in _laws()}
"""Every flow of the catalogue, once for each topic that it reads."""

BAD_RECORDS = (
    b"",
    b"   ",
    b"nope",
    b"{",
    b"null",
    b"[1]",
    b"{}",
    b'{"time": null}',
    b'{"time": NaN}',
    b"\xff\xfe",
    b'{"a": "\xff"}',
    b"[" * 3_000,
    b'{"price": 1e999}',
    b"9" * 400,
)

# Moments beside every border: of a window, of the delay, of the lateness, and far past them.
# They are drawn evenly, so that late events and corrections come up in most streams.
_BORDERS_MS = (0, 1_000, 5_000, 60_000, 65_000, 600_000, 605_000, 660_000, 665_000, 1_400_000)
_moments = st.sampled_from(
    sorted({max(0, border + aside) for border in _BORDERS_MS for aside in (-1_000, -1, 0, 1, 999)})
)


def streams(law: Law, *, bad: bool = True) -> st.SearchStrategy[list[bytes]]:
    """Return records of a topic in any order, good, late and bad ones."""
    events = st.builds(
        lambda after_ms, choice: law.event(BASE_MS + after_ms, choice),
        _moments,
        st.integers(0, 60),
    )
    if bad:
        events = st.one_of(events, events, events, st.sampled_from(BAD_RECORDS))
    return st.integers(0, 30).flatmap(lambda size: st.lists(events, min_size=size, max_size=30))


cuts = st.lists(st.sampled_from((0, 1, 1, 2, 3, 5, 9)), min_size=1, max_size=5).filter(any)


def in_order(law: Law) -> st.SearchStrategy[tuple[list[bytes], list[bytes]]]:
    """Return the same events in order, and shuffled within the delay."""

    def arrange(drawn: list[tuple[int, int, int]]) -> tuple[list[bytes], list[bytes]]:
        ordered = sorted(drawn)
        # An event is held up by less than the delay, so it never meets a watermark past it.
        shuffled = sorted(ordered, key=lambda event: event[0] + event[2])
        return (
            [law.event(BASE_MS + time_ms, choice) for time_ms, choice, _ in ordered],
            [law.event(BASE_MS + time_ms, choice) for time_ms, choice, _ in shuffled],
        )

    # Whole seconds: store events know no finer time, and their delay must not be overstepped.
    seconds = st.integers(0, 400).map(lambda second: second * 1_000)
    drawn = st.tuples(seconds, st.integers(0, 60), st.integers(0, DELAY_MS - 1_000))
    return st.lists(drawn, max_size=40).map(arrange)


def without(rows: Rows, *names: str) -> list[tuple[tuple[str, Any], ...]]:
    """Return the rows without some of their columns, in an order of their own."""
    return sorted(
        (tuple(sorted((k, v) for k, v in row.items() if k not in names)) for row in rows),
        key=repr,
    )


def frame_rows(frames: list[pl.DataFrame]) -> int:
    """Return the number of rows of the frames."""
    return sum(map(len, frames))
