"""The topics as they stand: their ends, and when a record was appended; embedded or in Kafka."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from footfall.schemas.settings import Settings
from footfall.schemas.topics import TOPICS

KAFKA_WITHIN_S = 4.0
ASKED_AGAIN_S = 1.0
AGES_WITHIN_S = 2.0
"""Seconds of one look; records whose age was not asked in that time wait for the next look."""
AGES_KEPT_MAX = 10_000
UNKNOWN_FOR_S = 60.0


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """A topic as it stands."""

    ends: Mapping[int, tuple[int, int]]
    """By partition: the oldest offset that is left, and the next one."""
    retention_ms: int | None = None
    """-1 for ever; None where it is not known, or there is none."""


class LookedInVainError(Exception):
    """A server answers, and does not tell what it was asked; the message says what it said."""


def standing_topics(settings: Settings, also: Collection[str] = ()) -> dict[str, TopicFacts]:
    """Return the topics of the catalogue, the one that KAFKA_TOPIC names, and those ``also``
    named; without those that there are not.

    Raises ValueError, LookedInVainError or KafkaException where they cannot be asked.
    """
    if settings.topics_folder is not None:
        return file_topics(settings.topics_folder, {*TOPICS, settings.kafka_topic, *also})
    return kafka_topics(settings, also)[1]


def file_topics(folder: Path, wanted: Collection[str | None] = ()) -> dict[str, TopicFacts]:
    """The embedded topics, all or those wanted: each partition costs a tenth of a millisecond.

    Raises ValueError for one that does not say its partitions.
    """
    from footfall.schemas.topic_files import end_offset, first_offset, partitions_of

    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if wanted and path.name not in wanted:
            continue
        count = partitions_of(folder, path.name)
        if count is not None:
            places = [(folder, path.name, part) for part in range(count)]
            ends = {place[2]: (first_offset(*place), end_offset(*place)) for place in places}
            found[path.name] = TopicFacts(ends)
    return found


def kafka_topics(
    settings: Settings, also: Collection[str] = ()
) -> tuple[str, dict[str, TopicFacts]]:
    """(what runs there, its topics as in ``standing_topics``). Raises KafkaException without an
    answer."""
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap, "log_level": 0})
    about = admin.list_topics(timeout=KAFKA_WITHIN_S)
    wanted = {*TOPICS, settings.kafka_topic, *also} & about.topics.keys()
    within = {"request_timeout": KAFKA_WITHIN_S}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in sorted(wanted)]
    configs = admin.describe_configs(resources, **within) if resources else {}
    places = [
        TopicPartition(name, part)
        for name in sorted(wanted)
        for part in about.topics[name].partitions
    ]
    lows, highs = (
        offsets_of(admin, places, spec()) for spec in (OffsetSpec.earliest, OffsetSpec.latest)
    )
    ends: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in wanted}
    for place in places:
        ends[place.topic][place.partition] = (lows[place], highs[place])
    found = {}
    for resource in resources:
        config = configs[resource].result(KAFKA_WITHIN_S)
        found[resource.name] = TopicFacts(
            ends[resource.name], retention_ms=int(config["retention.ms"].value)
        )
    count = len(about.brokers)
    return f"{count} broker{'s' if count > 1 else ''}", found


def offsets_of(admin: Any, places: list[Any], spec: Any) -> dict[Any, int]:
    """Return offsets by partition; one that has just no leader is asked again.

    Raises KafkaException, LookedInVainError.
    """
    from confluent_kafka import KafkaException

    found: dict[Any, int] = {}
    for last in (False, True):
        asked = {place: spec for place in places if place not in found}
        answers = admin.list_offsets(asked, request_timeout=KAFKA_WITHIN_S) if asked else {}
        for place, answer in answers.items():
            try:
                found[place] = answer.result(KAFKA_WITHIN_S).offset
            except KafkaException as error:
                if last:
                    where = f"{place.topic}/{place.partition}"
                    raise LookedInVainError(f"{where}: {error.args[0].str()}") from None
        if len(found) < len(places) and not last:
            time.sleep(ASKED_AGAIN_S)
    return found


class AppendTimes:
    """Tells when records were appended; a record that waits is asked for once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[tuple[str, int, int], int] = {}
        self._unknown: dict[tuple[str, int, int], float] = {}
        """Times to ask again, of records whose age could not be told."""
        self._topics: dict[str, Any] = {}
        self._until_s = 0.0

    def begin(self) -> None:
        """Begin a look: it takes AGES_WITHIN_S at most."""
        self._until_s = time.monotonic() + AGES_WITHIN_S
        if len(self._known) > AGES_KEPT_MAX:
            self._known.clear()
        now_s = time.monotonic()
        self._unknown = {place: at_s for place, at_s in self._unknown.items() if at_s > now_s}

    def __call__(self, topic: str, partition: int, offset: int) -> int | None:
        """Return milliseconds since 1970 UTC; None where nobody knows, or time is up."""
        place = topic, partition, offset
        if place in self._known:
            return self._known[place]
        if place in self._unknown or time.monotonic() > self._until_s:
            return None
        folder = self._settings.topics_folder
        found = self._of_kafka(*place) if folder is None else file_appended_ms(folder, *place)
        if found is None:
            self._unknown[place] = time.monotonic() + UNKNOWN_FOR_S
        else:
            self._known[place] = found
        return found

    def known(self, topic: str, partition: int, offset: int) -> int | None:
        """Return the same of a record that was asked for before, and None of any other."""
        return self._known.get((topic, partition, offset))

    def _of_kafka(self, topic: str, partition: int, offset: int) -> int | None:
        from footfall.streams.open import open_topic
        from footfall.streams.source import SourceError

        try:
            if topic not in self._topics:
                self._topics[topic] = open_topic(self._settings, topic, group="observe")
            record = self._topics[topic].record_at(partition, offset)
        except SourceError:
            # Compaction or a transaction has left no record at that offset.
            return None
        appended_ms: int | None = record.timestamp_ms
        return appended_ms


def file_appended_ms(folder: Path, topic: str, partition: int, offset: int) -> int | None:
    """Return when a record of an embedded topic was appended; None for a line added by hand."""
    from footfall.schemas.topic_files import Appends, segments

    for segment in reversed(segments(folder, topic, partition)):
        if segment.first <= offset:
            appends = Appends(segment.appends)
            try:
                number = appends.number_at(offset)
                entry = appends.at(number) if number >= 0 else None
            finally:
                appends.close()
            is_in = entry is not None and offset < entry.next_offset
            return entry.appended_ms if entry is not None and is_in else None
    return None
