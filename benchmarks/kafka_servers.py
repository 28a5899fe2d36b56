"""The servers of the runs over Kafka: a broker with filled topics, ClickHouse, and the tables."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from footfall.benchmarks.inputs import BATCH_ROWS, batches
from footfall.benchmarks.measure import BenchmarkError
from footfall.benchmarks.tables import Tables, tables_in
from footfall.infra.kafka import Broker, KafkaServerError
from footfall.infra.kafka.jars import cache_folder, find_jars, find_java
from footfall.schemas.topics import (
    DEAD_LETTERS,
    LATE_EVENTS,
    LOGIN_ALERTS,
    STORE_METRICS_AVAILABLE,
)
from footfall.sinks.kafka import KafkaTopics

RETENTION_H = 168

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of one benchmark."""

    bootstrap: str
    kafka_version: str
    tables: Tables

    @property
    def topics_url(self) -> str:
        """Return the TOPICS_URL of the broker."""
        return f"kafka://{self.bootstrap}"


def why_not(environ: Mapping[str, str], say: Say) -> str | None:
    """Return why no broker can run, on one line, or None. It may fetch the jars."""
    try:
        find_java(environ)
        find_jars(cache_folder(environ), environ, say)
    except KafkaServerError as error:
        return str(error)
    return None


def version_of(jars: Path) -> str:
    """Return the version of Kafka from the names of its jars; "" where no name has it."""
    names = [path.stem for path in jars.glob("kafka_*-*.jar")]
    return min(names, key=len).rpartition("-")[2] if names else ""


@contextmanager
def started(cache: Path, say: Say, flows: list[str]) -> Iterator[Servers]:
    """Run servers of this benchmark's own, on a folder under ``cache`` that is then removed."""
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
            with tables_in(folder / "home", flows, say) as tables:
                yield Servers(broker.bootstrap, version_of(jars), tables)
        finally:
            broker.kill()


def make_output_topics(bootstrap: str) -> None:
    """Make the topics that flows write to."""
    writer = KafkaTopics(bootstrap)
    for topic in (DEAD_LETTERS, LATE_EVENTS, LOGIN_ALERTS, STORE_METRICS_AVAILABLE):
        writer.create(topic.name, topic.partitions, topic.retention_h)
    writer.close()


def topic_name(topic: str, partitions: int, *, empty: bool = False) -> str:
    """Return the name of the measured topic of so many partitions, or of its empty twin."""
    return f"bench_{topic}_{partitions}" + ("_empty" if empty else "")


def fill(
    bootstrap: str, topic: str, events: int, partition_counts: Sequence[int], say: Say
) -> None:
    """Write a world's records to one topic per number of partitions; make its empty twin.

    The records are those of the topic files, with the same keys.
    """
    writer = KafkaTopics(bootstrap)
    try:
        for partitions in partition_counts:
            for empty in (False, True):
                name = topic_name(topic, partitions, empty=empty)
                writer.create(name, partitions, RETENTION_H)
        for number, records in enumerate(batches(topic, events)):
            if number % 10 == 0:
                written = number * BATCH_ROWS
                say(f"filling topics of {topic}: {written:,} of {events:,} records")
            for partitions in partition_counts:
                writer.write(topic_name(topic, partitions), records)
    finally:
        writer.close()
