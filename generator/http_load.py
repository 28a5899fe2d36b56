"""Push the tags over HTTP, and ask for profiles meanwhile, at chosen rates.

Requests become due by the clock whether or not the server keeps up, and latency counts from
then on: so a server that stalls shows its whole delay.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from threading import Event
from typing import Literal
from urllib.parse import quote

from footfall.generator.http_client import NO_ANSWER, Address, LoadError
from footfall.generator.http_lane import Lane, RequestCounts
from footfall.generator.latency import Percentiles
from footfall.generator.sources import Record
from footfall.generator.tags import TagWorld
from footfall.schemas.times import iso_ms

TICK_S = 0.005
CONNECT_WAIT_S = 10.0
"""Seconds that the server may take to open its port."""
AWAY_MAX_S = 30.0
"""Seconds that it may be away after a crash."""
TAGS_AHEAD = 500
ACCEPTED = 204
"""Status of a tag that is stored."""
PROFILE_RANGES_MS = (1_000, 60_000, 600_000, 86_400_000)
PROFILE_LIMITS = (None, 1, 10, 50, 200)
CHECK_EVERY_S = 0.1
REPORT_EVERY_S = 1.0
STOP_WAIT_S = 0.3
"""Seconds that a stopped load still waits for answers."""

EndedBy = Literal["total", "time", "stop", "no_server"]


@dataclass(frozen=True)
class ProfileQuery:
    """A query for a profile: ``from_ms`` inclusive, ``to_ms`` exclusive."""

    cookie: str
    from_ms: int
    to_ms: int
    limit: int | None

    def path(self) -> bytes:
        """Return the request's path and query."""
        times = f"{iso_ms(self.from_ms)[:-1]}_{iso_ms(self.to_ms)[:-1]}"
        limit = "" if self.limit is None else f"&limit={self.limit}"
        return f"/user_profiles/{quote(self.cookie)}?time_range={times}{limit}".encode()


@dataclass(frozen=True)
class LoadResult:
    """Counts and figures of a load."""

    tags: RequestCounts
    profiles: RequestCounts
    next_index: int
    """Index of the first tag that was not sent."""
    seconds: float
    cpu_s: float
    """CPU time of the load's own thread."""
    ended_by: EndedBy
    acknowledged: frozenset[int]
    """Indices of the tags that were answered with 204, where they are kept."""
    unanswered: frozenset[int]
    """Indices of the tags that may or may not have arrived, where they are kept."""


@dataclass(frozen=True)
class LoadReport:
    """Figures of a progress line."""

    sent: int
    by_status: dict[int, int]
    unanswered: int
    rate_per_s: float
    profiles: int
    latency: Percentiles
    event_time_ms: int

    def line(self) -> str:
        """Return the report as one line of text."""
        answers = ", ".join(f"{count:,} x {code}" for code, count in self.by_status.items())
        if self.unanswered:
            answers += f", {self.unanswered:,} lost"
        return (
            f"{self.sent:,} tags sent, {self.rate_per_s:,.0f}/s, answers {answers or 'none'}, "
            f"{self.profiles:,} profiles, 99% within {self.latency.p99_ms:.1f} ms, "
            f"event time {iso_ms(self.event_time_ms)}"
        )


