"""The live page's reads of minutes, top lists, and windows of store metrics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, inspect, select

from footfall.api.clickhouse import ClickHouse
from footfall.api.parameters import MINUTE_MS
from footfall.api.snapshot import Minutes, Top, TopRow, Windows
from footfall.schemas.addresses import path_of, scheme_of
from footfall.schemas.database_addresses import STORE_TAKES
from footfall.schemas.tables.minute_buckets import ROWS, VIEW
from footfall.schemas.tables.store_metrics import EVENTS
from footfall.sinks._sql_engine import Store

MINUTES_SHOWN = 20
MINUTES_OF_TOP = 5
TOP_ROWS = 8
NAME_CHARS_MAX = 120
WINDOWS_SHOWN = 120
BEHIND_MAX = 2
"""A watermark that is more minutes (or windows) behind the newest one is not used."""
STRAY_MS = 5 * MINUTE_MS
"""Buckets further than this past the watermark come from stray events."""

CONNECT_WITHIN_S, ANSWER_WITHIN_S = 2.0, 5.0
"""Limits for the store of store metrics."""

_RANGE = (
    f" FROM {VIEW.name} WHERE bucket >= toDateTime({{from_s:UInt32}}, 'UTC')"
    " AND bucket < toDateTime({to_s:UInt32}, 'UTC')"
)


def shown_newest_ms(newest_ms: int, watermark_ms: int | None) -> int:
    """Return the newest moment, or the minute after the watermark where a stray event made it."""
    if watermark_ms is not None and newest_ms > watermark_ms + STRAY_MS:
        return watermark_ms // MINUTE_MS * MINUTE_MS + MINUTE_MS
    return newest_ms


def whole_until_ms(newest_ms: int, *watermarks_ms: int | None, length_ms: int = MINUTE_MS) -> int:
    """Return the moment up to which minutes (or windows of another length) are over.

    ``newest_ms`` is the start of the newest one, and the watermarks are of the flows that write
    them. A watermark that is several minutes behind says nothing: in a slow stream it waits for
    records that agree. Then all but the newest one are over.
    """
    known = [mark for mark in watermarks_ms if mark is not None]
    if not known or min(known) < newest_ms - BEHIND_MAX * length_ms:
        return newest_ms
    over = (min(known) - newest_ms) // length_ms * length_ms
    return newest_ms + min(over, length_ms)


class MinutesSource:
    """Minutes up to the newest one. Whole ranges are read seldom, the newest minutes often."""

    def __init__(
        self,
        clickhouse: ClickHouse,
        watermark_ms: Callable[[], int | None],
        *,
        whole_every: int = 10,
    ) -> None:
        self._clickhouse = clickhouse
        self._watermark_ms = watermark_ms
        self._whole_every = whole_every
        self._asked = 0
        self._known: dict[int, tuple[int, int, int]] = {}

    async def minutes(self) -> Minutes:
        """Return the last minutes of event time. Raises SinkError."""
        newest_ms = await self._newest_ms()
        if newest_ms is None:
            self._known = {}
            return Minutes()
        first_ms = newest_ms - (MINUTES_SHOWN - 1) * MINUTE_MS
        whole = self._asked % self._whole_every == 0 or max(self._known, default=0) < (
            newest_ms - 2 * MINUTE_MS
        )
        self._asked += 1
        from_ms = first_ms if whole else newest_ms - 2 * MINUTE_MS
        found = await self._sums(from_ms, newest_ms + MINUTE_MS)
        kept = {
            start_ms: sums
            for start_ms, sums in self._known.items()
            if first_ms <= start_ms < from_ms
        }
        self._known = kept | found
        starts = sorted(self._known)
        views, buys, revenue = (
            [self._known[start][column] for start in starts] for column in range(3)
        )
        whole_ms = whole_until_ms(newest_ms, self._watermark_ms())
        return Minutes(starts, views, buys, revenue, whole_ms)

    async def top(self) -> Top:
        """Return the best of the last minutes of event time, by revenue. Raises SinkError."""
        newest_ms = await self._newest_ms()
        if newest_ms is None:
            return Top()
        from_ms = newest_ms - (MINUTES_OF_TOP - 1) * MINUTE_MS
        to_ms = newest_ms + MINUTE_MS
        rows = await self._clickhouse.rows(
            "SELECT grouping(brand_id) AS no_brand, grouping(origin) AS no_origin,"
            " brand_id, origin, category_id,"
            " toString(sumIf(count, action = 'VIEW')), toString(sumIf(count, action = 'BUY')),"
            " toString(sumIf(sum_price, action = 'BUY'))"
            + _RANGE
            + " GROUP BY GROUPING SETS ((brand_id), (origin), (category_id))"
            " ORDER BY sumIf(sum_price, action = 'BUY') DESC, sum(count) DESC,"
            " brand_id, origin, category_id"
            f" LIMIT {TOP_ROWS} BY no_brand, no_origin",
            {"from_s": from_ms // 1000, "to_s": to_ms // 1000},
        )
        lists: tuple[list[TopRow], ...] = ([], [], [])
        for no_brand, no_origin, brand, origin, category, views, buys, revenue in rows:
            place = 0 if not no_brand else 1 if not no_origin else 2
            name = (brand, origin, category)[place][:NAME_CHARS_MAX]
            lists[place].append(TopRow(name, int(views), int(buys), int(revenue)))
        return Top(from_ms, to_ms, *lists)

    async def _newest_ms(self) -> int | None:
        rows = await self._clickhouse.rows(
            f"SELECT count(), toUnixTimestamp(max(bucket)) FROM {ROWS.name}"
        )
        if not int(rows[0][0]):
            return None
        return shown_newest_ms(int(rows[0][1]) * 1000, self._watermark_ms())

    async def _sums(self, from_ms: int, to_ms: int) -> dict[int, tuple[int, int, int]]:
        rows = await self._clickhouse.rows(
            "SELECT toUnixTimestamp(bucket), toString(sumIf(count, action = 'VIEW')),"
            " toString(sumIf(count, action = 'BUY')),"
            " toString(sumIf(sum_price, action = 'BUY'))" + _RANGE + " GROUP BY bucket",
            {"from_s": max(0, from_ms // 1000), "to_s": to_ms // 1000},
        )
        return {row[0] * 1000: (int(row[1]), int(row[2]), int(row[3])) for row in rows}


class WindowsSource:
    """The newest rows of the table ``events``. Blocking: call it in a thread."""

    def __init__(self, url: str, watermark_ms: Callable[[], int | None] = lambda: None) -> None:
        """Take the URL of a store. Raises SinkRefusedError for any other text."""
        self._url = url
        self._watermark_ms = watermark_ms
        self._store: Store | None = None
        self._file = path_of(url, STORE_TAKES) if scheme_of(url) == "sqlite" else None

    def windows(self) -> Windows:
        """Return the newest windows, oldest first; empty without the table. Raises SinkError."""
        if self._file is not None and not self._file.exists():
            return Windows()
        if self._store is None:
            self._store = Store(
                self._url,
                give_up_after_s=CONNECT_WITHIN_S,
                read_only=True,
                statement_s_max=ANSWER_WITHIN_S,
            )
        mark = self._watermark_ms()
        rows = self._store.read(_newest)
        return Windows(
            start_ms=[_ms(row.start_event_time) for row in rows],
            end_ms=[_ms(row.end_event_time) for row in rows],
            events=[row.nr_of_events for row in rows],
            viewed=[row.nr_items_viewed for row in rows],
            put_in_cart=[row.nr_items_put_in_cart for row in rows],
            sold=[row.nr_items_sold for row in rows],
            revenue_cents=[row.value_items_sold_in_cent for row in rows],
            whole_ms=_whole_ms(rows[-1], mark) if rows else 0,
        )

    def close(self) -> None:
        """Close the connections."""
        if self._store is not None:
            self._store.close()


def _newest(connection: Connection) -> list[Row[Any]]:
    if not inspect(connection).has_table(EVENTS.name):
        return []
    newest = select(EVENTS).order_by(EVENTS.c.start_event_time.desc()).limit(WINDOWS_SHOWN)
    return list(connection.execute(newest).all()[::-1])


def _whole_ms(newest: Row[Any], watermark_ms: int | None) -> int:
    start_ms, end_ms = _ms(newest.start_event_time), _ms(newest.end_event_time)
    return whole_until_ms(start_ms, watermark_ms, length_ms=max(1, end_ms - start_ms))


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
