"""Run one flow as a worker: recovery on, a clean stop on SIGTERM and SIGINT, a status file."""

from __future__ import annotations

import gc
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from pickle import UnpicklingError

from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.recovery import (
    InconsistentPartitionsError,
    MissingPartitionsError,
    NoPartitionsError,
    RecoveryConfig,
)
from bytewax.testing import run_main

from footfall.streams.engine import ONE_TOPIC_STEPS
from footfall.streams.process import (
    STOP_WITHIN_S,
    allow_descriptors,
    native_messages_in,
    stopped_by_signals,
    tune_process,
)
from footfall.streams.recovery import held_store, recovery_folder
from footfall.streams.reporting import reporting
from footfall.streams.run import Monitoring, Run, WorkerError, say_on_stderr
from footfall.streams.source import WHOLE, Share, SourceError

__all__ = ["Monitoring", "Run", "WorkerError", "run_worker", "tune_process"]

log = logging.getLogger(__name__)

SNAPSHOT_EVERY_S = 2.0
POLLS_A_SNAPSHOT = 2
"""Polls per snapshot of a partition without a backlog: rows are durable at a snapshot, and each
poll costs about as much as a thousand records."""
POLL_EVERY_MAX_S = 1.0
FULL_BYTES = 1_048_576
"""Free bytes below which a disk counts as full for a recovery store."""
_DAMAGED = ("DatabaseCorrupt", "NotADatabase", "unable to open database file")
_NO_STATE = (
    NoPartitionsError,
    MissingPartitionsError,
    InconsistentPartitionsError,
    UnpicklingError,
)
_ROOM_OF_OLDER_STATES = "streams"
"""States named a class in it while the rooms were packages of their own."""
LOOK_EVERY_S = 5.0
"""Seconds between checks whether the topics have more partitions."""


def run_worker(
    flow: str,
    wire: Callable[[Run], Dataflow],
    home: Path,
    *,
    once: bool = False,
    snapshot_every_s: float = SNAPSHOT_EVERY_S,
    share: Share = WHOLE,
    steps: Sequence[str] = ONE_TOPIC_STEPS,
    skip_removed: bool = False,
    look_every_s: float = LOOK_EVERY_S,
    stop_within_s: float = STOP_WITHIN_S,
    monitoring: Monitoring | None = None,
    say: Callable[[str], None] = say_on_stderr,
) -> None:
    """Run the flow until it is stopped or, with ``once``, until it has read all there is.

    The states of ``steps`` are under ``home``. ``wire`` is called again whenever a topic that came
    by ``Run.source`` has got more partitions. Returns when everything read is written and
    snapshotted. Raises WorkerError where another worker runs this share of the flow, or another
    layout of it, on the same home.
    """
    run = Run(
        once=once,
        share=share,
        poll_every_s=min(POLL_EVERY_MAX_S, snapshot_every_s / POLLS_A_SNAPSHOT),
        skip_removed=skip_removed,
        monitoring=monitoring,
        say=say,
    )
    tune_process()
    allow_descriptors()
    name = flow if share == WHOLE else f"{flow} {share.index}/{share.count}"
    with (
        native_messages_in(home / "logs" / f"{flow}.native.log"),
        _causes_alone(recovery_folder(home, flow)),
        held_store(home, flow, share, steps=steps) as store,
        stopped_by_signals(run.stop, name, stop_within_s=stop_within_s),
        reporting(flow, home, run),
        # The report names the cause, too.
        _causes_alone(recovery_folder(home, flow)),
    ):
        config = RecoveryConfig(str(store), timedelta(0))
        while True:
            dataflow = wire(run)
            # All that is loaded by now lives as long as the worker: no collection needs to look at
            # it again.
            gc.freeze()
            with _settled(run), _looking_for_growth(run, look_every_s):
                if _has_parts(run):
                    run_main(
                        dataflow,
                        epoch_interval=timedelta(seconds=snapshot_every_s),
                        recovery_config=config,
                    )
                elif not once:
                    _wait_for_parts(run)
            if run.stop.is_set() or not run.grown.is_set():
                return
            log.info("a topic has more partitions: all of them are read from now on")
            run.grown.clear()
            run.sources.clear()
            run.settling.clear()


