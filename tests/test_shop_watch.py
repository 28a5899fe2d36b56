"""The observer's questions to ClickHouse about the shop: whole minutes up to the watermark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from footfall.operations import shop_watch
from footfall.operations.shop_watch import Rows, ShopWatch, figures
from footfall.schemas import metrics
from footfall.schemas.settings import read_settings
from footfall.schemas.status import PartitionStatus, WorkerStatus
from footfall.schemas.tables import minute_buckets, service_health
from footfall.sinks.clickhouse import ClickHouseReader, create_tables
from tests.clickhouse_support import Server, any_server
from tests.page_shop_support import put
from tests.ports_support import free_port

NOON = datetime(2019, 10, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with any_server(tmp_path_factory.mktemp("watch") / "data") as running:
        yield running


def bucket(minute: int, action: str, count: int, cents: int) -> dict[str, object]:
    return {
        "bucket": NOON + timedelta(minutes=minute), "action": action, "origin": "o",
        "brand_id": "b", "category_id": "c", "count": count, "sum_price": cents,
    }  # fmt: skip


def health(minute: int, server: str, requests: int, errors: int) -> dict[str, object]:
    return {
        "minute": NOON + timedelta(minutes=minute), "server": server, "operation": "buy",
        "requests": requests, "errors": errors, "durations_ms": [5] * requests,
    }  # fmt: skip


def test_the_last_minutes_and_the_hour_before_them_end_at_the_watermark(server: Server) -> None:
    tables = (minute_buckets.ROWS, service_health.ROWS)
    create_tables(server.url, [*tables, minute_buckets.VIEW, service_health.VIEW])
    # Out of the hour; of it; of the last five minutes; and of a minute that is not over.
    buckets = [
        bucket(-66, "VIEW", 9, 9), bucket(-65, "BUY", 2, 500), bucket(-6, "VIEW", 10, 70),
        bucket(-5, "VIEW", 4, 40), bucket(-1, "BUY", 1, 250), bucket(0, "BUY", 50, 50),
    ]  # fmt: skip
    services = [
        health(-7, "Payment", 10, 1), health(-2, "Payment", 4, 3), health(-2, "Cart", 8, 0),
        health(0, "Payment", 99, 99),
    ]  # fmt: skip
    rows = buckets, services
    for table, of_table in zip(tables, rows, strict=True):
        put(server.url, table, of_table)
    reader = ClickHouseReader(server.url)

    def ask(query: str, bounds: Mapping[str, int]) -> Rows:
        return reader.rows(query, bounds)[1]

    watermark_ms = int(NOON.timestamp() * 1000) + 30_000
    found = figures({"minute_buckets": watermark_ms, "service_health": watermark_ms}, ask)
    reader.close()
    assert {metric.name: sorted(values) for metric, values in found.items()} == {
        "footfall_shop_minutes": [(("before",), 2), (("last",), 2)],
        "footfall_shop_views": [(("before",), 10), (("last",), 4)],
        "footfall_shop_buys": [(("before",), 2), (("last",), 1)],
        "footfall_shop_revenue_cents": [(("before",), 500), (("last",), 250)],
        "footfall_service_requests": [
            (("Cart", "last"), 8), (("Payment", "before"), 10), (("Payment", "last"), 4),
        ],
        "footfall_service_errors": [
            (("Cart", "last"), 0), (("Payment", "before"), 1), (("Payment", "last"), 3),
        ],
    }  # fmt: skip
    assert found.keys() == set(metrics.SHOP)


def test_what_was_answered_is_told_for_a_while_and_then_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    watch = ShopWatch(read_settings({"FOOTFALL_HOME": str(tmp_path), "CLICKHOUSE_URL": url}))
    # No flow has a watermark, so that nobody is asked.
    watch.looking.look_once()
    assert watch.looking.problem == ""
    told = {metrics.SHOP_BUYS: [(("last",), 5.0)]}
    watch.looking.last = told
    minute = PartitionStatus("t", 0, 0, 0, 0, 0, 0, 0, 0, 60_000)
    status = WorkerStatus("service_health", 0, 1, 2, 0.0, 0, 0, False, [minute])
    monkeypatch.setattr(shop_watch, "read_statuses", lambda _home: [status])
    watch.looking.look_once()
    assert watch.looking.last == told
    monkeypatch.setattr(shop_watch, "KEPT_S", 0.0)
    watch.looking.look_once()
    assert watch.looking.last == {}
    assert watch.looking.problem == ""


def test_a_flow_without_a_watermark_is_not_asked_for() -> None:
    assert figures({"user_trace": 5}, lambda _query, _bounds: [["x"]]) == {}
