"""minute_buckets: tags in, buckets out."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.flows import minute_buckets
from footfall.schemas.tables.minute_buckets import ROWS
from footfall.schemas.times import iso_ms, parse_time_ms
from footfall.streams.testing import run_flow

START_MS = parse_time_ms("2022-03-22T12:15:00.000Z")


def tag(after_s: float, *, price: int = 10, **changes: Any) -> dict[str, Any]:
    """Return a tag some seconds after the start."""
    product = {"product_id": "p", "brand_id": "b", "category_id": "c", "price": price}
    for name in ("brand_id", "category_id"):
        if name in changes:
            product[name] = changes.pop(name)
    fields = {
        "time": iso_ms(START_MS + round(after_s * 1000)),
        "cookie": "someone",
        "country": "PL",
        "device": "PC",
        "action": "VIEW",
        "origin": "o",
        "product_info": product,
    }
    return {**fields, **changes}


def table(*partitions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table in the end, without their versions."""
    rows = run_flow(minute_buckets.FLOW.dataflow, list(partitions)).upserts(*ROWS.order_by)
    return [{k: v for k, v in row.items() if k != "version"} for row in rows]


def test_tags_of_a_minute_are_counted_and_their_prices_summed_by_group() -> None:
    rows = table(
        [
            tag(0, price=5),
            tag(59.999, price=7),
            tag(60, price=11),
            tag(1, action="BUY"),
            tag(2, origin="p"),
            tag(3, brand_id=17),
            tag(4, category_id="x", price=-3),
        ]
    )
    bucket = datetime(2022, 3, 22, 12, 15, tzinfo=UTC)
    found = [
        (
            (row["bucket"] - bucket).total_seconds(),
            row["action"],
            row["origin"],
            row["brand_id"],
            row["category_id"],
            row["count"],
            row["sum_price"],
        )
        for row in rows
    ]
    assert found == [
        (0, "BUY", "o", "b", "c", 1, 10),
        (0, "VIEW", "o", "17", "c", 1, 10),
        (0, "VIEW", "o", "b", "c", 2, 12),
        (0, "VIEW", "o", "b", "x", 1, -3),
        (0, "VIEW", "p", "b", "c", 1, 10),
        (60, "VIEW", "o", "b", "c", 1, 11),
    ]
    assert set(rows[0]) | {"version"} == set(ROWS.columns)


def test_each_partition_has_rows_of_its_own() -> None:
    rows = table([tag(0), tag(1)], [tag(2)])
    assert [(row["topic_partition"], row["count"]) for row in rows] == [(0, 2), (1, 1)]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 180_000),
            st.sampled_from(("VIEW", "BUY")),
            st.sampled_from(("o", "p")),
            st.sampled_from(("b", 1)),
            st.integers(-(2**31), 2**31 - 1),
        ),
        max_size=50,
    )
)
def test_in_order_the_rows_are_those_of_a_plain_count(drawn: list[Any]) -> None:
    expected: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    tags = []
    for after_ms, action, origin, brand, price in sorted(drawn, key=lambda event: event[0]):
        tags.append(
            tag(after_ms / 1000, action=action, origin=origin, brand_id=brand, price=price)
        )
        group = expected[START_MS + after_ms // 60_000 * 60_000, action, origin, str(brand)]
        group[0] += 1
        group[1] += price
    found = {
        (round(row["bucket"].timestamp() * 1000), row["action"], row["origin"], row["brand_id"]): [
            row["count"],
            row["sum_price"],
        ]
        for row in table(tags)
    }
    assert found == expected
