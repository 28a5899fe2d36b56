"""``footfall report``: the store's metrics as they become available, one line per notice."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from threading import Event
from typing import TYPE_CHECKING, Any

from footfall.cli.databases import ask_store
from footfall.cli.money import money
from footfall.cli.topics import polls, records
from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.times import datetime_of, parse_time_ms
from footfall.schemas.topics import STORE_METRICS_AVAILABLE

if TYPE_CHECKING:
    from footfall.schemas.dead_letters import StoreMetricsAvailable

Row = Mapping[str, Any]
Window = tuple[int, int]
"""Start and end of a window, in ms."""
WINDOWS_AT_ONCE = 500


def add_commands(commands: Any) -> None:
    """Add ``report`` to the command line."""
    report = commands.add_parser(
        "report",
        help="the store's metrics as they become available",
        description="Read the notices of topic store_metrics_available as they come, fetch each "
        "window's row from the store's database, and print a line of it.",
    )
    report.add_argument(
        "--once", action="store_true", help="all notices there are, from the first, and stop"
    )
    report.set_defaults(handler=run_report)


def run_report(args: argparse.Namespace) -> int:
    """Print a line for each notice, until stopped or at the end."""
    from footfall.streams.source import EARLIEST, LATEST

    settings = read_settings(os.environ)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    for poll in polls(
        settings,
        STORE_METRICS_AVAILABLE.name,
        start=EARLIEST if args.once else LATEST,
        follow=not args.once,
        stopped=stop.is_set,
    ):
        notices = list(notices_of(records(poll)))
        found = rows_of(settings, notices)
        for window in map(window_of, notices):
            print(report_line(window, found.get(window)), flush=True)
            if stop.is_set():
                return 0
    return 0


def notices_of(payloads: Sequence[bytes]) -> Iterator[StoreMetricsAvailable]:
    """Yield the notices among the records; others are ignored (the topic is ours alone)."""
    import msgspec

    from footfall.schemas.dead_letters import StoreMetricsAvailable

    decode = msgspec.json.Decoder(StoreMetricsAvailable).decode
    for payload in payloads:
        try:
            yield decode(payload)
        except msgspec.MsgspecError:
            continue


def rows_of(settings: Settings, notices: Sequence[StoreMetricsAvailable]) -> dict[Window, Row]:
    """Return the rows of ``events`` for the windows of the notices, as they are now."""
    from footfall.schemas.tables.sql_types import sql_time

    windows = sorted({window_of(notice) for notice in notices})
    found: dict[Window, Row] = {}
    for start in range(0, len(windows), WINDOWS_AT_ONCE):
        some = windows[start : start + WINDOWS_AT_ONCE]
        moments = ", ".join(f"'{sql_time(datetime_of(window[0]))}'" for window in some)
        columns, rows = ask_store(
            settings, f"SELECT * FROM events WHERE start_event_time IN ({moments})"
        )
        for values in rows:
            row = dict(zip(columns, values, strict=True))
            key = (parse_time_ms(row["start_event_time"]), parse_time_ms(row["end_event_time"]))
            found[key] = row
    return found


def window_of(notice: StoreMetricsAvailable) -> Window:
    """Return the window of a notice, in ms."""
    return parse_time_ms(notice.start_event_time), parse_time_ms(notice.end_event_time)


def report_line(window: Window, row: Row | None) -> str:
    """Return one window on one line."""
    start, end = (_shown(time_ms) for time_ms in window)
    if row is None:
        return f"{start} to {end}  no row in the store"
    return (
        f"{start} to {end}  {row['nr_of_events']:,} events, {row['nr_items_viewed']:,} viewed, "
        f"{row['nr_items_put_in_cart']:,} put in cart, {row['nr_items_sold']:,} sold for "
        f"{money(row['value_items_sold_in_cent'])}"
    )


def _shown(time_ms: int) -> str:
    from footfall.schemas.tables.sql_types import sql_time

    return sql_time(datetime_of(time_ms))
