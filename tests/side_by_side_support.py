"""The suite in several processes at once (``pytest -n N``): who runs what, and what runs alone.

Most tests wait: for processes that start, for servers, for a moment. The tests of a file stay
together and in order, as they share servers; files of ``BY_TEST`` share nothing that is dear, and
each of their tests goes to whichever process is free. What takes long begins first.

A test marked ``calm`` keeps a promise about time under a load of its own: it runs while no other
does. Two locks tell: everybody holds ``room`` while a test runs, a calm test alone; ``door`` is
held by a calm test that waits, so that nobody goes in before it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CALM = "calm"
CALM_FIRST = ("tests/test_end_to_end.py",)
"""Beginnings of the ids of calm tests; those of a file run one after the other, so that the
rest waits for them once."""
BY_TEST = (
    "tests/test_cli_replay.py",
    "tests/laws/test_flow_laws.py",
    "tests/laws/test_replay_law.py",
    "tests/test_demo.py",
    "tests/test_generator_shop.py",
    "tests/test_truth_processes.py",
)
SLOW_FIRST = (
    "tests/test_truth_processes.py",
    "tests/test_truth_flows.py",
    "tests/test_add_an_analytic.py",
    "tests/servers/test_clickhouse_faults.py",
    "tests/test_cli_replay.py",
    "tests/test_demo.py",
    "tests/servers/test_kafka_replay.py",
    "tests/servers/test_kafka_flows.py",
    "tests/test_workers.py",
    "tests/test_recovery.py",
    "tests/test_generator_shop.py",
    "tests/test_generator_progress.py",
    "tests/servers/",
    "tests/laws/",
    "tests/test_benchmarks.py",
    "tests/test_embedded_clickhouse.py",
    "tests/test_doctor.py",
)
"""Beginnings of the ids of slow tests; others follow as they were collected."""


def unit_of(nodeid: str) -> str:
    """Return the unit of a test, whose tests stay together in one process."""
    path = nodeid.split("::", 1)[0]
    return nodeid if path in BY_TEST else path


def place_of(nodeid: str) -> int:
    """Return the place of a test in the order."""
    first = (*CALM_FIRST, *SLOW_FIRST)
    return next((n for n, start in enumerate(first) if nodeid.startswith(start)), len(first))


def scheduler(config: Any, log: Any) -> Any:
    """Return a scheduler that gives units to processes, in their order."""
    from xdist.scheduler import LoadScopeScheduling

    class Units(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    # Not those with the most tests first, which are the quick ones.
    config.option.loadscopereorder = False
    return Units(config, log)


class Turns:
    """This process's part in the two locks, which lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self._door = os.open(folder / "door", os.O_CREAT | os.O_RDWR)
        self._room = os.open(folder / "room", os.O_CREAT | os.O_RDWR)
        self._alone = False

    @contextmanager
    def turn(self, *, alone: bool, next_alone: bool) -> Iterator[None]:
        """Run a test; between two that run alone nobody else comes in."""
        if not self._alone:
            how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
            fcntl.flock(self._door, how)
            fcntl.flock(self._room, how)
            if not alone:
                fcntl.flock(self._door, fcntl.LOCK_UN)
        self._alone = alone
        try:
            yield
        finally:
            if not (alone and next_alone):
                self._alone = False
                fcntl.flock(self._room, fcntl.LOCK_UN)
                fcntl.flock(self._door, fcntl.LOCK_UN)
