"""The Faust app of the alerts: it reads the topic, keeps the table, and shows a user's state.

Knows nothing of alerts: it hands over records and keeps rows, and says whose partitions it has.
Everything runs in one event loop, but for the client's own threads.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import faust
from aiohttp import web
from faust.types import TP
from faust.web.base import BlueprintManager
from mode import CrashingSupervisor

from footfall.flows._alerts_place import Stretch
from footfall.schemas.addresses import OwnHosts, shown_host
from footfall.schemas.settings import Settings
from footfall.streams.run import WorkerError

QUEUE_RECORDS_MAX = 8_192
"""Most records that were fetched and not yet taken: at that many, the client reads no more."""
BATCH_RECORDS_MAX = 2_000
GATHER_S = 0.05
"""Seconds within which records that come are taken together."""
WAIT_S = 0.1
ACKNOWLEDGED_WITHIN_S = 60.0
SESSION_S = 10.0
"""Seconds after which a worker that is gone loses its partitions to the others."""
BATCH_WITHIN_S = 20.0
"""Longest time in seconds that a rebalance waits for the batch in hand; the group waits longer."""

RESTORED_WITHIN_S = 15.0
"""Seconds without progress after which the table counts as not restored.

Faust clears its queues once more when they have begun to fill after an assignment. Records of the
changelog that were in them never come, and Faust waits for them for ever.
"""

_TABLE = "users"

Row = tuple[bytes, bytes | None]
Show = Callable[[str], tuple[int, Any]]
"""Answer for a user id: (HTTP status, body to be sent as JSON)."""


def changelog_of(settings: Settings, name: str) -> str:
    """Return the name of the table's changelog topic, as Faust names it."""
    return f"{group_of(settings, name)}-{_TABLE}-changelog"


def group_of(settings: Settings, name: str) -> str:
    """Return the name of the consumer group, formed as for the other flows."""
    return f"{settings.kafka_group}-{name}"


def instance_of(group: str, worker: int) -> str:
    """Return the name under which a worker is a member of the group, also after a restart."""
    return f"{group}-{worker}"


class NotRestoredError(WorkerError):
    """A table that this app cannot restore; a new app can."""


class FaustTable:
    """A topic's records, and a table whose changelog has as many partitions as the topic."""

    def __init__(
        self,
        name: str,
        topic: str,
        partitions: int,
        settings: Settings,
        *,
        worker: int,
        partition_of: Callable[[bytes], int],
        show: Show,
    ) -> None:
        """Make the app. ``worker`` is its number, ``partition_of`` gives the partition of a row's
        key, and ``show`` answers GET /``name``/{user_id}."""
        self._topic = topic
        self._partition_of = partition_of
        self._stream: Any = None
        self._records: asyncio.Queue[Any] = asyncio.Queue(QUEUE_RECORDS_MAX)
        self._assigned: Callable[[Mapping[bytes, bytes], Iterable[int]], None] | None = None
        self._revoked: Callable[[], None] = lambda: None
        self._restored = Stretch(RESTORED_WITHIN_S)
        self.busy = asyncio.Lock()
        """Lock held while records are in hand: a rebalance waits for it, up to BATCH_WITHIN_S."""
        self.app = _app(group_of(settings, name), settings, worker)
        self._table = self.app.Table(
            _TABLE, key_type=bytes, value_type=bytes, partitions=partitions
        )
        self._table.on_recover(self._on_recovered)
        self.app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        self.app.on_partitions_assigned.connect(self._on_assigned, weak=False)
        channel = self.app.topic(
            topic, key_serializer="raw", value_serializer="raw", allow_empty=True
        )
        self.app.agent(channel, name=name)(self._collect)
        # Faust's own pages show tables, topics and workers: they are not served.
        self.app.web.blueprints = BlueprintManager()

        async def answer(view: Any, _request: Any, user_id: str) -> Any:
            status, answered = show(user_id)
            return view.json(answered, status=status)

        self.app.page(f"/{name}/{{user_id}}", name=name)(answer)

    def on_change(
        self,
        assigned: Callable[[Mapping[bytes, bytes], Iterable[int]], None],
        revoked: Callable[[], None],
    ) -> None:
        """Set what is called around a rebalance.

        ``revoked`` is called before it. ``assigned`` is given the table's rows and our partitions
        after it. Records that were not acknowledged come again.
        """
        self._assigned, self._revoked = assigned, revoked

    async def start(self, stopped: Callable[[], bool]) -> None:
        """Return when the app has started or was stopped. Raises what went wrong."""
        self.app.conf.datadir.parent.mkdir(parents=True, exist_ok=True)
        self.app.finalize()
        starting = asyncio.ensure_future(self.app.start())
        while not starting.done() and not stopped():
            await asyncio.wait([starting], timeout=WAIT_S)
            self.check()
        if not starting.done():
            return
        try:
            starting.result()
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
                raise
            raise WorkerError(
                f"cannot serve {self.app.conf.web_bind}:{self.app.conf.web_port} "
                f"({os.strerror(error.errno or 0)}): set LOGIN_ALERTS_PORT to another port, or "
                "to 0 for none"
            ) from None

    @property
    def is_settled(self) -> bool:
        """Return False until Faust has finished all that follows an assignment."""
        return not self.app.rebalancing

    def check(self) -> None:
        """Raise what Faust crashed with, or NotRestoredError."""
        if self.app.crashed:
            raise self.app.crash_reason or RuntimeError("Faust crashed and does not say why")
        recovery = self.app.tables.recovery
        is_waiting = recovery.in_recovery and recovery.need_recovery()
        at = dict(recovery.active_offsets) if is_waiting else None
        if self._restored.is_stuck(at, time.monotonic()):
            raise NotRestoredError(
                f"nothing more came of the changelog of {self.app.conf.id} for "
                f"{RESTORED_WITHIN_S:.0f} s, and some of it is missing"
            )

    async def stop(self) -> None:
        """Leave the group; what was acknowledged is committed."""
        await self.app.stop()

    async def take(self) -> list[Any]:
        """Return the records that have come, each with ``message``; an empty list after a short
        wait."""
        try:
            found = [await asyncio.wait_for(self._records.get(), WAIT_S)]
        except TimeoutError:
            return []
        await asyncio.sleep(GATHER_S)
        while len(found) < BATCH_RECORDS_MAX and not self._records.empty():
            found.append(self._records.get_nowait())
        return found

    async def acknowledge(self, records: Iterable[Any]) -> None:
        """Mark records as done: they need not come again."""
        for record in records:
            await self._stream.ack(record)

    async def write(self, rows: Iterable[tuple[int, Row]]) -> None:
        """Set or delete rows of the given partitions. Returns when all are acknowledged."""
        sent: list[Awaitable[Any]] = []
        for partition, (key, value) in rows:
            if value is None:
                self._table.data.pop(key, None)
            else:
                self._table.data[key] = value
            # Setting an item of the table would use the partition of the last record that came.
            sent.append(self._table.send_changelog(partition, key, value, value_serializer="raw"))
        if sent:
            await asyncio.wait_for(asyncio.gather(*sent), ACKNOWLEDGED_WITHIN_S)

    async def bounds(self) -> tuple[dict[int, int], dict[int, int]]:
        """Ask the broker for (the oldest offset left, the end) of each of our partitions."""
        places = self._places()
        oldest = await self.app.consumer.earliest_offsets(*places)
        ends = await self.app.consumer.highwaters(*places)
        return _by_partition(oldest), _by_partition(ends)

    async def seek(self, offsets: Mapping[int, int]) -> None:
        """Read on from these offsets; records that are on their way come first."""
        if offsets:
            await self.app.consumer.seek_wait(
                {TP(self._topic, partition): offset for partition, offset in offsets.items()}
            )

    def end_seen(self, partition: int) -> int:
        """Return the end of a partition as the client last heard of it."""
        return int(self.app.consumer.highwater(TP(self._topic, partition)) or 0)

    def _places(self) -> list[Any]:
        return [place for place in self.app.consumer.assignment() if place.topic == self._topic]

    async def _collect(self, stream: Any) -> None:
        self._stream = stream
        async for record in stream.noack().events():
            await self._records.put(record)

    async def _on_revoked(self, _app: Any, _places: Any, **_: Any) -> None:
        self._drop_records()
        try:
            await asyncio.wait_for(self.busy.acquire(), BATCH_WITHIN_S)
        except TimeoutError:
            # The group goes on without us; what we still write, the next owner writes as well.
            self._revoked()
            return
        self._revoked()
        self.busy.release()

    async def _on_assigned(self, _app: Any, places: Any, **_: Any) -> None:
        kept = {place.partition for place in places}
        for key in [key for key in self._table.data if self._partition_of(key) not in kept]:
            self._table.data.pop(key, None)

    async def _on_recovered(self) -> None:
        self._drop_records()
        if self._assigned is not None:
            partitions = sorted(place.partition for place in self._places())
            self._assigned(dict(self._table.data.items()), partitions)

    def _drop_records(self) -> None:
        while not self._records.empty():
            self._records.get_nowait()


