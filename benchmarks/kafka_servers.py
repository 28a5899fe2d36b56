"""What the runs over Kafka stand on: a broker with filled topics, ClickHouse, and the tables."""

from __future__ import annotations

import itertools
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.inputs import BATCH_ROWS, WORLDS
from benchmarks.measure import BenchmarkError
from cli.errors import FailureError, UsageError
from cli.servers import clickhouse_for_a_while
from infra.kafka import Broker, KafkaServerError
from infra.kafka.jars import cache_folder, find_jars, find_java
from schemas.tables import minute_buckets, store_metrics
from schemas.topics import DEAD_LETTERS, LATE_EVENTS, STORE_METRICS_AVAILABLE
from sinks import clickhouse, sql
from sinks.kafka import KafkaTopics

RETENTION_H = 168
_SUMS_IN_TABLES = {
    "minute_buckets": "SELECT sum(count), sum(sum_price) FROM minute_buckets",
    "store_metrics": f"SELECT {', '.join(f'sum({name})' for name in store_metrics.SUMS)} "
    "FROM events",
    "user_profiles": "SELECT count(*), sum(time_ms) FROM tags",
}
PROFILE_SUMS = ("kept", "time_ms")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of one benchmark."""

    bootstrap: str
    kafka_version: str
    clickhouse_url: str | None
    """None where no flow needs it."""
    _databases: Iterator[int] = field(default_factory=itertools.count)

    @property
    def topics_url(self) -> str:
        """TOPICS_URL of the broker."""
        return f"kafka://{self.bootstrap}"

    def make_tables(self, flow: str, home: Path) -> dict[str, str]:
        """Empty tables of the flow for one run; the settings that lead to them."""
        if flow == "user_profiles":
            return {"PROFILES_URL": f"sqlite:///{home}/profiles.sqlite"}
        if flow == "store_metrics":
            url = f"sqlite:///{home}/store.sqlite"
            sql.create_tables(url, store_metrics.METADATA)
            return {"POSTGRES_URL": url}
        assert self.clickhouse_url is not None
        url = f"{self.clickhouse_url}/bench_{next(self._databases)}"
        clickhouse.create_tables(url, [minute_buckets.ROWS, minute_buckets.VIEW])
        return {"CLICKHOUSE_URL": url}


def sums_of(flow: str, names: Sequence[str], tables: dict[str, str]) -> dict[str, int]:
    """What the tables of a run add up to, as ``names``; ``tables`` is of ``make_tables``."""
    query = _SUMS_IN_TABLES[flow]
    if flow == "minute_buckets":
        _, (row,) = clickhouse.query_rows(tables["CLICKHOUSE_URL"], query)
    else:
        (url,) = tables.values()
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        (row,) = connection.execute(query).fetchall()
        connection.close()
    return {name: int(value or 0) for name, value in zip(names, row, strict=True)}


def why_not(environ: Mapping[str, str], say: Say) -> str | None:
    """Why there can be no broker, on one line; None where there can. May fetch the jars."""
    try:
        find_java(environ)
        find_jars(cache_folder(environ), environ, say)
    except KafkaServerError as error:
        return str(error)
    return None


def version_of(jars: Path) -> str:
    """The version of Kafka among its jars; "" where no name tells it."""
    names = [path.stem for path in jars.glob("kafka_*-*.jar")]
    return min(names, key=len).rpartition("-")[2] if names else ""


@contextmanager
def started(cache: Path, say: Say, *, with_clickhouse: bool) -> Iterator[Servers]:
    """Servers of this benchmark's own, on a folder under ``cache`` that is removed after it."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="servers-", dir=cache, ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        try:
            java, jars = find_java(os.environ), find_jars(cache_folder(os.environ), os.environ)
            broker = Broker(folder / "kafka", java=java, jars=jars, port=0)
            broker.start(say)
        except KafkaServerError as error:
            raise BenchmarkError(str(error)) from None
        try:
            make_output_topics(broker.bootstrap)
            if not with_clickhouse:
                yield Servers(broker.bootstrap, version_of(jars), None)
                return
            environ = {**os.environ, "FOOTFALL_HOME": str(folder / "home"), "CLICKHOUSE_URL": ""}
            try:
                with clickhouse_for_a_while(environ, make=True) as settings:
                    yield Servers(broker.bootstrap, version_of(jars), settings.clickhouse_url)
            except (UsageError, FailureError) as error:
                raise BenchmarkError(str(error)) from None
        finally:
            broker.kill()


def make_output_topics(bootstrap: str) -> None:
    """Make the topics that flows write to."""
    writer = KafkaTopics(bootstrap)
    for topic in (DEAD_LETTERS, LATE_EVENTS, STORE_METRICS_AVAILABLE):
        writer.create(topic.name, topic.partitions, topic.retention_h)
    writer.close()


def topic_name(topic: str, partitions: int, *, empty: bool = False) -> str:
    """The name of the measured topic of so many partitions, or of its empty twin."""
    return f"bench_{topic}_{partitions}" + ("_empty" if empty else "")


def fill(
    bootstrap: str, topic: str, events: int, partition_counts: Sequence[int], say: Say
) -> None:
    """Write a world's records to a topic of each number of partitions; make its empty twin.

    They are those of the topic files, with the same keys.
    """
    world = WORLDS[topic]()
    writer = KafkaTopics(bootstrap)
    try:
        for partitions in partition_counts:
            for empty in (False, True):
                name = topic_name(topic, partitions, empty=empty)
                writer.create(name, partitions, RETENTION_H)
        for start in range(0, events, BATCH_ROWS):
            if start % (10 * BATCH_ROWS) == 0:
                say(f"filling topics of {topic}: {start:,} of {events:,} records")
            records = world.batch(start, min(BATCH_ROWS, events - start))
            for partitions in partition_counts:
                writer.write(topic_name(topic, partitions), records)
    finally:
        writer.close()
