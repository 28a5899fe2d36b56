"""Where a partition stands, and whether what Faust gives comes next there. Knows no engine.

Faust 0.15 can lose the first records that come after partitions were assigned: it clears its
queues once more when they have begun to fill. So a record that does not follow on the one before
is asked for again, from the one that is missing; only where it then comes without it, none is
there (retention, compaction and the marks of transactions leave such gaps).
"""

from __future__ import annotations

TRUST_GAPS_S = 60.0
"""After a gap in which nothing was: a topic of transactions has one at each of them."""
QUIET_S = 2.0
"""A partition that has more and gives nothing for so long is asked again."""
QUIET_MAX_S = 64.0
"""Asked in vain, it is left alone for twice as long, up to this."""


class Place:
    """The next offset of a partition."""

    def __init__(self, next_offset: int, now_s: float) -> None:
        self.next_offset = next_offset
        self.is_missing = False
        """Records from ``next_offset`` on are to be asked for again."""
        self._last = -1
        """The offset that was given last, taken or not."""
        self._is_asked = False
        self._came_again = False
        """What was asked for comes now: behind what was on its way, the offsets went back."""
        self._trusted_until_s = now_s
        self._quiet_since_s = now_s
        self._patience_s = QUIET_S

    def take(self, offset: int, now_s: float) -> bool:
        """Whether the record of that offset is the next."""
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
        """They were asked for again."""
        self._is_asked = self._last >= self.next_offset
        self._came_again = self.is_missing = False

    def is_quiet(self, end: int, now_s: float) -> bool:
        """True, from time to time, if nothing comes though the partition goes on to ``end``."""
        if end <= self.next_offset or now_s - self._quiet_since_s < self._patience_s:
            return False
        self._quiet_since_s = now_s
        self._patience_s = min(2 * self._patience_s, QUIET_MAX_S)
        return True

    def is_at_end(self, end: int, now_s: float) -> bool:
        """True if all before ``end`` was taken, or nothing came when it was asked for again."""
        if self.next_offset >= end:
            return True
        in_vain = self._patience_s > QUIET_S and not (self.is_missing or self._is_asked)
        return in_vain and now_s - self._quiet_since_s >= QUIET_S


class Stretch:
    """Tells when something has been the same for too long."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._value: object = None
        self._since_s = 0.0

    def is_stuck(self, value: object, now_s: float) -> bool:
        """Take its value, None where it may stand still; true from ``most_s`` on."""
        if value is None or value != self._value:
            self._value, self._since_s = value, now_s
        return value is not None and now_s - self._since_s >= self._most_s
