"""Recovery stores: where a flow's states are kept, who holds them, their move to another layout.

    recovery/<flow>/lock            held shared by every worker of the flow, exclusively by a move
    recovery/<flow>/layout          how many processes share the flow: "3"
    recovery/<flow>/of-3/<i>/       the store of process i (0, 1, 2), and its own lock
    recovery/<flow>/draft/          a move that is not finished; worthless after a crash

Process i of N reads the partitions p with p % N == i. When N changes, the states are moved
once, by the first process that starts with the new N, while no process of the old one runs. The
file ``layout`` is the switch: before it names the new layout the old stores are untouched and
valid, afterwards the new ones are; a crash at any moment leaves one of the two.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from footfall.streams.engine import ONE_TOPIC_STEPS
from footfall.streams.run import WorkerError
from footfall.streams.source import Share
from footfall.streams.states import States, make_store, read_states

LOCK_WAIT_S = 60.0
"""Longest wait in seconds for another process that is moving the states."""
_OWN_LOCK_WAIT_S = 0.5
_LOCK_POLL_S = 0.05
_LAYOUT_BYTES_MAX = 16


def recovery_folder(home: Path, flow: str) -> Path:
    """Return the folder of all states of a flow."""
    return home / "recovery" / flow


def store_folder(recovery: Path, share: Share) -> Path:
    """Return the folder of one process's store."""
    return recovery / f"of-{share.count}" / str(share.index)


def kept_layout(recovery: Path) -> int | None:
    """Return the number of processes that the kept states are for; None without states."""
    try:
        text = (recovery / "layout").read_text()[:_LAYOUT_BYTES_MAX].strip()
    except FileNotFoundError:
        if any(recovery.glob("*.sqlite3")):
            return 1
        layouts = [folder.name.removeprefix("of-") for folder in recovery.glob("of-*")]
        if not layouts:
            return None
        # A single one is whole: it came by a rename.
        text = layouts[0] if len(layouts) == 1 else ""
    count = int(text) if text.isdecimal() else 0
    if count < 1:
        raise WorkerError(
            f"{recovery}/layout does not say for how many processes the states are: write the "
            "number of the folder of-<number> that holds them into it"
        )
    return count


@dataclass(frozen=True, slots=True)
class Kept:
    """A flow, and its steps whose states are kept."""

    flow: str
    steps: tuple[str, ...]


@contextmanager
def held_store(
    home: Path,
    flow: str,
    share: Share,
    *,
    steps: Sequence[str] = ONE_TOPIC_STEPS,
    lock_wait_s: float = LOCK_WAIT_S,
) -> Iterator[Path]:
    """Give the store of one process, locked, with the states of its partitions.

    ``steps`` are the flow's steps that keep a state per partition. The store is made where there
    is none, and moved where the flow ran with another number of processes. Raises WorkerError
    where a process of another layout, or of this very share, still runs.
    """
    recovery = recovery_folder(home, flow)
    recovery.mkdir(0o700, parents=True, exist_ok=True)
    with (recovery / "lock").open("a") as lock:
        try:
            _agree_on_layout(
                recovery,
                Kept(flow, tuple(steps)),
                share.count,
                lock,
                time.monotonic() + lock_wait_s,
            )
        except OSError as error:
            # An error of a write does not say where.
            error.filename = error.filename or recovery
            raise
        folder = store_folder(recovery, share)
        with (folder / "lock").open("a+") as own:
            if not _lock_own(own):
                raise WorkerError(
                    f"another worker runs {_name(flow, share)} on {recovery}"
                    f"{_process(own)}: stop it, or set another FOOTFALL_HOME"
                )
            _check_own(folder)
            own.truncate(0)
            own.write(f"{os.getpid()}\n")
            own.flush()
            yield folder


def _check_own(store: Path) -> None:
    """Raise WorkerError where others may write the states: whoever writes a state can run code."""
    recovery = store.parent.parent
    for path in (recovery, store.parent, store, *store.glob("*.sqlite3*")):
        found = path.stat()
        by_group = found.st_mode & stat.S_IWGRP and found.st_gid != os.getegid()
        if found.st_mode & stat.S_IWOTH or by_group or found.st_uid not in (os.geteuid(), 0):
            raise WorkerError(
                f"others may write {path}, and whoever writes a state can run code here: take it "
                f"from nobody else, and make it your own: `chown -R $(id -u) {recovery}; chmod -R "
                f"go-w {recovery}`"
            )


