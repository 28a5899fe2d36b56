"""The alerts of one partition: each failure is answered when it comes. Knows no engine.

Its state is rows of a changelog, so that the next owner of the partition resumes there:

    "3"        where to resume in partition 3, and what was counted
    "3:anna"   the failures of a user, and the offset of the last that is in them

The users' rows are written before the partition's row. So where that row says "resume at N", all
before N is in the users' rows. Records from N on may be in some of them already, which their
offsets tell. So each failure counts once, whenever a worker ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
from msgspec import Struct

from footfall.flows._alerts import DELAY_MS, LOGS, USER_ID, failed_logins
from footfall.schemas.dead_letters import DeadLetter, LateEvent
from footfall.schemas.login_alerts import LoginAlert
from footfall.schemas.status import PartitionStatus
from footfall.streams.batch import ROW, TIME_MS, Batch, Poll
from footfall.streams.bursts import NONE, Failures, alert_of, decide, is_over
from footfall.streams.clock import Clock
from footfall.streams.steps import late_events

SWEEP_EVERY_MS = 1_000
"""Milliseconds of event time between two searches for users who can be forgotten."""

Row = tuple[bytes, bytes | None]
"""(key, value) of the changelog; None deletes the key."""


class UserRow(Struct, frozen=True):
    """The known failures of a user."""

    offset: int
    """Offset of the last failure that is in it."""
    failures_ms: Failures


class PartitionRow(Struct, frozen=True):
    """The progress in a partition: how far it was read, and what became of its records."""

    topic: str = ""
    topic_id: str = ""
    next_offset: int = 0
    clock: bytes | None = None
    """Snapshot of the partition's clock; see streams.clock."""
    read: int = 0
    used: int = 0
    filtered: int = 0
    late: int = 0
    dead: int = 0


@dataclass(slots=True)
class Taken:
    """Results of a poll. Write the alerts before the users' rows, and those before the partition's
    row."""

    alerts: list[LoginAlert] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    late: list[LateEvent] = field(default_factory=list)
    users: list[Row] = field(default_factory=list)
    partition_row: Row = (b"", None)


class Watch:
    """The alerts of one partition. The state is bounded by the failures of LOGIN_WINDOW_S and the
    delay."""

    def __init__(
        self, flow: str, partition: int, rows: Mapping[bytes, bytes], topic_id: str = ""
    ) -> None:
        """Restore the state from the changelog's ``rows`` by key; other partitions' rows are
        ignored."""
        self._flow = flow
        self._topic_id = topic_id
        self.partition = partition
        own = rows.get(_key(partition))
        self.at = msgspec.json.decode(own, type=PartitionRow) if own else PartitionRow()
        self.is_new = own is None
        self._clock = Clock(self.at.clock)
        prefix = _key(partition, "")
        self._users = {
            key[len(prefix) :].decode(): msgspec.json.decode(value, type=UserRow)
            for key, value in rows.items()
            if key.startswith(prefix)
        }
        self._swept_ms = self.watermark_ms

    def known(self, user_id: str) -> Failures:
        """Return the failures of a user."""
        row = self._users.get(user_id)
        return row.failures_ms if row else NONE

    def __len__(self) -> int:
        return len(self._users)

    def take(self, poll: Poll) -> Taken:
        """Take a poll of at least one record that follows those taken before."""
        batch = self._clock.see(LOGS.decode(self._flow, poll))
        taken = Taken(dead=batch.dead)
        used = self._take_failures(batch, taken) if len(batch.frame) else 0
        was = self.at
        late = len(taken.late)
        self.at = PartitionRow(
            topic=poll.topic,
            topic_id=self._topic_id,
            next_offset=poll.next_offset,
            clock=self._clock.snapshot(),
            read=was.read + poll.count,
            used=was.used + used,
            filtered=was.filtered + len(batch.frame) + len(poll.tombstones) - used - late,
            late=was.late + late,
            dead=was.dead + len(batch.dead),
        )
        taken.partition_row = (_key(self.partition), msgspec.json.encode(self.at))
        return taken

    def status(self, topic: str, lag: int) -> PartitionStatus:
        """Return the partition's status, for the worker's status file."""
        at = self.at
        return PartitionStatus(
            topic=topic,
            partition=self.partition,
            read=at.read,
            used=at.used,
            filtered=at.filtered,
            late=at.late,
            dead=at.dead,
            next_offset=at.next_offset,
            lag=lag,
            watermark_ms=self.watermark_ms,
        )

    @property
    def watermark_ms(self) -> int:
        """Return the watermark: an earlier failure is late. NEVER while no time is agreed on."""
        return self._clock.watermark_ms(DELAY_MS)

    def _take_failures(self, batch: Batch, taken: Taken) -> int:
        """Take the failures of a batch; return the number that were on time."""
        failures = failed_logins(batch.frame)
        places = failures[ROW].to_numpy().astype(np.int64)
        offsets = batch.offsets()[places]
        watermarks = batch.seen.reached_ms[places] - DELAY_MS
        is_late = failures[TIME_MS].to_numpy() < watermarks
        taken.late += late_events(batch, places[is_late], watermarks[is_late]) or ()
        changed: set[str] = set()
        columns = (failures[USER_ID], failures[TIME_MS], offsets, is_late)
        for user_id, time_ms, offset, late in zip(*columns, strict=True):
            if not late and self._take_failure(user_id, time_ms, int(offset), taken):
                changed.add(user_id)
        taken.users += [self._row(user_id) for user_id in changed]
        if self.watermark_ms - self._swept_ms >= SWEEP_EVERY_MS:
            self._swept_ms = self.watermark_ms
            taken.users += self._forget()
        return int(len(failures) - is_late.sum())

    def _take_failure(self, user_id: str, time_ms: int, offset: int, taken: Taken) -> bool:
        row = self._users.get(user_id)
        if row is not None and offset <= row.offset:
            return False
        known, raised_by = decide(row.failures_ms if row else NONE, time_ms)
        self._users[user_id] = UserRow(offset, known)
        if raised_by is not None:
            taken.alerts.append(alert_of(user_id, raised_by))
        return True

    def _forget(self) -> Iterable[Row]:
        """Forget users whose failures no later one can join; return the rows that delete them.

        A user's row stays while it has failures that the partition's row does not cover yet: a
        worker may resume before them, and must not count them again.
        """
        over = [
            user_id
            for user_id, row in self._users.items()
            if row.offset < self.at.next_offset and is_over(row.failures_ms, self.watermark_ms)
        ]
        for user_id in over:
            del self._users[user_id]
        return [(_key(self.partition, user_id), None) for user_id in over]

    def _row(self, user_id: str) -> Row:
        return _key(self.partition, user_id), msgspec.json.encode(self._users[user_id])


def is_partition_row(value: bytes) -> bool:
    """Return true for the row of a partition, false for that of a user."""
    return value.startswith(b'{"topic":')


def partition_of(key: bytes) -> int:
    """Return the partition that a row of the changelog belongs to."""
    return int(key.partition(b":")[0])


def _key(partition: int, user_id: str | None = None) -> bytes:
    return (f"{partition}" if user_id is None else f"{partition}:{user_id}").encode()
