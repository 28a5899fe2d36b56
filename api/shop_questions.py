"""Bounded questions of the live page to ClickHouse, about the newest rows of the shop alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from footfall.api.clickhouse import ClickHouse
from footfall.api.parameters import MINUTE_MS
from footfall.sinks import SinkRefusedError, SinkUnavailableError

SECONDS_MAX = 8
SETTINGS = (
    f" SETTINGS max_execution_time = {SECONDS_MAX}, max_threads = 2,"
    " max_memory_usage = 1000000000, do_not_merge_across_partitions_select_final = 1"
)
_UNKNOWN_TABLE = "Code: 60."
_TOO_SLOW = "Code: 159."
STILL_MS = 2 * MINUTE_MS
"""The furthest that a table is behind the newest minute because its flow is about to write it."""

between = (
    "{0} >= toDateTime({{from_s:UInt32}}, 'UTC') AND {0} < toDateTime({{to_s:UInt32}}, 'UTC')"
).format
"""The condition that a column is within ``last_minutes``."""

Rows = list[list[Any]]


async def ask(
    clickhouse: ClickHouse, query: str, parameters: Mapping[str, str | int] | None = None
) -> Rows:
    """Return the rows of a bounded query. Raises SinkError, with advice for a missing table."""
    try:
        return await clickhouse.rows(query + SETTINGS, parameters)
    except SinkRefusedError as error:
        if _UNKNOWN_TABLE in str(error):
            reason = "a table was not made yet: `footfall init` makes those that miss"
            raise SinkRefusedError(reason) from None
        if _TOO_SLOW in str(error):
            reason = f"ClickHouse is busy: it took over {SECONDS_MAX} s, and is asked again"
            raise SinkUnavailableError(reason) from None
        raise


def last_minutes(now_ms: int, minutes: int) -> dict[str, int]:
    """Return the bounds of ``between``: so many minutes, the last beginning at ``now_ms``."""
    to_s = now_ms // 1000 + 60
    return {"from_s": max(0, to_s - minutes * 60), "to_s": to_s}


def range_ms(last: Mapping[str, int]) -> tuple[int, int]:
    """Return the same bounds in milliseconds."""
    return last["from_s"] * 1000, last["to_s"] * 1000


def minutes_between(found: Collection[int], now_ms: int) -> list[int]:
    """Return every minute from the first of these to the last, in ms.

    Where ``now_ms`` is more than STILL_MS later, no more rows are to come: go on to it.
    """
    if not found:
        return []
    last_ms = max(found) if now_ms - max(found) <= STILL_MS else now_ms
    return list(range(min(found), last_ms + 1, MINUTE_MS))


def every_minute(rows: Rows, now_ms: int) -> tuple[list[int], list[int], list[int]]:
    """Return (minutes in ms, ones, others), with zeros for minutes that have no row."""
    found = {int(minute_s) * 1000: (int(one), int(other)) for minute_s, one, other in rows}
    starts = minutes_between(found, now_ms)
    ones = [found.get(start, (0, 0)) for start in starts]
    return starts, [one for one, _ in ones], [other for _, other in ones]


def newest_s(table: str, column: str) -> str:
    """Return an expression for the newest moment of a table in seconds; 0 where it has no row."""
    return f"(SELECT toUInt64(toUnixTimestamp(max({column}))) FROM {table})"
