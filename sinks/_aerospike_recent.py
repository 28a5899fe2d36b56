"""Writes that were acknowledged so lately that a node which is killed may not have kept them.

A node of the Community Edition acknowledges from memory and flushes to its disk once per
flush-max-ms (1,000 unless it is configured otherwise). Where no replica has them, the writes since
the last flush are gone when its process is killed. Writes of sinks add and trim, so that making
them again changes nothing. So after a node has restarted, those of the last seconds are made
again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

KEEP_S = 3.0
"""Seconds for which a write may be lost: a node that has been up for longer since has flushed
it."""
IDLE_S = 0.5
"""Longest pause in seconds in which no node can have restarted unseen."""
BYTES_MAX = 67_108_864
"""Most bytes of recent writes, which are part of each snapshot. A writer waits where there are
more."""
_SECOND_S = 1.0
"""Precision of the nodes' ages, which are whole seconds."""


@dataclass(frozen=True, slots=True)
class _Recent(Generic[T]):
    at_s: float
    write: T
    bytes: int


class RecentWrites(Generic[T]):
    """The writes of the last ``keep_s``, and whether to make them again. Not thread-safe."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        keep_s: float = KEEP_S,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self._clock = clock
        self._keep_s = keep_s
        self._bytes_max = bytes_max
        self._writes: deque[_Recent[T]] = deque()
        self._bytes = 0
        self._complete_at = clock()
        """Time at which all that had to be there was."""
        self._failed = False
        self.was_restored = False
        """True while some are of an earlier process, and not written again yet."""

    def acknowledged(self, write: T, size_bytes: int = 0) -> None:
        """Remember a write that the server has taken."""
        self._remember(write, size_bytes)
        if not self._failed:
            self.kept()

    def failed(self, write: T, size_bytes: int = 0) -> None:
        """Remember a write that was not taken whole: a node may have ended, and have taken a
        part."""
        self._remember(write, size_bytes)
        self._failed = True

    def restored(self, write: T, size_bytes: int = 0) -> None:
        """Remember a write of an earlier process: nobody knows what nodes have done since."""
        self._remember(write, size_bytes)
        self.was_restored = True

    def in_doubt(self) -> bool:
        """Return whether a node may have restarted since all was there, and must be asked."""
        unsure = self._failed or self.was_restored or self._since_complete_s() > IDLE_S
        return bool(self._writes) and unsure

    def lost(self, ages_s: Iterable[float]) -> list[T]:
        """Return the writes to make again where one of these nodes started since all was there."""
        if not self.was_restored and min(ages_s) > self._since_complete_s() + _SECOND_S:
            return []
        return self.all()

    def made_again(self) -> None:
        """Note that all that was lost is there once more."""
        now = self._clock()
        self._writes = deque(_Recent(now, one.write, one.bytes) for one in self._writes)
        self.was_restored = False
        self.kept()

    def kept(self) -> None:
        """Note that no node has restarted: forget the writes that are on their disks by now."""
        now = self._clock()
        while self._writes and self._writes[0].at_s < now - self._keep_s:
            self._bytes -= self._writes.popleft().bytes
        self._complete_at = now
        self._failed = False

    def all(self) -> list[T]:
        """Return the writes that may be lost, in order."""
        return [one.write for one in self._writes]

    def settled_in_s(self) -> float | None:
        """Return the seconds until the last write must be on disk; None without writes."""
        if not self._writes:
            return None
        return 0.0 if self.was_restored else self._until(self._writes[-1])

    def room_in_s(self) -> float | None:
        """Return the seconds until the first can be forgotten; None unless there are too many."""
        return self._until(self._writes[0]) if self._bytes > self._bytes_max else None

    def _until(self, one: _Recent[T]) -> float:
        return max(0.0, one.at_s + self._keep_s - self._clock())

    def _since_complete_s(self) -> float:
        return self._clock() - self._complete_at

    def _remember(self, write: T, size_bytes: int) -> None:
        if self._writes and self._writes[-1].write is write:
            self._bytes -= self._writes.pop().bytes
        self._writes.append(_Recent(self._clock(), write, size_bytes))
        self._bytes += size_bytes
