"""A served application on made-up services, and a client to ask it."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import uvicorn

from footfall.api.aggregates import Sums
from footfall.api.app import create_app
from footfall.api.endpoint import RequestLog
from footfall.api.health import Check
from footfall.api.live import Live, LiveSources
from footfall.api.metrics import ApiMetrics
from footfall.api.profiles import Profiles
from footfall.api.server import config, listen
from footfall.api.services import Services
from footfall.api.snapshot import Minutes, Top, Windows
from footfall.api.workers import WorkerMeter
from footfall.api.writing import GroupCommit
from footfall.infra.connections import LIMITS, Limits
from footfall.operations.flow_facts import flows_now
from footfall.operations.observer import Look
from footfall.operations.sent import Sent
from footfall.schemas.addresses import OwnHosts
from footfall.schemas.status import PartitionStatus, WorkerStatus
from footfall.sinks import Record, SinkError
from tests.api_process_support import WAIT_S
from tests.ports_support import free_port


class MemoryTopics:
    """A TopicWriter that keeps records, and fails when told to."""

    def __init__(self) -> None:
        self.records: dict[str, list[Record]] = defaultdict(list)
        self.writes = 0
        self.failure: Exception | None = None
        self.held = threading.Event()
        """Set once a write waits for the gate, or has passed it."""
        self.gate = threading.Event()
        self.gate.set()

    def write(self, topic: str, records: Sequence[Record]) -> None:
        self.held.set()
        self.gate.wait(WAIT_S)
        self.writes += 1
        if self.failure is not None:
            raise self.failure
        self.records[topic] += records

    def probe(self) -> None:
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        pass


@dataclass
class MemoryProfiles:
    """A profile store over a list of (time_ms, action, cookie, tag)."""

    tags: list[tuple[int, str, str, bytes]] = field(default_factory=list)
    failure: Exception | None = None

    def get(
        self, cookie: str, from_ms: int, to_ms: int, limit: int
    ) -> tuple[list[bytes], list[bytes]]:
        if self.failure is not None:
            raise self.failure
        newest = sorted(self.tags, key=lambda tag: -tag[0])
        views, buys = (
            [
                tag
                for time_ms, found, owner, tag in newest
                if owner == cookie and found == action and from_ms <= time_ms < to_ms
            ][:limit]
            for action in ("VIEW", "BUY")
        )
        return views, buys


@dataclass
class MemoryAggregates:
    """Sums over a list of (time_ms, action, {origin, brand_id, category_id}, price)."""

    tags: list[tuple[int, str, dict[str, str], int]] = field(default_factory=list)
    failure: SinkError | None = None

    async def sums(
        self, from_ms: int, to_ms: int, action: str, filters: Mapping[str, str]
    ) -> Mapping[int, Sums]:
        if self.failure is not None:
            raise self.failure
        found: dict[int, Sums] = {}
        for time_ms, acted, fields, price in self.tags:
            wanted = all(fields[name] == value for name, value in filters.items())
            if from_ms <= time_ms < to_ms and acted == action and wanted:
                minute = time_ms - time_ms % 60_000
                count, total = found.get(minute, (0, 0))
                found[minute] = (count + 1, total + price)
        return found

    async def check(self) -> None:
        if self.failure is not None:
            raise self.failure


@dataclass
class MadeUpLive:
    """Sources of the live page that a test changes while it is served."""

    statuses: list[WorkerStatus] = field(default_factory=list)
    are_ages: bool = False
    """True where ``updated_ms`` of the statuses is an age, whenever they are read."""
    minutes: Minutes = field(default_factory=Minutes)
    top: Top = field(default_factory=Top)
    windows: Windows = field(default_factory=Windows)
    topics: dict[str, list[bytes]] = field(default_factory=dict)
    failure: Exception | None = None
    sent: list[Sent] = field(default_factory=list)
    checks: dict[str, Check] = field(default_factory=dict)
    asked: int = 0

    def sources(self) -> LiveSources:
        return LiveSources(
            meter=WorkerMeter(),
            look=self._look,
            look_again=lambda _before: self._look(),
            sent=lambda: self.sent,
            checks=self.checks,
            minutes=self._minutes,
            top=self._top,
            windows=lambda: self.windows,
            newest=lambda topic, most: self.topics.get(topic, [])[:most],
        )

    def _look(self) -> Look:
        """Return a look at workers whose processes run, and at topics' ends beyond all reads."""
        statuses, now_ms = self._statuses(), time.time_ns() // 1_000_000
        parts = [part for one in statuses for part in one.partitions]
        ends: dict[str, dict[int, tuple[int, int]]] = {}
        for one in parts:
            of_topic = ends.setdefault(one.topic, {})
            before = of_topic.get(one.partition, (0, 0))[1]
            of_topic[one.partition] = 0, max(before, one.next_offset + one.lag)
        flows = flows_now(statuses, {}, ends, {}, now_ms, is_alive=lambda _pid: True)
        return Look(now_ms, flows, ends, statuses)

    def _statuses(self) -> list[WorkerStatus]:
        if not self.are_ages:
            return list(self.statuses)
        now_ms = time.time_ns() // 1_000_000
        return [
            msgspec.structs.replace(one, updated_ms=now_ms - one.updated_ms)
            for one in self.statuses
        ]

    async def _minutes(self) -> Minutes:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return self.minutes

    async def _top(self) -> Top:
        return self.top


