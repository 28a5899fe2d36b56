"""The shop on the page: rows in ClickHouse, figures on the screen, lookups by id."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest

from footfall.api.answers import RequestError
from footfall.api.clickhouse import ClickHouse
from footfall.api.lookups import AT_ONCE, ID_CHARS_MAX, WAITING_MAX, Lookups, TraceStep, missing_in
from footfall.api.opening import open_services
from footfall.api.shop_figures import online_of
from footfall.api.shop_live import shown_alerts
from footfall.api.shop_snapshot import Online
from footfall.api.shop_tables import ShopTables
from footfall.schemas.settings import Settings
from footfall.sinks.clickhouse import create_tables
from tests.api_process_support import WAIT_S, eventually
from tests.api_support import Client, Served
from tests.clickhouse_support import Server, serving
from tests.page_shop_support import (
    ALICE,
    BUY_FAILED,
    BUY_GAP,
    BUY_OK,
    HOSTILE,
    LONG,
    MINUTES,
    NEWEST,
    REVISED,
    alert,
    fill,
    minute,
    settings_of,
    tables_and_views,
)
from tests.page_support import SHIFT_MAX, SHIFTED, STICKING_OUT, Watched, chromium, needs_chromium
from tests.ports_support import free_port

T = TypeVar("T")
NEWEST_MS = round(NEWEST.timestamp() * 1000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture(scope="module")
def url(server: Server) -> str:
    return f"{server.url}/a_shop"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, url: str) -> Path:
    home = tmp_path_factory.mktemp("home")
    fill(url, home)
    return home


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run in a thread: the browser keeps an event loop of its own in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result(WAIT_S)


def serve(settings: Settings) -> Served:
    return Served(lambda: open_services(settings))


@pytest.fixture(scope="module")
def served(url: str, home: Path) -> Iterator[Served]:
    served = serve(settings_of(home, url))
    yield served
    served.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def shop_of(client: Client) -> dict[str, Any]:
    shop: dict[str, Any] = client.get("/live.json").json()["shop"]
    return shop


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with closing(Client(served.port)) as client:
        yield client


FIGURES = {
    "#shop": [
        "13:04", "2019-10-01 UTC",
        "119", "15 active in a minute",
        "Logins a minute\n8\n2 more failed",
        "60", "at 2 services",
        "3.0 %", "6 of 200 in 15 min",
        "300 ms", "p95 of buy at Payment",
    ],
    "#online .legend": ["Online 119", "Active 15"],
    "#logins .legend": ["Logins 8", "Failed 2"],
    "#services": ["Payment", "4.0 %", "0 %", "13:03 buy at Payment: 60 %, usually 0.2 %"],
    "#slowest": ["buy at Payment", "300 ms", "7 ms", "13:03 buy at Payment: 500 ms, usually"],
    "#alerts": ["13:04:23", "13:04:09", "user alice", "4 failures in 8 s", "4 failures in 3 s"],
    "#failures": ["13:03:00", "PaymentProviderRep Declined", "no Payment.PaymentProviderRep"],
    "#sessions": ["logout 3", "relogin 1", "timeout 1", "half took up to 4 min 40 s"],
    "#funnel": ["2019-10-01 13:00 to 14:00 UTC", "80 % of visitors", "20 % of visitors"],
    "#products": ["p1", "22", "p2", "10", "2000T"],
}  # fmt: skip
"""The texts of each panel, by the rows of tests.page_shop_support."""


@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_panel_shows_what_the_tables_hold(
    width: int, scheme: str, browser: Any, served: Served
) -> None:
    watched = Watched(browser, served, width, color_scheme=scheme)
    for panel, texts in FIGURES.items():
        for text in texts:
            watched.until_text(panel, text)
    assert watched.page.evaluate(SHIFTED) < SHIFT_MAX
    assert watched.page.locator("#alerts li").count() == 3
    names = watched.page.locator("#failures li .id").all_text_contents()
    assert names == [BUY_FAILED, BUY_GAP, HOSTILE, LONG]
    lengths = watched.page.locator("#sessions .stacks .value").all_text_contents()
    assert lengths == ["1", "2", "0", "0", "1", "1"]
    users = watched.page.locator("#funnel .value").all_text_contents()
    assert users == ["5", "5", "4", "1"]
    watched.page.click("#products button:has-text('Store')")
    watched.until_text("#products .ranking", "s1")
    watched.page.click("#sessions button:has-text('Marketplace')")
    watched.until_text("#sessions .legend", "inactivity 1")
    assert watched.page.evaluate("document.documentElement.scrollWidth") == width
    assert watched.page.evaluate(STICKING_OUT) == []
    assert watched.page.evaluate("window.hurt") is None
    assert watched.complaints == []
    assert watched.elsewhere == []
    watched.close()


@needs_chromium
def test_a_request_that_was_typed_is_drawn_step_by_step(browser: Any, served: Served) -> None:
    watched = Watched(browser, served)
    watched.page.fill("#request-id", BUY_OK)
    watched.page.press("#request-id", "Enter")
    watched.until_text("#request .summary", "buy · ok · 480 ms · 5 steps · 2 hops")
    servers = watched.page.locator("#request .lanes .server").all_text_contents()
    assert servers == ["Payment", "Reservation"]
    at = watched.page.evaluate(
        """() => [...document.querySelectorAll("#request circle.dot")].map(
          (one) => one.cx.baseVal.value)"""
    )
    assert at[-1] > 0.9 * watched.page.evaluate(
        "document.querySelector('#request .lanes').clientWidth"
    )
    share = [(one - at[0]) / (at[-1] - at[0]) for one in at]
    assert share == pytest.approx([0, 20 / 480, 50 / 480, 450 / 480, 1], abs=0.001)
    watched.page.focus("#request .lanes [role=img]")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight"):
        watched.page.keyboard.press(key)
    assert watched.text("#request .detail") == (
        "PaymentProviderRep at Payment, 13:00:00.450 (+450 ms), 30 ms to the next step. Ok"
    )
    watched.page.hover("#request .lanes .step[data-place='1']")
    assert "ReserveDbReq at Reservation" in watched.text("#request .detail")
    watched.page.click("#request details summary")
    assert watched.page.locator("#request tbody tr").count() == 5

    watched.page.fill("#request-id", "no such one")
    watched.page.press("#request-id", "Enter")
    watched.until_text("#request .summary", "No service has logged a step of this request")
    assert watched.page.locator("#request .lanes [role=img]").count() == 0
    assert watched.complaints == []
    watched.close()


@needs_chromium
def test_a_failed_request_that_is_clicked_is_shown_and_leads_to_its_user(
    browser: Any, served: Served
) -> None:
    watched = Watched(browser, served, 390)
    watched.page.click(f"#failures button:has-text('{BUY_FAILED}')", force=True)
    watched.until_text("#request .summary", "buy · failed · 1.48 s")
    assert watched.page.input_value("#request-id") == BUY_FAILED
    failed = watched.page.locator("#request .step.failed")
    assert [one.get_attribute("data-place") for one in failed.all()] == ["3", "4"]
    assert "Declined: no funds. Failed" in str(failed.first.get_attribute("aria-label"))
    watched.until(
        "document.querySelector('#request .lanes').getBoundingClientRect().bottom <= innerHeight"
    )

    watched.page.click("#failures li:nth-child(2) button")
    watched.until_text("#request .gap", "Missing: PaymentProviderRep at Payment")
    gap = watched.page.locator("#request .missing")
    assert gap.count() == 1
    place = watched.page.evaluate(
        """() => {
          const at = (one) => one.cx.baseVal.value;
          const dots = [...document.querySelectorAll("#request circle.dot")].map(at);
          const gap = at(document.querySelector("#request .missing circle"));
          return dots.filter((one) => one < gap).length;
        }"""
    )
    assert place == 3

    watched.page.click("#failures li:nth-child(3) button")
    watched.until("document.querySelector('#request-id').value.startsWith('<img src=x')")
    watched.until_text("#request .summary", "buy · failed")
    watched.page.click("#request .summary button")
    watched.until_text("#trail .summary", "5 records")
    assert watched.page.locator("#trail tbody tr").count() == 5
    watched.page.fill("#user-id", ALICE)
    watched.page.press("#user-id", "Enter")
    watched.until_text("#trail .summary", "10 records, last seen 2019-10-01 13:03:01")
    assert "by relogin" in watched.text("#trail .sessions-of")
    watched.page.click(f"#trail button:has-text('{BUY_OK}')")
    watched.until_text("#request .summary", "buy · ok")
    assert watched.page.evaluate("window.hurt") is None
    assert watched.complaints == []
    watched.close()


NEW_PANELS = (
    "online", "logins", "services", "slowest", "failures", "alerts", "request", "trail",
    "sessions", "funnel", "products",
)  # fmt: skip


@needs_chromium
def test_a_shop_without_data_says_what_is_missing_and_how_to_get_it(
    browser: Any, server: Server, tmp_path: Path
) -> None:
    server.rows("CREATE DATABASE no_shop")
    empty = f"{server.url}/no_shop"
    served = serve(settings_of(tmp_path, empty))
    watched = Watched(browser, served, 390)
    try:
        watched.until_text("#online .problem", "`footfall init` makes those that miss")
        create_tables(empty, tables_and_views())
        watched.until("document.querySelector('#online .problem').hidden")
        for panel in NEW_PANELS:
            watched.until_text(f"#{panel} .empty", "footfall run")
        assert "no events yet" in watched.text("#shop")
        assert watched.page.evaluate(STICKING_OUT) == []
        assert watched.complaints == []
    finally:
        watched.close()
        served.stop()


def test_the_trace_of_a_request_by_its_id(client: Client) -> None:
    answer = client.get(f"/live/requests/{BUY_GAP}").json()
    assert [one["log"] for one in answer["steps"]] == [
        "BuyReq", "ReserveDbReq", "PaymentProviderReq", "BuyRep",
    ]  # fmt: skip
    assert [one["time_ms"] - answer["steps"][0]["time_ms"] for one in answer["steps"]] == [
        0, 20, 50, 480,
    ]  # fmt: skip
    assert answer["missing"] == {"server": "Payment", "log": "PaymentProviderRep", "after": 2}
    assert answer["summary"]["outcome"] == "incomplete"
    assert answer["more"] is False
    revised = client.get(f"/live/requests/{REVISED}").json()
    assert (revised["summary"]["outcome"], revised["missing"]) == ("ok", None)


def test_the_trail_of_a_user_by_id(client: Client) -> None:
    answer = client.get(f"/live/users/{ALICE}").json()
    times = [one["time_ms"] for one in answer["trail"]]
    assert times == sorted(times, reverse=True)
    assert {one["request_id"] for one in answer["trail"]} == {BUY_OK, BUY_FAILED}
    assert [one["ended_by"] for one in answer["sessions"]] == [
        "relogin", "timeout", "logout", "logout", "logout",
    ]  # fmt: skip


@pytest.mark.parametrize("odd", [HOSTILE, LONG, "buy\n", "'", "\\", "a/../b", "%2e", "\0", "🛒"])
def test_an_id_may_be_any_text(odd: str, client: Client) -> None:
    known = odd in (HOSTILE, LONG)
    for kind, name, rows in (("requests", "request_id", "steps"), ("users", "user_id", "trail")):
        reply = client.get(f"/live/{kind}/{quote(odd, safe='')}")
        assert reply.status == 200, reply.body
        assert reply.json()[name] == odd
        assert len(reply.json()[rows]) == (5 if known else 0)


def test_an_id_that_no_record_can_have_is_refused(client: Client) -> None:
    for kind, name in (("requests", "request_id"), ("users", "user_id")):
        reply = client.get(f"/live/{kind}/{'x' * (ID_CHARS_MAX + 1)}")
        assert reply.status == 400
        assert reply.error.startswith(f"{name}: over 200 characters")
        assert client.get(f"/live/{kind}/").error == f"{name}: empty"


class Held(ClickHouse):
    """Answers when it is let go, and knows how many it held at a time."""

    async def rows(self, query: str, parameters: Any = None) -> list[list[Any]]:
        self.holding += 1
        self.most = max(self.most, self.holding)
        await self.let_go.wait()
        self.holding -= 1
        return []

    @classmethod
    def open(cls) -> Held:
        held = cls("http://127.0.0.1:1")
        held.holding, held.most, held.let_go = 0, 0, asyncio.Event()
        return held

    holding: int
    most: int
    let_go: asyncio.Event


def test_lookups_wait_for_one_another_and_too_many_are_refused() -> None:
    async def ask() -> tuple[int, list[int]]:
        held = Held.open()
        lookups = Lookups(held)

        async def nobody_reads() -> dict[str, Any]:
            raise AssertionError

        async def one(number: int) -> int:
            scope = {"path_params": {"request_id": f"r{number}"}}
            try:
                return (await lookups.request(scope, nobody_reads)).status
            except RequestError as error:
                return error.status

        asking = [asyncio.create_task(one(number)) for number in range(AT_ONCE + WAITING_MAX + 5)]
        await asyncio.sleep(0)
        held.let_go.set()
        statuses = await asyncio.gather(*asking)
        await held.close()
        return held.most, statuses

    most, statuses = run(ask())
    assert most <= AT_ONCE
    assert statuses == [200] * (AT_ONCE + WAITING_MAX) + [503] * 5


def test_a_clickhouse_that_is_down_hurts_the_panels_that_need_it_alone(
    tmp_path: Path, home: Path
) -> None:
    served = serve(settings_of(home, f"http://127.0.0.1:{free_port()}"))
    try:
        with closing(Client(served.port)) as client:
            eventually(lambda: "online" in client.get("/live.json").json()["problems"])
            eventually(lambda: bool(shop_of(client)["alerts"]))
            answer = client.get("/live.json").json()
            assert "does not answer" in answer["problems"]["online"]
            assert "alerts" not in answer["problems"]
            assert len(answer["shop"]["alerts"]) == 3
            assert answer["shop"]["now_ms"] is None
            reply = client.get("/live/requests/x")
            assert (reply.status, "does not answer" in reply.error) == (503, True)
    finally:
        served.stop()


def test_a_partition_that_has_not_written_the_newest_minute_is_as_it_was() -> None:
    minute_s = NEWEST_MS // 1000
    rows: list[list[Any]] = [
        [minute_s - 60 * ago, partition, "1", str(10 + partition)]
        for ago in range(6)
        for partition in range(3)
        if (ago, partition) not in ((0, 2), (5, 0))
    ]
    known = online_of(rows, NEWEST_MS)
    assert known.online == [11 + 12, 33, 33, 33, 33, 33]
    assert known.active == [2, 3, 3, 3, 3, 2]
    # The shop is quiet, or the flow stands still: nothing is made up for it.
    assert online_of(rows, NEWEST_MS + 600_000).online[-11:] == [21] + [0] * 10
    assert online_of([], NEWEST_MS) == Online()


class Counting(ClickHouse):
    """Counts what it is asked."""

    asked: list[str]

    async def rows(self, query: str, parameters: Any = None) -> list[list[Any]]:
        self.asked.append(query)
        return await super().rows(query, parameters)


def test_every_question_is_bounded(url: str, home: Path) -> None:
    async def ask() -> list[str]:
        clickhouse = Counting(url)
        clickhouse.asked = []
        tables = ShopTables(clickhouse, lambda _topic: None, clock=lambda: 0.0)
        await asyncio.gather(
            tables.online(), tables.logins(), tables.health(), tables.anomalies(),
            tables.failures(), tables.sessions(), tables.products(), tables.funnel(),
        )  # fmt: skip
        await clickhouse.close()
        return clickhouse.asked

    asked = run(ask())
    assert all("max_execution_time" in query for query in asked)
    assert all("LIMIT" in query or "SELECT (SELECT" in query for query in asked)
    # The moment once for all, and once that of shop_events.
    assert sum("SELECT (SELECT" in query for query in asked) == 2


def test_now_is_the_newest_minute_and_no_stray_one(url: str, home: Path) -> None:
    async def ask(watermark_ms: int | None) -> tuple[int | None, list[int], list[int]]:
        clickhouse = ClickHouse(url)
        tables = ShopTables(clickhouse, lambda _topic: watermark_ms)
        online = await tables.online()
        now_ms = await tables.now_ms()
        await clickhouse.close()
        return now_ms, online.start_ms, online.online

    now_ms, starts, counts = run(ask(None))
    assert now_ms == NEWEST_MS == starts[-1]
    assert len(starts) == MINUTES
    assert counts == [111 + number for number in range(MINUTES)]
    # As if all but a stray event were half an hour older than that.
    shown_ms, starts, _ = run(ask(NEWEST_MS - 30 * 60_000))
    assert shown_ms == NEWEST_MS - 29 * 60_000
    assert starts == []


def test_an_alert_is_shown_once_and_the_newest_first() -> None:
    records = [alert(f"u{number}", (number, number + 3)) for number in range(20)]
    shown = shown_alerts([*records, records[-1], b"{}", b"\xff", b'{"user_id": "x"}'])
    assert [one.user_id for one in shown] == [f"u{number}" for number in range(19, 11, -1)]
    assert shown[0].time_ms == NEWEST_MS + 22_000
    assert (shown[0].first_ms, shown[0].last_ms) == (NEWEST_MS + 19_000, NEWEST_MS + 22_000)


def step(server: str, log: str) -> TraceStep:
    return TraceStep(0, server, log, "u", "", "", False)


@pytest.mark.parametrize(
    ("operation", "missing", "after"),
    [
        ("buy", "Payment.BuyReq", -1),
        ("buy", "Payment.PaymentProviderReq", 1),
        ("buy", "Payment.BuyRep", 2),
        ("unheard of", "Payment.BuyRep", -1),
        ("buy", "no step", -1),
    ],
)
def test_the_missing_step_belongs_after_those_that_come_before_it(
    operation: str, missing: str, after: int
) -> None:
    steps = [
        step("Payment", "BuyReq"), step("Reservation", "ReserveDbReq"),
        step("Payment", "PaymentProviderRep"),
    ]  # fmt: skip
    assert missing_in(steps, operation, missing).after == after


def test_sums_of_a_minute_that_is_not_there_are_zero(client: Client) -> None:
    def filled() -> bool:
        return bool(shop_of(client)["logins"]["start_ms"])

    eventually(filled)
    logins = shop_of(client)["logins"]
    # Nobody logged in in the first minute.
    assert logins["start_ms"][0] == round(minute(0).timestamp() * 1000)
    assert logins["logins"] == list(range(MINUTES))
