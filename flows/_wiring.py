"""The sinks that flows share, opened as the settings say.

Clients of servers are imported where they are opened: a flow needs none of them to be tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from schemas.dead_letters import StoreMetricsAvailable
from schemas.settings import Settings
from schemas.tables.clickhouse import Table
from schemas.times import iso_ms
from schemas.topics import DEAD_LETTERS, LATE_EVENTS, STORE_METRICS_AVAILABLE
from sinks.buffered import BufferedSink
from streams.progress import Progress


def letters(settings: Settings) -> tuple[BufferedSink[Any], BufferedSink[Any]]:
    """The sinks of dead letters and of late events."""
    from sinks.letters import LetterWriter
    from sinks.open import open_topics

    def sink(topic: str) -> BufferedSink[Any]:
        return BufferedSink(lambda: LetterWriter(open_topics(settings), topic), rows_max=1_000)

    return sink(DEAD_LETTERS.name), sink(LATE_EVENTS.name)


def table(settings: Settings, of: Table, progress: Progress) -> BufferedSink[pl.DataFrame]:
    """The sink of a ClickHouse table."""
    from sinks.clickhouse import ClickHouseTable

    return BufferedSink(lambda: ClickHouseTable(settings.clickhouse_url, of), wrote=progress.wrote)


def profiles(settings: Settings, progress: Progress) -> BufferedSink[pl.DataFrame]:
    """The sink of the profile store."""
    return BufferedSink(
        lambda: _ProfileWriter(settings),
        rows_max=settings.kafka_max_poll_records,
        wrote=progress.wrote,
    )


class _ProfileWriter:
    def __init__(self, settings: Settings) -> None:
        from sinks.open import open_profiles

        self._store = open_profiles(settings)

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        self._store.put(pl.concat(frames))

    def close(self) -> None:
        self._store.close()


def store_metrics_table(settings: Settings, progress: Progress) -> BufferedSink[pl.DataFrame]:
    """The sink of the store metrics, which tells of each row it has written."""
    return BufferedSink(lambda: _open_store_metrics(settings), wrote=progress.wrote)


def _open_store_metrics(settings: Settings) -> Any:
    from schemas.tables import store_metrics as tables
    from sinks.letters import LetterWriter
    from sinks.open import open_topics
    from sinks.sql import SqlRollup

    notices = LetterWriter(open_topics(settings), STORE_METRICS_AVAILABLE.name)
    return SqlRollup(
        settings.postgres_url,
        tables.EVENTS_BY_PARTITION,
        tables.EVENTS,
        tables.KEY,
        tables.SUMS,
        to_announce=tables.EVENTS_TO_ANNOUNCE,
        after_write=lambda rows: notices.write([notice_of(row) for row in rows]),
    )


def notice_of(row: Mapping[str, Any]) -> StoreMetricsAvailable:
    """The notice of a row of ``events``."""
    return StoreMetricsAvailable(
        start_event_time=iso_ms(round(row["start_event_time"].timestamp() * 1000)),
        end_event_time=iso_ms(round(row["end_event_time"].timestamp() * 1000)),
        nr_of_events=row["nr_of_events"],
    )
