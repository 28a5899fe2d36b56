"""The content of topics, for a person: all topics, the newest records, one record."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from footfall.operations.topic_ends import (
    KAFKA_WITHIN_S,
    file_appended_ms,
    file_topics,
    offsets_of,
)
from footfall.schemas.settings import Settings

if TYPE_CHECKING:
    from footfall.schemas.records import TopicRecord
    from footfall.streams.source import KeptTopic

LOOK_EVERY_S = 0.25
BLOCK_RECORDS, BLOCK_RECORDS_MAX = 1_000, 64_000
"""Records searched at once for a key, from the end backwards; each time four times as many."""


class NotThereError(Exception):
    """A missing topic, partition or record; the message says which ones exist."""


class Seen(NamedTuple):
    """A record and its place in the topic."""

    partition: int
    offset: int
    record: TopicRecord


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """A partition as it is listed."""

    partition: int
    oldest: int
    end: int
    size_bytes: int | None
    """None where the server does not say."""
    newest_ms: int | None
    """Append time of the newest record, in Unix ms; None where it is not known."""


Listing = dict[str, list[PartitionFacts]]
"""The partitions of each topic."""


def listing(settings: Settings) -> Listing:
    """Return all topics, in order. Raises SourceError, ValueError."""
    folder = settings.topics_folder
    if folder is None:
        return _kafka_listing(settings)
    from footfall.schemas.topic_files import segments

    found: Listing = {}
    for name, facts in file_topics(folder).items():
        found[name] = []
        for part, (low, end) in facts.ends.items():
            paths = [one.records for one in segments(folder, name, part)]
            size = sum(path.stat().st_size for path in paths if path.exists())
            newest = file_appended_ms(folder, name, part, end - 1)
            found[name].append(PartitionFacts(part, low, end, size, newest))
    return found


def _kafka_listing(settings: Settings) -> Listing:
    from confluent_kafka import KafkaException, TopicPartition
    from confluent_kafka.admin import AdminClient, OffsetSpec

    from footfall.operations.topic_ends import LookedInVainError
    from footfall.streams.kafka_reader import text_of
    from footfall.streams.source import SourceError

    where = f"Kafka at {settings.kafka_bootstrap}"
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap, "log_level": 0})
    try:
        about = admin.list_topics(timeout=KAFKA_WITHIN_S).topics
        places = [
            TopicPartition(name, part)
            for name in sorted(about)
            # Such names are the broker's own topics.
            if not name.startswith("__")
            for part in sorted(about[name].partitions)
        ]
        lows, highs = (
            offsets_of(admin, places, spec()) for spec in (OffsetSpec.earliest, OffsetSpec.latest)
        )
        newest = (
            admin.list_offsets(
                {place: OffsetSpec.max_timestamp() for place in places},
                request_timeout=KAFKA_WITHIN_S,
            )
            if places
            else {}
        )
        found: Listing = {place.topic: [] for place in places}
        for place in places:
            try:
                at_ms = int(newest[place].result(KAFKA_WITHIN_S).timestamp)
            except KafkaException:
                # A broker older than Kafka 3.0 does not say.
                at_ms = -1
            found[place.topic].append(
                PartitionFacts(
                    place.partition, lows[place], highs[place], None, at_ms if at_ms >= 0 else None
                )
            )
    except KafkaException as error:
        raise SourceError(f"{where} does not answer: {text_of(error)}") from None
    except LookedInVainError as error:
        raise SourceError(f"{where}: {error}") from None
    return found


def last_records(
    topic: KeptTopic, until: Mapping[int, int], count: int, key: bytes | None = None
) -> list[Seen]:
    """Return the newest records before ``until``, the next offset of each partition.

    With a key, only its records count. A partition keeps its order; between partitions append
    times decide. Raises SourceError.
    """
    found: list[tuple[int, Seen]] = []
    for partition, end in until.items():
        newest_ms = 0
        for seen in _last_of_partition(topic, partition, end, count, key):
            newest_ms = max(newest_ms, seen.record.timestamp_ms or 0)
            found.append((newest_ms, seen))
    found.sort(key=lambda one: (one[0], one[1].partition, one[1].offset))
    return [seen for _, seen in found[-count:]] if count else []


def _last_of_partition(
    topic: KeptTopic, partition: int, high: int, count: int, key: bytes | None
) -> list[Seen]:
    low, _ = topic.kept(partition)
    found: list[Seen] = []
    block = count if key is None else max(count, BLOCK_RECORDS)
    while len(found) < count and low < high:
        start = max(low, high - block)
        newer: deque[Seen] = deque(maxlen=count - len(found))
        for offset, record in topic.records(partition, start, high):
            if key is None or record.key == key:
                newer.append(Seen(partition, offset, record))
        found = [*newer, *found]
        # A block has fewer records where compaction left gaps.
        high, block = start, min(block * 4, BLOCK_RECORDS_MAX)
    return found


def ends(topic: KeptTopic) -> dict[int, int]:
    """Return the next offset of each partition. Raises SourceError."""
    return {number: topic.kept(number)[1] for number in range(topic.partitions())}


def followed(
    topic: KeptTopic,
    next_offsets: dict[int, int],
    key: bytes | None,
    *,
    stopped: Callable[[], bool],
    skipped: Callable[[str], None],
) -> Iterator[Seen]:
    """Yield the records from these offsets on as they come, until it is stopped.

    ``skipped`` is called with a line where retention removed records before they were read.
    Raises SourceError.
    """
    from footfall.streams.source import SourceError, pass_over

    while not stopped():
        given = False
        for partition in range(topic.partitions()):
            at, (low, end) = next_offsets.get(partition, 0), topic.kept(partition)
            name = f"{topic.name}/{partition}"
            if end < at:
                raise SourceError(f"{name} ends at {end}, and was read to {at}: it was made anew")
            if at < low:
                # A new partition is read from its oldest record.
                if partition in next_offsets:
                    pass_over(name, at, low, "", skipped)
                at = low
            for offset, record in topic.records(partition, at, end):
                at, given = offset + 1, True
                if key is None or record.key == key:
                    yield Seen(partition, offset, record)
                if stopped():
                    return
            next_offsets[partition] = at
        if not given:
            time.sleep(LOOK_EVERY_S)


def one_record(topic: KeptTopic, partition: int, offset: int) -> TopicRecord:
    """Return a record. Raises NotThereError where it is missing, and SourceError."""
    count = topic.partitions()
    if partition >= count:
        have = f"partitions 0 to {count - 1}" if count > 1 else "partition 0 alone"
        raise NotThereError(f"{topic.name} has no partition {partition}: it has {have}")
    name, (low, end) = f"{topic.name}/{partition}", topic.kept(partition)
    if low == end:
        what = "has no record yet" if end == 0 else f"holds no record; the next one will be {end}"
        raise NotThereError(f"{name} {what}")
    if offset < low:
        raise NotThereError(
            f"{name}: offset {offset} was removed by retention; there are {low} to {end - 1}"
        )
    if offset >= end:
        raise NotThereError(
            f"{name}: offset {offset} is not there yet; there are {low} to {end - 1}"
        )
    return topic.record_at(partition, offset)
