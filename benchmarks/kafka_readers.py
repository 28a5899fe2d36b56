"""Readers of a topic of Kafka that do nothing with it: the least that any worker costs.

``plain``    confluent-kafka's client as it comes, in calls of 10,000 records
``bytewax``  Bytewax's own source as it comes, whose messages are dropped by the next step
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main
from confluent_kafka import Consumer, KafkaError, TopicPartition

from footfall.benchmarks.footfall import Answer
from footfall.benchmarks.kafka_job import PLAIN, Job
from footfall.schemas.settings import read_settings

RECORDS_A_CALL = 10_000


def run(job: Job) -> Answer:
    """Read to the end of every partition; return the number of records."""
    bootstrap = read_settings(job.environ).kafka_bootstrap
    assert bootstrap is not None
    return {"read": (_plain if job.what == PLAIN else _bytewax)(bootstrap, job.topic)}


def _plain(bootstrap: str, topic: str) -> int:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "plain", "enable.partition.eof": True}
    )
    found = consumer.list_topics(topic, timeout=15).topics[topic]
    left = set(found.partitions)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in left])
    events = 0
    while left:
        for message in consumer.consume(RECORDS_A_CALL, 0.1):
            error = message.error()
            if error is None:
                events += 1
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
            else:
                raise RuntimeError(error.str())
    consumer.close()
    return events


def _bytewax(bootstrap: str, topic: str) -> int:
    counted: list[int] = []
    flow = Dataflow("reader")
    source = KafkaSource([bootstrap], [topic], tail=False)
    messages = op.input("read", flow, source)
    counts = op.flat_map_batch("drop", messages, lambda batch: [len(batch)])
    op.output("count", counts, _Drain(counted.extend))
    run_main(flow)
    return sum(counted)


class _Drain(DynamicSink[int]):
    def __init__(self, take: Callable[[list[int]], Any]) -> None:
        self._take = take

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _DrainPart:
        return _DrainPart(self._take)


class _DrainPart(StatelessSinkPartition[int]):
    def __init__(self, take: Callable[[list[int]], Any]) -> None:
        self._take = take

    def write_batch(self, items: list[int]) -> None:
        self._take(items)