def _has_parts(run: Run) -> bool:
    """Return False where all partitions belong to other processes: the engine refuses a source
    without partitions."""
    if run.share == WHOLE or not run.sources:
        return True
    return any(source.list_parts() for source in run.sources)


def _wait_for_parts(run: Run) -> None:
    while not run.grown.wait(0.1) and not run.stop.is_set():
        pass


@contextmanager
def _settled(run: Run) -> Iterator[None]:
    """Wait for the flow's sinks when it has ended well, and release them in any case."""
    try:
        yield
        for sink in run.settling:
            sink.settle()
    finally:
        for sink in run.settling:
            sink.release()


@contextmanager
def _looking_for_growth(run: Run, every_s: float) -> Iterator[None]:
    """Set ``run.grown`` when a source's topic has got more partitions."""
    if run.once or not run.sources:
        yield
        return
    done = threading.Event()

    def look() -> None:
        while not done.wait(every_s):
            # The source reports an unreadable topic.
            with suppress(SourceError):
                if any(source.has_grown() for source in run.sources):
                    run.grown.set()
                    return

    # The thread is not waited for: a broker that is away holds it up.
    threading.Thread(target=look, name="growth", daemon=True).start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def _causes_alone(recovery: Path) -> Iterator[None]:
    """Raise what went wrong in a source, step or sink, without the engine's wrapping."""
    try:
        yield
    except BytewaxRuntimeError as error:
        cause: BaseException = error
        while isinstance(cause, BytewaxRuntimeError) and cause.__cause__ is not None:
            cause = cause.__cause__
        raise _in_words(cause, recovery) from None
    except BaseException as error:
        found = _in_words(error, recovery)
        if found is error:
            raise
        raise found from None


def _in_words(error: BaseException, recovery: Path) -> BaseException:
    """Return what the engine says of its recovery store in its own terms as an error for a
    person."""
    text = str(error)
    # A panic of the engine is not one of the usual exceptions, and its type cannot be imported.
    is_engines = isinstance(error, RuntimeError) or type(error).__name__ == "PanicException"
    named = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    is_old = named.split(".")[0] == _ROOM_OF_OLDER_STATES
    is_damaged = is_engines and any(sign in text for sign in _DAMAGED)
    if is_old or is_damaged or isinstance(error, _NO_STATE):
        what, remedy = f"is damaged ({_last_words(text)})", "bring it back from a copy"
        if is_old:
            what, remedy = "was kept by an older version of Footfall", "go on with that version"
        return WorkerError(
            f"the state in {recovery} {what}: {remedy}; or move it away, and the flow reads its "
            "topics from their beginning"
        )
    if not is_engines:
        return error
    if "DiskFull" in text or ("SystemIoFailure" in text and _is_full(recovery)):
        return WorkerError(
            f"the disk of {recovery} is full, so the state could not be kept: free some space and "
            "start again; what was not kept is read again"
        )
    if "SqliteFailure" in text:
        return WorkerError(f"the state in {recovery} could not be written: {_last_words(text)}")
    if "is not in this worker's routing map" in text:
        return WorkerError(
            f"{recovery} has states of partitions that the topic does not have: it was made anew. "
            f"To read it from its beginning, stop the flow's workers and move {recovery} away"
        )
    return error


def _is_full(folder: Path) -> bool:
    return shutil.disk_usage(folder).free < FULL_BYTES


def _last_words(text: str) -> str:
    """Return what the database itself says, without the engine's words around it."""
    found = re.findall(r'Some\("([^"]+)"\)', text)
    return str(found[-1]) if found else text
