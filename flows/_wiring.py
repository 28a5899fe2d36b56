"""Sinks that flows share, opened as the settings say.

Clients of servers are imported where they are opened: a flow can be tested without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any

import polars as pl

from schemas.dead_letters import StoreMetricsAvailable
from schemas.metrics import WRITE_SECONDS
from schemas.settings import Settings
from schemas.tables import minute_buckets as minute_tables
from schemas.tables.clickhouse import Table
from schemas.times import iso_ms
from schemas.topics import DEAD_LETTERS, LATE_EVENTS, STORE_METRICS_AVAILABLE
from sinks import RowWriter
from sinks.buffered import ROWS_MAX_DEFAULT, BufferedSink, ForgetfulWriter, RecentSink, Wrote
from streams.batch import TableRows
from streams.progress import Progress
from streams.run import Run

if TYPE_CHECKING:
    from sinks.replay import ReplayTarget
    from sinks.sql import AfterWrite


def minute_buckets_replay(settings: Settings, topic: str) -> ReplayTarget:
    """Return the minute buckets, in either store, as the target of a replay."""
    if not settings.aerospike_aggregates:
        return windows_replay(settings, minute_tables.ROWS, topic)
    from sinks.aerospike_replay import AggregatesReplay
    from sinks.open import open_aggregates

    return AggregatesReplay(
        settings.clickhouse_url, topic, open_aggregates(settings), home=settings.footfall_home
    )


def windows_replay(settings: Settings, of: Table, topic: str) -> ReplayTarget:
    """Return a ClickHouse table of windows as the target of a replay of one topic's events."""
    from sinks.clickhouse_replay import ClickHouseReplay

    return ClickHouseReplay(settings.clickhouse_url, of, topic, home=settings.footfall_home)


def raw_replay(settings: Settings, of: Sequence[Table], topic: str) -> ReplayTarget:
    """Return ClickHouse tables of raw rows as the target of a replay."""
    from sinks.clickhouse_raw_replay import ClickHouseRawReplay

    return ClickHouseRawReplay(settings.clickhouse_url, of, topic, home=settings.footfall_home)


def store_metrics_replay(settings: Settings, topic: str) -> ReplayTarget:
    """Return the store metrics as the target of a replay, which sends notices as every write
    does."""
    from schemas.tables.store_metrics import ROLLUP
    from sinks.sql_replay import SqlReplay

    notices = _store_notices(settings)
    return SqlReplay(settings.postgres_url, ROLLUP, topic, after_write=notices)


def profiles_replay(settings: Settings) -> ReplayTarget:
    """Return the profile store as the target of a replay."""
    from sinks.open import open_profiles
    from sinks.profiles.replay import ProfileReplay

    return ProfileReplay(open_profiles(settings), settings.num_tags_to_keep)


def letters(settings: Settings) -> tuple[BufferedSink[Any], BufferedSink[Any]]:
    """Return the sinks of dead letters and of late events."""
    from sinks.letters import LetterWriter
    from sinks.open import open_topics

    def sink(topic: str) -> BufferedSink[Any]:
        return BufferedSink(lambda: LetterWriter(open_topics(settings), topic), rows_max=1_000)

    return sink(DEAD_LETTERS.name), sink(LATE_EVENTS.name)


def counted(progress: Progress, table: str) -> Wrote:
    """Return a function that counts the rows that a sink writes to one table, and their
    seconds."""

    def wrote(items: Sequence[Sized], seconds: float) -> None:
        progress.wrote(table, sum(map(len, items)))
        progress.took(WRITE_SECONDS, "", seconds)

    return wrote


def counted_by_table(progress: Progress) -> Wrote:
    """Return such a function for a sink of several tables."""

    def wrote(items: Sequence[TableRows], seconds: float) -> None:
        for item in items:
            for name, frame in item.frames.items():
                progress.wrote(name, len(frame))
        progress.took(WRITE_SECONDS, "", seconds)

    return wrote


def table(settings: Settings, of: Table, progress: Progress) -> BufferedSink[pl.DataFrame]:
    """Return the sink of a ClickHouse table."""
    return BufferedSink(lambda: _opened(settings, of), wrote=counted(progress, of.name))