def push_http(
    world: TagWorld,
    url: str,
    *,
    rate_per_s: float | None,
    clients: int = 8,
    start: int = 0,
    total: int | None = None,
    duration_s: float | None = None,
    profile_rate_per_s: float = 0.0,
    profile_clients: int = 2,
    timeout_s: float = 10.0,
    connect_wait_s: float = CONNECT_WAIT_S,
    keep_indices: bool = False,
    stop: Event | None = None,
    report: Callable[[LoadReport], None] | None = None,
    on_profile: Callable[[ProfileQuery, int, bytes], None] | None = None,
) -> LoadResult:
    """Send tags ``start`` to ``total - 1`` to ``POST /user_tags``, in order, and wait for answers.

    With ``rate_per_s`` None they are sent as fast as the clients are answered, with 0 not at all
    (profiles only). The load ends at ``total``, after ``duration_s``, when ``stop`` is set, or
    when the server was away for AWAY_MAX_S. A tag is sent once, whatever the answer.
    ``keep_indices`` is for tests: it costs memory for each tag. ``on_profile`` gets each query
    with its status and body, in the load's thread.

    Raises LoadError for a bad address, and where no server listens at the start.
    """
    for name, rate in (("rate_per_s", rate_per_s), ("profile_rate_per_s", profile_rate_per_s)):
        if rate is not None and not 0 <= rate <= 1_000_000:
            raise ValueError(f"{name} takes 0 to 1,000,000, not {rate:g}")
    if min(clients, profile_clients) < 1:
        raise ValueError("a load takes 1 client or more")
    tags = _Tags(world, start, keep_indices)
    profiles = _Profiles(world, tags, on_profile)
    address = Address(url)
    limit = None if total is None else max(0, total - start)
    if not profile_rate_per_s:
        profile_clients = 0
    load = _Load(
        address,
        tag_lane=Lane(address, clients, rate_per_s, limit, tags),
        profile_lane=Lane(address, profile_clients, profile_rate_per_s, None, profiles),
        tags=tags,
        world=world,
        stop=stop or Event(),
        report=report,
    )
    return asyncio.run(load.run(duration_s, timeout_s, connect_wait_s))


class _Tags:
    def __init__(self, world: TagWorld, start: int, keep_indices: bool) -> None:
        self._world = world
        self._start = self._ahead_from = self.next_index = start
        self.ahead: list[Record] = []
        self._keeps = keep_indices
        self.acknowledged = array("q")
        self.unanswered = array("q")

    def request(self, number: int) -> tuple[bytes, bytes]:
        index = self._start + number
        if index >= self._ahead_from + len(self.ahead):
            self.ahead, self._ahead_from = self._world.batch(index, TAGS_AHEAD), index
        self.next_index = index + 1
        return b"/user_tags", self.ahead[index - self._ahead_from][1]

    def answered(self, number: int, status: int, body: bytes) -> None:
        if not self._keeps:
            return
        if status == ACCEPTED:
            self.acknowledged.append(self._start + number)
        elif status == NO_ANSWER:
            self.unanswered.append(self._start + number)


class _Profiles:
    """Queries for cookies that are active now, half of them hot ones."""

    def __init__(
        self,
        world: TagWorld,
        tags: _Tags,
        on_profile: Callable[[ProfileQuery, int, bytes], None] | None,
    ) -> None:
        self._world = world
        self._tags = tags
        self._hot = world.hot_cookies
        self._on_profile = on_profile
        self._asked: dict[int, ProfileQuery] = {}
        """Queries under way: at most one per client."""
        self._random = Random(world.seed)

    def request(self, number: int) -> tuple[bytes, bytes]:
        random, recent = self._random, self._tags.ahead
        cookie = random.choice(self._hot)
        if recent and random.random() < 0.5:
            cookie = (random.choice(recent)[0] or b"").decode()
        now_ms = self._world.time_ms(self._tags.next_index)
        from_ms = now_ms - random.choice(PROFILE_RANGES_MS)
        query = ProfileQuery(cookie, from_ms, now_ms + 1, random.choice(PROFILE_LIMITS))
        if self._on_profile:
            self._asked[number] = query
        return query.path(), b""

    def answered(self, number: int, status: int, body: bytes) -> None:
        if self._on_profile:
            self._on_profile(self._asked.pop(number), status, body)


