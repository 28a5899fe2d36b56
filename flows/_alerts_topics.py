"""Topics around the Faust worker, checked and made before it starts."""

from __future__ import annotations

import time
from collections.abc import Collection

import msgspec
from confluent_kafka import ConsumerGroupState, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from footfall.flows._alerts_watch import PartitionRow, is_partition_row
from footfall.schemas.topics import LOGIN_ALERTS
from footfall.sinks.kafka import KafkaTopics
from footfall.streams.kafka import KafkaTopic
from footfall.streams.kafka_consumer import UNKNOWN_EPOCH
from footfall.streams.run import WorkerError
from footfall.streams.source import LATEST, ReadState, SourceError, other_topic

ANSWER_S = 15.0
CHANGELOG_CONFIG = {
    "cleanup.policy": "compact",
    # A changelog is read to its end at each start: deleted rows should not stay for long.
    "segment.ms": "3600000",
    "min.cleanable.dirty.ratio": "0.1",
}


def ends_of(topic: KafkaTopic) -> list[int]:
    """Return the next offset of each partition. Raises SourceError."""
    places = [TopicPartition(topic.name, one) for one in range(topic.partitions())]
    consumer = topic.consumer()
    try:
        return [int(consumer.get_watermark_offsets(one, timeout=ANSWER_S)[1]) for one in places]
    except KafkaException as error:
        raise SourceError(f"{topic.name} at {topic.bootstrap}: {error.args[0].str()}") from None
    finally:
        consumer.close()


def check_changelog(topic: KafkaTopic, changelog: str) -> None:
    """Raise WorkerError where the changelog is of another topic. Raises SourceError as well.

    Faust itself does not stop where its group has read another topic.
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
    """Raise WorkerError unless the topic is the one that was read: ``read`` is its (name, id)."""
    state = ReadState(*read, 0, UNKNOWN_EPOCH)
    what = other_topic(state, topic.name, topic.seen_id, topic.flow)
    if what:
        raise WorkerError(
            f"{what}. Set TOPICS_URL and KAFKA_TOPIC to the topic that was read before; or, to "
            f"read this one from its beginning, stop the workers of {topic.flow} and delete the "
            f"topic {changelog}"
        )


def make_changelog(bootstrap: str, name: str, partitions: int) -> None:
    """Make a compacted topic with this many partitions, or grow it.

    Faust does not make it: a broker may create a topic with settings of its own as soon as Faust
    asks for it by name. The topic of the alerts must exist. Raises WorkerError and SinkError.
    """
    topics = KafkaTopics(bootstrap)
    if topics.partitions(LOGIN_ALERTS.name) is None:
        raise WorkerError(
            f"there is no topic {LOGIN_ALERTS.name} at {bootstrap}: `footfall init` makes it"
        )
    count = topics.partitions(name) or 0
    if count > partitions:
        raise WorkerError(
            f"topic {name} at {bootstrap} has {count} partitions and the topic that it keeps "
            f"the state of has {partitions}, which was made anew: delete {name}"
        )
    topics.create_with(name, partitions, CHANGELOG_CONFIG)


class Others:
    """Members of a consumer group that are not processes of one run.

    A process that ended remains a member until its session expires, and no worker reads its
    partitions.
    """

    def __init__(
        self,
        bootstrap: str,
        group: str,
        instances: Collection[str],
        *,
        wait_s: float,
    ) -> None:
        """Take the ``instances`` of the run. A member that is still there after ``wait_s`` has not
        ended."""
        self._bootstrap = bootstrap
        self._group = group
        self._instances = instances
        self._wait_s = wait_s
        self._since_s: float | None = None
        self._admin: AdminClient | None = None

    def are_gone(self) -> bool:
        """Return True once the run's processes have all partitions. Raises WorkerError."""
        why_not = self._why_not()
        if why_not is None:
            return True
        now_s = time.monotonic()
        self._since_s = now_s if self._since_s is None else self._since_s
        if now_s - self._since_s > self._wait_s:
            raise WorkerError(f"the topic cannot be read to its end: {why_not}")
        return False

    def _why_not(self) -> str | None:
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self._bootstrap, "log_level": 2})
        asked = self._admin.describe_consumer_groups([self._group], request_timeout=ANSWER_S)
        try:
            found = asked[self._group].result()
        except KafkaException as error:
            # This also happens while the group's coordinator is being replaced.
            return f"the group {self._group} cannot be looked at: {error.args[0].name()}"
        names = [
            f"{one.group_instance_id or one.client_id} at {one.host.lstrip('/')}"
            for one in found.members
            if one.group_instance_id not in self._instances
        ]
        if names:
            return f"other workers have some of its partitions: stop {', '.join(names)}"
        if found.state != ConsumerGroupState.STABLE:
            return f"the group {self._group} is still giving partitions to its workers"
        return None