def _agree_on_layout(
    recovery: Path, kept: Kept, count: int, lock: IO[str], until_s: float
) -> None:
    """Hold the flow's lock shared, with its states laid out for this many processes."""
    while True:
        if _try_lock(lock, fcntl.LOCK_SH):
            if _is_ready(recovery, count):
                return
            # The lock is released and not converted: two that convert at once would wait for each
            # other.
            fcntl.flock(lock, fcntl.LOCK_UN)
            if _try_lock(lock, fcntl.LOCK_EX):
                if not _is_ready(recovery, count):
                    _lay_out(recovery, kept, count)
                fcntl.flock(lock, fcntl.LOCK_UN)
                continue
            running = _running(recovery)
            if running:
                raise WorkerError(
                    f"{kept.flow} is to run as {_processes(count)} on {recovery}, and {running}: "
                    "stop it first; what it has done is taken over"
                )
        if time.monotonic() >= until_s:
            raise WorkerError(
                f"another worker holds {recovery}/lock for long: stop all workers of {kept.flow} "
                "on this FOOTFALL_HOME, and start again"
            )
        time.sleep(_LOCK_POLL_S)


def _is_ready(recovery: Path, count: int) -> bool:
    return (
        kept_layout(recovery) == count
        and (recovery / "layout").exists()
        and not any(recovery.glob("*.sqlite3*"))
    )


def _running(recovery: Path) -> str:
    """Return a text that names a running process of the kept layout; "" where none runs."""
    count = kept_layout(recovery)
    for index in range(count or 0):
        share = Share(index, count or 1)
        try:
            own = (store_folder(recovery, share) / "lock").open("a+")
        except FileNotFoundError:
            continue
        with own:
            if not _try_lock(own, fcntl.LOCK_SH):
                return f"its worker {share.index}/{share.count}{_process(own)} runs"
    return ""


def _lay_out(recovery: Path, of: Kept, count: int) -> None:
    """Make the stores for ``count`` processes from those that are there. The flow's lock is
    held."""
    draft = recovery / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    _take_over_single_store(recovery)
    kept = kept_layout(recovery)
    _remove_layouts_but(recovery, kept)
    if kept == count:
        _switch(recovery, count)
        return
    states = _states_of(recovery, of, kept, draft) if kept is not None else {}
    for index in range(count):
        store = draft / "new" / str(index)
        store.mkdir(parents=True)
        own = _part_of(states, Share(index, count))
        make_store(store, of.flow, own)
        if kept is not None and _copy_holds(store, of, draft) != own:
            raise WorkerError(
                f"the states of {recovery} could not be moved for {_processes(count)}; they are "
                f"as they were: run {of.flow} as {_processes(kept)}"
            )
    _write_to_disk(draft)
    (draft / "new").rename(recovery / f"of-{count}")
    _switch(recovery, count)
    _remove_layouts_but(recovery, count)
    shutil.rmtree(draft)


def _states_of(recovery: Path, of: Kept, count: int, draft: Path) -> States:
    """Return all states of a layout."""
    found: States = {step: {} for step in of.steps}
    for index in range(count):
        store = store_folder(recovery, Share(index, count))
        for step, states in _copy_holds(store, of, draft).items():
            found[step].update(states)
    return found


def _copy_holds(store: Path, of: Kept, draft: Path) -> States:
    """Return the states of a store, read from a copy: reading changes it."""
    _check_own(store)
    copy = draft / "copy"
    shutil.copytree(store, copy)
    found = read_states(copy, of.flow, of.steps)
    shutil.rmtree(copy)
    return found


def _part_of(states: States, share: Share) -> States:
    return {
        step: {key: state for key, state in of.items() if share.has(int(key))}
        for step, of in states.items()
    }


def _take_over_single_store(recovery: Path) -> None:
    """Move a store that is in the flow's folder itself into a layout of one process."""
    files = sorted(recovery.glob("*.sqlite3*"))
    if not files:
        return
    # The layout is written first, so that a move that a crash leaves half done is recognized.
    _switch(recovery, 1)
    store = store_folder(recovery, Share())
    store.mkdir(parents=True, exist_ok=True)
    for file in files:
        file.rename(store / file.name)


def _switch(recovery: Path, count: int) -> None:
    partial = recovery / "layout.part"
    with partial.open("w") as file:
        file.write(f"{count}\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(recovery / "layout")


def _remove_layouts_but(recovery: Path, count: int | None) -> None:
    for folder in recovery.glob("of-*"):
        if folder.name != f"of-{count}":
            shutil.rmtree(folder)


def _write_to_disk(folder: Path) -> None:
    for path in folder.rglob("*.sqlite3*"):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _lock_own(own: IO[str]) -> bool:
    """Try for a moment to lock the store: another process may be checking whether it is held."""
    until_s = time.monotonic() + _OWN_LOCK_WAIT_S
    while not _try_lock(own, fcntl.LOCK_EX):
        if time.monotonic() >= until_s:
            return False
        time.sleep(_LOCK_POLL_S)
    return True


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _process(own: IO[str]) -> str:
    own.seek(0)
    pid = own.read(_LAYOUT_BYTES_MAX).strip()
    return f" (process {pid})" if pid else ""


def _name(flow: str, share: Share) -> str:
    return flow if share.count == 1 else f"{flow} as {share.index}/{share.count}"


def _processes(count: int) -> str:
    return "one process" if count == 1 else f"{count} processes"
