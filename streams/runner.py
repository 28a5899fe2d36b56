"""Runs one flow as a worker: recovery on, a clean stop on SIGTERM and SIGINT, a status file."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType

import msgspec
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from schemas.status import WorkerStatus, status_folder
from streams.progress import Progress

SNAPSHOT_EVERY_S = 2.0
STATUS_EVERY_S = 1.0
STOP_WITHIN_S = 4.0
RECOVERY_PARTITIONS = 1
"""Fixed when the recovery store is made; one file serves any number of workers."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30


class WorkerError(Exception):
    """The worker cannot run; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a flow is wired with: how far it reads, how it is stopped, what it reports."""

    once: bool = False
    """Read to the end of the topic as it stands at the start, write all as final, and end."""
    stop: threading.Event = field(default_factory=threading.Event)
    progress: Progress = field(default_factory=Progress)


def run_worker(
    flow: str,
    wire: Callable[[Run], Dataflow],
    home: Path,
    *,
    once: bool = False,
    snapshot_every_s: float = SNAPSHOT_EVERY_S,
) -> None:
    """Run the flow until it is stopped or, with ``once``, until it has read all there is.

    State lies under ``home``. Returns when everything read is written and snapshotted. Raises
    WorkerError where another worker runs this flow on the same home.
    """
    run = Run(once=once)
    recovery = home / "recovery" / flow
    recovery.mkdir(parents=True, exist_ok=True)
    tune_process()
    with _owned(recovery, flow), _stopped_by_signals(run.stop, flow), _reporting(flow, home, run):
        _make_recovery_store(recovery)
        dataflow = wire(run)
        # What is loaded by now lives as long as the worker: no collection looks at it again.
        gc.freeze()
        with _native_messages_in(home / "logs" / f"{flow}.native.log"), _causes_alone():
            run_main(
                dataflow,
                epoch_interval=timedelta(seconds=snapshot_every_s),
                recovery_config=RecoveryConfig(str(recovery), timedelta(0)),
            )


def _make_recovery_store(folder: Path) -> None:
    """Make it where there is none; it appears whole, whenever the process is killed."""
    if any(folder.glob("*.sqlite3")):
        return
    draft = folder / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    init_db_dir(draft, RECOVERY_PARTITIONS)
    for part in draft.iterdir():
        part.replace(folder / part.name)
    draft.rmdir()


def tune_process() -> None:
    """Let the allocator keep what it has, so that read buffers are not paged in anew."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # Not glibc: nothing to tune.
    mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)


@contextmanager
def _native_messages_in(path: Path) -> Iterator[None]:
    """Put aside what native code writes to standard error, where Python's own goes on as it was.

    The engine tells of every exception by a panic of several lines before it hands it on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    kept = os.dup(2)
    before = sys.stderr
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        sys.stderr = os.fdopen(kept, "w", buffering=1, closefd=False)
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _causes_alone() -> Iterator[None]:
    """Raise what went wrong in a source, step or sink, without the engine's wrapping."""
    try:
        yield
    except BytewaxRuntimeError as error:
        cause: BaseException = error
        while isinstance(cause, BytewaxRuntimeError) and cause.__cause__ is not None:
            cause = cause.__cause__
        raise cause from None


@contextmanager
def _owned(recovery: Path, flow: str) -> Iterator[None]:
    with (recovery / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkerError(
                f"another worker runs {flow} on {recovery}: stop it, or set another FOOTFALL_HOME"
            ) from None
        yield


@contextmanager
def _stopped_by_signals(stop: threading.Event, flow: str) -> Iterator[None]:
    """SIGTERM and SIGINT set ``stop``, and end a worker that a sink holds up all the same."""
    ended = threading.Event()

    def end_hard() -> None:
        if not ended.wait(STOP_WITHIN_S):
            print(
                f"{flow}: told to stop, and a sink does not answer; what it did not take is read "
                "again at the next start",
                file=sys.stderr,
                flush=True,
            )
            # Any moment is safe to die at; unwinding would wait for the sink.
            os._exit(1)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            stop.set()
            threading.Thread(target=end_hard, daemon=True).start()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def _reporting(flow: str, home: Path, run: Run) -> Iterator[None]:
    folder = status_folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{flow}.0.json"
    done = threading.Event()

    def report(*, finished: bool = False) -> None:
        partitions, rows_written = run.progress.read()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        status = WorkerStatus(
            flow=flow,
            worker=0,
            pid=os.getpid(),
            updated_ms=time.time_ns() // 1_000_000,
            cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
            memory_bytes=_resident_bytes(),
            rows_written=rows_written,
            finished=finished,
            partitions=partitions,
        )
        partial = path.with_suffix(".part")
        try:
            partial.write_bytes(msgspec.json.encode(status))
            partial.replace(path)
        except OSError as error:
            # A full disk must not stop the flow over its own status.
            print(f"cannot write {path}: {error}", file=sys.stderr)

    def keep_reporting() -> None:
        while not done.wait(STATUS_EVERY_S):
            report()

    reporter = threading.Thread(target=keep_reporting, daemon=True)
    reporter.start()
    ended = False
    try:
        yield
        ended = True
    finally:
        done.set()
        reporter.join()
        report(finished=ended and run.once and not run.stop.is_set())


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
