"""A load over HTTP against a real server: what is sent, measured and known to be stored."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event
from urllib.parse import parse_qs

import msgspec
import pytest
from aiohttp import web

from footfall.generator.http_client import LoadError
from footfall.generator.http_load import LoadReport, ProfileQuery, push_http
from footfall.generator.latency import Latencies
from footfall.generator.tags import TagWorld
from footfall.schemas.times import BadTimeError, iso_ms, parse_time_ms
from footfall.schemas.user_tags import UserTag
from tests.ports_support import free_port

decode = msgspec.json.Decoder(UserTag).decode


@dataclass
class Shop:
    """A tiny server of the tags' contract, on a port of 127.0.0.1 that it may come back to."""

    port: int = field(default_factory=free_port)
    slow_s: float = 0.0
    """Every tenth tag takes so long."""
    closes: bool = False
    """True where each answer ends its connection."""
    tags: list[bytes] = field(default_factory=list)
    stored: list[bytes] = field(default_factory=list)
    queries: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)
    clients: set[tuple[str, int]] = field(default_factory=set)
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def take_tag(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.tags.append(body)
        self.clients.add(request.transport.get_extra_info("peername"))  # type: ignore[union-attr]
        if self.slow_s and len(self.tags) % 10 == 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ending.wait(), self.slow_s)
        try:
            tag = decode(body)
            if parse_time_ms(tag.time) > parse_time_ms("2059-01-01T00:00:00Z"):
                raise BadTimeError("future")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadTimeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        self.stored.append(body)
        response = web.Response(status=204)
        if self.closes:
            response.force_close()
        return response

    async def profile(self, request: web.Request) -> web.Response:
        self.queries.append((request.match_info["cookie"], parse_qs(request.query_string)))
        return web.json_response({"cookie": request.match_info["cookie"], "views": [], "buys": []})

    @contextmanager
    def running(self) -> Iterator[Shop]:
        """Serve in a thread; the end cuts every connection at once."""
        loop = asyncio.new_event_loop()
        started, self.ending = Event(), asyncio.Event()

        async def serve() -> None:
            app = web.Application(client_max_size=2**22)
            app.router.add_post("/user_tags", self.take_tag)
            app.router.add_post("/user_profiles/{cookie}", self.profile)
            runner = web.AppRunner(app, shutdown_timeout=0)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", self.port)
            await site.start()
            started.set()
            await self.ending.wait()
            await runner.cleanup()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        assert started.wait(30)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(self.ending.set)
            thread.join(30)
            assert not thread.is_alive()
            loop.close()


def test_every_tag_is_sent_once_over_the_chosen_number_of_connections() -> None:
    world = TagWorld(seed=1)
    with Shop().running() as shop:
        result = push_http(
            world, shop.url, rate_per_s=None, clients=5, total=1_200, keep_indices=True
        )
    assert sorted(shop.tags) == sorted(value for _, value in world.batch(0, 1_200))
    assert len(shop.clients) == 5
    assert result.tags.by_status == {204: 1_200}
    assert (result.tags.sent, result.tags.unanswered, result.next_index) == (1_200, 0, 1_200)
    assert result.acknowledged == frozenset(range(1_200))
    assert result.ended_by == "total"
    latency = result.tags.latency
    assert latency.count == 1_200
    assert 0 < latency.p50_ms <= latency.p95_ms <= latency.p99_ms <= latency.max_ms
    assert 0 < result.cpu_s < result.seconds + 1


def test_one_client_sends_in_order_from_any_index() -> None:
    world = TagWorld(seed=1)
    with Shop().running() as shop:
        result = push_http(
            world, shop.url, rate_per_s=None, clients=1, start=700, total=1_300, keep_indices=True
        )
    assert shop.tags == [value for _, value in world.batch(700, 600)]
    assert result.acknowledged == frozenset(range(700, 1_300))
    assert result.next_index == 1_300


def test_malformed_tags_are_answered_400_and_counted() -> None:
    world = TagWorld(seed=2, malformed=0.3)
    with Shop().running() as shop:
        result = push_http(world, shop.url, rate_per_s=None, total=600, keep_indices=True)
    good = [row for row, kind in enumerate(world.kinds(0, 600)) if kind == "clean"]
    good += [row for row, kind in enumerate(world.kinds(0, 600)) if kind == "too_large"]
    assert result.tags.by_status == {204: len(good), 400: 600 - len(good)}
    assert result.acknowledged == frozenset(good)


