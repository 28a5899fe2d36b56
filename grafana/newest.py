"""The panel that shows the newest event time of a table, and leads there.

Event time and wall time are independent: a replay of 2019 is nowhere in the last hour.
"""

from __future__ import annotations

from footfall.grafana.panels import Panel, rows
from footfall.grafana.queries import SQL


def newest(uid: str, column: str, table: str) -> Panel:
    """Return the newest event time of a table; a click shows the hour before it."""
    minute = f"toStartOfMinute({column}) + INTERVAL 1 MINUTE"
    url = f"/d/{uid}?from=${{__data.fields.start}}&to=${{__data.fields.end}}"
    return rows(
        "Newest event",
        "Event time of the newest row. Where it is outside of the range above, all else here is "
        "empty: click it to see the hour before it.",
        SQL(
            f"""
            SELECT {column} AS newest, toUnixTimestamp({minute} - INTERVAL 1 HOUR) * 1000 AS start,
            toUnixTimestamp({minute}) * 1000 AS end
            FROM {table} ORDER BY {column} DESC LIMIT 1
            """,
            True,
        ),
        links={"newest": ("Show the hour before it", url)},
        hidden=["start", "end"],
        width=6,
        height=4,
    )
