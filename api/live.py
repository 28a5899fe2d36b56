"""The live page's data: one snapshot, made at most once a second and shared by all viewers.

Flows are looked at each second, whether somebody looks at the page or not, so that rates have a
history and a flow that does not move is known. Tables and servers are asked only while somebody
looks, each in its own time: a slow or absent server makes its panel old, never the page.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from footfall.api.answers import Answer, Receive, Scope
from footfall.api.health import Check, state_of
from footfall.api.live_answers import LiveAnswers
from footfall.api.refreshed import Refreshed
from footfall.api.shop_live import ShopPanels
from footfall.api.shop_snapshot import ShopNow
from footfall.api.shop_tables import ShopTables
from footfall.api.snapshot import Counts, Flow, Letter, Minutes, Snapshot, Top, Windows
from footfall.api.workers import WorkerMeter
from footfall.operations.looking import problem_of
from footfall.operations.observer import Look
from footfall.operations.sent import Sent
from footfall.schemas import topics
from footfall.schemas.dead_letters import DeadLetter

SNAPSHOT_EVERY_S = 1.0
FIRST_LOOK_S = 0.5
"""Wait of the first viewer for the tables; all others see the last values at once."""
FLOWS_EVERY_S = 10.0
"""Seconds between the numbers of all flows, which are half of what changes. Troubles are sent
at once."""
LOOK_EVERY_S = 2.0
LOOK_UNSEEN_EVERY_S = 15.0
"""Seconds between looks at the topics, with a viewer and without. Workers are read each second."""
LOOK_OLD_S = 6.0
"""A look at the topics that takes longer is shown as a trouble."""
CHECKED_WITHIN_S = 3.0
COOKIES_SHOWN = 8
TAGS_LOOKED_AT = 50
"""Tags read per partition; the cookies that come most often among them are offered."""
LETTERS_SHOWN = 8
PAYLOAD_CHARS_MAX = 300
REASON_CHARS_MAX = 500

log = logging.getLogger("footfall.api")


@dataclass(frozen=True, slots=True)
class LiveSources:
    """The sources of the page's data. Blocking ones are called in a thread."""

    meter: WorkerMeter
    look: Callable[[], Look]
    """Looks at all flows. Blocking."""
    look_again: Callable[[Look], Look]
    """Looks at the workers alone, with the topics' ends of another look. Blocking."""
    sent: Callable[[], list[Sent]]
    """Blocking."""
    minutes: Callable[[], Awaitable[Minutes]]
    top: Callable[[], Awaitable[Top]]
    windows: Callable[[], Windows]
    """Blocking."""
    newest: Callable[[str, int], list[bytes]]
    """Newest records of a topic, at most so many per partition. Blocking."""
    shop: ShopTables | None = None
    """None without a ClickHouse: the panels of the shop stay empty."""
    checks: Mapping[str, Check] = field(default_factory=dict)
    """Checks by the name of the server."""


