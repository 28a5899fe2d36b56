"""The progress of each flow, by the status of its workers and by its consumer group in Kafka."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from footfall.schemas.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Consumer, TopicPartition

    from footfall.flows import Flow
    from footfall.schemas.status import WorkerStatus

Positions = dict[str, dict[tuple[str, int], int]]
"""By flow: the next offset of each (topic, partition)."""


def read_statuses(home: Path) -> list[WorkerStatus]:
    """Return the status of each worker of this home; unreadable files are skipped."""
    import msgspec

    from footfall.schemas.status import WorkerStatus, status_folder

    decode = msgspec.json.Decoder(WorkerStatus).decode
    found = []
    for path in sorted(status_folder(home).glob("*.json")):
        try:
            found.append(decode(path.read_bytes()))
        except (OSError, msgspec.DecodeError):
            continue
    return found


def of_statuses(statuses: Iterable[WorkerStatus]) -> Positions:
    """Return the positions that the workers report; of several the furthest."""
    found: Positions = {}
    for status in statuses:
        places = found.setdefault(status.flow, {})
        for part in status.partitions:
            key = part.topic, part.partition
            places[key] = max(places.get(key, 0), part.next_offset)
    return found


def of_groups(
    settings: Settings, contracts: Mapping[str, Flow], timeout_s: float = 10.0
) -> Positions:
    """Return the offsets that the flows' consumer groups have committed.

    Raises SourceError without an answer.
    """
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    from footfall.streams.source import SourceError

    found: Positions = {}
    for flow, contract in contracts.items():
        # Not list_consumer_group_offsets of an AdminClient: with librdkafka up to 2.16 the process
        # dies where the coordinator of the group is still being found.
        consumer = Consumer(
            {
                "bootstrap.servers": settings.kafka_bootstrap,
                "group.id": f"{settings.kafka_group}-{flow}",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        try:
            standing = consumer.list_topics(timeout=timeout_s).topics
            read = {settings.kafka_topic} if settings.kafka_topic else {*contract.topics}
            places = [
                TopicPartition(topic, partition)
                for topic in sorted(read & standing.keys())
                for partition in standing[topic].partitions
            ]
            answers = _committed(consumer, places, timeout_s) if places else []
        except KafkaException as error:
            raise SourceError(
                f"Kafka at {settings.kafka_bootstrap} does not tell how far {flow} is: {error}"
            ) from None
        finally:
            consumer.close()
        committed = {(at.topic, at.partition): at.offset for at in answers if at.offset >= 0}
        if committed:
            found[flow] = committed
    return found


def positions(settings: Settings) -> Positions:
    """Return the furthest known position of each flow."""
    from footfall import flows

    found = of_statuses(read_statuses(settings.footfall_home))
    if settings.kafka_bootstrap:
        for flow, places in of_groups(settings, flows.catalogue()).items():
            known = found.setdefault(flow, {})
            for key, offset in places.items():
                known[key] = max(known.get(key, 0), offset)
    return found


def _committed(consumer: Consumer, places: list[TopicPartition], timeout_s: float) -> Any:
    """Ask for what a group has committed, again while its coordinator moves or is starting."""
    from confluent_kafka import KafkaException

    from footfall.streams.kafka_consumer import is_passing

    until_s = time.monotonic() + timeout_s
    while True:
        left_s = until_s - time.monotonic()
        try:
            return consumer.committed(places, max(0.1, left_s))
        except KafkaException as error:
            if left_s <= 0 or not is_passing(error.args[0]):
                raise
            time.sleep(0.1)
