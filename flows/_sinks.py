"""Sinks that a flow can declare. Each opens what it writes to only when the flow is wired.

Clients of servers are imported where they are opened, because a test of a flow needs no server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from msgspec import Struct

from footfall.flows._writers import (
    MessageWriter,
    ProfileWriter,
    TeeWriter,
    counted,
    counted_by_table,
)
from footfall.schemas.settings import Settings
from footfall.schemas.tables.clickhouse import Table
from footfall.schemas.topics import DEAD_LETTERS, LATE_EVENTS, TOPICS, Topic
from footfall.sinks import RowWriter
from footfall.sinks.buffered import ROWS_MAX_DEFAULT, BufferedSink, RecentSink
from footfall.streams.batch import TIME_MS
from footfall.streams.decode import Records
from footfall.streams.run import Run
from footfall.streams.source import TopicSource

if TYPE_CHECKING:
    from footfall.schemas.tables.rollup import Rollup
    from footfall.sinks.replay import ReplayTarget
    from footfall.sinks.split import SplitSink, WhyNot
    from footfall.sinks.sql import AfterWrite

Sources = Mapping[str, TopicSource]
"""The sources of a flow in this process, by topic."""


class Sink:
    """A place for the rows of a flow. The kinds of sinks below open it."""

    names: tuple[str, ...] = ()
    """Names of all that is written, for people: ``("ClickHouse user_trace",)``."""
    tables: tuple[Table, ...] = ()
    """Tables of ClickHouse that are written."""
    keeps_state: bool = False
    """The sink has a state per partition, which is snapshotted with the flow's own."""
    start: str = ""
    """Column with the start of a row's window, or the time of its event; "" if rows of a range of
    time cannot be written again."""
    sums: tuple[str, ...] = ()
    """Columns that add up over the rows of a window, the number of events first."""

    def open(self, settings: Settings, run: Run, sources: Sources) -> Any:
        """Return the engine's sink of the rows."""
        raise NotImplementedError

    def replay(self, settings: Settings, topic: str) -> ReplayTarget:
        """Return the rows of one topic as the target of a replay."""
        raise NotImplementedError

    def checked(self, records: Records, settings: Settings, sources: Sources) -> Records:
        """Return the records of the flow, without those that the sink can never take."""
        return records

    @property
    def starts(self) -> pl.Expr:
        """Return ``start`` in milliseconds."""
        return pl.col(self.start).dt.epoch("ms")


class ClickHouse(Sink):
    """One or several tables of ClickHouse.

    For one table the step gives a frame, for several TableRows.
    """

    def __init__(
        self,
        *tables: Table,
        views: Sequence[str] = (),
        rows_max: int = ROWS_MAX_DEFAULT,
    ) -> None:
        """Declare the tables.

        ``views`` names what readers ask; without it, each table is read by its name less
        ``_rows``. ``rows_max`` rows, of all tables together, are gathered before they are written.
        """
        self.tables = tables
        self.names = tuple(
            f"ClickHouse {name}"
            for name in views or [table.name.removesuffix("_rows") for table in tables]
        )
        self.rows_max = rows_max
        starts = {table.start for table in tables}
        self.start = starts.pop() if len(starts) == 1 else ""
        self.sums = tables[0].sums

    def open(self, settings: Settings, run: Run, sources: Sources) -> Any:
        """Return the sink of the table, or of the tables together."""
        if len(self.tables) == 1:
            (table,) = self.tables
            wrote = counted(run.progress, table.name)
            return BufferedSink(
                lambda: _opened(settings, table), rows_max=self.rows_max, wrote=wrote
            )
        from footfall.sinks.tables import TablesWriter

        def opened() -> TablesWriter:
            return TablesWriter({table.name: _opened(settings, table) for table in self.tables})

        wrote = counted_by_table(run.progress)
        return BufferedSink(opened, rows_max=self.rows_max, wrote=wrote)

    def replay(self, settings: Settings, topic: str) -> ReplayTarget:
        """Return the tables as the target of a replay: of raw rows, or of windows."""
        if all(table.is_raw for table in self.tables):
            from footfall.sinks.clickhouse_raw_replay import ClickHouseRawReplay

            return ClickHouseRawReplay(
                settings.clickhouse_url, self.tables, topic, home=settings.footfall_home
            )
        from footfall.sinks.clickhouse_replay import ClickHouseReplay

        return ClickHouseReplay(
            settings.clickhouse_url, self.tables[0], topic, home=settings.footfall_home
        )


class MinuteBuckets(ClickHouse):
    """A table of ClickHouse, written to Aerospike as well if AEROSPIKE_AGGREGATES is set."""

    keeps_state = True

    def open(self, settings: Settings, run: Run, sources: Sources) -> RecentSink:
        """Return the sink of both."""

        def opened() -> TeeWriter:
            from footfall.sinks.open import open_aggregates

            aggregates = open_aggregates(settings) if settings.aerospike_aggregates else None
            return TeeWriter(_opened(settings, self.tables[0]), aggregates)

        wrote = counted(run.progress, self.tables[0].name)
        return _settling(run, RecentSink(opened, _partitions(sources), wrote=wrote))

    def replay(self, settings: Settings, topic: str) -> ReplayTarget:
        """Return the table, and Aerospike where that is written, as the target of a replay."""
        if not settings.aerospike_aggregates:
            return super().replay(settings, topic)
        from footfall.sinks.aerospike_replay import AggregatesReplay
        from footfall.sinks.open import open_aggregates

        return AggregatesReplay(
            settings.clickhouse_url, topic, open_aggregates(settings), home=settings.footfall_home
        )


