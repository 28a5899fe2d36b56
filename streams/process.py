"""The process of a worker: its signals, its standard error, its memory."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

STOP_WITHIN_S = 8.0
"""Seconds from a signal to the end, whatever a sink does. Whoever ends a worker waits a little
longer."""

NATIVE_BYTES_MAX = 2_000_000
LOOK_EVERY_S = 1.0
"""Seconds between checks whether a log has grown too long."""
DESCRIPTORS_WANTED = 65_536

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30


def tune_process() -> None:
    """Let the allocator keep its memory, so that read buffers are not paged in again."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # Not glibc: nothing to tune.
    mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)


def allow_descriptors() -> None:
    """Raise the limit of open files and connections where the system allows it.

    Many systems start a process with 1,024 at most, and let it ask for more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else hard
    wanted = min(DESCRIPTORS_WANTED, highest)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def descriptors_left() -> int:
    """Return how many more files and connections the process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(0, soft - sum(1 for _ in os.scandir("/dev/fd")))


def resident_bytes() -> int:
    """Return the memory in bytes that this process has now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def bound_log(path: Path, bytes_max: int) -> None:
    """Empty a file that has grown longer than ``bytes_max``, and keep what was in it beside it.

    Its writers append, so that it can be cut while they write.
    """
    try:
        if path.stat().st_size > bytes_max:
            path.with_suffix(".log.1").write_bytes(path.read_bytes())
            os.truncate(path, 0)
    except OSError:
        # A log is a help, not a result: the work goes on without it.
        return


@contextmanager
def native_messages_in(path: Path, look_every_s: float = LOOK_EVERY_S) -> Iterator[None]:
    """Put aside what native code writes to standard error; Python's own messages still go there.

    The engine reports every exception by a panic of several lines before it hands it on. The file
    and the one before it have NATIVE_BYTES_MAX each, plus what comes between two looks.
    """
    done = threading.Event()

    def keep_bounded() -> None:
        while not done.wait(look_every_s):
            bound_log(path, NATIVE_BYTES_MAX)

    path.parent.mkdir(parents=True, exist_ok=True)
    bound_log(path, NATIVE_BYTES_MAX)
    threading.Thread(target=keep_bounded, name="native log", daemon=True).start()
    sys.stderr.flush()
    kept = os.dup(2)
    before = sys.stderr
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        sys.stderr = os.fdopen(kept, "w", buffering=1, closefd=False)
        yield
    finally:
        done.set()
        sys.stderr.flush()
        sys.stderr = before
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def stopped_by_signals(
    stop: threading.Event, name: str, *, stop_within_s: float = STOP_WITHIN_S
) -> Iterator[None]:
    """Set ``stop`` at SIGTERM and SIGINT, and end a worker that a sink holds up all the same.

    A thread of its own takes the signals: the main thread may be in a call that lets no handler
    run.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def take() -> None:
        while os.read(reading, 1):
            if ended.is_set():
                return
            stop.set()
            if not ended.wait(stop_within_s):
                _end_hard(name)
        # The pipe was closed.

    taker = threading.Thread(target=take, name="signals", daemon=True)
    taker.start()
    before_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _noted) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        ended.set()
        os.close(writing)
        taker.join()
        os.close(reading)


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the thread has the signal. Without a handler in Python it would not get it."""


def _end_hard(name: str) -> None:
    print(
        f"{name}: told to stop, and a sink does not answer; what it did not take is read again "
        "at the next start",
        file=sys.stderr,
        flush=True,
    )
    # Dying is safe at any moment; unwinding would wait for the sink.
    os._exit(1)
