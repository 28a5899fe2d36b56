"""An alert when a user's failed logins pass the limit: one per burst.

Reads    platform_logs        JSON PlatformLog, keyed by commonData.userId
Writes   login_alerts         one record per alert, identified by (user_id, time): it may come
                              more than once, and a reader takes each once
Time     more than LOGIN_FAILURES_MAX failures of a user in LOGIN_WINDOW_S whole seconds, in
         order of event time; the watermark trails by 5 s, and a failure that it has passed is late
Replay   not possible: an alert that was sent cannot be taken back
Engines  embedded topics: Bytewax, exact in any order within the delay, once the watermark has
         passed, or the partition is quiet for as long.
         Kafka: Faust (`_alerts_worker`), which answers each failure when it comes; see
         streams.bursts for what out of order means then
"""

from __future__ import annotations

import msgspec
import polars as pl

from footfall.flows import TIME_MS, Flow, Messages, Reading, fold
from footfall.flows._alerts import (
    ALERT_COLUMNS,
    DELAY_MS,
    LOGS,
    USER_ID,
    alert_of_row,
    failed_logins,
    run_on_faust,
)
from footfall.schemas.topics import LOGIN_ALERTS, PLATFORM_LOGS
from footfall.streams.bursts import NONE, Failures, decide, is_over
from footfall.streams.ordered import THE_END_MS


class Bursts:
    """The fold of one partition: see streams.ordered.Fold.

    It is bounded by the users who failed within LOGIN_WINDOW_S and the delay.
    """

    def __init__(self, _partition: int, snapshot: bytes | None) -> None:
        self._known: dict[str, Failures] = (
            msgspec.msgpack.decode(snapshot, type=dict[str, Failures]) if snapshot else {}
        )

    def take(self, events: pl.DataFrame, passed_ms: int, version: int) -> pl.DataFrame | None:
        """Take the failures before ``passed_ms``; return the alerts that they raise."""
        rows = []
        for user_id, time_ms in events.sort(TIME_MS).select(USER_ID, TIME_MS).iter_rows():
            self._known[user_id], raised_by = decide(self._known.get(user_id, NONE), time_ms)
            if raised_by is not None:
                rows.append((user_id, time_ms, raised_by, version))
        over = [user_id for user_id, known in self._known.items() if is_over(known, passed_ms)]
        for user_id in over:
            del self._known[user_id]
        return pl.DataFrame(rows, schema=ALERT_COLUMNS, orient="row") if rows else None

    def due_ms(self) -> int:
        """Return THE_END_MS: time alone raises no alert."""
        return THE_END_MS

    def snapshot(self) -> bytes:
        """Return the state as bytes."""
        return msgspec.msgpack.encode(self._known)

    @property
    def holds(self) -> dict[str, int]:
        """Return the number of users whose failures are known."""
        return {"users": len(self._known)}


FLOW = Flow(
    name="login_alerts",
    about="an alert when a user's failed logins pass the limit, one a burst",
    reads={PLATFORM_LOGS: Reading(LOGS, fold(Bursts, delay_ms=DELAY_MS, choose=failed_logins))},
    writes=Messages(LOGIN_ALERTS, alert_of_row),
    snapshot_every_s=1.0,
    on_kafka=run_on_faust,
)
main = FLOW.main
