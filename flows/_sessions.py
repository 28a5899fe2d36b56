"""Sessions of the users of one partition, from events in order of time.

The rules of a session are in ``generator.shop_truth``. Events of one millisecond are taken in a
fixed order, whichever came first: a record continues the session, then a logout ends it, then a
login begins one. Several logins of a user in one millisecond are one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from footfall.flows._logs import records
from footfall.flows._rows import MOMENT
from footfall.schemas.platform_logs import SESSION_TIMEOUT_S, VALID, PlatformLog
from footfall.streams.batch import TIME_MS, Int64s
from footfall.streams.columns import Column
from footfall.streams.ordered import THE_END_MS
from footfall.streams.window_chunks import packed, unpacked

TIMEOUT_MS: Final = SESSION_TIMEOUT_S * 1000
DELAY_MS: Final = 5_000
"""Milliseconds that the watermark trails: an event further behind the newest is late."""
OFFLINE: Final = -1
"""Value in place of the login's time for a user who is offline."""

USER_ID, WHAT = "user_id", "what"
_KEPT, RECORD, LOGOUT, LOGIN = range(4)
"""Kinds of events, in the order in which those of one millisecond are taken. _KEPT is the last
event of a known user, taken before."""
RELOGIN, BY_LOGOUT, TIMEOUT = range(3)
"""Reasons why a session ended."""

Int8s = npt.NDArray[np.int8]
Bools = npt.NDArray[np.bool_]


def whats(name: str, values: list[int]) -> pl.Series:
    """Return a column of RECORD, LOGOUT and LOGIN."""
    return pl.Series(name, values, dtype=pl.Int8)


def _what(log: PlatformLog) -> int:
    if log.action == "LogoutReq":
        return LOGOUT
    return LOGIN if log.data is not None and log.data.status == VALID else RECORD


_ENDS_OR_BEGINS = frozenset({"LogoutReq", "LoginRep"})

LOGS: Final = records(
    USER_ID,
    **{
        WHAT: Column(
            lambda logs: [_what(log) if log.action in _ENDS_OR_BEGINS else RECORD for log in logs],
            whats,
        )
    },
)
"""Reader of platform_logs."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Sessions that are over: their users, starts, ends and reasons."""

    ids: pl.Series
    login_ms: Int64s
    end_ms: Int64s
    why: Int8s

    def __len__(self) -> int:
        return len(self.ids)

    def and_then(self, more: Ended) -> Ended:
        """Return these sessions, followed by ``more``."""
        if not len(more):
            return self
        return Ended(
            pl.concat([self.ids, more.ids]),
            np.concatenate([self.login_ms, more.login_ms]),
            np.concatenate([self.end_ms, more.end_ms]),
            np.concatenate([self.why, more.why]),
        )


