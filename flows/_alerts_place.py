"""The next offset of a partition, and whether a record from Faust is that one. Knows no engine.

Faust 0.15 can lose the first records that come after partitions were assigned: it clears its
queues once more when they have begun to fill. So where a record does not follow the one before,
the missing ones are asked for again. Only where the records then come without them is it a gap of
the topic (retention, compaction and transaction markers leave such gaps).
"""

from __future__ import annotations

TRUST_GAPS_S = 60.0
"""Seconds for which gaps are believed after one was confirmed: each transaction leaves one."""
QUIET_S = 2.0
"""Seconds of silence after which a partition that has more is asked again."""
QUIET_MAX_S = 64.0
"""Longest such wait in seconds: it doubles, up to this, each time that asking was in vain."""


class Place:
    """The next offset of a partition."""

    def __init__(self, next_offset: int, now_s: float) -> None:
        self.next_offset = next_offset
        self.is_missing = False
        """True where records from ``next_offset`` on are to be asked for again."""
        self._last = -1
        """Offset that was given last, taken or not."""
        self._is_asked = False
        self._came_again = False
        """True once the offsets went back: the records that were asked for come now."""
        self._trusted_until_s = now_s
        self._quiet_since_s = now_s
        self._patience_s = QUIET_S

    def take(self, offset: int, now_s: float) -> bool:
        """Take the record of that offset if it is the next, and return whether it is."""
        self._quiet_since_s = now_s
        self._came_again |= self._is_asked and offset <= self._last
        self._last = offset
        if offset < self.next_offset:
            return False
        if offset > self.next_offset and now_s >= self._trusted_until_s:
            if not self._came_again:
                self.is_missing = not self._is_asked
                return False
            self._trusted_until_s = now_s + TRUST_GAPS_S
        self.next_offset = offset + 1
        self.is_missing = self._is_asked = self._came_again = False
        self._patience_s = QUIET_S
        return True

    def asked(self) -> None:
        """Note that the missing records were asked for again."""
        self._is_asked = self._last >= self.next_offset
        self._came_again = self.is_missing = False

    def is_quiet(self, end: int, now_s: float) -> bool:
        """Return True, from time to time, if nothing comes though the partition goes on to
        ``end``."""
        if end <= self.next_offset or now_s - self._quiet_since_s < self._patience_s:
            return False
        self._quiet_since_s = now_s
        self._patience_s = min(2 * self._patience_s, QUIET_MAX_S)
        return True

    def is_at_end(self, end: int, now_s: float) -> bool:
        """Return True if all before ``end`` was taken, or nothing came when asked again."""
        if self.next_offset >= end:
            return True
        in_vain = self._patience_s > QUIET_S and not (self.is_missing or self._is_asked)
        return in_vain and now_s - self._quiet_since_s >= QUIET_S


class Stretch:
    """A check whether a value has been the same for too long."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._value: object = None
        self._since_s = 0.0

    def is_stuck(self, value: object, now_s: float) -> bool:
        """Take the value, None where it may rest; return whether it was the same for ``most_s``
        seconds."""
        if value is None or value != self._value:
            self._value, self._since_s = value, now_s
        return value is not None and now_s - self._since_s >= self._most_s
