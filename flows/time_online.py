"""Sessions of users: how long each lasted, and why it ended.

Reads    platform_logs        JSON PlatformLog, keyed by user: from a login to a logout, the next
                              login, or 30 min without a record
         shop_events          JSON ShopEvent, keyed by user: from a LoggingIn to the next one, or
                              30 min without an event
Writes   users_spend_time_online   ClickHouse, one row per session of platform_logs
         shop_sessions             and one row per session of shop_events
Time     event time; a session is written when it is over and the watermark, which trails by 5 s,
         has passed its end; when nothing comes any more, with the end that it has then
Replay   rows are upserts: reading the same events again changes nothing
"""

from __future__ import annotations

from functools import partial
from typing import Any

import polars as pl

from footfall.flows import ClickHouse, Column, Flow, Reading, Records, fold, ident
from footfall.flows._sessions import (
    DELAY_MS,
    LOGIN,
    LOGS,
    RECORD,
    USER_ID,
    WHAT,
    Ended,
    Users,
    moments,
    same,
    take,
    whats,
)
from footfall.schemas.shop_events import STRUCTS
from footfall.schemas.tables.sessions import SESSIONS
from footfall.schemas.topics import PLATFORM_LOGS, SHOP_EVENTS

_LOGGING_IN = STRUCTS["LoggingIn"]


def _whats(events: list[Any]) -> list[int]:
    return [LOGIN if type(event) is _LOGGING_IN else RECORD for event in events]


EVENTS = Records.of(
    SHOP_EVENTS,
    {
        USER_ID: ident(lambda events: [event.user_id for event in events]),
        WHAT: Column(_whats, whats),
    },
    times=lambda events: [event.timestamp for event in events],
)

ENDED_BY = {
    PLATFORM_LOGS.name: ("relogin", "logout", "timeout"),
    SHOP_EVENTS.name: ("relogin", "logout", "inactivity"),
}
"""Names of the reasons in flows._sessions, in their order; no shop event is a logout."""


class Stays:
    """The fold of one partition: its sessions. Its state is the users that are online."""

    def __init__(self, source: str, partition: int, snapshot: bytes | None) -> None:
        self._source = source
        self._partition = partition
        self._users = Users.restore(snapshot) if snapshot else Users.none()
        self._due_ms = self._users.due_ms()

    def take(self, events: pl.DataFrame, passed_ms: int, version: int) -> pl.DataFrame | None:
        """Follow the events; return the sessions that ended. See streams.ordered.Fold."""
        taken = take(self._users, events, passed_ms)
        self._users = taken.users
        self._due_ms = taken.users.due_ms()
        return self._rows(taken.ended, version) if len(taken.ended) else None

    def due_ms(self) -> int:
        """Return when the first session ends; see streams.ordered.Fold."""
        return self._due_ms

    def snapshot(self) -> bytes:
        """Return the state as bytes; see streams.ordered.Fold."""
        return self._users.snapshot()

    @property
    def holds(self) -> dict[str, int]:
        """Return the number of open sessions and of all users."""
        return self._users.holds

    def _rows(self, ended: Ended, version: int) -> pl.DataFrame:
        """Return rows of ``sessions_rows``."""
        count = len(ended)
        names = pl.Series("ended_by", ENDED_BY[self._source])
        return pl.DataFrame(
            [
                same("source", self._source, pl.String, count),
                ended.ids,
                moments("login", ended.login_ms),
                moments("ended", ended.end_ms),
                pl.Series("spent_s", (ended.end_ms - ended.login_ms) / 1000),
                names[ended.why],
                same("topic_partition", self._partition, pl.UInt16, count),
                same("version", version, pl.UInt64, count),
            ]
        )


FLOW = Flow(
    name="time_online",
    about="how long each user stayed: every session, and why it ended",
    reads={
        topic: Reading(records, fold(partial(Stays, topic.name), delay_ms=DELAY_MS))
        for topic, records in ((PLATFORM_LOGS, LOGS), (SHOP_EVENTS, EVENTS))
    },
    writes=ClickHouse(SESSIONS, views=("users_spend_time_online", "shop_sessions")),
)
main = FLOW.main