@dataclass(frozen=True, slots=True)
class Users:
    """Users that are online, and others that are kept for a while. One row per user."""

    ids: pl.Series
    login_ms: Int64s
    """Start of the session; OFFLINE where there is no session."""
    last_ms: Int64s
    """Time of the user's last event."""

    @staticmethod
    def none() -> Users:
        """Return no users."""
        nothing = np.empty(0, dtype=np.int64)
        return Users(pl.Series(USER_ID, [], dtype=pl.String), nothing, nothing)

    def __len__(self) -> int:
        return len(self.ids)

    def online(self) -> int:
        """Return the number of users that are online."""
        return int(np.count_nonzero(self.login_ms != OFFLINE))

    @property
    def holds(self) -> dict[str, int]:
        """Return the number of open sessions and of all users."""
        return {"sessions": self.online(), "users": len(self)}

    def due_ms(self) -> int:
        """Return when the first session ends if nothing comes; THE_END_MS where there is no
        session."""
        lasts = self.last_ms[self.login_ms != OFFLINE]
        return int(lasts.min()) + TIMEOUT_MS if len(lasts) else THE_END_MS

    def snapshot(self) -> bytes:
        """Return the users as bytes; ``restore`` takes them back."""
        numbers = (pl.Series("login_ms", self.login_ms), pl.Series("last_ms", self.last_ms))
        return packed(pl.DataFrame([self.ids, *numbers]))

    @staticmethod
    def restore(snapshot: bytes) -> Users:
        """Return the users that ``snapshot`` gave as bytes."""
        frame = unpacked(snapshot)
        return Users(frame[USER_ID], frame["login_ms"].to_numpy(), frame["last_ms"].to_numpy())

    def at(self, which: Bools) -> Users:
        """Return the users where ``which``."""
        return Users(self.ids.filter(pl.Series(which)), self.login_ms[which], self.last_ms[which])

    def and_also(self, others: Users) -> Users:
        """Return these users and others, who must not be among these."""
        return Users(
            pl.concat([self.ids, others.ids], rechunk=True),
            np.concatenate([self.login_ms, others.login_ms]),
            np.concatenate([self.last_ms, others.last_ms]),
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """Results of some events."""

    users: Users
    """Users after these events."""
    ended: Ended
    started_ms: Int64s
    """Login time of each session that began."""
    rows: Rows


def take(
    users: Users, events: pl.DataFrame, passed_ms: int, keep_from_ms: int = THE_END_MS
) -> Taken:
    """Take events that are later than all before them, and before ``passed_ms``.

    The frame has USER_ID, TIME_MS and WHAT, in any order. Users that are offline are kept if their
    last event is at ``keep_from_ms`` or later.
    """
    rows, is_met = Rows.of(users, events)
    now, ended, started_ms = _followed(rows)
    if not is_met.all():
        now = users.at(~is_met).and_also(now)
    is_over = (now.login_ms != OFFLINE) & (now.last_ms + TIMEOUT_MS <= passed_ms)
    if is_over.any():
        over = now.at(is_over)
        why = np.full(len(over), TIMEOUT, dtype=np.int8)
        ended = ended.and_then(Ended(over.ids, over.login_ms, over.last_ms + TIMEOUT_MS, why))
        now = Users(now.ids, np.where(is_over, OFFLINE, now.login_ms), now.last_ms)
    is_kept = (now.login_ms != OFFLINE) | (now.last_ms >= keep_from_ms)
    return Taken(now if is_kept.all() else now.at(is_kept), ended, started_ms, rows)


@dataclass(frozen=True, slots=True)
class Rows:
    """Events of users: each user's events are together and in order.

    Where a user is known already, the last event that was taken before comes first, as _KEPT.
    """

    ids: pl.Series
    time_ms: Int64s
    what: Int8s
    kept_login_ms: Int64s
    """Start of the session, or OFFLINE, of each known user, in order of the rows."""
    is_first: Bools
    """True where the row is its user's first."""

    def is_event(self) -> Bools:
        """Return which rows are not _KEPT."""
        is_event: Bools = self.what != _KEPT
        return is_event

    @staticmethod
    def of(users: Users, events: pl.DataFrame) -> tuple[Rows, Bools]:
        """Return (the events with the last ones of their known users, which users those are).

        Users are told apart by a hash: sorting texts would take longer than all the rest. Where
        two users have the same hash, the texts are sorted after all.
        """
        ids = pl.concat([users.ids, events[USER_ID]], rechunk=True)
        rows, is_met = _rows(ids, hashes(ids), users, events)
        differs = (rows.ids.head(len(rows.ids) - 1) != rows.ids.tail(len(rows.ids) - 1)).to_numpy()
        if (differs & ~rows.is_first[1:]).any():
            return _rows(ids, ids.rank("dense").to_numpy(), users, events)
        return rows, is_met


def hashes(ids: pl.Series) -> npt.NDArray[np.uint64]:
    """Return a number per text, equal for equal texts."""
    return ids.to_frame().hash_rows().to_numpy()


def _rows(
    ids: pl.Series, numbers: npt.NDArray[Any], users: Users, events: pl.DataFrame
) -> tuple[Rows, Bools]:
    """Return (the rows, which users have events).

    ``ids``, and the ``numbers`` by which they are told apart, are of the users and then of the
    events.
    """
    user = _dense(numbers)
    known = len(users)
    has_event = np.zeros(len(user), dtype=np.bool_)
    has_event[user[known:]] = True
    is_met = has_event[user[:known]]
    met = np.flatnonzero(is_met)
    places = np.concatenate([met, np.arange(known, len(user))])
    time_ms = np.concatenate([users.last_ms[met], events[TIME_MS].to_numpy()])
    what = np.concatenate([np.zeros(len(met), dtype=np.int8), events[WHAT].to_numpy()])
    # Sorting numbers is far cheaper than sorting positions by several keys.
    order = np.argsort(time_ms * 4 + what)
    keys = np.sort(user[places[order]] * len(order) + np.arange(len(order)))
    user_of, place = np.divmod(keys, max(len(order), 1))
    order = order[place]
    is_first = np.ones(len(order), dtype=np.bool_)
    is_first[1:] = user_of[1:] != user_of[:-1]
    kept = order[order < len(met)]
    rows = Rows(
        ids[places[order]],
        time_ms[order],
        what[order],
        users.login_ms[met[kept]],
        is_first,
    )
    return rows, is_met


def _dense(numbers: npt.NDArray[Any]) -> Int64s:
    """Return 0, 1, ... in order of the numbers, equal for equal numbers."""
    order = np.argsort(numbers)
    ordered = numbers[order]
    dense = np.empty(len(numbers), dtype=np.int64)
    dense[order] = np.cumsum(np.diff(ordered, prepend=ordered[:1]) != 0)
    return dense


def same(name: str, value: str | int, kind: type[pl.DataType], count: int) -> pl.Series:
    """Return a column with ``count`` times the same value."""
    return pl.Series(name, [value], dtype=kind()).new_from_index(0, count)


def moments(name: str, times_ms: Int64s) -> pl.Series:
    """Return a column of UTC timestamps from milliseconds since 1970 UTC."""
    return pl.Series(name, times_ms).cast(MOMENT)


def _followed(rows: Rows) -> tuple[Users, Ended, Int64s]:
    """Return (the users after their rows, the sessions that a row ended, when others began)."""
    time_ms, what, is_first = rows.time_ms, rows.what, rows.is_first
    count = len(time_ms)
    is_new = is_first[1:]
    since_ms = np.diff(time_ms)
    is_gap = np.zeros(count, dtype=np.bool_)
    is_gap[1:] = ~is_new & (since_ms >= TIMEOUT_MS)
    is_login = what == LOGIN
    # The second login of one millisecond is a record.
    is_login[1:] &= is_new | (what[:-1] != LOGIN) | (since_ms > 0)
    login_ms = np.full(count, OFFLINE, dtype=np.int64)
    login_ms[what == _KEPT] = rows.kept_login_ms
    login_ms[is_login] = time_ms[is_login]
    cuts = np.flatnonzero(is_first | is_gap | is_login | (what == LOGOUT))
    begins = np.flatnonzero(login_ms[cuts] != OFFLINE)
    starts = cuts[begins]
    # Each session goes on until the next row that cuts, which is of its user or of another.
    ends = np.append(cuts, count)[begins + 1]
    is_open = np.append(is_first, True)[ends]
    last_rows = np.flatnonzero(np.append(is_new, True))[:count]
    now_login_ms = np.full(len(last_rows), OFFLINE, dtype=np.int64)
    user_of = np.cumsum(is_first) - 1
    now_login_ms[user_of[starts[is_open]]] = login_ms[starts[is_open]]
    users = Users(rows.ids[last_rows], now_login_ms, time_ms[last_rows])
    started_ms = time_ms[starts[what[starts] == LOGIN]]
    starts, ends = starts[~is_open], ends[~is_open]
    timed_out = is_gap[ends]
    why = np.where(timed_out, TIMEOUT, np.where(what[ends] == LOGOUT, BY_LOGOUT, RELOGIN))
    end_ms = np.where(timed_out, time_ms[ends - 1] + TIMEOUT_MS, time_ms[ends])
    ended = Ended(rows.ids[starts], login_ms[starts], end_ms, why.astype(np.int8))
    return users, ended, started_ms