def tables(
    settings: Settings,
    of: Sequence[Table],
    progress: Progress,
    *,
    rows_max: int = ROWS_MAX_DEFAULT,
) -> BufferedSink[TableRows]:
    """Return the sink of a flow that writes several ClickHouse tables."""
    from sinks.tables import TablesWriter

    def opened() -> TablesWriter:
        return TablesWriter({item.name: _opened(settings, item) for item in of})

    return BufferedSink(opened, rows_max=rows_max, wrote=counted_by_table(progress))


Partitions = Callable[[], Iterable[str]]
"""Function that gives the numbers of the topic's partitions that this process reads."""


class TeeWriter:
    """A ForgetfulWriter that writes rows to one writer and then, where there is one, to a
    forgetful one."""

    def __init__(self, first: RowWriter, second: ForgetfulWriter | None) -> None:
        self._first = first
        self._second = second

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        """Return when the rows are durable in both; after an error the first may have them."""
        self._first.write(frames)
        if self._second is not None:
            self._second.write(frames)

    def recent(self) -> Sequence[pl.DataFrame]:
        """Return what the second may still forget."""
        return self._second.recent() if self._second is not None else ()

    def restore(self, rows: pl.DataFrame) -> None:
        """Write what the second may have forgotten."""
        if self._second is not None:
            self._second.restore(rows)

    def settle(self) -> None:
        """Return when the second can forget nothing any more. Raises SinkError."""
        if self._second is not None:
            self._second.settle()

    def close(self) -> None:
        """Release both."""
        self._first.close()
        if self._second is not None:
            self._second.close()


def minute_buckets(settings: Settings, run: Run, partitions: Partitions) -> RecentSink:
    """Return the sink of the minute buckets: ClickHouse, and Aerospike if it is switched on."""
    return _settled(
        run,
        RecentSink(
            lambda: _open_buckets(settings),
            partitions,
            wrote=counted(run.progress, minute_tables.ROWS.name),
        ),
    )


def _opened(settings: Settings, of: Table) -> RowWriter:
    from sinks.clickhouse import ClickHouseTable

    return ClickHouseTable(settings.clickhouse_url, of, home=settings.footfall_home)


def _open_buckets(settings: Settings) -> TeeWriter:
    from sinks.open import open_aggregates

    aggregates = open_aggregates(settings) if settings.aerospike_aggregates else None
    return TeeWriter(_opened(settings, minute_tables.ROWS), aggregates)


def profiles(settings: Settings, run: Run, partitions: Partitions) -> RecentSink:
    """Return the sink of the profile store."""
    return _settled(
        run,
        RecentSink(
            lambda: _ProfileWriter(settings),
            partitions,
            rows_max=settings.kafka_max_poll_records,
            wrote=counted(run.progress, "profiles"),
        ),
    )


def _settled(run: Run, sink: RecentSink) -> RecentSink:
    run.settling.append(sink)
    return sink


class _ProfileWriter:
    def __init__(self, settings: Settings) -> None:
        from sinks.open import open_profiles

        store = self._store = open_profiles(settings)
        self.recent, self.restore = store.recent, store.restore
        self.settle, self.close = store.settle, store.close

    def write(self, frames: Sequence[pl.DataFrame]) -> None:
        self._store.put(pl.concat(frames))


def store_metrics_table(settings: Settings, progress: Progress) -> BufferedSink[pl.DataFrame]:
    """Return the sink of the store metrics, which sends a notice for each row that it has
    written."""
    from schemas.tables.store_metrics import ROLLUP

    return BufferedSink(
        lambda: _open_store_metrics(settings), wrote=counted(progress, ROLLUP.total.name)
    )


def _open_store_metrics(settings: Settings) -> Any:
    from schemas.tables.store_metrics import ROLLUP
    from sinks.sql import SqlRollup

    return SqlRollup(settings.postgres_url, ROLLUP, after_write=_store_notices(settings))


def _store_notices(settings: Settings) -> AfterWrite:
    from sinks.letters import LetterWriter
    from sinks.open import open_topics

    notices = LetterWriter(open_topics(settings), STORE_METRICS_AVAILABLE.name)
    return lambda rows: notices.write([notice_of(row) for row in rows])


def notice_of(row: Mapping[str, Any]) -> StoreMetricsAvailable:
    """Return the notice of a row of ``events``."""
    return StoreMetricsAvailable(
        start_event_time=iso_ms(round(row["start_event_time"].timestamp() * 1000)),
        end_event_time=iso_ms(round(row["end_event_time"].timestamp() * 1000)),
        nr_of_events=row["nr_of_events"],
    )
