"""Topics as a command reads them: all records to the end, or as they come, and their ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from footfall.schemas.settings import Settings

if TYPE_CHECKING:
    from footfall.generator.sources import TopicView
    from footfall.streams.batch import Poll
    from footfall.streams.source import Position

GROUP = "cli"
IDLE_WAIT_S = 0.25
KAFKA_TIMEOUT_S = 15.0


def polls(
    settings: Settings,
    topic: str,
    *,
    start: Position | None = None,
    end: Position | None = None,
    follow: bool = False,
    partitions: tuple[int, ...] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Poll]:
    """Yield the records of a topic from ``start`` (earliest) to ``end`` (as found), or follow it.

    Raises streams.source.SourceError where there is no such topic.
    """
    from footfall.streams.open import open_topic
    from footfall.streams.source import EARLIEST, LATEST, wall_clock_ms

    to = None if follow else end or LATEST
    source = open_topic(settings, topic, group=GROUP, start=start or EARLIEST, end=to)
    numbers = range(source.partitions()) if partitions is None else partitions
    readers = [source.open(number, None) for number in numbers]
    try:
        while readers and not stopped():
            found = False
            for reader in list(readers):
                poll = reader.poll(wall_clock_ms())
                if poll.count:
                    found = True
                    yield poll
                if reader.finished():
                    reader.close()
                    readers.remove(reader)
            if follow and not found:
                time.sleep(IDLE_WAIT_S)
    finally:
        for reader in readers:
            reader.close()


def records(poll: Poll) -> list[bytes]:
    """Return the records of a poll."""
    lines = poll.data.split(b"\n")
    lines.pop()
    return lines


def topic_view(settings: Settings) -> TopicView:
    """Return the view that a resumed push has of the topics it writes to."""
    from footfall.generator.sources import TopicView
    from footfall.streams.source import Position

    def read_tail(topic: str, partition: int, offset: int) -> Iterator[bytes]:
        start = Position("offset", offset)
        for poll in polls(settings, topic, start=start, partitions=(partition,)):
            yield from records(poll)

    ends, count = _file_ends(settings) if settings.topics_folder else _kafka_ends(settings)
    counts: dict[str, int] = {}

    def partitions(topic: str) -> int:
        if topic not in counts:
            counts[topic] = count(topic)
        return counts[topic]

    def place(topic: str, key: bytes | None) -> int:
        return _partition_of(settings, key, partitions(topic))

    return TopicView(
        end_offsets=lambda topic: [ends(topic, number) for number in range(partitions(topic))],
        read_tail=read_tail,
        partition_of=place,
    )


def end_of(settings: Settings) -> Callable[[str, int], int]:
    """Return a function that gives the next offset of a partition; it keeps its connections."""
    return (_file_ends(settings) if settings.topics_folder else _kafka_ends(settings))[0]


Ends = tuple[Callable[[str, int], int], Callable[[str], int]]
"""(next offset of a topic's partition, number of a topic's partitions)"""


def _file_ends(settings: Settings) -> Ends:
    from footfall.schemas.topic_files import end_offset, partitions_of

    folder = settings.topics_folder
    assert folder is not None
    return (
        lambda topic, partition: end_offset(folder, topic, partition),
        lambda topic: partitions_of(folder, topic) or 0,
    )


def _kafka_ends(settings: Settings) -> Ends:
    from confluent_kafka import Consumer, TopicPartition

    from footfall.streams.kafka import KafkaTopic
    from footfall.streams.open import open_topic

    consumers: dict[str, Consumer] = {}

    def end(topic: str, partition: int) -> int:
        if topic not in consumers:
            found = open_topic(settings, topic, group=GROUP)
            assert isinstance(found, KafkaTopic)
            consumers[topic] = found.consumer()
        place = TopicPartition(topic, partition)
        return int(consumers[topic].get_watermark_offsets(place, timeout=KAFKA_TIMEOUT_S)[1])

    return end, lambda topic: open_topic(settings, topic, group=GROUP).partitions()


def _partition_of(settings: Settings, key: bytes | None, partitions: int) -> int:
    if settings.topics_folder is not None:
        from footfall.schemas.topic_files import partition_of

        return partition_of(key, partitions)
    from aiokafka.partitioner import murmur2

    # As our producer and every Java client choose it; our records all have keys.
    return int(murmur2(key or b"") & 0x7FFFFFFF) % partitions
