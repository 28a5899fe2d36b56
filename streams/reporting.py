"""The reports of a running worker: its status file, and its metrics."""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from footfall.schemas.status import (
    LOG_EVERY_S,
    PartitionStatus,
    WorkerStatus,
    status_folder,
    status_path,
)
from footfall.schemas.targets import scrape_target
from footfall.streams.log_lines import (
    Since,
    next_offsets,
    note_offsets,
    offsets_fields,
    offsets_text,
)
from footfall.streams.monitor import WorkerCollector, serving
from footfall.streams.process import resident_bytes
from footfall.streams.run import Run

log = logging.getLogger(__name__)

STATUS_EVERY_S = 1.0
RATE_OVER = 10
"""Number of statuses over which rates are taken, from the first to the last."""
ERROR_CHARS_MAX = 500


class Reporter:
    """Maker of the statuses of one worker process."""

    def __init__(self, flow: str, home: Path, run: Run) -> None:
        self._flow = flow
        self._run = run
        self.path = status_path(home, flow, run.share.index)
        before = read_status(self.path)
        self.starts = before.starts + 1 if before is not None else 1
        self._error = (before.error, before.error_ms) if before is not None else ("", 0)
        self._rows_before = before.rows_written if before is not None else 0
        self._parts_before = before.partitions if before is not None else []
        self._started_ms = _now_ms()
        self._points: deque[tuple[int, int, int]] = deque(maxlen=RATE_OVER)

    def status(self, *, finished: bool = False) -> WorkerStatus:
        """Return the present status."""
        run, now_ms = self._run, _now_ms()
        partitions, rows_written = run.progress.read()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        read = sum(one.read for one in run.progress.counted().values())
        begun = self._started_ms, 0, self._rows_before
        first_ms, first_read, first_rows = next(iter(self._points), begun)
        seconds = max(0.001, (now_ms - first_ms) / 1000)
        return WorkerStatus(
            flow=self._flow,
            worker=run.share.index,
            pid=os.getpid(),
            updated_ms=now_ms,
            cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
            memory_bytes=resident_bytes(),
            rows_written=self._rows_before + rows_written,
            finished=finished,
            partitions=self._with_untouched(partitions),
            workers=run.share.count,
            started_ms=self._started_ms,
            starts=self.starts,
            read_per_s=round((read - first_read) / seconds, 1),
            rows_per_s=round((self._rows_before + rows_written - first_rows) / seconds, 1),
            error=self._error[0],
            error_ms=self._error[1],
        )

    def _with_untouched(self, partitions: list[PartitionStatus]) -> list[PartitionStatus]:
        """Add what an earlier start reported of partitions that this one has not read yet."""
        topics = {one.topic for one in partitions}
        known = {
            (one.topic, one.partition): one
            for one in self._parts_before
            if not topics or one.topic in topics
        }
        known |= {(one.topic, one.partition): one for one in partitions}
        return [known[place] for place in sorted(known)]

    def report(self, *, finished: bool = False) -> None:
        """Write the status file. A full disk must not stop the flow over its own status."""
        status = self.status(finished=finished)
        read = sum(one.read for one in self._run.progress.counted().values())
        self._points.append((status.updated_ms, read, status.rows_written))
        partial = self.path.with_suffix(".part")
        try:
            partial.write_bytes(msgspec.json.encode(status))
            partial.replace(self.path)
        except OSError as error:
            log.warning("cannot write %s: %s", self.path, error)

    def failed(self, error: BaseException) -> None:
        """Keep the reason why the worker ends. Our messages never hold a password."""
        said = str(error).strip().split("\n")[0] or type(error).__name__
        self._error = said[:ERROR_CHARS_MAX], _now_ms()

    def why_not_ready(self) -> str:
        """Return why the worker does not read its topics yet; "" where it does."""
        if self._run.stop.is_set():
            return "stopping"
        is_wired = self._run.sources or self._run.progress.counted()
        return "" if is_wired else "starting"


@contextmanager
def reporting(flow: str, home: Path, run: Run) -> Iterator[None]:
    """Keep the worker's status file, and serve its metrics, while a flow runs.

    Raises PortTakenError where the metrics cannot be served.
    """
    status_folder(home).mkdir(parents=True, exist_ok=True)
    _remove_other_layouts(home, flow, run.share.count)
    reporter = Reporter(flow, home, run)
    if reporter.starts > 1:
        log.info("start %d of this worker", reporter.starts, extra={"starts": reporter.starts})
    done = threading.Event()

    def keep_reporting() -> None:
        since = Since(run.progress, LOG_EVERY_S)
        while not done.wait(STATUS_EVERY_S):
            reporter.report()
            since.tick()

    thread = threading.Thread(target=keep_reporting, name="status", daemon=True)
    ended = False
    try:
        with _watched(flow, home, run, reporter):
            reporter.report()
            thread.start()
            yield
        ended = True
        offsets = next_offsets(run.progress)
        log.info(
            "stopped: %s; read to %s",
            "it was told to" if run.stop.is_set() else "all there was is read",
            offsets_text(offsets) or "nothing yet",
            extra=offsets_fields(offsets),
        )
    except BaseException as error:
        note_offsets(error, run.progress)
        reporter.failed(error)
        raise
    finally:
        done.set()
        if thread.is_alive():
            thread.join()
        reporter.report(finished=ended and run.once and not run.stop.is_set())


@contextmanager
def _watched(flow: str, home: Path, run: Run, reporter: Reporter) -> Iterator[None]:
    """Serve the metrics where the run says so, and tell Prometheus where they are."""
    monitoring = run.monitoring
    if monitoring is None:
        yield
        return
    collector = WorkerCollector(flow, run.progress, reporter.status, monitoring.sinks)
    name, port = f"{flow}.{run.share.index}", monitoring.port_of(run.share.index)
    with (
        serving(
            monitoring.host, port, [collector], why_not_ready=reporter.why_not_ready
        ) as served,
        scrape_target(home, name, monitoring.host, served),
    ):
        yield


def read_status(path: Path) -> WorkerStatus | None:
    """Return a status; None where there is no readable one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=WorkerStatus)
    except (OSError, msgspec.DecodeError):
        return None


def _remove_other_layouts(home: Path, flow: str, count: int) -> None:
    """Remove the flow's status files from runs with another number of processes.

    No such process is running: this one holds the flow's layout.
    """
    for path in status_folder(home).glob(f"{flow}.*.json"):
        status = read_status(path)
        if status is not None and status.flow == flow and status.workers != count:
            path.unlink(missing_ok=True)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