class Live:
    """Makes snapshots. ``start`` begins to follow the workers; ``close`` ends it."""

    def __init__(
        self,
        sources: LiveSources,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._sources = sources
        self._clock = clock
        self._now_ms = now_ms
        self._follower: asyncio.Task[None] | None = None
        self._minutes = Refreshed(sources.minutes, Minutes(), 2.0, clock)
        self._top = Refreshed(sources.top, Top(), 10.0, clock)
        self._windows = Refreshed(self._ask_windows, Windows(), 1.0, clock)
        self._cookies: Refreshed[list[str]] = Refreshed(self._ask_cookies, [], 10.0, clock)
        self._letters: Refreshed[list[Letter]] = Refreshed(self._ask_letters, [], 2.0, clock)
        self._parts: dict[str, Refreshed[Any]] = {
            "minutes": self._minutes,
            "top": self._top,
            "windows": self._windows,
            "cookies": self._cookies,
            "dead_letters": self._letters,
        }
        self._shop: ShopPanels | None = None
        if sources.shop is not None:
            self._shop = ShopPanels(sources.shop, sources.newest, clock)
            self._parts |= self._shop.parts
        # A server that hangs is asked as often as any other, so that its return is seen at once.
        self._servers: Refreshed[list[str]] = Refreshed(
            self._check_servers, [], SNAPSHOT_EVERY_S, clock, cost_share_max=1.0
        )
        self._sent: Refreshed[list[Sent]] = Refreshed(self._ask_sent, [], 5.0, clock)
        self._flows = _Flows([], Counts(), {}, None)
        self._look = Look(0)
        self._look_began_s = clock()
        self._looking: asyncio.Future[Look] | None = None
        self._look_problem = ""
        # Looks have their own threads: other questions may hang in all of the usual ones.
        self._threads = ThreadPoolExecutor(2, "live-look")
        self._made_s: float | None = None
        self._answers = LiveAnswers()
        self._making = asyncio.Lock()

    def start(self) -> None:
        """Follow the flows from now on. Needs a running event loop."""
        if self._follower is None:
            self._follower = asyncio.create_task(self._follow(), name="live-status")

    async def close(self) -> None:
        """Stop following."""
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def handle(self, scope: Scope, receive: Receive) -> Answer:
        """Handle ``GET /live.json``: the snapshot, a patch, or 304 where nothing is new."""
        async with self._making:
            if self._made_s is None or self._clock() - self._made_s >= SNAPSHOT_EVERY_S:
                await self._make()
        return self._answers.answer(scope)

    async def _make(self) -> None:
        first = self._made_s is None
        parts = self._parts
        asked: list[Refreshed[Any]] = [self._servers, self._sent, *parts.values()]
        asking = [task for part in asked if (task := part.refresh())]
        if first:
            if self._follower is None:
                await self._observe()
            if asking:
                await asyncio.wait(asking, timeout=FIRST_LOOK_S)
        meter = self._sources.meter
        self._flows = self._flows.next(meter, self._clock())
        self._answers.keep(
            Snapshot(
                now_ms=self._now_ms(),
                rates=meter.rates(),
                flows=self._flows.flows,
                counts=self._flows.counts,
                topics=self._flows.topics,
                sent=self._sent.value,
                minutes=self._minutes.value,
                top=self._top.value,
                windows=self._windows.value,
                cookies=self._cookies.value,
                dead_letters=self._letters.value,
                shop=self._shop.snapshot() if self._shop else ShopNow(),
                problems={name: part.problem for name, part in parts.items() if part.problem},
                waiting=[name for name, part in parts.items() if not part.is_answered],
                troubles=self._troubles(),
            )
        )
        self._made_s = self._clock()

    def _troubles(self) -> list[str]:
        """Return the sentences that the page shows in red: servers, then flows."""
        told = list(self._servers.value)
        if self._windows.problem:
            told.append(f"store: {self._windows.problem}")
        if self._look_problem and not any(one.startswith("topics: ") for one in told):
            told.append(f"topics: {self._look_problem}")
        took_s = self._clock() - self._look_began_s
        if self._looking is not None and took_s > LOOK_OLD_S:
            told.append(f"topics: no answer to a look at them for {took_s:.0f} s")
        return told + self._sources.meter.troubles()

    async def _follow(self) -> None:
        while True:
            try:
                await self._observe()
            except Exception:
                log.exception("the flows could not be looked at")
            await asyncio.sleep(SNAPSHOT_EVERY_S)

    async def _observe(self) -> None:
        """Read what the workers report now, and begin a look at the topics where one is due."""
        loop = asyncio.get_running_loop()
        if self._looking is not None and self._looking.done():
            self._take_look(self._looking)
            self._looking = None
        since_s = self._clock() - (self._made_s or 0.0)
        every_s = LOOK_EVERY_S if since_s < LOOK_UNSEEN_EVERY_S else LOOK_UNSEEN_EVERY_S
        is_due = not self._look.at_ms or self._clock() - self._look_began_s >= every_s
        if self._looking is None and is_due:
            self._look_began_s = self._clock()
            self._looking = loop.run_in_executor(self._threads, self._sources.look)
            if not self._look.at_ms:
                await asyncio.wait([self._looking], timeout=FIRST_LOOK_S)
        again = partial(self._sources.look_again, self._look)
        self._sources.meter.observe(await loop.run_in_executor(self._threads, again))

    def _take_look(self, done: asyncio.Future[Look]) -> None:
        error = done.exception()
        self._look_problem = "" if error is None else problem_of(error)
        # Where topics cannot be asked, nobody knows how far behind a flow is.
        self._look = done.result() if error is None else Look(0)

    async def _check_servers(self) -> list[str]:
        """Return a sentence for each server that does not answer."""
        checks = self._sources.checks
        asked = (state_of(check, CHECKED_WITHIN_S) for check in checks.values())
        states = zip(checks, await asyncio.gather(*asked), strict=True)
        return [f"{name}: {state}" for name, state in states if state != "ok"]

    async def _ask_windows(self) -> Windows:
        return await asyncio.to_thread(self._sources.windows)

    async def _ask_sent(self) -> list[Sent]:
        return await asyncio.to_thread(self._sources.sent)

    async def _ask_cookies(self) -> list[str]:
        tags = await asyncio.to_thread(self._sources.newest, topics.USER_TAGS.name, TAGS_LOOKED_AT)
        return offered_cookies(tags)

    async def _ask_letters(self) -> list[Letter]:
        records = await asyncio.to_thread(
            self._sources.newest, topics.DEAD_LETTERS.name, LETTERS_SHOWN
        )
        return shown_letters(records)


@dataclass(frozen=True, slots=True)
class _Flows:
    """The flows as they are sent: numbers now and then, troubles at once."""

    flows: list[Flow]
    counts: Counts
    topics: dict[str, int]
    at_s: float | None

    def next(self, meter: WorkerMeter, now_s: float) -> _Flows:
        """Return the flows to send now."""
        found = meter.flows()
        if self.at_s is None or now_s - self.at_s >= FLOWS_EVERY_S:
            return _Flows(found, meter.counts(), meter.topics(), now_s)
        sent = {one.flow: one for one in self.flows}
        flows = [sent[one.flow] if _is_as_sent(one, sent) else one for one in found]
        return _Flows(flows, self.counts, self.topics, self.at_s)


def _is_as_sent(flow: Flow, sent: Mapping[str, Flow]) -> bool:
    before = sent.get(flow.flow)
    return before is not None and _state(before) == _state(flow)


def _state(flow: Flow) -> object:
    return flow.state, flow.trouble, [(one.pid, one.state) for one in flow.workers]


class _Cookie(msgspec.Struct):
    cookie: str


_decode_cookie = msgspec.json.Decoder(_Cookie).decode
_decode_letter = msgspec.json.Decoder(DeadLetter).decode


def offered_cookies(tags: Sequence[bytes]) -> list[str]:
    """Return the cookies with the most tags, of equals the newest; tags come newest first."""
    seen: Counter[str] = Counter()
    for tag in tags:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            seen[_decode_cookie(tag).cookie] += 1
    return [cookie for cookie, _ in seen.most_common(COOKIES_SHOWN) if cookie]


def shown_letters(records: Sequence[bytes]) -> list[Letter]:
    """Return the newest dead letters, each once, with the beginnings of their payloads."""
    letters: dict[tuple[str, str, int, int], Letter] = {}
    for record in records:
        try:
            letter = _decode_letter(record)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # a letter of another version
        payload = letter.payload if letter.payload is not None else letter.payload_base64
        identity = (letter.flow, letter.topic, letter.partition, letter.offset)
        letters.setdefault(
            identity,
            Letter(
                *identity,
                letter.code,
                letter.reason[:REASON_CHARS_MAX],
                (payload or "")[:PAYLOAD_CHARS_MAX],
            ),
        )
        if len(letters) == LETTERS_SHOWN:
            break
    return list(letters.values())
