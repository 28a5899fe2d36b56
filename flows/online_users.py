"""Users who came online, and the numbers of users active in each minute and online at its end.

Reads    platform_logs        JSON PlatformLog, keyed by user
Writes   online_user          ClickHouse, one row per LoginRep whose status is Valid
         online_users_per_minute   one row per (minute, topic partition)
Time     event time; a minute is final when the watermark, which trails by 5 s, has passed its
         end; the open one is written every 5 s as it would end if nothing came
Replay   rows are upserts: reading the same events again changes nothing
"""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
import polars as pl

from footfall.flows import ClickHouse, Flow, Reading, fold
from footfall.flows._sessions import (
    DELAY_MS,
    LOGIN,
    LOGS,
    TIMEOUT_MS,
    USER_ID,
    WHAT,
    Rows,
    Users,
    moments,
    same,
    take,
)
from footfall.schemas.tables.sessions import ONLINE_PER_MINUTE, ONLINE_USER
from footfall.schemas.topics import PLATFORM_LOGS
from footfall.schemas.versions import FINAL, version_of
from footfall.streams.batch import NEVER, TIME_MS, Int64s, TableRows
from footfall.streams.ordered import OFFSET, THE_END_MS

MINUTE_MS: Final = 60_000
EARLY_EVERY_MS: Final = 5_000

_NUMBERS = 2
_Moments = TypeVar("_Moments", int, Int64s)


class Presence:
    """The fold of one partition: who is online, and who was active in the open minute.

    Minutes are numbered from 1970 on. A minute has a row if somebody may be active or online in it
    by the events up to it, so that a row that was written too early is written again. Where
    nothing comes for longer than a session lasts, there are no rows.
    """

    def __init__(self, partition: int, snapshot: bytes | None) -> None:
        self._partition = partition
        self._open = 0
        """The first minute that is not final."""
        self._newest_ms = NEVER
        """Time of the latest event that was taken."""
        self._users = Users.none()
        if snapshot:
            size = 8 * _NUMBERS
            self._open, self._newest_ms = map(int, np.frombuffer(snapshot[:size], dtype="<i8"))
            self._users = Users.restore(snapshot[size:])

    def take(self, events: pl.DataFrame, passed_ms: int, version: int) -> TableRows | None:
        """Follow the events; see streams.ordered.Fold."""
        before = self._users
        open_ms = passed_ms // MINUTE_MS * MINUTE_MS
        taken = take(before, events, passed_ms, keep_from_ms=open_ms)
        self._users = taken.users
        frames = {}
        is_login = events[WHAT] == LOGIN
        if is_login.any():
            frames[ONLINE_USER.name] = self._came_online(events, is_login)
        times = np.sort(events[TIME_MS].to_numpy())
        minutes = self._final_minutes(times, passed_ms // MINUTE_MS)
        if len(minutes):
            is_active_before = before.last_ms >= self._open * MINUTE_MS
            active = _counts(minutes, active_minutes(taken.rows))
            if is_active_before.any():
                active[minutes == self._open] += np.count_nonzero(is_active_before)
            # A session counts from the minute of its login to the one before that of its end.
            came = _counts(minutes, taken.started_ms // MINUTE_MS)
            went = _counts(minutes, taken.ended.end_ms // MINUTE_MS)
            online = before.online() + np.cumsum(came - went)
            frames[ONLINE_PER_MINUTE.name] = self._minutes(minutes, active, online, version)
        self._open = max(self._open, passed_ms // MINUTE_MS)
        if len(times):
            self._newest_ms = int(times[-1])
        return TableRows(frames) if frames else None

    def due_ms(self) -> int:
        """Return when the open minute ends, if it has a row; see streams.ordered.Fold."""
        if self._newest_ms == NEVER or self._open >= _covered_to(self._newest_ms):
            return THE_END_MS
        return (self._open + 1) * MINUTE_MS

    def snapshot(self) -> bytes:
        """Return the state as bytes; see streams.ordered.Fold."""
        numbers = np.array([self._open, self._newest_ms], dtype="<i8")
        return numbers.tobytes() + self._users.snapshot()

    @property
    def holds(self) -> dict[str, int]:
        """Return the number of open sessions and of all users."""
        return self._users.holds

    def _final_minutes(self, times: Int64s, until: int) -> Int64s:
        """Return the minutes before ``until`` that are not final yet and have a row."""
        minutes = times // MINUTE_MS
        lasts = np.flatnonzero(np.diff(minutes, append=-1))
        starts, ends = minutes[lasts], _covered_to(times[lasts])
        if self._newest_ms != NEVER:
            starts = np.insert(starts, 0, self._open)
            ends = np.insert(ends, 0, _covered_to(self._newest_ms))
        # Each stretch begins where the one before it ends, if not later.
        starts[1:] = np.maximum(starts[1:], ends[:-1])
        counts = np.maximum(np.minimum(ends, until) - starts, 0)
        first_places = np.cumsum(counts) - counts
        return np.repeat(starts - first_places, counts) + np.arange(counts.sum())

    def _came_online(self, events: pl.DataFrame, is_login: pl.Series) -> pl.DataFrame:
        """Return rows of ``online_user_rows``."""
        users, times_ms, offsets = (
            events[name].filter(is_login) for name in (USER_ID, TIME_MS, OFFSET)
        )
        return pl.DataFrame(
            [
                users,
                moments("time", times_ms.to_numpy()),
                same("topic_partition", self._partition, pl.UInt16, len(users)),
                offsets.cast(pl.UInt64),
                same("version", version_of(0, 0, FINAL), pl.UInt64, len(users)),
            ]
        )

    def _minutes(
        self, minutes: Int64s, active: Int64s, online: Int64s, version: int
    ) -> pl.DataFrame:
        """Return rows of ``online_users_per_minute_rows``."""
        count = len(minutes)
        return pl.DataFrame(
            [
                moments("minute", minutes * MINUTE_MS),
                same("topic_partition", self._partition, pl.UInt16, count),
                pl.Series("active", active.astype(np.uint64)),
                pl.Series("online", online.astype(np.uint64)),
                same("version", version, pl.UInt64, count),
            ]
        )


def active_minutes(rows: Rows) -> Int64s:
    """Return the minutes of users' events, each once per user, without the _KEPT events."""
    minutes = rows.time_ms // MINUTE_MS
    is_new = rows.is_first.copy()
    is_new[1:] |= minutes[1:] != minutes[:-1]
    return minutes[is_new & rows.is_event()]


def _covered_to(time_ms: _Moments) -> _Moments:
    """Return the first minute at whose end nobody can be online by an event at ``time_ms``."""
    return (time_ms + TIMEOUT_MS) // MINUTE_MS


def _counts(minutes: Int64s, found: Int64s) -> Int64s:
    """Return the number of ``found`` in each minute, or since the minute before that has a row."""
    places = np.searchsorted(minutes, found)
    return np.bincount(places, minlength=len(minutes) + 1)[: len(minutes)]


def newest_minute_end_ms(newest_ms: int) -> int:
    """Return when the minute of ``newest_ms`` ends."""
    return newest_ms // MINUTE_MS * MINUTE_MS + MINUTE_MS


FLOW = Flow(
    name="online_users",
    about="who came online, and how many users were active and online in each minute",
    reads={
        PLATFORM_LOGS: Reading(
            LOGS,
            fold(
                Presence,
                delay_ms=DELAY_MS,
                early_every_ms=EARLY_EVERY_MS,
                early_ms=newest_minute_end_ms,
            ),
        )
    },
    writes=ClickHouse(ONLINE_USER, ONLINE_PER_MINUTE),
)
main = FLOW.main
