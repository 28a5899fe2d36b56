"""store_metrics: rows of a shop's export in, metrics of each window out."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

from footfall.flows import store_metrics
from footfall.schemas.settings import read_settings
from footfall.schemas.tables.store_metrics import EVENTS_BY_PARTITION
from footfall.streams.testing import run_flow


def event(second: int, kind: str = "view", price: float = 1.0) -> dict[str, Any]:
    """Return a row of the export, some seconds after midnight."""
    return {
        "event_time": f"2019-10-01 00:{second // 60:02d}:{second % 60:02d} UTC",
        "event_type": kind,
        "product_id": 1004856,
        "category_id": 2053013555631882655,
        "category_code": "electronics.smartphone",
        "brand": "samsung",
        "price": price,
        "user_id": 512,
        "user_session": "72d76fde-8bb3-4e00-8c23-a032dfed738c",
    }


Window = tuple[int, int, int, int, int, int, int]


def windows(*events: dict[str, Any], window_s: float = 1.0) -> list[Window]:
    """Return (start, end in s after midnight, events, viewed, cart, sold, cents) of each
    window."""
    build = partial(
        store_metrics.FLOW.dataflow,
        settings=read_settings({"PRODUCER_DATA_SEC_PER_REAL_SEC": str(window_s)}),
    )
    rows = run_flow(build, list(events)).upserts("start_event_time", "topic_partition")
    midnight = datetime(2019, 10, 1, tzinfo=UTC)
    return [
        (
            round((row["start_event_time"] - midnight).total_seconds()),
            round((row["end_event_time"] - midnight).total_seconds()),
            row["nr_of_events"],
            row["nr_items_viewed"],
            row["nr_items_put_in_cart"],
            row["nr_items_sold"],
            row["value_items_sold_in_cent"],
        )
        for row in rows
    ]


def test_each_second_with_events_has_a_row() -> None:
    assert windows(
        event(0),
        event(0, "cart", 9.99),
        event(0, "purchase", 35.79),
        event(0, "purchase", 0.01),
        event(2, "remove_from_cart"),
        event(2),
    ) == [(0, 1, 4, 1, 1, 2, 3580), (2, 3, 2, 1, 0, 0, 0)]


def test_windows_are_as_long_as_the_replay_is_fast() -> None:
    found = windows(event(0), event(599), event(600, "purchase", 2.5), window_s=600)
    assert found == [(0, 600, 2, 2, 0, 0, 0), (600, 1200, 1, 0, 0, 1, 250)]


def test_exact_duplicates_are_events_like_any_other() -> None:
    sold = event(1, "purchase", 1.1)
    assert windows(sold, sold) == [(1, 2, 2, 0, 0, 2, 220)]


def test_rows_have_the_columns_of_their_table() -> None:
    rows = run_flow(store_metrics.FLOW.dataflow, [event(0)]).rows
    assert {*rows.columns} == {column.name for column in EVENTS_BY_PARTITION.columns}
