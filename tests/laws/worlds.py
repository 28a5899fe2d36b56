"""Streams of events for the laws: small worlds in which every rare thing is common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import polars as pl
from hypothesis import strategies as st

import flows
from flows import minute_buckets, store_metrics, user_profiles
from schemas.tables import minute_buckets as minute_buckets_table
from schemas.times import datetime_of, iso_ms
from streams.testing import Build, Result

BASE_MS = 1_569_888_000_000  # 2019-10-01T00:00:00Z
DELAY_MS = 5_000
PROFILE_KEEP = 3

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Law:
    """What the laws need to know of a flow."""

    name: str
    build: Build
    event: Callable[[int, int], bytes]
    """(event time in ms, a number that decides the rest) -> a record"""
    table: Callable[[Result], Rows]
    """What stands in the flow's table in the end."""
    same_order: bool
    """The table tells in which order equal events came (by offset)."""


def tag(time_ms: int, choice: int) -> bytes:
    """A record of user_tags."""
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
    """A record of store_events; its times are whole seconds."""
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


def _upserts(key: tuple[str, ...], result: Result) -> Rows:
    return result.upserts(*key)


def _profiles(result: Result) -> Rows:
    if result.rows.is_empty():
        return []
    identity = ("cookie", "action", "time_ms", "topic_partition", "offset")
    tags = result.rows.unique(identity).sort(identity)
    return tags.group_by("cookie", "action", maintain_order=True).tail(PROFILE_KEEP).to_dicts()


LAWS = {
    law.name: law
    for law in (
        Law(
            "minute_buckets",
            minute_buckets.build,
            tag,
            partial(_upserts, minute_buckets_table.ROWS.order_by),
            same_order=False,
        ),
        Law(
            "store_metrics",
            store_metrics.build,
            store_event,
            partial(_upserts, ("start_event_time", "topic_partition")),
            same_order=False,
        ),
        Law(
            "user_profiles",
            partial(user_profiles.build, keep=PROFILE_KEEP),
            tag,
            _profiles,
            same_order=True,
        ),
    )
}
assert LAWS.keys() == flows.catalogue().keys(), "every flow obeys the laws"

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
    """Records of a topic in any order, good, late and bad ones."""
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
    """The same events in order, and shuffled within the delay."""

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
    """The rows without some of their columns, in an order of their own."""
    return sorted(
        (tuple(sorted((k, v) for k, v in row.items() if k not in names)) for row in rows),
        key=repr,
    )


def frame_rows(frames: list[pl.DataFrame]) -> int:
    """How many rows the frames have."""
    return sum(map(len, frames))
