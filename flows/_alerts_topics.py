"""The topics around the Faust worker, looked at and made before it starts."""

from __future__ import annotations

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from flows._alerts_watch import PartitionRow, is_partition_row
from schemas.topics import LOGIN_ALERTS
from streams.kafka import KafkaTopic
from streams.kafka_consumer import UNKNOWN_EPOCH
from streams.run import WorkerError
from streams.source import LATEST, ReadState, SourceError, other_topic

ANSWER_S = 15.0
CHANGELOG_CONFIG = {
    "cleanup.policy": "compact",
    # A changelog is read to its end at each start: what is over should not stay for long.
    "segment.ms": "3600000",
    "min.cleanable.dirty.ratio": "0.1",
}
_HARMLESS = (KafkaError.TOPIC_ALREADY_EXISTS, KafkaError.INVALID_PARTITIONS)


def ends_of(topic: KafkaTopic) -> list[int]:
    """The next offset of each partition. Raises SourceError."""
    places = [TopicPartition(topic.name, one) for one in range(topic.partitions())]
    consumer = topic.consumer()
    try:
        return [int(consumer.get_watermark_offsets(one, timeout=ANSWER_S)[1]) for one in places]
    except KafkaException as error:
        raise SourceError(f"{topic.name} at {topic.bootstrap}: {error.args[0].str()}") from None
    finally:
        consumer.close()


def check_changelog(topic: KafkaTopic, changelog: str) -> None:
    """Raise WorkerError where the changelog is of another topic, and SourceError.

    Faust itself does not end where its group has read another.
    """
    kept = KafkaTopic(topic.bootstrap, changelog, group=changelog, end=LATEST)
    for partition in range(kept.partitions()):
        reader = kept.open(partition, None)
        row = PartitionRow()
        while not reader.finished():
            for line in reader.poll(0).data.splitlines():
                if is_partition_row(line):
                    row = msgspec.json.decode(line, type=PartitionRow)
        reader.close()
        if row.topic:
            check_same(topic, changelog, (row.topic, row.topic_id))


def check_same(topic: KafkaTopic, changelog: str, read: tuple[str, str]) -> None:
    """Raise WorkerError where the topic is not the one that was read, with that name and id."""
    state = ReadState(*read, 0, UNKNOWN_EPOCH)
    what = other_topic(state, topic.name, topic.seen_id, topic.flow)
    if what:
        raise WorkerError(
            f"{what}. Set TOPICS_URL and KAFKA_TOPIC to the topic that was read before; or, to "
            f"read this one from its beginning, stop the workers of {topic.flow} and delete the "
            f"topic {changelog}"
        )


def make_changelog(bootstrap: str, name: str, partitions: int) -> None:
    """A compacted topic with so many partitions, grown where it has fewer; the topic of the
    alerts must stand.

    Faust itself makes none: of a topic that it asks for by name a broker may make one of its own.
    Raises WorkerError.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    try:
        standing = admin.list_topics(timeout=ANSWER_S).topics
        if LOGIN_ALERTS.name not in standing:
            raise WorkerError(
                f"there is no topic {LOGIN_ALERTS.name} at {bootstrap}: `footfall init` makes it"
            )
        if name not in standing:
            new = NewTopic(name, partitions, replication_factor=-1, config=CHANGELOG_CONFIG)
            _finish(admin.create_topics([new])[name])
            return
        count = len(standing[name].partitions)
        if count > partitions:
            raise WorkerError(
                f"topic {name} at {bootstrap} has {count} partitions and the topic that it keeps "
                f"the state of has {partitions}, which was made anew: delete {name}"
            )
        if count < partitions:
            _finish(admin.create_partitions([NewPartitions(name, partitions)])[name])
    except KafkaException as error:
        raise WorkerError(f"topic {name} at {bootstrap}: {error.args[0].str()}") from None


def _finish(future: object) -> None:
    """Another worker may have done it in the meantime."""
    try:
        future.result(timeout=ANSWER_S)  # type: ignore[attr-defined]
    except KafkaException as error:
        if error.args[0].code() not in _HARMLESS:
            raise
