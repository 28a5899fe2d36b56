"""What a worker has done so far: counts by partition, kept in the flow's snapshots."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from schemas.status import PartitionStatus


@dataclass(slots=True)
class Counts:
    """Every record of a partition is one of these: read = used + filtered + late + dead."""

    read: int = 0
    used: int = 0
    filtered: int = 0
    late: int = 0
    dead: int = 0


class Progress:
    """The newest state of each partition of this worker; safe to read from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._partitions: dict[tuple[str, int], PartitionStatus] = {}
        self._rows_written = 0

    def update(self, status: PartitionStatus) -> None:
        """Take the newest state of a partition."""
        with self._lock:
            self._partitions[status.topic, status.partition] = status

    def wrote(self, rows: int) -> None:
        """Count rows that a sink has made durable."""
        with self._lock:
            self._rows_written += rows

    def read(self) -> tuple[list[PartitionStatus], int]:
        """(partitions in order, rows written by this process)."""
        with self._lock:
            return [self._partitions[key] for key in sorted(self._partitions)], self._rows_written
