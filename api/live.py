"""The live page's data: one snapshot, made at most once a second and shared by all viewers.

Status files are read each second, whether somebody looks or not, so that the rates have a
history. Tables and topics are asked only while somebody looks, each in its own time: a slow
or absent server makes its panel old, never the page.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from api.answers import PRIVATE, Answer, Receive, Scope, encode_json
from api.files import unless_seen
from api.refreshed import Refreshed
from api.shop_live import ShopPanels
from api.shop_snapshot import ShopNow
from api.shop_tables import ShopTables
from api.snapshot import Letter, Minutes, Snapshot, Top, Windows
from api.workers import WorkerMeter
from schemas import topics
from schemas.dead_letters import DeadLetter
from schemas.status import WorkerStatus

SNAPSHOT_EVERY_S = 1.0
FIRST_LOOK_S = 0.5
"""How long the first viewer waits for the tables; all others see the last values at once."""
COOKIES_SHOWN = 8
TAGS_LOOKED_AT = 50
"""Of each partition: the cookies that come most often among them are offered first."""
LETTERS_SHOWN = 8
PAYLOAD_CHARS_MAX = 300
REASON_CHARS_MAX = 500

log = logging.getLogger("footfall.api")


@dataclass(frozen=True, slots=True)
class LiveSources:
    """Where the page's data come from. What may block is called in a thread."""

    meter: WorkerMeter
    statuses: Callable[[], Sequence[WorkerStatus]]
    """Blocking."""
    minutes: Callable[[], Awaitable[Minutes]]
    top: Callable[[], Awaitable[Top]]
    windows: Callable[[], Windows]
    """Blocking."""
    newest: Callable[[str, int], list[bytes]]
    """Newest records of a topic, so many of each partition. Blocking."""
    shop: ShopTables | None = None
    """None where there is no ClickHouse to ask: the panels of the shop stay empty."""


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
        self._top = Refreshed(sources.top, Top(), 4.0, clock)
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
        self._series = secrets.token_hex(4)
        self._number = 0
        self._made_s: float | None = None
        self._answer = Answer(503)
        self._making = asyncio.Lock()

    def start(self) -> None:
        """Follow the workers' status files from now on. Needs a running event loop."""
        if self._follower is None:
            self._follower = asyncio.create_task(self._follow(), name="live-status")

    async def close(self) -> None:
        """Stop following."""
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower

    async def handle(self, scope: Scope, receive: Receive) -> Answer:
        """``GET /live.json``: the snapshot, or 304 where the viewer has seen it."""
        async with self._making:
            if self._made_s is None or self._clock() - self._made_s >= SNAPSHOT_EVERY_S:
                await self._make()
        return unless_seen(self._answer, scope)

    async def _make(self) -> None:
        first = self._made_s is None
        asking = [task for part in self._parts.values() if (task := part.refresh())]
        if first:
            if self._follower is None:
                await self._observe()
            if asking:
                await asyncio.wait(asking, timeout=FIRST_LOOK_S)
        meter = self._sources.meter
        snapshot = Snapshot(
            now_ms=self._now_ms(),
            rates=meter.rates(),
            flows=meter.flows(),
            minutes=self._minutes.value,
            top=self._top.value,
            windows=self._windows.value,
            cookies=self._cookies.value,
            dead_letters=self._letters.value,
            shop=self._shop.snapshot() if self._shop else ShopNow(),
            problems={name: part.problem for name, part in self._parts.items() if part.problem},
        )
        self._number += 1
        etag = f'"{self._series}-{self._number}"'.encode()
        self._answer = Answer(
            200,
            encode_json(snapshot),
            headers=((b"etag", etag), *PRIVATE),
        )
        self._made_s = self._clock()

    async def _follow(self) -> None:
        while True:
            try:
                await self._observe()
            except Exception:
                log.exception("the workers' status files could not be read")
            await asyncio.sleep(SNAPSHOT_EVERY_S)

    async def _observe(self) -> None:
        statuses = await asyncio.to_thread(self._sources.statuses)
        self._sources.meter.observe(statuses, self._now_ms())

    async def _ask_windows(self) -> Windows:
        return await asyncio.to_thread(self._sources.windows)

    async def _ask_cookies(self) -> list[str]:
        tags = await asyncio.to_thread(self._sources.newest, topics.USER_TAGS.name, TAGS_LOOKED_AT)
        return offered_cookies(tags)

    async def _ask_letters(self) -> list[Letter]:
        records = await asyncio.to_thread(
            self._sources.newest, topics.DEAD_LETTERS.name, LETTERS_SHOWN
        )
        return shown_letters(records)


class _Cookie(msgspec.Struct):
    cookie: str


_decode_cookie = msgspec.json.Decoder(_Cookie).decode
_decode_letter = msgspec.json.Decoder(DeadLetter).decode


def offered_cookies(tags: Sequence[bytes]) -> list[str]:
    """The cookies of these tags, newest first: the busiest first, then the newest."""
    seen: Counter[str] = Counter()
    for tag in tags:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            seen[_decode_cookie(tag).cookie] += 1
    return [cookie for cookie, _ in seen.most_common(COOKIES_SHOWN) if cookie]


def shown_letters(records: Sequence[bytes]) -> list[Letter]:
    """The newest dead letters, each once, with the beginnings of their payloads."""
    letters: dict[tuple[str, str, int, int], Letter] = {}
    for record in records:
        try:
            letter = _decode_letter(record)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # of another version
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
