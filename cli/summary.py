"""The summary of ``footfall demo --once``, read from the tables and topics themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from footfall.cli.databases import ask_clickhouse, ask_store
from footfall.cli.money import money
from footfall.cli.topics import polls, records
from footfall.schemas.settings import Settings
from footfall.schemas.topics import DEAD_LETTERS

if TYPE_CHECKING:
    from footfall.schemas.status import WorkerStatus

_NAME_WIDTH = 18

STORE_SQL = """
    SELECT count(*), sum(nr_of_events), sum(nr_items_viewed), sum(nr_items_put_in_cart),
           sum(nr_items_sold), sum(value_items_sold_in_cent)
    FROM events
"""
BUCKETS_SQL = """
    SELECT count(), sum(count), sumIf(count, action = 'VIEW'), sumIf(count, action = 'BUY'),
           sum(sum_price), uniqExact(bucket)
    FROM minute_buckets
"""
SHOP_SQL = {
    "requests": "SELECT count(), countIf(outcome = 'failed'), countIf(outcome = 'incomplete') "
    "FROM request_summary",
    "sessions": "SELECT count(), countIf(ended_by = 'logout'), countIf(ended_by = 'relogin'), "
    "countIf(ended_by = 'timeout') FROM users_spend_time_online",
    "failed logins": "SELECT count(), uniqExact(user_id) FROM failed_login",
    "shop events": "SELECT sum(rows), count() FROM shop_events_rows",
}
SHOP_WORDS = {
    "requests": "{:,}: {:,} failed, {:,} incomplete",
    "sessions": "{:,}: {:,} by logout, {:,} by relogin, {:,} by timeout",
    "failed logins": "{:,} of {:,} users",
    "shop events": "{:,} of {:,} kinds",
}
PROFILES_SQL = "SELECT count(DISTINCT cookie) FROM tags"
"""Query of the embedded profiles: Aerospike has no cheap count of its records."""


def summary_lines(settings: Settings, statuses: Sequence[WorkerStatus]) -> list[str]:
    """Return the lines, for each topic that had events, and for late events and dead letters."""
    from footfall.sinks.sql import query_rows

    lines = [flow_line(flow, found) for flow, found in by_flow(statuses).items()]
    if _read_by(statuses, "store_metrics"):
        ((windows, events, viewed, carted, sold, cents),) = ask_store(settings, STORE_SQL)[1]
        lines += [
            line("store windows", f"{windows:,} of {events or 0:,} events"),
            line("viewed", f"{viewed or 0:,}"),
            line("put in cart", f"{carted or 0:,}"),
            line("sold", f"{sold or 0:,} for {money(int(cents or 0))}"),
        ]
    if _read_by(statuses, "minute_buckets"):
        ((groups, tags, views, buys, price, minutes),) = ask_clickhouse(settings, BUCKETS_SQL)[1]
        lines += [
            line("minute buckets", f"{groups:,} groups in {minutes:,} min"),
            line("tags in them", f"{tags:,}: {views:,} views, {buys:,} buys"),
            line("sum of prices", f"{price:,}"),
        ]
        if settings.profiles_file is not None:
            ((profiles,),) = query_rows(settings.profiles_url, PROFILES_SQL)[1]
            lines.append(line("profiles", f"{profiles:,} cookies"))
    if _read_by(statuses, "request_trace"):
        for name, sql in SHOP_SQL.items():
            (counts,) = ask_clickhouse(settings, sql)[1]
            lines.append(line(name, SHOP_WORDS[name].format(*counts)))
    late = sum(partition.late for status in statuses for partition in status.partitions)
    letters = dead_letters(settings)
    lines += [line("late", f"{late:,}"), line("dead letters", f"{letters.total():,}")]
    for flow in sorted({flow for flow, _ in letters}):
        counts = sorted((code, count) for (of, code), count in letters.items() if of == flow)
        text = ", ".join(f"{count:,} {code}" for code, count in counts)
        lines.append(line(f"  {flow}", text))
    return lines


def by_flow(statuses: Iterable[WorkerStatus]) -> dict[str, list[WorkerStatus]]:
    """Return the workers of each flow."""
    found: dict[str, list[WorkerStatus]] = {}
    for status in statuses:
        found.setdefault(status.flow, []).append(status)
    return found


def flow_line(flow: str, workers: Sequence[WorkerStatus]) -> str:
    """Return a line with the counts of what a flow's workers have read."""
    read, used, filtered, late, dead = totals(workers)
    parts = [f"{used:,} used"]
    parts += [
        f"{count:,} {name}"
        for name, count in (("filtered", filtered), ("late", late), ("dead", dead))
        if count
    ]
    return line(flow, f"{read:,} events read: {', '.join(parts)}")


def totals(workers: Iterable[WorkerStatus]) -> tuple[int, int, int, int, int]:
    """Return (read, used, filtered, late, dead) over all partitions of some workers."""
    parts = [partition for status in workers for partition in status.partitions]
    return (
        sum(part.read for part in parts),
        sum(part.used for part in parts),
        sum(part.filtered for part in parts),
        sum(part.late for part in parts),
        sum(part.dead for part in parts),
    )


def accounts(statuses: Sequence[WorkerStatus], flows: Iterable[str]) -> list[str]:
    """Return a line for each flow that is not at the end or has events not accounted for."""
    found = by_flow(statuses)
    wrong = []
    for flow in flows:
        workers = found.get(flow)
        if workers is None or len(workers) < workers[0].workers:
            wrong.append(f"{flow} said nothing of what it did")
            continue
        read, *parts = totals(workers)
        lag = sum(part.lag for status in workers for part in status.partitions)
        if lag or not all(status.finished for status in workers):
            wrong.append(f"{flow} did not reach the end: {lag:,} events are left")
        if read != sum(parts):
            wrong.append(f"{flow} read {read:,} events and accounts for {sum(parts):,}")
    return wrong


def dead_letters(settings: Settings) -> Counter[tuple[str, str]]:
    """Count dead records by (flow, code), each once even if its letter was written twice."""
    from footfall.schemas.dead_letters import dead_letter_of

    codes: dict[tuple[str, str, int, int], str] = {}
    for poll in polls(settings, DEAD_LETTERS.name):
        for record in records(poll):
            letter = dead_letter_of(record)
            if letter is not None:
                codes[letter.flow, letter.topic, letter.partition, letter.offset] = letter.code
    return Counter((flow, code) for (flow, *_), code in codes.items())


def line(name: str, text: str) -> str:
    """Return a line of the summary."""
    return f"{name:<{_NAME_WIDTH}}{text}"


def _read_by(statuses: Sequence[WorkerStatus], flow: str) -> int:
    return totals(status for status in statuses if status.flow == flow)[0]
