"""The live page in headless Chromium, against a real server whose data change."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from footfall.api.snapshot import Minutes, Top, TopRow, Windows
from footfall.operations.sent import Sent
from footfall.schemas.times import datetime_of
from footfall.sinks import SinkUnavailableError
from tests.api_process_support import WAIT_S, eventually
from tests.api_support import Served, Shop, encoded, status, tag
from tests.page_support import SHIFT_MAX, SHIFTED, STICKING_OUT, Watched, chromium, needs_chromium

pytestmark = needs_chromium

START_MS = 1_647_951_300_000
HOSTILE = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>"\'`${window.hurt=1}'
CHARTS = 7
"""Charts besides those of the shop, which has no data here: see tests.test_page_shop."""
NOTHING = "\u2013"
"""The text in place of a number that is not known."""


@dataclasses.dataclass
class Moving:
    """A shop that goes on: ``step`` is one second of it."""

    shop: Shop
    name: str = "BRAND_7"
    seconds: int = 0
    is_gone: bool = False
    """True where a worker has not reported for a minute."""

    def step(self) -> None:
        self.seconds += 1
        live, at = self.shop.live, self.seconds
        minutes = [START_MS + 60_000 * minute for minute in range(10)]
        growing = [1000 + 10 * at] * 10
        live.minutes = Minutes(minutes, growing, [at] * 10, [100 * at] * 10, minutes[-1])
        rows = [TopRow(self.name, 100 + at, at, 5000 + at), TopRow("other", 9, 1, 10)]
        live.top = Top(START_MS, START_MS + 300_000, rows, rows[::-1], rows)
        starts = [START_MS + 1000 * (at + second) for second in range(60)]
        ends = [start + 1000 for start in starts]
        live.windows = Windows(
            starts, ends, growing * 6, growing * 6, [at] * 60, [at] * 60, [at] * 60, starts[-1]
        )
        live.are_ages = True
        live.statuses = [
            status(read=1000 * at, updated_ms=0, late=at, dead=3, lag=at, watermark_ms=START_MS),
            status("store_metrics", read=50 * at, topic="store_events", updated_ms=0),
            status("user_profiles", read=900 * at, updated_ms=60_000 * self.is_gone, pid=7),
        ]
        letter: dict[str, Any] = {
            "flow": "minute_buckets",
            "topic": "user_tags",
            "partition": 1,
            "offset": at,
            "code": "not_json",
            "reason": self.name,
            "payload_bytes": 1,
            "payload": self.name,
        }
        cookies = [encoded(tag(cookie=cookie)) for cookie in (self.name, "cookie-2")]
        live.topics = {"user_tags": cookies, "dead_letters": [encoded(letter)]}
        self.shop.profiles.tags = [
            (
                START_MS + second * 1000,
                "BUY" if second % 5 == 0 else "VIEW",
                cookie,
                encoded(
                    tag(
                        time=datetime_of(START_MS + second * 1000).isoformat(),
                        action="BUY" if second % 5 == 0 else "VIEW",
                        product_info={"product_id": self.name, "brand_id": cookie},
                    )
                ),
            )
            for second in range(at)
            for cookie in (self.name, "cookie-2")
        ]


@pytest.fixture
def moving() -> Moving:
    moving = Moving(Shop())
    for _ in range(3):
        moving.step()
    return moving


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def served(moving: Moving) -> Iterator[Served]:
    served = Served(moving.shop.services)
    yield served
    served.stop()


@pytest.fixture
def opened(browser: Any, served: Served) -> Iterator[Watched]:
    watched = Watched(browser, served)
    yield watched
    watched.close()


DRAWN = """() => [
  ...document.querySelectorAll(".panel:not(#online, #logins) canvas"),
].filter((canvas) => {
  const context = canvas.getContext("2d");
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const colours = new Set();
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] > 200) colours.add((data[at] << 16) | (data[at + 1] << 8) | data[at + 2]);
  }
  return colours.size > 3;
}).length"""
PICTURE = """() => [...document.querySelectorAll(".panel:not(#online, #logins) canvas")].map(
  (canvas) => canvas.toDataURL())"""


def test_charts_are_drawn_and_move_with_the_numbers(moving: Moving, opened: Watched) -> None:
    opened.until(f"({DRAWN})() === {CHARTS}")
    before, picture = opened.text("#numbers"), opened.page.evaluate(PICTURE)
    views = opened.text("#minutes .legend")
    moving.step()
    opened.until("/Late records\\s+4/i.test(document.querySelector('#numbers').innerText)")
    opened.until("/1,040/.test(document.querySelector('#minutes .legend').innerText)")
    assert opened.text("#numbers") != before
    assert opened.text("#minutes .legend") != views
    moved = opened.page.evaluate(PICTURE)
    assert all(one != other for one, other in zip(picture, moved, strict=True))
    assert opened.complaints == []
    assert opened.elsewhere == []


def test_the_numbers_are_those_of_the_snapshot(moving: Moving, opened: Watched) -> None:
    moving.is_gone = True
    moving.step()
    opened.until_text("#numbers", "1 gone")
    opened.until(
        "document.querySelector('#numbers .number').textContent !== NOTHING".replace(
            "NOTHING", repr(NOTHING)
        )
    )
    numbers = opened.text("#numbers")
    assert "2 of 3" in numbers
    assert "1 gone" in numbers
    opened.until_text("#minutes .legend", "1,040")
    assert re.search(r"gone, last seen \d+ s ago", opened.text("#flows"))
    assert "2022-03-22 UTC" in opened.text("#minutes")
    assert "BRAND_7" in opened.text("#top .ranking li:first-child")
    opened.page.click("text=Origins")
    assert "other" in opened.text("#top .ranking li:first-child")
    assert opened.complaints == []


def test_a_profile_is_shown_of_a_cookie_that_was_typed_or_offered(
    moving: Moving, opened: Watched
) -> None:
    opened.until("document.querySelectorAll('#profile tbody tr').length === 3")
    assert "2 views, 1 buys for 1.00" in opened.text("#profile .summary")
    opened.page.click("#profile .offers button:last-child")
    opened.until("document.querySelector('#profile tbody').innerText.includes('cookie-2')")
    moving.step()
    opened.until("document.querySelectorAll('#profile tbody tr').length === 4")
    opened.page.fill("#cookie", "no such/cookie?&#")
    opened.page.press("#cookie", "Enter")
    opened.until("/no tags/.test(document.querySelector('#profile .summary').innerText)")
    assert opened.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_needs_no_sideways_scroll(
    scheme: str, browser: Any, served: Served
) -> None:
    watched = Watched(browser, served, width=390, color_scheme=scheme)
    watched.until(f"({DRAWN})() === {CHARTS}")
    widths = watched.page.evaluate(
        "[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    )
    assert max(widths) == 390
    assert watched.page.evaluate(STICKING_OUT) == []
    assert watched.complaints == []
    watched.close()


def test_nothing_on_the_page_jumps(browser: Any, served: Served, moving: Moving) -> None:
    watched = Watched(browser, served)
    watched.until(f"({DRAWN})() === {CHARTS}")
    moving.step()
    watched.page.wait_for_timeout(1500)
    assert watched.page.evaluate(SHIFTED) < SHIFT_MAX
    watched.close()


def test_hostile_names_are_text(browser: Any) -> None:
    moving = Moving(Shop(), name=HOSTILE)
    moving.step()
    served = Served(moving.shop.services)
    watched = Watched(browser, served)
    try:
        for selector in ("#top .ranking", "#letters", "#profile .offers", "#profile tbody"):
            watched.until(
                f"document.querySelector('{selector}').textContent.includes('<img src=x')"
            )
        moving.step()
        watched.page.wait_for_timeout(1200)
        assert watched.page.evaluate("window.hurt") is None
        assert (
            watched.page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        )
        assert watched.complaints == []
        assert watched.elsewhere == []
    finally:
        watched.close()
        served.stop()


def test_a_silent_server_is_told_and_its_return_is_seen(
    moving: Moving, opened: Watched, served: Served
) -> None:
    opened.until("document.querySelector('#state').dataset.state === 'live'")
    assert not opened.page.is_visible("#notice")
    served.stop()
    opened.until("!document.querySelector('#notice').hidden")
    assert "does not answer" in opened.text("#notice")
    assert opened.text("#state") == "no answer"
    served.start()
    moving.step()
    opened.until("document.querySelector('#notice').hidden")
    opened.until("document.querySelector('#state').dataset.state === 'live'")
    opened.until("/1,040/.test(document.querySelector('#minutes .legend').innerText)")


BANNER_WITHIN_S = 5.0
IS_RED = """() => {
  const [red, green, blue] = getComputedStyle(document.querySelector("#notice"))
    .backgroundColor.match(/\\d+/g).map(Number);
  return red > 150 && green < 80 && blue < 80;
}"""


async def refuse() -> None:
    raise SinkUnavailableError("ClickHouse at http://x does not answer")


def test_a_flow_without_a_worker_is_told_in_red(moving: Moving, opened: Watched) -> None:
    opened.until("document.querySelector('#state').dataset.state === 'live'")
    assert not opened.page.is_visible("#notice")
    moving.is_gone = True
    moving.step()
    begun_s = time.monotonic()
    opened.until("!document.querySelector('#notice').hidden")
    assert time.monotonic() - begun_s < BANNER_WITHIN_S
    assert opened.text("#notice").startswith("user_profiles has no worker")
    assert opened.page.evaluate(IS_RED)
    assert opened.page.evaluate("document.querySelector('#state').dataset.state") == "trouble"
    assert "has no worker" in opened.text("#flows")
    moving.is_gone = False
    moving.step()
    opened.until("document.querySelector('#notice').hidden")
    assert opened.complaints == []


def test_a_server_that_does_not_answer_is_told_in_red(moving: Moving, opened: Watched) -> None:
    opened.until("document.querySelector('#state').dataset.state === 'live'")
    moving.shop.live.checks["clickhouse"] = refuse
    begun_s = time.monotonic()
    opened.until("!document.querySelector('#notice').hidden")
    assert time.monotonic() - begun_s < BANNER_WITHIN_S
    assert opened.text("#notice") == "clickhouse: ClickHouse at http://x does not answer"
    assert opened.page.evaluate(IS_RED)
    del moving.shop.live.checks["clickhouse"]
    opened.until("document.querySelector('#notice').hidden")


def test_an_error_is_not_an_empty_state(browser: Any) -> None:
    shop = Shop()
    shop.live.failure = SinkUnavailableError("ClickHouse at http://x does not answer")
    served = Served(shop.services)
    watched = Watched(browser, served)
    try:
        watched.until_text("#minutes .empty", "Not known: ClickHouse at http://x does not answer")
        assert "No minutes yet" not in watched.text("#minutes")
        assert "No windows yet" in watched.text("#store")
        shop.live.failure = None
        watched.until_text("#minutes .empty", "No minutes yet")
        assert "Not known" not in watched.text("#minutes")
    finally:
        watched.close()
        served.stop()


def test_no_panel_says_that_there_were_no_events_where_some_were_read(browser: Any) -> None:
    shop = Shop()
    shop.live.are_ages = True
    shop.live.statuses = [status(read=95_000, updated_ms=0)]
    served = Served(shop.services)
    watched = Watched(browser, served)
    try:
        watched.until_text("#minutes .empty", "minute_buckets has read 95,000 records, and none")
        assert "yet" not in watched.text("#minutes .empty")
        shop.live.statuses = [status(read=0, lag=95_000, updated_ms=60_000)]
        watched.until_text("#minutes .empty", "Not known: minute_buckets has no worker")
        assert watched.complaints == []
    finally:
        watched.close()
        served.stop()


def test_what_is_simulated_says_so_and_topics_without_records_are_left_out(
    moving: Moving, opened: Watched
) -> None:
    opened.until("document.querySelector('#state').dataset.state === 'live'")
    assert not opened.page.is_visible("#online")
    assert "Users online" in opened.text("#unshown")
    assert not opened.page.is_visible("#store .mark")
    moving.shop.live.sent = [
        Sent("2019-Oct.csv", False, 9, ["store_events"]),
        Sent("tags-0", True, 5, ["user_tags"]),
    ]
    opened.until("!document.querySelector('#minutes .mark').hidden")
    assert opened.text("#minutes .mark") == "simulated"
    assert not opened.page.is_visible("#store .mark")
    opened.until_text("#origin", "2019-Oct.csv \u00b7 simulated: tags-0")


def test_an_old_panel_says_why(moving: Moving, opened: Watched) -> None:
    moving.shop.live.failure = SinkUnavailableError("ClickHouse at http://x does not answer")
    opened.until("!document.querySelector('#minutes .problem').hidden")
    assert "ClickHouse" in opened.text("#minutes .problem")
    assert not opened.page.is_visible("#store .problem")
    moving.shop.live.failure = None
    opened.until("document.querySelector('#minutes .problem').hidden")


def test_before_the_first_event_every_panel_says_what_to_do(browser: Any) -> None:
    served = Served(Shop().services)
    watched = Watched(browser, served)
    try:
        watched.until("document.querySelector('#state').dataset.state === 'live'")
        for panel in (
            "rates",
            "minutes",
            "revenue",
            "top",
            "store",
            "profile",
            "flows",
            "letters",
        ):
            assert watched.page.is_visible(f"#{panel} .empty"), panel
        assert "footfall generate tags" in watched.text("#rates .empty")
        assert watched.complaints == []
    finally:
        watched.close()
        served.stop()


def test_every_control_has_a_name_and_the_text_can_be_read(opened: Watched) -> None:
    opened.until(f"({DRAWN})() === {CHARTS}")
    nameless = opened.page.evaluate(
        """() => [...document.querySelectorAll("button, input, a, [role=img], section")].filter(
             (one) => !(one.textContent.trim() || one.ariaLabel || one.labels?.length
               || one.getAttribute("aria-labelledby"))).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    contrast = """(dark) => {
      const style = getComputedStyle(document.documentElement);
      const light = (name) => {
        const hex = style.getPropertyValue(`--${name}`).trim().slice(1);
        const [r, g, b] = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
          .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ratio = (one, other) => {
        const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
        return (high + 0.05) / (low + 0.05);
      };
      return ["text", "muted", "views", "buys", "cart", "revenue", "warn", "bad"]
        .filter((name) => ratio(name, "card") < 4.5 );
    }"""
    for scheme in ("light", "dark"):
        opened.page.emulate_media(color_scheme=scheme)
        assert opened.page.evaluate(contrast) == [], scheme


def test_the_description_is_shown_without_internet(browser: Any, served: Served) -> None:
    watched = Watched(browser, served)
    watched.page.goto(watched.origin + "docs")
    watched.page.wait_for_selector("text=The newest tags of a cookie")
    assert watched.complaints == []
    assert watched.elsewhere == []
    watched.close()


def test_a_page_that_nobody_sees_asks_nothing(opened: Watched, moving: Moving) -> None:
    opened.until("document.querySelector('#state').dataset.state === 'live'")
    opened.page.evaluate(
        """() => {
          Object.defineProperty(document, "hidden", { get: () => window.away ?? false });
          window.away = true;
        }"""
    )
    asked: list[str] = []
    opened.page.wait_for_timeout(300)
    opened.page.on("request", lambda request: asked.append(request.url))
    opened.page.wait_for_timeout(1500)
    assert asked == []
    opened.page.evaluate(
        "() => { window.away = false; document.dispatchEvent(new Event('visibilitychange')); }"
    )
    deadline = time.monotonic() + WAIT_S
    while not asked and time.monotonic() < deadline:
        opened.page.wait_for_timeout(50)
    assert asked
    eventually(lambda: moving.shop.live.asked > 0)
