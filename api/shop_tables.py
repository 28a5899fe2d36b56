"""The live page's questions to the shop's tables: one bounded question per panel.

Event time decides what is new. For panels that follow from platform_logs, "now" is the newest
minute of ``NEWEST_OF`` (a stray event in the future does not move it, see ``shown_newest_ms``);
other topics have a newest moment of their own. A question asks for the newest minutes or hours,
so that it reads the newest partitions of a table and not its past, and for LIMIT rows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from itertools import starmap

from msgspec.structs import replace

from footfall.api.clickhouse import ClickHouse
from footfall.api.parameters import MINUTE_MS
from footfall.api.shop_figures import (
    MINUTES_OF_HEALTH,
    NAME_CHARS_MAX,
    failures_of,
    health_of,
    online_of,
    sessions_of,
)
from footfall.api.shop_questions import (
    Rows,
    ask,
    between,
    every_minute,
    last_minutes,
    newest_s,
    range_ms,
)
from footfall.api.shop_snapshot import (
    SESSION_LENGTHS_S,
    Anomaly,
    FailedRequest,
    Funnel,
    Health,
    Logins,
    Online,
    Product,
    Products,
    Sessions,
)
from footfall.api.tables import shown_newest_ms, whole_until_ms
from footfall.schemas.operations import OUTCOME_OK
from footfall.schemas.tables.clickhouse import DELETED, Table
from footfall.schemas.tables.logins import FAILED_LOGIN, FAILED_LOGIN_VIEW
from footfall.schemas.tables.product_views import PRODUCT_USER_VIEWS, PRODUCT_VIEWS_VIEW
from footfall.schemas.tables.service_health import ROWS as HEALTH
from footfall.schemas.tables.service_health import TRAILING_MS, anomalies_in
from footfall.schemas.tables.service_health import VIEW as HEALTH_VIEW
from footfall.schemas.tables.sessions import (
    ONLINE_PER_MINUTE,
    ONLINE_USER_VIEW,
    SESSIONS,
)
from footfall.schemas.tables.shop_events import FUNNEL_VIEW
from footfall.schemas.tables.shop_events import TABLES as EVENT_TABLES
from footfall.schemas.tables.traces import REQUEST_SUMMARY, REQUEST_TRACE, USER_TRACE
from footfall.schemas.topics import PLATFORM_LOGS, SHOP_EVENTS, STORE_EVENTS, USER_TAGS

MINUTES_SHOWN = 60
PARTITIONS_MAX = 256
MINUTES_OF_PRODUCTS = 15
HOURS_OF_SESSIONS = 6
HOURS_OF_FUNNEL = 6
FAILURES_SHOWN = 10
FAILURES_OF_OPERATION = 4
"""At most so many per operation: mistyped passwords must not hide other failures."""
CANDIDATES_MAX = 100
"""Requests that an older row calls failed, to be looked at again: they may be complete by now."""
ANOMALIES_SHOWN = 2
"""Per measure."""
PRODUCTS_SHOWN = 8
PAIRS_MAX = 200
"""(server, operation) pairs; about twenty are known."""
LENGTHS_MAX = 100
MOMENT_EVERY_S = 1.0
AT_ONCE = 4
HOUR_MS = 60 * MINUTE_MS

NEWEST_OF = {
    REQUEST_TRACE.name: "time",
    USER_TRACE.name: "time",
    FAILED_LOGIN.name: "time",
    HEALTH.name: "minute",
}
"""Tables whose rows all come from events that happened, and the column of their event time."""

FUNNEL_STEPS = ("visited", "searched", "added_to_cart", "ordered")
FUNNEL_KINDS = ("PageVisit", "Searching", "CartAdd", "Ordering")


class ShopTables:
    """The questions. Each raises SinkError where ClickHouse does not answer or refuses."""

    def __init__(
        self,
        clickhouse: ClickHouse,
        watermark_ms: Callable[[str], int | None],
        flow_watermark_ms: Callable[[str], int | None] = lambda _flow: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take functions that give a topic's and a flow's watermark, None before any read."""
        self._flow_watermark_ms = flow_watermark_ms
        self._clickhouse = clickhouse
        self._watermark_ms = watermark_ms
        self._clock = clock
        self._now_ms: int | None = None
        self._asked_s: float | None = None
        self._asking = asyncio.Lock()
        # Ten panels that come at once would make each other slow, and the sinks' inserts.
        self._room = asyncio.Semaphore(AT_ONCE)

    async def now_ms(self) -> int | None:
        """Return the newest minute of platform_logs, None without one. Asked once a second."""
        # Panels come together, and one asks for all of them.
        async with self._asking:
            if self._asked_s is None or self._clock() - self._asked_s >= MOMENT_EVERY_S:
                self._now_ms = await self._newest_ms()
                self._asked_s = self._clock()
        return self._now_ms

    async def _newest_ms(self) -> int | None:
        # online_per_minute goes on after the last record, until the last session has ended.
        columns = [*NEWEST_OF.items(), (ONLINE_PER_MINUTE.name, "minute")]
        (row,) = await self._ask("SELECT " + ", ".join(starmap(newest_s, columns)))
        *happened, online = (int(value or 0) * 1000 for value in row)
        newest_ms = max(happened) or online
        return self._shown_ms(newest_ms, PLATFORM_LOGS.name) if newest_ms else None

    async def online(self) -> Online:
        """Return the last MINUTES_SHOWN minutes."""
        now_ms = await self.now_ms()
        if now_ms is None:
            return Online()
        rows = await self._ask(
            "SELECT toUnixTimestamp(minute), concat(topic, '/', toString(topic_partition)),"
            " toString(active), toString(online)"
            f" FROM {ONLINE_PER_MINUTE.name} FINAL WHERE {between('minute')}"
            f" ORDER BY minute DESC LIMIT {MINUTES_SHOWN * PARTITIONS_MAX}",
            last_minutes(now_ms, MINUTES_SHOWN),
        )
        return replace(online_of(rows, now_ms), whole_ms=self._whole_ms(now_ms, "online_users"))

    async def logins(self) -> Logins:
        """Return the last MINUTES_SHOWN minutes."""
        now_ms = await self.now_ms()
        if now_ms is None:
            return Logins()
        rows = await self._ask(
            "SELECT minute, toString(sum(login)), toString(sum(failure)) FROM ("
            " SELECT toUnixTimestamp(toStartOfMinute(time)) AS minute, 1 AS login, 0 AS failure"
            f" FROM {ONLINE_USER_VIEW.name}"
            f" WHERE {between('time')}"
            " UNION ALL SELECT toUnixTimestamp(toStartOfMinute(time)), 0, 1"
            f" FROM {FAILED_LOGIN_VIEW.name}"
            f" WHERE {between('time')}"
            f") GROUP BY minute ORDER BY minute DESC LIMIT {MINUTES_SHOWN}",
            last_minutes(now_ms, MINUTES_SHOWN),
        )
        whole_ms = self._whole_ms(now_ms, "online_users", "failed_logins")
        return Logins(*every_minute(rows, now_ms), whole_ms)

    async def health(self) -> Health:
        """Return the last MINUTES_OF_HEALTH minutes, the newest one included.

        A percentile is a duration that was measured: see schemas.tables.service_health.
        """
        now_ms = await self.now_ms()
        if now_ms is None:
            return Health()
        last_s = max(0, self._whole_ms(now_ms, "service_health") - MINUTE_MS) // 1000
        rank = "durations[intDiv({0} * length(durations) + 99, 100)]".format
        rows = await self._ask(
            "SELECT server, operation, toString(sum(r.requests)), toString(sum(r.errors)),"
            " toString(sumIf(r.requests, r.minute = toDateTime({last_s:UInt32}, 'UTC'))),"
            " (arraySort(groupArrayArray(r.durations_ms)) AS durations)"
            f"[intDiv(50 * length(durations) + 99, 100)], {rank(95)}, {rank(99)}"
            f" FROM {HEALTH.name} AS r FINAL"
            f" WHERE {between('minute')}"
            " GROUP BY server, operation"
            f" ORDER BY sum(r.requests) DESC, server, operation LIMIT {PAIRS_MAX}",
            last_minutes(now_ms, MINUTES_OF_HEALTH) | {"last_s": last_s},
        )
        return health_of(rows, now_ms)

    async def anomalies(self) -> list[Anomaly]:
        """Return the newest of the minutes of ``health`` that were unlike the hour before them."""
        now_ms = await self.now_ms()
        if now_ms is None:
            return []
        last = last_minutes(now_ms, MINUTES_OF_HEALTH)
        # The view looks back from every minute of the table: give it only the minutes that count.
        recent = (
            f"(SELECT * FROM {HEALTH_VIEW.name}"
            " WHERE minute >= toDateTime({rows_from_s:UInt32}, 'UTC'))"
        )
        rows_from_s = max(0, last["from_s"] - TRAILING_MS // 1000)
        rows = await self._ask(
            "SELECT toUnixTimestamp(minute), server, operation, measure, value, expected"
            f" FROM ({anomalies_in(recent)}) WHERE {between('minute')}"
            " ORDER BY minute DESC, server, operation"
            f" LIMIT {ANOMALIES_SHOWN} BY measure",
            last | {"rows_from_s": rows_from_s},
        )
        return [
            Anomaly(
                int(minute_s) * 1000, server[:NAME_CHARS_MAX], operation[:NAME_CHARS_MAX],
                measure, float(value), float(expected),
            )
            for minute_s, server, operation, measure, value, expected in rows
        ]  # fmt: skip

    async def failures(self) -> list[FailedRequest]:
        """Return the newest requests of the last MINUTES_SHOWN minutes that failed or lack a step,
        at most FAILURES_OF_OPERATION per operation."""
        now_ms = await self.now_ms()
        if now_ms is None:
            return []
        # The tables are sorted by request: the newest requests are found without FINAL, which is
        # fast, and the outcomes of these few are read with it.
        newest = (
            f"request_id IN (SELECT request_id FROM {REQUEST_SUMMARY.name}"
            f" WHERE {between('started')} AND outcome != '{OUTCOME_OK}' AND {DELETED} = 0"
            " GROUP BY request_id, operation ORDER BY max(started) DESC"
            f" LIMIT {5 * FAILURES_OF_OPERATION} BY operation LIMIT {CANDIDATES_MAX})"
        )
        last = last_minutes(now_ms, MINUTES_SHOWN)
        requests = await self._ask(
            "SELECT request_id, user_id, toUnixTimestamp64Milli(started), toString(duration_ms),"
            f" operation, outcome, missing FROM {REQUEST_SUMMARY.name} FINAL"
            f" WHERE {newest} AND outcome != '{OUTCOME_OK}'"
            " ORDER BY started DESC, request_id"
            f" LIMIT {FAILURES_OF_OPERATION} BY operation LIMIT {FAILURES_SHOWN}",
            last,
        )
        steps = await self._ask(
            "SELECT request_id, argMin((log, status, error), time)"
            f" FROM {REQUEST_TRACE.name} FINAL WHERE {newest} AND failed"
            f" GROUP BY request_id LIMIT {CANDIDATES_MAX}",
            last,
        )
        return failures_of(requests, steps)

    async def sessions(self) -> list[Sessions]:
        """Return the sessions that began in the last HOURS_OF_SESSIONS hours, per source."""
        now_ms = await self.now_ms()
        found = []
        for source in (PLATFORM_LOGS.name, SHOP_EVENTS.name):
            is_logs = source == PLATFORM_LOGS.name
            to_ms = now_ms if is_logs else await self._newest_of(SESSIONS, "login", source)
            if to_ms is None:
                continue
            last = last_minutes(to_ms, HOURS_OF_SESSIONS * 60)
            rows = await self._ask(
                "SELECT grouping(ended_by) AS all, ended_by,"
                f" roundDown(spent_s, {list(SESSION_LENGTHS_S)}) AS least, toString(count()),"
                " quantileExact(0.5)(spent_s)"
                f" FROM {SESSIONS.name} FINAL WHERE source = {{source:String}}"
                f" AND {between('login')} GROUP BY GROUPING SETS ((), (ended_by, least))"
                f" ORDER BY all DESC, count() DESC, ended_by, least LIMIT {LENGTHS_MAX}",
                last | {"source": source},
            )
            sessions = sessions_of(source, last, rows)
            if sessions is not None:
                found.append(sessions)
        return found

    async def products(self) -> list[Products]:
        """Return the most viewed products of the last MINUTES_OF_PRODUCTS minutes, per source."""
        found = []
        for source in (PLATFORM_LOGS.name, STORE_EVENTS.name, USER_TAGS.name):
            newest_ms = await self._newest_of(PRODUCT_USER_VIEWS, "minute", source)
            if newest_ms is None:
                continue
            last = last_minutes(newest_ms, MINUTES_OF_PRODUCTS)
            rows = await self._ask(
                "SELECT product_id, toString(sum(p.views)), toString(sum(p.impressions))"
                f" FROM {PRODUCT_VIEWS_VIEW.name} AS p"
                f" WHERE {between('minute')}"
                + " AND source = {source:String} GROUP BY product_id HAVING sum(p.views) > 0"
                " ORDER BY sum(p.views) DESC, sum(p.impressions) DESC, product_id"
                f" LIMIT {PRODUCTS_SHOWN}",
                last | {"source": source},
            )
            products = [
                Product(name[:NAME_CHARS_MAX], int(views), int(impressions))
                for name, views, impressions in rows
            ]
            found.append(Products(source, *range_ms(last), products))
        return found

    async def funnel(self) -> Funnel:
        """Return those of the last HOURS_OF_FUNNEL hours that have events, oldest first."""
        newest = [newest_s(EVENT_TABLES[kind].name, "time") for kind in FUNNEL_KINDS]
        (row,) = await self._ask("SELECT " + ", ".join(newest))
        newest_ms = max(int(value or 0) * 1000 for value in row)
        if not newest_ms:
            return Funnel()
        now_ms = self._shown_ms(newest_ms, SHOP_EVENTS.name)
        last = last_minutes(
            now_ms // HOUR_MS * HOUR_MS + HOUR_MS - MINUTE_MS, 60 * HOURS_OF_FUNNEL
        )
        steps = [f"toString({step})" for step in FUNNEL_STEPS]
        rows = await self._ask(
            f"SELECT toUnixTimestamp(hour), {', '.join(steps)} FROM {FUNNEL_VIEW.name}"
            f" WHERE {between('hour')} ORDER BY hour DESC LIMIT {HOURS_OF_FUNNEL}",
            last,
        )
        oldest_first = rows[::-1]
        return Funnel(
            [int(row[0]) * 1000 for row in oldest_first],
            {
                step: [int(row[place]) for row in oldest_first]
                for place, step in enumerate(FUNNEL_STEPS, 1)
            },
        )

    async def _newest_of(self, table: Table, at: str, source: str) -> int | None:
        """Return the newest minute of one source in a table of several, None without rows."""
        rows = await self._ask(
            f"SELECT toUInt64(toUnixTimestamp({at})) FROM {table.name}"
            f" WHERE source = {{source:String}} ORDER BY {at} DESC LIMIT 1",
            {"source": source},
        )
        return self._shown_ms(int(rows[0][0]) * 1000, source) if rows else None

    def _whole_ms(self, now_ms: int, *flows: str) -> int:
        """Return the end of a panel's last whole minute, by the flows that write its rows."""
        return whole_until_ms(now_ms, *map(self._flow_watermark_ms, flows))

    def _shown_ms(self, newest_ms: int, topic: str) -> int:
        """Return the minute of a topic's newest moment, stray events left out."""
        shown_ms = shown_newest_ms(newest_ms, self._watermark_ms(topic))
        return shown_ms // MINUTE_MS * MINUTE_MS

    async def _ask(self, query: str, parameters: Mapping[str, int | str] | None = None) -> Rows:
        async with self._room:
            return await ask(self._clickhouse, query, parameters)
