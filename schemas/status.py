"""What a worker says of itself, for the live page and `footfall demo`.

Each worker rewrites ``<FOOTFALL_HOME>/status/<flow>.<worker>.json`` about once a second, by
an atomic rename. Counts are of the whole life of the flow: they are part of its snapshots and
so are exact through crashes.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

LOG_EVERY_S = 30.0
"""How often a process logs what it has done since."""


class PartitionStatus(Struct, frozen=True):
    """One topic partition of a flow: read = used + filtered + late + dead."""

    topic: str
    partition: int
    read: int
    used: int
    filtered: int
    late: int
    dead: int
    next_offset: int
    lag: int
    """Records in the topic that were not read yet."""
    watermark_ms: int
    """-1 before the first event."""


class WorkerStatus(Struct, frozen=True):
    """One worker process of a flow."""

    flow: str
    worker: int
    pid: int
    updated_ms: int
    cpu_s: float
    memory_bytes: int
    rows_written: int
    """By all starts of this worker, those that were written again after a crash, too."""
    finished: bool
    """It read to the end it was given (`--once`), wrote everything, and stopped."""
    partitions: list[PartitionStatus]
    workers: int = 1
    """How many processes share the flow; this is number ``worker`` of them, counted from 0."""
    started_ms: int = 0
    """When the process began to run the flow."""
    starts: int = 1
    """How often this worker was started on its home."""
    read_per_s: float = 0.0
    rows_per_s: float = 0.0
    """Over the last seconds of this process."""
    error: str = ""
    """Why the worker ended the last time it failed; it stays through later starts."""
    error_ms: int = 0


def status_folder(home: Path) -> Path:
    """Where workers leave their status files."""
    return home / "status"


def status_path(home: Path, flow: str, worker: int) -> Path:
    """The status file of one worker process."""
    return status_folder(home) / f"{flow}.{worker}.json"
