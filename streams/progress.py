"""The work that a worker has done so far: counts by partition, rows by table, and durations.

Counts of the whole life of a flow are kept in its snapshots. What this process counted itself
begins at 0. Prometheus is given the latter, so that no counter goes back and every rate is right
after a restart.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from footfall.schemas.metrics import Metric
from footfall.schemas.status import PartitionStatus
from footfall.streams.batch import Poll

Place = tuple[str, int]
"""Key of a partition: (topic, partition)."""


@dataclass(slots=True)
class Counts:
    """Counts of a partition's records: read = used + filtered + late + dead."""

    read: int = 0
    used: int = 0
    filtered: int = 0
    late: int = 0
    dead: int = 0

    def add(self, more: Counts) -> None:
        """Add other counts to these."""
        self.read += more.read
        self.used += more.used
        self.filtered += more.filtered
        self.late += more.late
        self.dead += more.dead

    def status(self, poll: Poll, watermark_ms: int) -> PartitionStatus:
        """Return the status of the partition with these counts, after a poll."""
        return PartitionStatus(
            topic=poll.topic,
            partition=poll.partition,
            read=self.read,
            used=self.used,
            filtered=self.filtered,
            late=self.late,
            dead=self.dead,
            next_offset=poll.next_offset,
            lag=poll.lag,
            watermark_ms=watermark_ms,
        )


@dataclass(slots=True)
class Counted(Counts):
    """Counts of a partition by this process."""

    size_bytes: int = 0
    dead_by_code: Counter[str] | None = None
    """Dead letters by code; None where there are none, as almost always."""


@dataclass(frozen=True, slots=True)
class StateSize:
    """The state of a partition at its last snapshot."""

    size_bytes: int | None
    """Size of the state; None where it is not kept as a whole."""
    held: Mapping[str, int]
    """Number of held items by kind."""


class Spread:
    """A histogram that one thread fills and others read."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper end, number of values up to it) in order; the last is of all values."""
        number = 0
        found = []
        for bound, count in zip((*self._bounds, float("inf")), [*self._counts], strict=True):
            number += count
            found.append(("+Inf" if bound == float("inf") else str(float(bound)), float(number)))
        return found


class Progress:
    """The newest state of each partition of this worker; safe to read from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._partitions: dict[Place, PartitionStatus] = {}
        self._counted: dict[Place, Counted] = {}
        self._sizes: dict[Place, StateSize] = {}
        self._rows: Counter[str] = Counter()
        self._spreads: dict[tuple[Metric, str], Spread] = {}

    def update(self, status: PartitionStatus, since: Counted | None = None) -> None:
        """Take the newest state of a partition, and what was counted ``since`` the one before."""
        place = status.topic, status.partition
        with self._lock:
            self._partitions[place] = status
            counted = self._counted.get(place)
            if counted is None:
                counted = self._counted[place] = Counted()
            if since is not None:
                counted.add(since)
                counted.size_bytes += since.size_bytes
                if since.dead_by_code is not None:
                    counted.dead_by_code = since.dead_by_code + (counted.dead_by_code or Counter())

    def wrote(self, table: str, rows: int) -> None:
        """Count rows that a sink has made durable."""
        with self._lock:
            self._rows[table] += rows

    def took(self, metric: Metric, topic: str, seconds: float) -> None:
        """Count how long something took; ``topic`` is "" where it belongs to no topic."""
        spread = self._spreads.get((metric, topic))
        if spread is None:
            with self._lock:
                spread = self._spreads[metric, topic] = Spread(metric.buckets)
        spread.add(seconds)

    def snapshotted(self, place: Place, size: StateSize) -> None:
        """Take the size of a partition's state."""
        with self._lock:
            self._sizes[place] = size

    def read(self) -> tuple[list[PartitionStatus], int]:
        """Return (partitions in order, rows written by this process)."""
        with self._lock:
            rows = sum(self._rows.values())
            return [self._partitions[key] for key in sorted(self._partitions)], rows

    def counted(self) -> dict[Place, Counted]:
        """Return what this process counted, as of one moment."""
        with self._lock:
            return {
                place: Counted(
                    one.read, one.used, one.filtered, one.late, one.dead, one.size_bytes,
                    one.dead_by_code,
                )
                for place, one in sorted(self._counted.items())
            }  # fmt: skip

    def sizes(self) -> dict[Place, StateSize]:
        """Return the sizes of the partitions' states."""
        with self._lock:
            return dict(sorted(self._sizes.items()))

    def rows(self) -> dict[str, int]:
        """Return the rows that were written, by table."""
        with self._lock:
            return dict(sorted(self._rows.items()))

    def spreads(self) -> dict[tuple[Metric, str], Spread]:
        """Return how long things took, by metric and topic."""
        with self._lock:
            return dict(self._spreads)
