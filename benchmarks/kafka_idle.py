"""A worker of hundreds of partitions in which nothing happens: its memory, threads and CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from footfall.benchmarks.kafka_job import FRAME, Job
from footfall.benchmarks.kafka_servers import Servers, fill, topic_name
from footfall.benchmarks.measure import ROOT, BenchmarkError
from footfall.schemas.status import WorkerStatus, status_path
from footfall.schemas.topics import USER_TAGS

FLOW = "minute_buckets"
PARTITIONS = 500
EVENTS = 20_000
READ_WITHIN_S = 120.0
SETTLE_S = 75.0
"""Time after which the last windows are written as final."""
OVER_S = 60.0


@dataclass(frozen=True, slots=True)
class Idle:
    """The figures of a worker that has read all records."""

    partitions: int
    threads: int
    descriptors: int
    memory_mb: float
    core_percent: float
    """Percent of one core, over OVER_S."""


def measure(
    servers: Servers,
    say: Callable[[str], None],
    *,
    partitions: int = PARTITIONS,
    settle_s: float = SETTLE_S,
    over_s: float = OVER_S,
) -> Idle:
    """Measure FLOW over some records in so many partitions. Raises BenchmarkError."""
    fill(servers.bootstrap, USER_TAGS.name, EVENTS, [partitions], say)
    say(f"{FLOW} over {partitions} partitions in which nothing happens")
    with tempfile.TemporaryDirectory(prefix="footfall-bench-") as home:
        topic = topic_name(USER_TAGS.name, partitions)
        environ = {"TOPICS_URL": servers.topics_url, "KAFKA_TOPIC": topic, "FOOTFALL_HOME": home}
        job = Job(FRAME, topic, environ, FLOW, follow=True)
        worker = subprocess.Popen(
            [sys.executable, "-m", "footfall.benchmarks.kafka_job", job.encode()],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_until_read(worker, status_path(Path(home), FLOW, 0))
            time.sleep(settle_s)
            process = Path(f"/proc/{worker.pid}")
            begun_s = _cpu_s(process)
            time.sleep(over_s)
            cpu_s = _cpu_s(process) - begun_s
            pages = int((process / "statm").read_text().split()[1])
            return Idle(
                partitions,
                len([*(process / "task").iterdir()]),
                len([*(process / "fd").iterdir()]),
                pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
                100 * cpu_s / over_s,
            )
        finally:
            worker.terminate()
            worker.wait()


def _wait_until_read(worker: subprocess.Popen[bytes], status: Path) -> None:
    until_s = time.monotonic() + READ_WITHIN_S
    while worker.poll() is None and time.monotonic() < until_s:
        time.sleep(0.5)
        if status.exists():
            found = msgspec.json.decode(status.read_bytes(), type=WorkerStatus)
            if sum(part.read for part in found.partitions) >= EVENTS:
                return
    raise BenchmarkError(f"{FLOW} did not read {EVENTS:,} events within {READ_WITHIN_S:g} s")


def _cpu_s(process: Path) -> float:
    """Return the CPU seconds that a process has used, as the kernel counts them."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
