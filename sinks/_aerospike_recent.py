"""Writes that were acknowledged so lately that a node which is killed may not have kept them.

A node of the Community Edition acknowledges from memory and flushes to its disk once in
flush-max-ms (1,000 unless it is configured otherwise). Where no replica has them, what was
acknowledged since the last flush is gone when its process is killed. Writes of sinks add and
trim, so that making them again changes nothing: after a node has started anew, those of the
last seconds are made again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

KEEP_S = 3.0
"""Before the last write that was taken: a node was up until then, and has flushed what is older.
"""
IDLE_S = 0.5
"""In a pause longer than this a node can have ended and started anew, and none has seen it."""
WRITES_MAX = 4_096
_SECOND_S = 1.0
"""Nodes tell their age in whole seconds."""


class RecentWrites(Generic[T]):
    """The writes of the last KEEP_S, and whether they are to be made again. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._writes: deque[tuple[float, T]] = deque(maxlen=WRITES_MAX)
        self._complete_at = clock()
        """When all that was to be there was."""
        self._failed = False

    def acknowledged(self, write: T) -> None:
        """Remember a write that the server has taken."""
        now = self._clock()
        self._remember(now, write)
        while self._writes[0][0] < now - KEEP_S:
            self._writes.popleft()
        self._complete_at = now
        self._failed = False

    def failed(self, write: T) -> None:
        """Some of a write was not taken: a node may have ended, and have taken some before."""
        self._remember(self._clock(), write)
        self._failed = True

    def in_doubt(self) -> bool:
        """Whether a node may have started anew since all was there, so that it must be asked."""
        return bool(self._writes) and (self._failed or self._since_complete_s() > IDLE_S)

    def lost(self, ages_s: Iterable[float]) -> list[T]:
        """The writes to be made again, where one of these nodes started since all was there."""
        if min(ages_s) > self._since_complete_s() + _SECOND_S:
            return []
        return [write for _, write in self._writes]

    def made_again(self) -> None:
        """All that was lost is there once more."""
        now = self._clock()
        self._writes = deque(((now, write) for _, write in self._writes), maxlen=WRITES_MAX)
        self._complete_at = now
        self._failed = False

    def _since_complete_s(self) -> float:
        return self._clock() - self._complete_at

    def _remember(self, now: float, write: T) -> None:
        if self._writes and self._writes[-1][1] is write:
            self._writes.pop()
        self._writes.append((now, write))
