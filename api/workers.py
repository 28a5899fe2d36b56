"""Measures the flows: their lines, their troubles, and rates from differences of counts.

Counts, memory and CPU are what the workers report. Which workers run, and how far behind a flow
is, comes from ``operations.flow_facts``, for the live page and the demo's terminal view alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median_low

from footfall.api.snapshot import Counts, Flow, Rates, Worker
from footfall.operations.flow_facts import FlowFacts, WorkerFacts
from footfall.operations.observer import Look
from footfall.operations.troubles import Movement, records_waiting, sentences, trouble_of
from footfall.schemas.status import PartitionStatus, WorkerStatus
from footfall.schemas.topics import TOPICS

RATE_OVER_MS = 5_000
HISTORY_MAX = 180
"""Points of the rate chart: three minutes."""
MEGABYTE = 1_000_000
SMALL = 10.0
"""Numbers below this keep one decimal."""


@dataclass(frozen=True, slots=True)
class _Point:
    updated_ms: int
    pid: int
    read: dict[str, int]
    cpu_s: float


class WorkerMeter:
    """Rates of the workers over the last seconds, their history by topic, and what is wrong."""

    def __init__(self) -> None:
        self._points: dict[tuple[str, int], deque[_Point]] = {}
        self._times_ms: deque[int] = deque(maxlen=HISTORY_MAX)
        self._topics: dict[str, deque[float | None]] = {}
        self._look = Look(0)
        self._running: set[tuple[str, int]] = set()
        self._movement = Movement()

    def observe(self, look: Look) -> None:
        """Take in a look at the flows."""
        self._look = look
        self._running = {
            (flow.name, one.worker)
            for flow in look.flows
            for one in flow.workers
            if one.is_running
        }
        self._movement.observe(look.flows, look.at_ms)
        for status in look.statuses:
            self._observe_worker(status)
        self._times_ms.append(look.at_ms)
        rates = self._topic_rates()
        for topic in rates.keys() - self._topics.keys():
            padding = [None] * (len(self._times_ms) - 1)
            self._topics[topic] = deque(padding, maxlen=HISTORY_MAX)
        for topic, history in self._topics.items():
            history.append(rates.get(topic, 0.0))

    def rates(self) -> Rates:
        """Return the history of each topic's rate, in records per second."""
        topics = {
            topic: [None if rate is None else _short(rate) for rate in history]
            for topic, history in sorted(self._topics.items())
        }
        return Rates(list(self._times_ms), topics)

    def flows(self) -> list[Flow]:
        """Return a line for each flow that has workers here, by name."""
        return [self._flow(facts) for facts in self._look.flows if facts.workers]

    def troubles(self) -> list[str]:
        """Return a sentence for each kind of trouble that flows have."""
        return sentences(self._look.flows, self._movement, self._look.at_ms)

    def counts(self) -> Counts:
        """Count records; one that several flows read counts once."""
        most: dict[tuple[str, int], list[int]] = {}
        for status in self._look.statuses:
            for one in status.partitions:
                counts = most.setdefault((one.topic, one.partition), [0, 0, 0])
                for place, count in enumerate((one.read, one.late, one.dead)):
                    counts[place] = max(counts[place], count)
        read, late, dead = (sum(counts[place] for counts in most.values()) for place in range(3))
        lag = records_waiting(self._look.flows) if self._look.ends else None
        return Counts(read, late, dead, lag)

    def topics(self) -> dict[str, int]:
        """Return the number of records in each topic of the catalogue."""
        return {
            topic: self._look.letters(topic)
            for topic in sorted(TOPICS.keys() & self._look.ends.keys())
        }

    def watermark_ms(self, flow: str) -> int | None:
        """Return the median of the partitions' watermarks: one stray event does not move it."""
        marks = _watermarks(one for one in self._look.statuses if one.flow == flow)
        return median_low(marks) if marks else None

    def topic_watermark_ms(self, topic: str) -> int | None:
        """Return the same for a topic: of the flows that read it, the one that is furthest."""
        found = []
        for name in {status.flow for status in self._look.statuses}:
            marks = [
                partition.watermark_ms
                for status in self._look.statuses
                for partition in status.partitions
                if status.flow == name and partition.topic == topic and partition.watermark_ms >= 0
            ]
            if marks:
                found.append(median_low(marks))
        return max(found, default=None)

    def _observe_worker(self, status: WorkerStatus) -> None:
        points = self._points.setdefault((status.flow, status.worker), deque(maxlen=64))
        read: dict[str, int] = {}
        for partition in status.partitions:
            read[partition.topic] = read.get(partition.topic, 0) + partition.read
        point = _Point(status.updated_ms, status.pid, read, status.cpu_s)
        if points and point.updated_ms == points[-1].updated_ms:
            return
        if points and _begins_anew(points[-1], point):
            points.clear()
        points.append(point)
        while len(points) > 2 and points[1].updated_ms <= point.updated_ms - RATE_OVER_MS:
            points.popleft()

    def _rates_of(self, status: WorkerStatus) -> tuple[dict[str, float], float]:
        """Return a worker's (records read per second by topic, share of a core), 0 when gone."""
        points = self._points[status.flow, status.worker]
        first, last = points[0], points[-1]
        seconds = (last.updated_ms - first.updated_ms) / 1000
        if seconds <= 0 or (status.flow, status.worker) not in self._running:
            return dict.fromkeys(last.read, 0.0), 0.0
        rates = {
            topic: (count - first.read.get(topic, 0)) / seconds
            for topic, count in last.read.items()
        }
        return rates, (last.cpu_s - first.cpu_s) / seconds

    def _topic_rates(self) -> dict[str, float]:
        """Return the rate of each topic: that of the fastest flow that reads it."""
        by_flow: dict[tuple[str, str], float] = {}
        for status in self._look.statuses:
            for topic, rate in self._rates_of(status)[0].items():
                key = (status.flow, topic)
                by_flow[key] = by_flow.get(key, 0.0) + rate
        rates: dict[str, float] = {}
        for (_, topic), rate in by_flow.items():
            rates[topic] = max(rate, rates.get(topic, 0.0))
        return rates

    def _flow(self, facts: FlowFacts) -> Flow:
        statuses = [one for one in self._look.statuses if one.flow == facts.name]
        partitions = [partition for status in statuses for partition in status.partitions]
        marks = _watermarks(statuses)
        is_lag_known = any(place.topic in self._look.ends for place in facts.places)
        return Flow(
            flow=facts.name,
            state=facts.state,
            trouble=trouble_of(facts, self._movement, self._look.at_ms),
            error=facts.error,
            workers=[self._worker(one, statuses) for one in facts.workers],
            read_per_s=_short(sum(sum(self._rates_of(one)[0].values()) for one in statuses)),
            read=sum(one.read for one in partitions),
            used=sum(one.used for one in partitions),
            filtered=sum(one.filtered for one in partitions),
            late=sum(one.late for one in partitions),
            dead=sum(one.dead for one in partitions),
            lag=facts.lag if is_lag_known else None,
            lag_s=_short(facts.age_s) if is_lag_known and facts.age_s is not None else None,
            rows_written=sum(status.rows_written for status in statuses),
            watermark_ms=median_low(marks) if marks else None,
        )

    def _worker(self, facts: WorkerFacts, statuses: Iterable[WorkerStatus]) -> Worker:
        status = next(one for one in statuses if one.worker == facts.worker)
        return Worker(
            worker=facts.worker,
            pid=facts.pid,
            state="finished" if facts.finished else "running" if facts.is_running else "gone",
            age_s=0 if facts.is_running else round(facts.age_ms / 1000),
            cpu_share=round(self._rates_of(status)[1], 2),
            memory_bytes=status.memory_bytes // MEGABYTE * MEGABYTE,
        )


def _short(value: float) -> float:
    """Round to as many digits as a person reads: they are sent again and again."""
    return round(value, 1) if value < SMALL else round(value)


def _begins_anew(before: _Point, now: _Point) -> bool:
    """Tell whether the worker was restarted: its counts cannot be compared with those before."""
    return now.pid != before.pid or any(
        now.read.get(topic, 0) < count for topic, count in before.read.items()
    )


def _watermarks(statuses: Iterable[WorkerStatus]) -> list[int]:
    found: Iterable[PartitionStatus] = (part for one in statuses for part in one.partitions)
    return [part.watermark_ms for part in found if part.watermark_ms >= 0]
