"""Watches every flow from outside: lag by the topics' ends, workers, letters; for Prometheus.

It is never the worker itself, and asks no worker: status files on the home say where each flow is,
and, on Kafka, the offsets of its consumer group, also where no worker runs here.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.registry import Collector

from footfall.operations.flow_facts import Ends, FlowFacts, PlaceFacts, flows_now, is_alive
from footfall.operations.freshness import Freshness
from footfall.operations.looking import Looking
from footfall.operations.positions import Positions, of_groups, read_statuses
from footfall.operations.shop_watch import ShopWatch
from footfall.operations.topic_ends import AppendTimes, standing_topics
from footfall.schemas import metrics
from footfall.schemas.metrics import Metric
from footfall.schemas.settings import Settings
from footfall.schemas.status import WorkerStatus
from footfall.schemas.topics import DEAD_LETTERS, LATE_EVENTS

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
GROUPS_WITHIN_S = 4.0


@dataclass(frozen=True, slots=True)
class Look:
    """The findings of one moment."""

    at_ms: int
    flows: list[FlowFacts] = field(default_factory=list)
    ends: Ends = field(default_factory=dict)
    statuses: Sequence[WorkerStatus] = ()
    groups: Positions = field(default_factory=dict)
    disk_bytes: tuple[int, int] | None = None
    """(free, size) of the home's disk."""
    starts: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """By (flow, worker): its starts since the observer first saw it."""

    def letters(self, topic: str) -> int:
        """Return the number of records that stand in a topic."""
        return sum(high - low for low, high in self.ends.get(topic, {}).values())


def topics_read(settings: Settings) -> dict[str, Collection[str]]:
    """Return the topics that each flow reads."""
    from footfall import flows

    named = settings.kafka_topic
    return {
        name: (named,) if named and len(contract.topics) == 1 else contract.topics
        for name, contract in flows.catalogue().items()
    }


class StartsCounter:
    """Counts the starts of workers from one look at their status files to the next.

    A worker that keeps failing lives too short a time to be scraped, and its counters end with it.
    """

    def __init__(self) -> None:
        self._before: dict[tuple[str, int], WorkerStatus] = {}
        self._counts: dict[tuple[str, int], int] = {}

    def count(self, statuses: Sequence[WorkerStatus]) -> Mapping[tuple[str, int], int]:
        """Add what has started since the last call; return all counts."""
        for now in statuses:
            key = now.flow, now.worker
            before = self._before.get(key, now)
            self._before[key] = now
            self._counts.setdefault(key, 0)
            if (now.pid, now.started_ms) != (before.pid, before.started_ms):
                # What runs again after it had finished was started on purpose.
                self._counts[key] += max(1, now.starts - before.starts) - before.finished
        return {**self._counts}


class Observer:
    """Looks at topics and flows; remembers what need not be asked twice."""

    def __init__(self, settings: Settings, *, asks_groups: bool = True) -> None:
        """Without ``asks_groups`` a flow is known by the workers of this home alone."""
        self._settings = settings
        self._asks_groups = asks_groups
        self._times = AppendTimes(settings)
        self._starts = StartsCounter()
        self._reads: Mapping[str, Collection[str]] | None = None

    def look_again(self, before: Look) -> Look:
        """Return what the workers say by now, set against the topics' ends of an earlier look.

        It takes a few milliseconds, and asks no server.
        """
        statuses = read_statuses(self._settings.footfall_home)
        now_ms = time.time_ns() // 1_000_000
        found = flows_now(
            statuses,
            before.groups,
            before.ends,
            self._reads or {},
            now_ms,
            is_alive=is_alive,
            appended_ms=self._times.known,
        )
        return Look(now_ms, found, before.ends, statuses, before.groups)

    def look(self) -> Look:
        """Return what there is now. Raises what the topics raise where they do not answer."""
        from footfall import flows

        settings = self._settings
        if self._reads is None:
            self._reads = topics_read(settings)
        groups = (
            of_groups(settings, flows.catalogue(), GROUPS_WITHIN_S)
            if settings.kafka_bootstrap and self._asks_groups
            else {}
        )
        # In this order: what was read by then was appended before.
        statuses = read_statuses(settings.footfall_home)
        read = {part.topic for one in statuses for part in one.partitions}
        ends = {name: facts.ends for name, facts in standing_topics(settings, read).items()}
        now_ms = time.time_ns() // 1_000_000
        self._times.begin()
        found = flows_now(
            statuses,
            groups,
            ends,
            self._reads,
            now_ms,
            is_alive=is_alive,
            appended_ms=self._times,
        )
        return Look(
            now_ms,
            found,
            ends,
            statuses,
            groups,
            _disk_of(settings.footfall_home),
            self._starts.count(statuses),
        )


