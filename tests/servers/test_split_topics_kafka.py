"""split_topics on a real Kafka: each record once, in order, however runs break off."""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from footfall.flows.split_topics import FLOW, records
from footfall.schemas.topics import SHOP_EVENTS
from footfall.sinks import PartitionBatch, SinkUnavailableError
from footfall.sinks.kafka import KafkaTopics
from footfall.sinks.split import SplitSink, Targets, target_of
from footfall.streams.engine import Outputs
from footfall.streams.kafka import KafkaTopic
from footfall.streams.runner import Run, run_worker
from footfall.streams.source import LATEST
from footfall.streams.testing import ListSink
from tests.kafka_support import Broker, Server
from tests.split_support import splitting

PARTITIONS = 3


class CrashError(Exception):
    """The process is gone."""


class CrashingTopics(KafkaTopics):
    """Writes so many records more, and no further."""

    left = 10**9

    def write_each(self, batches: Sequence[PartitionBatch]) -> None:
        cut = []
        for topic, partition, values in batches:
            cut.append((topic, partition, values[: self.left]))
            self.left -= len(cut[-1][2])
        super().write_each(cut)
        if self.left == 0:
            raise CrashError


def record(kind: str, number: int) -> bytes:
    fields = {"event": kind, "timestamp": "2022-03-22T12:15:00Z", "user_id": number}
    return json.dumps(fields).encode()


def run(server: Server, topic: str, home: Path, topics: KafkaTopics) -> None:
    """Split what the topic holds, from the state on."""
    source = replace(SHOP_EVENTS, name=topic)
    keeper = KafkaTopics(server.bootstrap)

    def wire(of: Run) -> object:
        read = of.source(KafkaTopic(server.bootstrap, topic, group=f"{topic}-split", end=LATEST))
        targets = Targets(keeper, topic, partitions=PARTITIONS, retention_h=1)
        sink = SplitSink(lambda: topics, topic, read.list_parts(), bytes_max=2_000)
        outputs = Outputs(sink, ListSink(lambda _: None), ListSink(lambda _: None))
        return splitting(records(source, targets.why_not)).dataflow(read, outputs, of.progress)

    run_worker(
        FLOW.name,
        wire,  # type: ignore[arg-type]
        home,
        once=True,
        steps=FLOW.steps,
    )


def test_each_record_is_in_the_topic_of_its_kind_once_whatever_breaks_off(
    kafka: Server, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    topic = kafka.topic("shop", PARTITIONS)
    expected: dict[tuple[str, int], list[bytes]] = defaultdict(list)
    count = 0
    for turn in range(4):
        for partition in range(PARTITIONS):
            values = [record(chance.choice("ABCD"), count + n) for n in range(300)]
            count += len(values)
            kafka.produce(topic, values, partition=partition)
            for value in values:
                kind = json.loads(value)["event"]
                expected[target_of(topic, kind), partition].append(value)
        topics = CrashingTopics(kafka.bootstrap, gapless=True)
        if turn < 3:
            topics.left = chance.randrange(900)
            with pytest.raises(CrashError):
                run(kafka, topic, tmp_path, topics)
        else:
            run(kafka, topic, tmp_path, topics)
    for kind in "ABCD":
        target = target_of(topic, kind)
        assert kafka.partitions(target) == [*range(PARTITIONS)]
        found = kafka.consume_all(target)
        for partition in range(PARTITIONS):
            stored = [of.value for of in found if of.partition == partition]
            assert stored == expected[target, partition], f"seed {seed}"
    kafka.delete_topic(target_of(topic, "D"))
    kafka.create_topic(target_of(topic, "D"), PARTITIONS)
    kafka.produce(topic, [record("D", 1)], partition=0)
    with pytest.raises(Exception, match=r"ends at 0, and .* it was made anew"):
        run(kafka, topic, tmp_path, KafkaTopics(kafka.bootstrap, gapless=True))


def test_what_a_write_that_failed_has_delivered_are_the_first_records(own_kafka: Broker) -> None:
    topic = own_kafka.topic("gapless", 2)
    values = [b"%d" % number + b" " * 2_000 for number in range(8_000)]
    topics = KafkaTopics(own_kafka.bootstrap, give_up_after_s=5, gapless=True)
    topics.write_each([(topic, 0, values[:1]), (topic, 1, values[:1])])
    paused = threading.Timer(0.05, own_kafka.pause)
    paused.start()
    try:
        with pytest.raises(SinkUnavailableError, match="did not acknowledge within 5 s"):
            topics.write_each([(topic, 0, values[1:]), (topic, 1, values[1:])])
    finally:
        paused.join()
        own_kafka.go_on()
    topics.close()
    found = own_kafka.consume_all(topic)
    for partition in (0, 1):
        stored = [of.value for of in found if of.partition == partition]
        assert stored == values[: len(stored)]
    assert len(found) < 16_000
