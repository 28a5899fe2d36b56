"""Shop events in, the answers of the views in ClickHouse out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from footfall.cli.init import described
from footfall.flows import shop_events_hot
from footfall.generator.shop_records import Disturbances
from footfall.generator.shop_tables import SHOP_ANSWERS
from footfall.generator.shop_truth import truth_of
from footfall.generator.shop_world import ShopWorld
from footfall.schemas.tables import shop_events as tables
from footfall.schemas.tables.clickhouse import Table, View
from footfall.schemas.tables.shop_events import TABLES, VIEWS, view_name
from footfall.schemas.topics import SHOP_EVENTS
from footfall.sinks.clickhouse import ClickHouseReader, ClickHouseTable, create_tables
from footfall.streams.testing import Event, run_flow
from tests.clickhouse_support import Server, any_server
from tests.test_flow_shop_events_hot import event
from tests.test_generator_shop import records_of

ANSWERS = [value for value in vars(tables).values() if isinstance(value, View)]
NOON = datetime(2022, 3, 22, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with any_server(tmp_path_factory.mktemp("shop") / "data") as running:
        create_tables(running.url, [*TABLES.values(), *VIEWS.values(), *ANSWERS])
        yield running


class Shop:
    """Tables that events are written to, and that are asked."""

    def __init__(self, server: Server) -> None:
        self._url = server.url
        self._reader = ClickHouseReader(server.url)
        for table in TABLES.values():
            server.rows(f"TRUNCATE TABLE {table.name}")

    def take(self, events: Iterable[Event], cuts: tuple[int, ...] = (1_000,)) -> None:
        """Write what the flow makes of events, as often as it makes it."""
        result = run_flow(shop_events_hot.FLOW.dataflow, events, cuts=cuts)
        for table in TABLES.values():
            if len(rows := result.rows_of(table.name)):
                ClickHouseTable(self._url, table).write([rows])

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._reader.rows(sql)[1]]

    def all_of(self, view: str, *columns: str) -> list[tuple[Any, ...]]:
        """Return all rows of a view, sorted; hours in ms."""
        listed = ", ".join(
            f"toUnixTimestamp(hour) * 1000 AS {name}" if name == "hour_ms" else name
            for name in columns
        )
        return sorted(self.ask(f"SELECT {listed} FROM {view}"))


@pytest.fixture
def shop(server: Server) -> Shop:
    return Shop(server)


def at(kind: str, minute: float, user: int = 3, **fields: Any) -> dict[str, Any]:
    """Return an event some minutes after noon."""
    time = datetime.fromtimestamp(NOON.timestamp() + minute * 60, UTC).isoformat()
    return event(kind, timestamp=time, user_id=user, **fields)


def hour_ms(hour: int) -> int:
    return round(NOON.timestamp() + hour * 3600) * 1000


def test_all_tables_and_views_are_found() -> None:
    found = {item.name for item in [*described(Table), *described(View)]}
    assert {f"{view_name(kind)}_rows" for kind in TABLES} <= found
    assert {view.name for view in [*VIEWS.values(), *ANSWERS]} <= found
    assert view_name("OrderHistoryViewing") == "shop_order_history_viewing"
    assert {view.name for view in ANSWERS} <= SHOP_ANSWERS.keys()


def test_an_event_is_there_once_however_often_it_was_written(shop: Shop) -> None:
    events = [at("CartAdd", 1, item_id=5), at("CartAdd", 1, item_id=5), at("ProfileEdit", 2)]
    shop.take(events, cuts=(1,))
    shop.take(events)
    assert shop.all_of("shop_cart_add", "user_id", "item_id") == [(3, 5), (3, 5)]
    assert shop.ask("SELECT * FROM shop_profile_edit") == [("2022-03-22 12:02:00.000", 3)]
    assert shop.all_of("shop_events_rows", "kind", "rows") == [("CartAdd", 2), ("ProfileEdit", 1)]


def test_the_funnel_counts_who_did_a_step_after_those_before_it(shop: Shop) -> None:
    shop.take([
        at("PageVisit", 0, user=1), at("PageVisit", 59.99, user=1), at("PageVisit", 5, user=2),
        at("Searching", 1, user=2), at("CartAdd", 2, user=2), at("Ordering", 3, user=2),
        at("Ordering", 4, user=2), at("Ordering", 4, user=4),
        # All steps, and the last ones first.
        at("Ordering", 1, user=5), at("CartAdd", 2, user=5), at("Searching", 3, user=5),
        at("PageVisit", 4, user=5),
        # At one moment they are in order, and what comes again later counts, too.
        at("CartAdd", 9, user=6), at("Searching", 9, user=6), at("PageVisit", 9, user=6),
        at("Ordering", 8, user=6), at("Ordering", 30, user=6),
        # The next hour begins: who only orders in it came through no funnel of that hour.
        at("Ordering", 60, user=2), at("CategoryView", 121),
    ])  # fmt: skip
    columns = ("hour_ms", "visited", "searched", "added_to_cart", "ordered")
    assert shop.all_of("shop_funnel_by_hour", *columns) == [
        (hour_ms(0), 4, 1, 1, 1),
        (hour_ms(1), 0, 0, 0, 0),
    ]


def test_a_search_led_to_a_visit_of_its_user_within_five_minutes(shop: Shop) -> None:
    shop.take([
        at("PageVisit", 9, user=1),
        at("Searching", 10, user=1, query="before"),
        at("PageVisit", 15.001, user=1),
        at("Searching", 20, user=1, query="just in time"), at("PageVisit", 25, user=1),
        at("Searching", 30, user=1, query="at once"), at("PageVisit", 30, user=1),
        at("Searching", 40, user=1, query="of another"), at("PageVisit", 41, user=2),
        at("Searching", 50, user=1, query="both lead"), at("Searching", 51, user=1, query="x"),
        at("PageVisit", 52, user=1),
        at("Searching", 70, user=1, query="x"), at("Searching", 80, user=5, query="x"),
        at("CategoryView", 71, user=1),
    ])  # fmt: skip
    assert shop.all_of("shop_searches_without_visit", "query", "searches") == [
        ("before", 1), ("of another", 1), ("x", 2),
    ]  # fmt: skip


def test_pairs_are_the_same_either_way_round(shop: Shop) -> None:
    def compared(first: int, second: int, code: int) -> dict[str, Any]:
        return at(
            "ItemComparison", 1, first_item_id=first, second_item_id=second, comparison_type=code
        )

    shop.take([compared(*of) for of in [(5, 9, 1), (9, 5, 1), (5, 9, 3), (7, 7, 0), (-2, -3, 2)]])
    columns = ("item_id", "other_item_id", "compared_by", "comparisons")
    assert shop.all_of("shop_compared_pairs", *columns) == [
        (-3, -2, "features", 1),
        (5, 9, "delivery date", 1),
        (5, 9, "price", 2),
        (7, 7, "other", 1),
    ]


def test_returns_sales_and_coupons(shop: Shop) -> None:
    shop.take([
        *(at("ItemReturn", 1, item_id=1, reason_type=code) for code in (4, 4, 0)),
        at("ItemReturn", 4, item_id=2, reason_type=0),
        *(at("SaleParticipation", 5, sale_id=1, item_id=item) for item in (1, 2)),
        at("SaleParticipation", 5, sale_id=1, item_id=2, user=4),
        at("SaleParticipation", 5, sale_id=2, item_id=1),
        *(at("PromoUsage", 6, coupon_id=1, order_id=order) for order in (1, 1, 2)),
        at("PromoUsage", 7, coupon_id=2, order_id=2),
    ])  # fmt: skip
    assert shop.all_of("shop_returns_by_reason", "reason", "item_id", "returns") == [
        ("other", 1, 1), ("other", 2, 1), ("poor quality", 1, 2),
    ]  # fmt: skip
    columns = ("sale_id", "participations", "items", "users")
    assert shop.all_of("shop_campaign_sales", *columns) == [(1, 3, 2, 2), (2, 1, 1, 1)]
    assert shop.all_of("shop_coupon_orders", "coupon_id", "orders") == [(1, 2), (2, 1)]


def test_support_registrations_and_logins_by_hour(shop: Shop) -> None:
    shop.take([
        at("SupportContact", 0, support_type=3), at("SupportContact", 9, support_type=3),
        at("SupportContact", 60, support_type=1, user=4),
        at("Registering", 59), at("Registering", 60), at("Registering", 61, user=4),
        at("LoggingIn", 1, login_type=0), at("LoggingIn", 2, login_type=0, user=4),
        at("LoggingIn", 2, login_type=0, user=4), at("LoggingIn", 61, login_type=2),
    ])  # fmt: skip
    columns = ("hour_ms", "contacted_by", "contacts", "users")
    assert shop.all_of("shop_support_load", *columns) == [
        (hour_ms(0), "chat", 2, 1), (hour_ms(1), "mail", 1, 1),
    ]  # fmt: skip
    assert shop.all_of("shop_registrations_by_hour", "hour_ms", "registrations") == [
        (hour_ms(0), 1), (hour_ms(1), 2),
    ]  # fmt: skip
    columns = ("hour_ms", "logged_in_by", "logins", "users")
    assert shop.all_of("shop_logins_by_hour", *columns) == [
        (hour_ms(0), "mail and password", 3, 2), (hour_ms(1), "external", 1, 1),
    ]  # fmt: skip


def test_a_shop_without_events_answers_nothing(shop: Shop) -> None:
    for view in ANSWERS:
        assert shop.ask(f"SELECT * FROM {view.name}") == []


def test_every_view_holds_the_truth_of_a_simulated_shop(shop: Shop) -> None:
    disorder = Disturbances(0.2, 0.02, 0.02, 0.1, 0.05)
    world = ShopWorld(seed=1, total=20_000, disturbances=disorder, records_per_s=5, users=500)
    shop.take([value for _, value in records_of(world)[SHOP_EVENTS.name]], cuts=(700, 1, 4_000))
    truth = truth_of(world)
    for view in (view.name for view in ANSWERS):
        columns = SHOP_ANSWERS[view]
        held = pl.DataFrame(shop.all_of(view, *columns), schema=[*columns], orient="row")
        held = held.cast(columns)  # type: ignore[arg-type]
        expected = truth[view].frame()
        assert not expected.is_empty()
        assert held.sort(held.columns).equals(expected), f"{view} of {world}"