class _Load:
    """Runs the lanes until the load ends, and counts."""

    def __init__(
        self,
        address: Address,
        *,
        tag_lane: Lane,
        profile_lane: Lane,
        tags: _Tags,
        world: TagWorld,
        stop: Event,
        report: Callable[[LoadReport], None] | None,
    ) -> None:
        self._address = address
        self._tag_lane = tag_lane
        self._lanes = (tag_lane, profile_lane)
        self._tags = tags
        self._world = world
        self._stop = stop
        self._report = report
        self._reported = (0.0, 0)
        """(time of the last report, tags sent by then)."""

    async def run(
        self, duration_s: float | None, timeout_s: float, connect_wait_s: float
    ) -> LoadResult:
        connections = [each for lane in self._lanes for each in lane.connections]
        tasks = [asyncio.create_task(connection.keep_open()) for connection in connections]
        cpu_before_s = time.thread_time()
        began_s = time.monotonic()
        try:
            await self._connected(connect_wait_s)
            began_s = time.monotonic()
            self._reported = (began_s, 0)
            for lane in self._lanes:
                lane.begin(began_s)
            ended_by = await self._until_end(began_s, duration_s, timeout_s)
            seconds = time.monotonic() - began_s
            for lane in self._lanes:
                lane.end()
            await self._answered(STOP_WAIT_S if ended_by == "stop" else timeout_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            while any(lane.under_way for lane in self._lanes):
                await asyncio.sleep(0)
        return LoadResult(
            tags=self._lanes[0].counts(seconds),
            profiles=self._lanes[1].counts(seconds),
            next_index=self._tags.next_index,
            seconds=seconds,
            cpu_s=time.thread_time() - cpu_before_s,
            ended_by=ended_by,
            acknowledged=frozenset(self._tags.acknowledged),
            unanswered=frozenset(self._tags.unanswered),
        )

    async def _connected(self, wait_s: float) -> None:
        """Wait for the first connection. Raises LoadError."""
        until_s = time.monotonic() + wait_s
        while not self._tag_lane.is_open and not self._stop.is_set():
            if time.monotonic() > until_s:
                raise LoadError(
                    f"nobody answers at {self._address}: start the api there (`footfall api`), "
                    "or give the address at which it runs"
                )
            await asyncio.sleep(TICK_S)

    async def _until_end(
        self, began_s: float, duration_s: float | None, timeout_s: float
    ) -> EndedBy:
        checked_s = seen_open_s = began_s
        while not self._stop.is_set():
            now_s = time.monotonic()
            for lane in self._lanes:
                lane.tick(now_s)
            if self._tag_lane.is_done:
                return "total"
            if duration_s is not None and now_s - began_s >= duration_s:
                return "time"
            if now_s - checked_s >= CHECK_EVERY_S:
                checked_s = now_s
                for lane in self._lanes:
                    lane.cut_slow(now_s - timeout_s)
                if self._tag_lane.is_open:
                    seen_open_s = now_s
                elif now_s - seen_open_s > AWAY_MAX_S:
                    return "no_server"
                self._report_when_due(now_s)
            await asyncio.sleep(TICK_S)
        return "stop"

    async def _answered(self, wait_s: float) -> None:
        """Wait for the answers to what was sent."""
        until_s = time.monotonic() + wait_s
        while any(lane.under_way for lane in self._lanes) and time.monotonic() < until_s:
            await asyncio.sleep(TICK_S)

    def _report_when_due(self, now_s: float) -> None:
        reported_s, reported_sent = self._reported
        if self._report is None or now_s - reported_s < REPORT_EVERY_S:
            return
        sent = self._tag_lane.sent
        counts = self._tag_lane.counts(1.0)
        self._report(
            LoadReport(
                sent=sent,
                by_status=counts.by_status,
                unanswered=counts.unanswered,
                rate_per_s=(sent - reported_sent) / (now_s - reported_s),
                profiles=self._lanes[1].sent,
                latency=counts.latency,
                event_time_ms=self._world.time_ms(self._tags.next_index),
            )
        )
        self._reported = (now_s, sent)