class Profiles(Sink):
    """The profile store: the newest tags of each cookie, NUM_TAGS_TO_KEEP of each kind."""

    keeps_state = True
    start = TIME_MS

    def __init__(self, name: str) -> None:
        """``name`` is that of the profiles, for people."""
        self.names = (f"profiles {name}",)

    def open(self, settings: Settings, run: Run, sources: Sources) -> RecentSink:
        """Return the sink of the profile store."""
        sink = RecentSink(
            lambda: ProfileWriter(settings),
            _partitions(sources),
            rows_max=settings.kafka_max_poll_records,
            wrote=counted(run.progress, "profiles"),
        )
        return _settling(run, sink)

    def replay(self, settings: Settings, topic: str) -> ReplayTarget:
        """Return the profile store as the target of a replay: each tag replaces itself."""
        from footfall.sinks.open import open_profiles
        from footfall.sinks.profiles.replay import ProfileReplay

        return ProfileReplay(open_profiles(settings), settings.num_tags_to_keep)

    @property
    def starts(self) -> pl.Expr:
        """Return the time of a tag."""
        return pl.col(self.start)


class Messages(Sink):
    """A topic to which each row is sent as a message."""

    def __init__(self, topic: Topic, message_of: Callable[[dict[str, Any]], Struct]) -> None:
        """``message_of`` gives the message of a row, which comes as a dictionary."""
        self.names = (f"topic {topic.name}",)
        self.topic = topic
        self.message_of = message_of

    def open(self, settings: Settings, run: Run, sources: Sources) -> BufferedSink[pl.DataFrame]:
        """Return the sink of the topic."""
        return BufferedSink(
            lambda: self.writer(settings),
            rows_max=1_000,
            wrote=counted(run.progress, self.topic.name),
        )

    def writer(self, settings: Settings) -> MessageWriter:
        """Return a writer of rows to the topic."""
        return MessageWriter(settings, self.topic.name, self.message_of)


class SqlRollup(Sink):
    """Windows in the store's SQL database: a row per partition, and their totals."""

    def __init__(self, rollup: Rollup, *, notices: Messages) -> None:
        """Declare the tables of ``rollup``; ``notices`` get each total that was written."""
        self.rollup = rollup
        self.notices = notices
        self.names = (f"PostgreSQL {rollup.total.name}", *notices.names)
        self.start = rollup.key[0]
        self.sums = tuple(rollup.sums)

    def open(self, settings: Settings, run: Run, sources: Sources) -> BufferedSink[pl.DataFrame]:
        """Return the sink of the database."""

        def opened() -> Any:
            from footfall.sinks.sql import SqlRollup

            return SqlRollup(
                settings.postgres_url, self.rollup, after_write=self._notices(settings)
            )

        return BufferedSink(opened, wrote=counted(run.progress, self.rollup.total.name))

    def replay(self, settings: Settings, topic: str) -> ReplayTarget:
        """Return the windows as the target of a replay, which sends notices like every write."""
        from footfall.sinks.sql_replay import SqlReplay

        notices = self._notices(settings)
        return SqlReplay(settings.postgres_url, self.rollup, topic, after_write=notices)

    def _notices(self, settings: Settings) -> AfterWrite:
        return self.notices.writer(settings).write_rows


class TopicPerKind(Sink):
    """A topic for each kind of records that a topic has. The step gives rows of KIND and VALUE."""

    keeps_state = True

    def __init__(self, source: Topic, records_of: Callable[[Topic, WhyNot], Records]) -> None:
        """``records_of`` reads a topic without the kinds that no topic can be named for."""
        from footfall.sinks.split import target_of

        self.names = (f"topics {target_of(source.name, '<kind>')}",)
        self._records_of = records_of

    def open(self, settings: Settings, run: Run, sources: Sources) -> SplitSink:
        """Return the sink of the topics."""
        from footfall.sinks.open import open_topics
        from footfall.sinks.split import SplitSink, target_of

        ((topic, source),) = sources.items()
        return SplitSink(
            lambda: open_topics(settings, gapless=True),
            topic,
            source.list_parts(),
            wrote=counted(run.progress, target_of(topic, "*")),
        )

    def checked(self, records: Records, settings: Settings, sources: Sources) -> Records:
        """Return the records whose kind has a topic or can have one, which is made."""
        from footfall.sinks.open import open_topics
        from footfall.sinks.split import Targets

        ((name, source),) = sources.items()
        targets = Targets(
            open_topics(settings),
            name,
            partitions=source.topic.partitions(),
            retention_h=TOPICS[name].retention_h,
        )
        return self._records_of(TOPICS[name], targets.why_not)


def letters(settings: Settings) -> tuple[BufferedSink[Any], BufferedSink[Any]]:
    """Return the sinks of dead letters and of late events."""
    from footfall.sinks.letters import LetterWriter
    from footfall.sinks.open import open_topics

    def sink(topic: str) -> BufferedSink[Any]:
        return BufferedSink(lambda: LetterWriter(open_topics(settings), topic), rows_max=1_000)

    return sink(DEAD_LETTERS.name), sink(LATE_EVENTS.name)


def _opened(settings: Settings, table: Table) -> RowWriter:
    from footfall.sinks.clickhouse import ClickHouseTable

    return ClickHouseTable(settings.clickhouse_url, table, home=settings.footfall_home)


def _partitions(sources: Sources) -> Callable[[], set[str]]:
    """Return a function that lists the partitions that this process reads, by number."""
    return lambda: {part for source in sources.values() for part in source.list_parts()}


def _settling(run: Run, sink: RecentSink) -> RecentSink:
    run.settling.append(sink)
    return sink