def test_a_rate_is_kept_while_profiles_are_asked_for() -> None:
    world = TagWorld(seed=3)
    asked: list[tuple[ProfileQuery, int, bytes]] = []
    reports: list[LoadReport] = []
    stop = Event()

    def report(latest: LoadReport) -> None:
        reports.append(latest)
        stop.set()

    with Shop().running() as shop:
        result = push_http(
            world,
            shop.url,
            rate_per_s=300,
            profile_rate_per_s=60,
            stop=stop,
            report=report,
            on_profile=lambda query, status, body: asked.append((query, status, body)),
        )
    assert result.ended_by == "stop"
    # Never more than are due by the clock; how many fewer is up to the machine.
    assert 10 < result.tags.sent <= 300 * result.seconds + 1
    assert 2 < result.profiles.sent <= 60 * result.seconds + 1
    assert result.profiles.by_status == {200: result.profiles.sent}
    assert len(shop.queries) == len(asked) == result.profiles.sent
    for query, status, body in asked:
        assert status == 200
        assert msgspec.json.decode(body)["cookie"] == query.cookie
    query = asked[0][0]
    times = f"{iso_ms(query.from_ms)[:-1]}_{iso_ms(query.to_ms)[:-1]}"
    limit = {} if query.limit is None else {"limit": [str(query.limit)]}
    assert (query.cookie, {"time_range": [times], **limit}) in shop.queries
    assert reports[0].line().startswith(f"{reports[0].sent:,} tags sent, ")


def test_latency_counts_from_when_a_request_was_due() -> None:
    # One client, and every tenth answer takes 100 ms: those behind it wait, and are not spared.
    with Shop(slow_s=0.1).running() as shop:
        result = push_http(TagWorld(1), shop.url, rate_per_s=200, clients=1, duration_s=0.6)
    assert result.tags.latency.p50_ms > 50


def test_a_request_without_an_answer_is_given_up_and_counted() -> None:
    # Long enough that none but the slow answers is given up.
    with Shop(slow_s=60).running() as shop:
        result = push_http(
            TagWorld(1),
            shop.url,
            rate_per_s=None,
            clients=2,
            total=25,
            timeout_s=3,
            keep_indices=True,
        )
    assert result.tags.unanswered == 2
    assert result.tags.by_status == {204: 23}
    assert len(result.unanswered) == 2
    assert result.unanswered | result.acknowledged == frozenset(range(25))


def test_connections_that_the_server_closes_are_opened_again() -> None:
    with Shop(closes=True).running() as shop:
        result = push_http(TagWorld(1), shop.url, rate_per_s=None, clients=4, total=40)
    assert result.tags.by_status == {204: 40}
    assert len(shop.clients) > 4


def test_a_server_that_dies_and_comes_back_keeps_all_it_acknowledged() -> None:
    world = TagWorld(seed=4)
    results = []
    shop = Shop()
    with shop.running():
        thread = threading.Thread(
            target=lambda: results.append(
                push_http(world, shop.url, rate_per_s=800, total=1_200, keep_indices=True)
            )
        )
        thread.start()
        while len(shop.tags) < 200:
            time.sleep(0.01)
    time.sleep(0.2)
    with shop.running():
        thread.join(30)
    [result] = results
    assert result.ended_by == "total"
    values = {value: index for index, (_, value) in enumerate(world.batch(0, 1_200))}
    stored = frozenset(values[value] for value in shop.stored)
    assert len(stored) == len(shop.stored)
    assert result.acknowledged <= stored <= result.acknowledged | result.unanswered
    assert result.acknowledged | result.unanswered == frozenset(range(1_200))
    assert result.tags.unanswered == len(result.unanswered) < 50


def test_a_stop_is_followed_promptly() -> None:
    stop = Event()
    with Shop(slow_s=30).running() as shop:
        timer = threading.Timer(0.3, stop.set)
        timer.start()
        result = push_http(TagWorld(1), shop.url, rate_per_s=200, clients=2, stop=stop)
        timer.join()
    assert result.ended_by == "stop"
    assert result.seconds < 5


@pytest.mark.parametrize(
    "url", ["127.0.0.1:80", "https://127.0.0.1", "http://:1", "http://a:b:c", "http://h/user_tags"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(LoadError, match="it takes http://host:port"):
        push_http(TagWorld(1), url, rate_per_s=1, total=1)


def test_nobody_at_the_address_is_one_clear_line() -> None:
    with Shop().running() as shop:
        pass
    with pytest.raises(LoadError, match=f"nobody answers at {shop.url}: start the api"):
        push_http(TagWorld(1), shop.url, rate_per_s=1, total=1, connect_wait_s=0.2)


def test_a_server_that_speaks_no_http_is_no_endless_loop() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"220 mail ready\r\n\r\n")
        writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(greet, "127.0.0.1", 0))
    port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        result = push_http(TagWorld(1), f"http://127.0.0.1:{port}", rate_per_s=None, total=20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        server.close()
        loop.close()
    assert (result.tags.by_status, result.tags.unanswered) == ({}, 20)


def test_percentiles_are_within_two_percent() -> None:
    latencies = Latencies()
    for ms in range(1, 1_001):
        latencies.add(ms / 1000)
    found = latencies.percentiles()
    assert (found.count, found.max_ms) == (1_000, 1_000)
    assert found.p50_ms == pytest.approx(500, rel=0.021)
    assert found.p95_ms == pytest.approx(950, rel=0.021)
    assert found.p99_ms == pytest.approx(990, rel=0.021)
    assert Latencies().percentiles().p99_ms == 0
