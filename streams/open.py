"""A topic to read, by its address: Kafka or a folder of partition files."""

from __future__ import annotations

from schemas.settings import Settings
from streams.runner import Run
from streams.source import EARLIEST, LATEST, Position, Topic, TopicSource
from streams.topic_files import FileTopic


def open_topic(
    settings: Settings,
    name: str,
    *,
    group: str,
    start: Position = EARLIEST,
    end: Position | None = None,
) -> Topic:
    """The topic named, embedded or in Kafka as the settings say."""
    folder = settings.topics_folder
    if folder is not None:
        return FileTopic(folder, name, start=start, end=end)
    from streams.kafka import KafkaTopic

    assert settings.kafka_bootstrap
    return KafkaTopic(
        settings.kafka_bootstrap,
        name,
        group=f"{settings.kafka_group}-{group}",
        client_id=settings.kafka_consumer_id,
        poll_timeout_s=settings.kafka_poll_timeout_ms / 1000,
        poll_records_max=settings.kafka_max_poll_records,
        start=start,
        end=end,
    )


def open_source(settings: Settings, name: str, flow: str, run: Run) -> TopicSource:
    """The source of a flow: the whole topic, followed, or read once to its end."""
    topic = open_topic(settings, name, group=flow, end=LATEST if run.once else None)
    return TopicSource(topic, run.stop)