@dataclass
class Shop:
    """The services of an application in these tests."""

    topics: MemoryTopics = field(default_factory=MemoryTopics)
    profiles: Any = field(default_factory=MemoryProfiles)
    aggregates: MemoryAggregates = field(default_factory=MemoryAggregates)
    live: MadeUpLive = field(default_factory=MadeUpLive)
    metrics: ApiMetrics = field(default_factory=ApiMetrics)
    request_log: RequestLog = field(default_factory=RequestLog)
    debug_answers: bool = False
    hosts: OwnHosts = field(default_factory=OwnHosts)
    origins: frozenset[str] = frozenset()
    commit: dict[str, Any] = field(default_factory=dict)

    @asynccontextmanager
    async def services(self) -> AsyncIterator[Services]:
        writing = GroupCommit(self.topics, self.topics.probe, **self.commit)
        profiles = Profiles(self.profiles)
        live = Live(self.live.sources())
        live.start()
        try:
            yield Services(
                writing=writing,
                profiles=profiles,
                aggregates=self.aggregates,
                live=live,
                checks={
                    "topics": writing.check,
                    "clickhouse": self.aggregates.check,
                    "profiles": profiles.check,
                },
                hosts=self.hosts,
                origins=self.origins,
                metrics=self.metrics,
                request_log=self.request_log,
                debug_answers=self.debug_answers,
            )
        finally:
            await live.close()
            profiles.close()
            await writing.close()


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json()["error"])


class Client:
    """One kept-open connection to a served application."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        self._connection.request(method, target, body, dict(headers or {}))
        response = self._connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, names, response.read())

    def get(self, target: str, headers: Mapping[str, str] | None = None) -> Reply:
        return self.ask("GET", target, headers=headers)

    def post(
        self, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        return self.ask("POST", target, body, headers)

    def metric(self, line: str) -> float:
        """Return the value of a metric by its name and labels as they are exposed; 0 if absent."""
        for row in self.get("/metrics").body.decode().splitlines():
            if row.startswith(line + " "):
                return float(row.rpartition(" ")[2])
        return 0.0

    def close(self) -> None:
        self._connection.close()


Opening = Callable[[], AbstractAsyncContextManager[Services]]


class Served:
    """A real server in a thread; ``stop`` ends it, and ``start`` serves again on the same port."""

    def __init__(self, opening: Opening, port: int = 0, limits: Limits = LIMITS) -> None:
        self._opening = opening
        self._limits = limits
        self.port = port or free_port()
        self.start()

    def start(self) -> None:
        listening = listen("127.0.0.1", self.port)
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._server: uvicorn.Server | None = None

        async def run() -> None:
            async with self._opening() as services:
                self._server = uvicorn.Server(config(create_app(services), self._limits))
                serving = asyncio.create_task(self._server.serve(sockets=[listening]))
                while not self._server.started and not serving.done():
                    await asyncio.sleep(0.005)
                self._started.set()
                await serving

        def main() -> None:
            try:
                asyncio.run(run())
            except BaseException as error:
                self._failure = error
            finally:
                self._started.set()
                listening.close()

        self._thread = threading.Thread(target=main, name="served-app", daemon=True)
        self._thread.start()
        assert self._started.wait(WAIT_S), "the server did not start"
        assert self._failure is None, self._failure

    def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the server did not stop"


@contextmanager
def serving(shop: Shop, limits: Limits = LIMITS) -> Iterator[Client]:
    """Yield a client of a server on these services."""
    served = Served(shop.services, limits=limits)
    client = Client(served.port)
    try:
        yield client
    finally:
        client.close()
        served.stop()


def status(
    flow: str = "minute_buckets",
    *,
    read: int,
    topic: str = "user_tags",
    updated_ms: int,
    worker: int = 0,
    pid: int = 100,
    late: int = 0,
    dead: int = 0,
    lag: int = 0,
    watermark_ms: int = -1,
    finished: bool = False,
    workers: int = 1,
) -> WorkerStatus:
    """Return a worker's status with one partition."""
    partition = PartitionStatus(
        topic=topic,
        partition=worker,
        read=read,
        used=read - late - dead,
        filtered=0,
        late=late,
        dead=dead,
        next_offset=read,
        lag=lag,
        watermark_ms=watermark_ms,
    )
    return WorkerStatus(
        flow=flow,
        worker=worker,
        pid=pid,
        updated_ms=updated_ms,
        cpu_s=read / 1_000_000,
        memory_bytes=120_000_000,
        rows_written=read,
        finished=finished,
        workers=workers,
        partitions=[partition],
    )


def tag(**changes: Any) -> dict[str, Any]:
    """Return a user tag that is right, with some fields set otherwise; None removes one."""
    product = {"product_id": "P1", "brand_id": "B1", "category_id": "C1", "price": 100}
    product |= changes.pop("product_info", {})
    fields = {
        "time": "2022-03-22T12:15:00.000Z",
        "cookie": "cookie-1",
        "country": "PL",
        "device": "PC",
        "action": "VIEW",
        "origin": "ORIGIN_1",
        "product_info": {name: value for name, value in product.items() if value is not None},
    } | changes
    return {name: value for name, value in fields.items() if value is not None}


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
