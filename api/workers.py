"""What the workers' status files say: lines of the flows, and rates by differencing counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

import msgspec

from api.snapshot import Flow, Rates, Worker
from schemas.status import WorkerStatus, status_folder

GONE_AFTER_MS = 10_000
RATE_OVER_MS = 5_000
HISTORY_MAX = 180
"""Points of the rate chart: three minutes."""
FILES_MAX = 1000

_decode = msgspec.json.Decoder(WorkerStatus).decode


def read_statuses(home: Path) -> list[WorkerStatus]:
    """The status of every worker that ever wrote one, sorted. Unreadable files are skipped."""
    found = []
    for path in sorted(status_folder(home).glob("*.json"))[:FILES_MAX]:
        try:
            found.append(_decode(path.read_bytes()))
        except (OSError, msgspec.DecodeError):
            continue  # removed or replaced just now, or of another version
    return sorted(found, key=lambda status: (status.flow, status.worker))


@dataclass(frozen=True, slots=True)
class _Point:
    updated_ms: int
    pid: int
    read: dict[str, int]
    cpu_s: float


class WorkerMeter:
    """Rates of the workers over the last seconds, and their history by topic."""

    def __init__(self) -> None:
        self._points: dict[tuple[str, int], deque[_Point]] = {}
        self._times_ms: deque[int] = deque(maxlen=HISTORY_MAX)
        self._topics: dict[str, deque[float | None]] = {}
        self._statuses: Sequence[WorkerStatus] = ()
        self._now_ms = 0

    def observe(self, statuses: Sequence[WorkerStatus], now_ms: int) -> None:
        """Take in what was read of the files at this moment."""
        self._statuses = statuses
        self._now_ms = now_ms
        for status in statuses:
            self._observe_worker(status)
        self._times_ms.append(now_ms)
        rates = self._topic_rates()
        for topic in rates.keys() - self._topics.keys():
            padding = [None] * (len(self._times_ms) - 1)
            self._topics[topic] = deque(padding, maxlen=HISTORY_MAX)
        for topic, history in self._topics.items():
            history.append(rates.get(topic, 0.0))

    def rates(self) -> Rates:
        """The history of each topic's rate."""
        topics = {
            topic: [None if rate is None else round(rate, 1) for rate in history]
            for topic, history in sorted(self._topics.items())
        }
        return Rates(list(self._times_ms), topics)

    def flows(self) -> list[Flow]:
        """A line for each flow, by name."""
        names = sorted({status.flow for status in self._statuses})
        return [self._flow(name) for name in names]

    def watermark_ms(self, flow: str) -> int | None:
        """The middle one of the partitions' watermarks: one stray event does not move it."""
        marks = _watermarks(status for status in self._statuses if status.flow == flow)
        return median_low(marks) if marks else None

    def topic_watermark_ms(self, topic: str) -> int | None:
        """The same of a topic: of the flows that read it, the one that is furthest."""
        found = []
        for name in {status.flow for status in self._statuses}:
            marks = [
                partition.watermark_ms
                for status in self._statuses
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
        """(records read a second by topic, share of a core) of a worker; none of a gone one."""
        points = self._points[status.flow, status.worker]
        first, last = points[0], points[-1]
        seconds = (last.updated_ms - first.updated_ms) / 1000
        if seconds <= 0 or self._state(status) == "gone" or status.finished:
            return dict.fromkeys(last.read, 0.0), 0.0
        rates = {
            topic: (count - first.read.get(topic, 0)) / seconds
            for topic, count in last.read.items()
        }
        return rates, (last.cpu_s - first.cpu_s) / seconds

    def _topic_rates(self) -> dict[str, float]:
        """Of the flows that read a topic, the fastest tells the topic's rate."""
        by_flow: dict[tuple[str, str], float] = {}
        for status in self._statuses:
            for topic, rate in self._rates_of(status)[0].items():
                key = (status.flow, topic)
                by_flow[key] = by_flow.get(key, 0.0) + rate
        rates: dict[str, float] = {}
        for (_, topic), rate in by_flow.items():
            rates[topic] = max(rate, rates.get(topic, 0.0))
        return rates

    def _state(self, status: WorkerStatus) -> str:
        if status.finished:
            return "finished"
        return "gone" if self._now_ms - status.updated_ms > GONE_AFTER_MS else "running"

    def _flow(self, name: str) -> Flow:
        statuses = [status for status in self._statuses if status.flow == name]
        partitions = [partition for status in statuses for partition in status.partitions]
        marks = _watermarks(statuses)
        return Flow(
            flow=name,
            workers=[self._worker(status) for status in statuses],
            read_per_s=round(sum(sum(self._rates_of(one)[0].values()) for one in statuses), 1),
            read=sum(one.read for one in partitions),
            used=sum(one.used for one in partitions),
            filtered=sum(one.filtered for one in partitions),
            late=sum(one.late for one in partitions),
            dead=sum(one.dead for one in partitions),
            lag=sum(one.lag for one in partitions),
            rows_written=sum(status.rows_written for status in statuses),
            watermark_ms=median_low(marks) if marks else None,
        )

    def _worker(self, status: WorkerStatus) -> Worker:
        return Worker(
            worker=status.worker,
            pid=status.pid,
            state=self._state(status),  # type: ignore[arg-type]
            age_s=round(max(0, self._now_ms - status.updated_ms) / 1000, 1),
            cpu_share=round(self._rates_of(status)[1], 3),
            memory_bytes=status.memory_bytes,
        )


def _begins_anew(before: _Point, now: _Point) -> bool:
    """A restart or a fresh start: its counts cannot be compared with those before."""
    return now.pid != before.pid or any(
        now.read.get(topic, 0) < count for topic, count in before.read.items()
    )


def _watermarks(statuses: Iterable[WorkerStatus]) -> list[int]:
    return [
        partition.watermark_ms
        for status in statuses
        for partition in status.partitions
        if partition.watermark_ms >= 0
    ]