def _by_partition(offsets: Mapping[TP, int | None]) -> dict[int, int]:
    return {place.partition: int(offset or 0) for place, offset in offsets.items()}


def door(settings: Settings) -> Any:
    """Return middleware that refuses requests with a foreign host name or from another site's
    page."""
    hosts = OwnHosts(settings.login_alerts_hostname, settings.allowed_hosts)

    @web.middleware
    async def come_in(request: web.Request, handler: Callable[[Any], Any]) -> Any:
        if not hosts.know(request.host):
            raise web.HTTPMisdirectedRequest(text="ALLOWED_HOSTS takes this server's other names")
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise web.HTTPForbidden(text="pages of other sites are not answered")
        return await handler(request)

    return come_in


def _app(name: str, settings: Settings, worker: int) -> Any:
    port = settings.login_alerts_port
    return faust.App(
        name,
        broker=";".join(f"kafka://{shown_host(host)}" for host in settings.kafka_hosts),
        broker_client_id=settings.kafka_consumer_id,
        # A worker that restarts takes its place at once: the group does not wait for the old one.
        consumer_group_instance_id=instance_of(name, worker),
        broker_session_timeout=SESSION_S,
        broker_heartbeat_interval=1.0,
        broker_commit_interval=1.0,
        consumer_auto_offset_reset="earliest",
        # Acknowledged by all replicas, whatever the defaults become.
        producer_acks=-1,
        processing_guarantee="at_least_once",
        key_serializer="raw",
        value_serializer="raw",
        # A stream that fails must not start again behind the records that it lost.
        agent_supervisor=CrashingSupervisor,
        store="memory://",
        table_standby_replicas=0,
        # Topics are made before it starts, with settings of their own.
        topic_allow_declare=False,
        topic_disable_leader=True,
        # We give partitions away ourselves, once the records in hand are done.
        stream_wait_empty=False,
        autodiscover=False,
        datadir=str(settings.footfall_home / "faust" / f"{name}-{worker}"),
        web_enabled=port > 0,
        web_bind=settings.login_alerts_hostname,
        web_host=settings.login_alerts_hostname,
        web_port=port + worker or None,
        web_application_options={"middlewares": [door(settings)]},
        web_in_thread=False,
        web_tables_enabled=False,
        web_router_enabled=False,
        web_stats_enabled=False,
        web_graph_enabled=False,
        web_metrics_enabled=False,
        debug=False,
    )
