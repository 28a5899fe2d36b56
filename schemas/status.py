"""The status of a worker, for the live page and `footfall demo`.

Each worker rewrites ``<FOOTFALL_HOME>/status/<flow>.<worker>.json`` about once a second, by
an atomic rename. Counts are of the whole life of the flow: they are part of its snapshots and
so are exact through crashes.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

LOG_EVERY_S = 30.0
"""Seconds between log lines in which a process says what it has done since."""


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
    """Number of records in the topic that were not read yet."""
    watermark_ms: int
    """Watermark; -1 before the first event."""


class WorkerStatus(Struct, frozen=True):
    """One worker process of a flow."""

    flow: str
    worker: int
    pid: int
    updated_ms: int
    cpu_s: float
    memory_bytes: int
    rows_written: int
    """Rows by all starts of this worker, including those written again after a crash."""
    finished: bool
    """True if it read to the end it was given (`--once`), wrote everything, and stopped."""
    partitions: list[PartitionStatus]
    workers: int = 1
    """Number of processes that share the flow; this is number ``worker``, counted from 0."""
    started_ms: int = 0
    """Time at which the process began to run the flow."""
    starts: int = 1
    """Number of times that this worker was started on its home."""
    read_per_s: float = 0.0
    rows_per_s: float = 0.0
    """Rate, as ``read_per_s``, over the last seconds of this process."""
    error: str = ""
    """Reason why the worker ended the last time it failed; it stays through later starts."""
    error_ms: int = 0


def status_folder(home: Path) -> Path:
    """Return the folder of the workers' status files."""
    return home / "status"


def status_path(home: Path, flow: str, worker: int) -> Path:
    """Return the status file of one worker process."""
    return status_folder(home) / f"{flow}.{worker}.json"
