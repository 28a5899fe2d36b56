"""Measures how old the newest record in each store is when a reader first sees it there.

One flow after another: its store is asked again and again until a record shows that was not there
before. The age is that record's, from its append time until the answer.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import cycle
from typing import Any, NamedTuple, Protocol

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from footfall.operations.looking import Looking
from footfall.schemas import metrics
from footfall.schemas.settings import Settings
from footfall.schemas.tables.clickhouse import Table
from footfall.schemas.tables.store_metrics import EVENTS_NEWEST
from footfall.schemas.times import BadTimeError, parse_time_ms
from footfall.schemas.topics import APPENDED, USER_TAGS
from footfall.schemas.user_tags import UserTag
from footfall.sinks.clickhouse import ClickHouseReader
from footfall.sinks.open import open_profiles
from footfall.sinks.sql import query_rows
from footfall.streams.open import open_topic

NEXT_FLOW_S = 1.0
ASK_EVERY_S = 0.1
SEEN_WITHIN_S = 6.0
"""A store that shows nothing new for so long is asked again in its next turn, unless a record is
known that it should show."""
QUIET_MS = 60_000
"""A store whose newest record is older is not waited for: FlowBehind tells of such a flow."""


class Store(Protocol):
    """A store as a reader of one flow's results sees it."""

    def newest_ms(self) -> int:
        """Return when the newest record was appended that shows by now; 0 where none does."""

    def is_waiting(self) -> bool:
        """Tell whether a record is known that does not show yet."""
        return False

    def close(self) -> None:
        """Release connections."""


class Turn(NamedTuple):
    """A store that is measured."""

    flow: str
    server: str
    """By schemas.metrics.SINK_SERVERS."""
    open: Callable[[], Store]


class Freshness(Collector):
    """Tells a scrape what was measured by now."""

    def __init__(self, settings: Settings) -> None:
        self._histogram = metrics.FRESHNESS.histogram(CollectorRegistry())
        measured = turns(settings)
        for turn in measured:
            # So that it can be told from the first scrape on that nothing was measured yet.
            self._histogram.labels(turn.flow, turn.server)
        self._turns = cycle(measured)
        self.looking = Looking("freshness", self._measure, NEXT_FLOW_S)

    def _measure(self) -> None:
        turn = next(self._turns)
        with closing(turn.open()) as store:
            age_s = first_seen_s(store)
        if age_s is not None:
            self._histogram.labels(turn.flow, turn.server).observe(age_s)

    def collect(self) -> Iterator[Any]:
        yield from self._histogram.collect()


def turns(settings: Settings) -> list[Turn]:
    """Return every flow whose results lie in a store, in order."""
    from footfall import flows

    found = [
        Turn(name, "clickhouse", lambda tables=contract.tables: _Tables(settings, tables))  # type: ignore[misc]
        for name, contract in flows.catalogue().items()
        if contract.tables
    ]
    of_sql = "sqlite" if settings.postgres_url.startswith("sqlite") else "postgresql"
    of_profiles = "sqlite" if settings.profiles_file is not None else "aerospike"
    return [
        *found,
        Turn("store_metrics", of_sql, lambda: _StoreWindows(settings)),
        Turn("user_profiles", of_profiles, lambda: _Profiles(settings)),
    ]


def first_seen_s(
    store: Store,
    *,
    clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    sleep: Callable[[float], object] = time.sleep,
) -> float | None:
    """Wait for a record that is newer than all that show now; return its age when it shows.

    None where the store is quiet, or shows nothing new within SEEN_WITHIN_S.
    """
    before_ms = store.newest_ms()
    began_ms = now_ms = clock_ms()
    while now_ms - before_ms <= QUIET_MS and (
        now_ms - began_ms <= SEEN_WITHIN_S * 1000 or store.is_waiting()
    ):
        sleep(ASK_EVERY_S)
        seen_ms = store.newest_ms()
        now_ms = clock_ms()
        if seen_ms > before_ms:
            return max(0, now_ms - seen_ms) / 1000
    return None


class _Tables(Store):
    """Tables of ClickHouse. Asked of the parts of the last inserts alone: others are large."""

    def __init__(self, settings: Settings, tables: Iterable[Table]) -> None:
        self._reader = ClickHouseReader(settings.clickhouse_url, home=settings.footfall_home)
        names = "|".join(table.name for table in tables)
        self._query = (
            f"SELECT max({APPENDED}) FROM merge(currentDatabase(), '^({names})$') WHERE _part IN ("
            "SELECT name FROM system.parts WHERE database = currentDatabase() AND active "
            "AND min_block_number = max_block_number "
            f"AND modification_time >= now() - {QUIET_MS // 1000})"
        )

    def newest_ms(self) -> int:
        [[newest]] = self._reader.rows(self._query)[1]
        return int(newest)

    def close(self) -> None:
        self._reader.close()


class _StoreWindows(Store):
    """The metrics of a shop's windows, in PostgreSQL or SQLite."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.postgres_url

    def newest_ms(self) -> int:
        query = f"SELECT max({APPENDED}) FROM {EVENTS_NEWEST.name}"
        [[newest]] = query_rows(self._url, query)[1]
        return int(newest or 0)

    def close(self) -> None:
        pass


class _Tag(NamedTuple):
    cookie: str
    time_ms: int
    value: bytes
    appended_ms: int


class _Profiles(Store):
    """Profiles, which keep no append times: a tag of the topic is waited for in its profile."""

    def __init__(self, settings: Settings) -> None:
        self._store = open_profiles(settings)
        name = settings.kafka_topic or USER_TAGS.name
        self._topic = open_topic(settings, name, group="observe")
        self._partition = random.randrange(self._topic.partitions())
        _, self._end = self._topic.kept(self._partition)
        self._newest_ms = time.time_ns() // 1_000_000
        self._waited: _Tag | None = None

    def newest_ms(self) -> int:
        if self._waited is None:
            tag = self._appended_since()
            # Of one that is there already nobody knows since when.
            self._waited = None if tag is None or self._shows(tag) else tag
        elif self._shows(self._waited):
            self._newest_ms = max(self._newest_ms, self._waited.appended_ms)
        return self._newest_ms

    def is_waiting(self) -> bool:
        return self._waited is not None

    def _appended_since(self) -> _Tag | None:
        """Return the newest tag of the partition, if it was appended since the last call."""
        _, end = self._topic.kept(self._partition)
        if end == self._end:
            return None
        self._end = end
        record = self._topic.record_at(self._partition, end - 1)
        try:
            tag = msgspec.json.decode(record.value, type=UserTag)
            return _Tag(
                tag.cookie, parse_time_ms(tag.time), record.value, record.timestamp_ms or 0
            )
        except (msgspec.MsgspecError, BadTimeError):
            return None

    def _shows(self, tag: _Tag) -> bool:
        found = self._store.get(tag.cookie, tag.time_ms, tag.time_ms + 1, limit=1_000)
        return any(tag.value in kind for kind in found)

    def close(self) -> None:
        self._store.close()