def _disk_of(home: Path) -> tuple[int, int] | None:
    """(free, size) of a home's disk in bytes; None where no home stands."""
    try:
        disk = shutil.disk_usage(home)
    except OSError:
        return None
    return disk.free, disk.total


def log_look(look: Look) -> None:
    """Log the number of flows, and those in trouble."""
    trouble = {flow.name: flow.trouble for flow in look.flows if flow.trouble}
    log.info(
        "%d flows, %d in trouble%s",
        len(look.flows),
        len(trouble),
        "".join(f"; {name}: {what}" for name, what in trouble.items()),
        extra={"flows": len(look.flows), "trouble": trouble},
    )


class ObserverCollector(Collector):
    """Tells a scrape of the last look."""

    def __init__(self, look: Callable[[], Look], every_s: float = LOOK_EVERY_S) -> None:
        self.looking = Looking("flows", look, every_s, log_look)

    def collect(self) -> Iterator[Any]:
        look = self.looking.last
        flows = look.flows if look is not None else []
        for metric, value_of in _OF_PLACES.items():
            family = metric.family()
            for flow in flows:
                for place in flow.places:
                    value = value_of(place)
                    if value is not None:
                        labels = (flow.name, place.topic, str(place.partition))
                        family.add_metric(labels, value)
            yield family
        for metric, of_flow in _OF_FLOWS.items():
            family = metric.family()
            for flow in flows:
                # Of a flow that only its consumer group tells of nobody knows.
                if flow.workers:
                    family.add_metric((flow.name,), of_flow(flow))
            yield family
        starts = metrics.STARTS_OBSERVED.family()
        for (name, worker), number in look.starts.items() if look is not None else ():
            starts.add_metric((name, str(worker)), number)
        yield starts
        yield from self._topics(look)
        errors = metrics.OBSERVER_ERRORS.family()
        errors.add_metric((), self.looking.errors)
        yield errors

    def _topics(self, look: Look | None) -> Iterator[Any]:
        for metric, side in ((metrics.OLDEST_OFFSET, 0), (metrics.END_OFFSET, 1)):
            family = metric.family()
            for topic, places in sorted(look.ends.items()) if look is not None else ():
                for partition, bounds in sorted(places.items()):
                    family.add_metric((topic, str(partition)), bounds[side])
            yield family
        letters, observed = metrics.LETTERS.family(), metrics.OBSERVED.family()
        if look is not None:
            observed.add_metric((), look.at_ms / 1000)
            for topic in (DEAD_LETTERS.name, LATE_EVENTS.name):
                if topic in look.ends:
                    letters.add_metric((topic,), look.letters(topic))
        yield from (letters, observed)
        for metric, side in ((metrics.HOME_FREE, 0), (metrics.HOME_SIZE, 1)):
            family = metric.family()
            if look is not None and look.disk_bytes is not None:
                family.add_metric((), look.disk_bytes[side])
            yield family


_OF_PLACES: dict[Metric, Callable[[PlaceFacts], float | None]] = {
    metrics.LAG_RECORDS: lambda place: place.lag,
    metrics.LAG_SECONDS: lambda place: place.age_s,
    metrics.LOST_RECORDS: lambda place: place.lost,
    metrics.RETENTION_MARGIN: lambda place: max(0, place.next_offset - place.low),
}
_OF_FLOWS: dict[Metric, Callable[[FlowFacts], float]] = {
    metrics.WORKERS: lambda flow: flow.running,
    metrics.WORKERS_WANTED: lambda flow: flow.wanted,
}


@contextmanager
def observing(settings: Settings) -> Iterator[tuple[ObserverCollector, ShopWatch, Freshness]]:
    """Look at the flows, the shop and the stores, in threads of their own, until it is left."""
    collectors = (
        ObserverCollector(Observer(settings).look),
        ShopWatch(settings),
        Freshness(settings),
    )
    for collector in collectors:
        collector.looking.start()
    try:
        yield collectors
    finally:
        for collector in collectors:
            collector.looking.close()
