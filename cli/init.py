"""``footfall init``: makes missing topics and tables; it is safe to repeat."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeVar

from footfall.schemas.settings import Settings
from footfall.schemas.topics import TOPICS, Topic

T = TypeVar("T")


def add_commands(commands: Any) -> None:
    """Add ``init`` to the command line."""
    init = commands.add_parser(
        "init",
        help="make topics and tables, safely again and again",
        description="Make the topics and tables that do not stand yet, on the embedded or the "
        "real servers, as the settings say. What stands is left as it is; a topic that has fewer "
        "partitions than the catalogue says gets more, tables of earlier versions are moved into "
        "their form of today (end their writers first), and tables of a row per record expire "
        "after RAW_ROWS_TTL_DAYS of event time.",
    )
    init.set_defaults(handler=run_init)


def run_init(_args: argparse.Namespace) -> int:
    """Make what is missing; say what was made, what has grown and what existed."""
    from footfall.cli.home import Home
    from footfall.cli.servers import clickhouse_for_a_while
    from footfall.schemas.settings import read_settings

    Home(read_settings(os.environ).footfall_home).make()
    with clickhouse_for_a_while(os.environ, make=True) as settings:
        for what, name, made in [
            *make_topics(settings),
            *make_clickhouse_tables(settings),
            *make_store_tables(settings),
            *make_profiles(settings),
        ]:
            print(f"{what} {name}: {made}", flush=True)
    return 0


Made = tuple[str, str, str]
"""(kind, name, and MADE, STOOD, or how it was changed)"""
MADE, STOOD = "made", "stood"


def make_topics(settings: Settings) -> Iterator[Made]:
    """Make the topics of the catalogue, and KAFKA_TOPIC where it names another.

    One of the catalogue that has fewer partitions gets more; any other is left as it is.
    """
    from footfall.sinks.open import open_topics
    from footfall.sinks.topic_files import FileTopics

    wanted = dict(TOPICS)
    if settings.kafka_topic and settings.kafka_topic not in wanted:
        wanted[settings.kafka_topic] = Topic(settings.kafka_topic, "KAFKA_TOPIC", key="")
    writer = open_topics(settings)
    try:
        for topic in wanted.values():
            standing = writer.partitions(topic.name)
            if standing is None or (standing < topic.partitions and topic.name in TOPICS):
                if isinstance(writer, FileTopics):
                    writer.create(topic.name, topic.partitions)
                else:
                    writer.create(topic.name, topic.partitions, topic.retention_h)
                partitions, made = topic.partitions, f"grown from {standing}" if standing else MADE
            else:
                partitions, made = standing, STOOD
            yield "topic", f"{topic.name} ({partitions} partitions)", made
    finally:
        writer.close()


def make_clickhouse_tables(settings: Settings) -> Iterator[Made]:
    """Make the tables and views of ClickHouse; a view that exists takes its newest form."""
    from footfall.cli.databases import ask_clickhouse
    from footfall.schemas.tables.clickhouse import Table, View
    from footfall.sinks.clickhouse import create_tables
    from footfall.sinks.clickhouse_move import before, move_tables
    from footfall.sinks.clickhouse_ttl import set_ttl

    tables = described(Table)
    # Views come last: they refer to tables.
    wanted: list[Table | View] = [*tables, *described(View)]
    url, home = settings.clickhouse_url, settings.footfall_home
    create = partial(create_tables, url, home=home)
    create([])
    topics = _topics_of_tables(settings)
    moved = {
        table.name: f"moved: its {rows:,} rows of before are now of "
        f"{topics.get(table.name, 'the topic that their source names')}; drop table "
        f"{before(table)} when you need it no more"
        for table, rows in move_tables(url, tables, topics, home=home)
    }
    _, rows = ask_clickhouse(
        settings, "SELECT name FROM system.tables WHERE database = currentDatabase()"
    )
    standing = {name for (name,) in rows}
    create(wanted)
    expiring = set_ttl(url, tables, settings.raw_rows_ttl_days, home=home)
    for item in wanted:
        what = f"ClickHouse {type(item).__name__.lower()}"
        made = moved.get(item.name, STOOD if item.name in standing else MADE)
        yield what, item.name, ", ".join(filter(None, (made, expiring.get(item.name))))


def _topics_of_tables(settings: Settings) -> dict[str, str]:
    """Return the topic of each table's rows, where its flow reads one topic."""
    from footfall import flows

    return {
        table.name: _topic_of(settings, name)
        for name, contract in flows.catalogue().items()
        if len(contract.topics) == 1
        for table in contract.tables
    }


def _topic_of(settings: Settings, flow: str) -> str:
    """Return the topic that a flow of one topic has read: the one in its status files, or else the
    one that it would read now."""
    from footfall import flows
    from footfall.operations.positions import read_statuses

    told = [
        (status.updated_ms, part.topic)
        for status in read_statuses(settings.footfall_home)
        if status.flow == flow
        for part in status.partitions
    ]
    (reads,) = flows.catalogue()[flow].topics
    return max(told)[1] if told else settings.kafka_topic or reads


def make_store_tables(settings: Settings) -> Iterator[Made]:
    """Make the tables of the store's database."""
    import sqlalchemy

    from footfall.cli.databases import ask_store
    from footfall.schemas.tables.store_metrics import EVENTS_BY_PARTITION
    from footfall.sinks import SinkRefusedError
    from footfall.sinks.sql import create_tables
    from footfall.sinks.sql_move import move_table

    topic = _topic_of(settings, "store_metrics")
    rows = move_table(settings.postgres_url, EVENTS_BY_PARTITION, topic)
    moved = {} if rows is None else {EVENTS_BY_PARTITION.name: _moved(rows, "rows", topic)}
    for metadata in described(sqlalchemy.MetaData):
        standing = set()
        for table in metadata.sorted_tables:
            with contextlib.suppress(SinkRefusedError):
                ask_store(settings, f"SELECT 1 FROM {table.name} WHERE 1 = 0")
                standing.add(table.name)
        create_tables(settings.postgres_url, metadata)
        for table in metadata.sorted_tables:
            stood = moved.get(table.name, STOOD)
            yield "store table", table.name, stood if table.name in standing else MADE


def make_profiles(settings: Settings) -> Iterator[Made]:
    """Move the profiles of an SQLite file of an earlier version. All others are made, and moved,
    as tags are written."""
    from footfall.sinks.open import open_profiles
    from footfall.sinks.profiles.sqlite import SqliteProfiles

    if not settings.profiles_url.startswith("sqlite:"):
        return
    store = open_profiles(settings)
    assert isinstance(store, SqliteProfiles)
    topic = _topic_of(settings, "user_profiles")
    tags = store.move(topic)
    if tags is not None:
        yield "profiles", settings.profiles_url, _moved(tags, "tags", topic)


def _moved(count: int, what: str, topic: str) -> str:
    return f"moved: its {count:,} {what} of before are now of {topic}"


def described(kind: type[T]) -> list[T]:
    """Return all objects of a kind in the modules of ``schemas.tables``, each once, by module.

    They have a name of their own there, or are in a dictionary of many.
    """
    import pkgutil

    from footfall.schemas import tables as schemas_tables

    found: list[T] = []
    for module in sorted(info.name for info in pkgutil.iter_modules(schemas_tables.__path__)):
        for value in vars(importlib.import_module(f"footfall.schemas.tables.{module}")).values():
            values = value.values() if isinstance(value, dict) else (value,)
            found += [value for value in values if isinstance(value, kind) and value not in found]
    return found
