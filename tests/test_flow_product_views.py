"""product_views: records of three topics in, views and impressions out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from bytewax.dataflow import Dataflow

from footfall.flows import product_views
from footfall.schemas.tables.product_views import PRODUCT_USER_VIEWS
from footfall.schemas.times import iso_ms, parse_time_ms
from footfall.schemas.topics import PLATFORM_LOGS, STORE_EVENTS, USER_TAGS
from footfall.streams.testing import Build, Result, newest, run_flow

START_MS = parse_time_ms("2022-03-22T12:15:00.000Z")


def at(after_s: float) -> str:
    """Return a moment some seconds after the start."""
    return iso_ms(START_MS + round(after_s * 1000))


def log(after_s: float, action: str, data: Any, user: Any = 17) -> dict[str, Any]:
    """Return a step that Catalog logged."""
    common = {"time": at(after_s), "userId": user, "requestId": "r", "serverName": "Catalog"}
    return {"action": action, "commonData": common, "data": data}


def reading(topic: str) -> Build:
    """Return the flow with one of its topics."""

    def build(source: Any, outputs: Any, progress: Any) -> Dataflow:
        return product_views.FLOW.dataflow({topic: source}, outputs, progress)

    return build


def run(topic: str, events: list[Mapping[str, Any]], **options: Any) -> Result:
    """Run the flow over the events of one partition."""
    return run_flow(reading(topic), events, **options)


def table(result: Result) -> list[tuple[Any, ...]]:
    """Return (second of the minute's start, product, user, views, impressions)."""
    found = newest(result.rows, PRODUCT_USER_VIEWS.order_by)
    return [
        (
            round(row["minute"].timestamp()) - START_MS // 1000,
            row["product_id"],
            row["user_id"],
            row["views"],
            row["impressions"],
        )
        for row in found.to_dicts()
    ]


logs = partial(run, PLATFORM_LOGS.name)


def test_a_product_request_is_a_view_and_a_listed_product_an_impression() -> None:
    result = logs(
        [
            log(0, "CatalogProductReq", {"productId": 5}),
            log(1, "CatalogProductReq", {"productId": {"productId": "5"}}, user={"userId": "17"}),
            log(2, "CatalogDbRep", {"products": [{"productId": 5}, {"productId": 6}]}),
            log(3, "CatalogDbRep", {"products": [{"productId": {"productId": 6}}]}, user="u"),
            log(60, "CatalogProductReq", {"productId": 5}),
        ]
    )
    assert table(result) == [
        (0, "5", "17", 2, 1),
        (0, "6", "17", 0, 1),
        (0, "6", "u", 0, 1),
        (60, "5", "17", 1, 0),
    ]
    assert set(result.rows["source"]) == {"platform_logs"}


def test_a_product_that_is_listed_twice_is_two_impressions() -> None:
    result = logs([log(0, "CatalogDbRep", {"products": [{"productId": 5}, {"productId": 5}]})])
    assert table(result) == [(0, "5", "17", 0, 2)]


def test_other_records_are_filtered_and_move_time_on() -> None:
    result = logs(
        [
            log(0, "CatalogProductReq", {"productId": 5}),
            log(1, "CatalogProductReq", {}),
            log(2, "CatalogDbRep", {"products": []}),
            log(3, "CatalogDbRep", None),
            log(4, "CatalogReq", {"productId": 5}),
            # Past the end of the minute and its lateness: none of these is counted.
            log(666, "LoginReq", {}),
            log(1, "CatalogProductReq", {"productId": 5}),
            log(2, "CatalogDbRep", {"products": [{"productId": 5}, {"productId": 6}]}),
            log(3, "LoginReq", {}),
        ]
    )
    assert table(result) == [(0, "5", "17", 1, 0)]
    assert [letter.offset for letter in result.late] == [6, 7]
    (status,) = result.partitions
    assert (status.used, status.filtered, status.late) == (1, 6, 2)


def test_a_minute_is_final_once_any_record_has_passed_it() -> None:
    events = [log(0, "CatalogProductReq", {"productId": 5}), log(65, "LoginReq", {})]
    # Broken off before the end, which would write what is open.
    result = run(PLATFORM_LOGS.name, events, abort_after=1)
    assert table(result) == [(0, "5", "17", 1, 0)]


def test_views_of_the_store_and_of_tags_are_kept_apart_by_source() -> None:
    def row(kind: str, after_s: float) -> dict[str, Any]:
        return {
            "event_time": f"2022-03-22 12:15:{after_s:02.0f} UTC",
            "event_type": kind,
            "product_id": 5,
            "category_id": 1,
            "price": 1.5,
            "user_id": 17,
        }

    def tag(action: str, after_s: float) -> dict[str, Any]:
        product = {"product_id": 5, "brand_id": "b", "category_id": "c", "price": 1}
        return {
            "time": at(after_s),
            "cookie": "someone",
            "country": "PL",
            "device": "PC",
            "action": action,
            "origin": "o",
            "product_info": product,
        }

    store = run(STORE_EVENTS.name, [row("view", 1), row("cart", 2), row("view", 3)])
    assert table(store) == [(0, "5", "17", 2, 0)]
    assert set(store.rows["source"]) == {"store_events"}
    tags = run(USER_TAGS.name, [tag("VIEW", 1), tag("BUY", 2)])
    assert table(tags) == [(0, "5", "someone", 1, 0)]
    assert set(tags.rows["source"]) == {"user_tags"}
