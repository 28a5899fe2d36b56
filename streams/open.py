"""A topic to read, by its address: Kafka or a folder of partition files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from footfall.schemas.addresses import KAFKA_NAME, unresolved
from footfall.schemas.settings import Settings
from footfall.schemas.topics import DEAD_LETTERS
from footfall.streams.run import Run
from footfall.streams.sent_again import MarkedTopic, Offsets, find_sent_again
from footfall.streams.source import (
    EARLIEST,
    LATEST,
    KeptTopic,
    NoTopicError,
    Position,
    SourceError,
    TopicSource,
)
from footfall.streams.topic_files import FileTopic


def open_topic(
    settings: Settings,
    name: str,
    *,
    group: str,
    start: Position = EARLIEST,
    end: Position | None = None,
    flow: str = "",
    skipped: Callable[[str], None] | None = None,
) -> KeptTopic:
    """Return the topic of that name, embedded or in Kafka as the settings say.

    ``flow`` names who reads, for the remedies in errors. With ``skipped``, reading goes on from
    the oldest record left where retention removed the next one, and ``skipped`` is given a line
    that tells which offsets are missing.
    """
    folder = settings.topics_folder
    if folder is not None:
        return FileTopic(folder, name, start=start, end=end, flow=flow, skipped=skipped)
    from footfall.streams.kafka import KafkaTopic

    assert settings.kafka_bootstrap
    if names := unresolved(settings.kafka_hosts):
        raise SourceError(f"Kafka: {names} has no address; {KAFKA_NAME}")
    return KafkaTopic(
        settings.kafka_bootstrap,
        name,
        group=f"{settings.kafka_group}-{group}",
        client_id=settings.kafka_consumer_id,
        poll_timeout_s=settings.kafka_poll_timeout_ms / 1000,
        poll_records_max=settings.kafka_max_poll_records,
        wire_format=settings.kafka_wire_format,
        start=start,
        end=end,
        flow=flow,
        skipped=skipped,
    )


def open_source(
    settings: Settings, name: str, flow: str, run: Run, *, marked: bool = True
) -> TopicSource:
    """Return the source of a flow: its share of the topic, followed or read once to its end.

    With ``marked`` the records that were sent again later are marked as superseded.
    """
    topic = open_topic(
        settings,
        name,
        group=flow,
        end=LATEST if run.once else None,
        flow=flow,
        skipped=run.say if run.skip_removed else None,
    )
    found = MarkedTopic(topic, sent_again_in(settings, name)) if marked else topic
    return run.source(found)


def sent_again_in(settings: Settings, topic: str) -> Callable[[], Offsets]:
    """Return a function that finds a topic's superseded records, once, when first called."""

    @cache
    def find() -> Offsets:
        try:
            letters = open_topic(settings, DEAD_LETTERS.name, group="cli", end=LATEST)
            return find_sent_again(letters, topic)
        except NoTopicError:
            return {}

    return find
