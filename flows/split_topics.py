"""A topic of many kinds of records as one topic per kind, the order within a user kept.

Reads    the topic that KAFKA_TOPIC names, by default shop_events. It may be shop_events,
         platform_logs, user_tags or store_events
Writes   <topic>.<kind>       for each kind that comes (``shop_events.PageVisit``), the records as
                              they are in the topic; partition p goes to partition p
Time     no record is too late or too early; one whose time cannot be read is a dead letter
Replay   each record is written once: what the targets hold already is passed over, after a
         crash and where the topic is read from its beginning again

Only a record's kind and its time are read: what else is wrong with it is for the readers of its
kind. One whose kind cannot name a topic, or would be one topic too many
(sinks.split.TARGETS_MAX), is a dead letter. A record that was sent again is twice in the
topic, and so it is in that of its kind.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import msgspec
import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from msgspec import Struct

from flows import FlowContract
from flows._wiring import counted, letters
from schemas.settings import SettingError, Settings, read_settings
from schemas.topics import SHOP_EVENTS, TOPICS, Topic
from sinks.split import KIND, VALUE, SplitSink, Targets, target_of
from streams.batch import Batch, Poll
from streams.columns import Column
from streams.decode import Records
from streams.engine import Outputs, StatelessStep, StepResult, dataflow
from streams.open import open_topic
from streams.progress import Progress
from streams.runner import Run
from streams.source import LATEST

CONTRACT = FlowContract(
    name="split_topics",
    about="a topic of many kinds of records as one topic a kind",
    reads=(SHOP_EVENTS.name,),
    writes=(f"topics {target_of(SHOP_EVENTS.name, '<kind>')}",),
    sink_keeps_state=True,
)

WhyNot = Callable[[str], str | None]
"""Function that says why there is no topic for a kind; None where there is one."""


def _any_kind(_kind: str) -> None:
    return None


def _struct_of(topic: Topic) -> type[Struct]:
    first, _, rest = topic.time.partition(".")
    time: Any = msgspec.defstruct(first, [(rest, str)], gc=False) if rest else str
    return msgspec.defstruct(topic.name, [(topic.kind, str), (first, time)], gc=False)


def records(topic: Topic, why_not: WhyNot = _any_kind) -> Records:
    """Return the reader of a topic, with one column: the kind of a record, as KIND."""

    def kinds(name: str, values: list[Any]) -> pl.Series:
        found = pl.Series(name, values, dtype=pl.String)
        refused = [kind for kind in found.unique(maintain_order=True) if why_not(kind) is not None]
        return found.replace(refused, None) if refused else found

    kind_of, time_of = attrgetter(topic.kind), attrgetter(topic.time)
    return Records(
        _struct_of(topic),
        time=topic.time,
        columns={KIND: Column(lambda found: [*map(kind_of, found)], kinds, bad=why_not)},
        # A record that is read again must give the same: the wall clock decides nothing.
        future_max_ms=None,
        bytes_max=topic.record_bytes_max,
        times=lambda found: [*map(time_of, found)],
    )


def by_kind(batch: Batch) -> StepResult:
    """Return rows of the sink: the kind of each record, and the record."""
    return StepResult(
        batch.frame.select(KIND, pl.Series(VALUE, batch.payloads(), dtype=pl.Binary))
    )


def step(_partition: int, snapshot: bytes | None) -> StatelessStep:
    """Return the step of a partition."""
    return StatelessStep(by_kind, snapshot)


def build(
    source: Source[Poll],
    outputs: Outputs,
    progress: Progress | None = None,
    *,
    reads: Records | None = None,
) -> Dataflow:
    """Wire the flow between a source and its sinks; ``reads`` is as ``records`` returns it."""
    return dataflow(
        CONTRACT.name, source, reads or records(SHOP_EVENTS), step, outputs, progress=progress
    )


def wire(settings: Settings, run: Run) -> Dataflow:
    """Return the flow on the servers that the settings name.

    Raises SettingError for a topic whose records do not say of what kind they are.
    """
    from sinks.open import open_topics

    topic = splittable(settings)
    # Not open_source, which passes over records that were sent again: a topic must give the same
    # records in every reading.
    source = run.source(
        open_topic(
            settings,
            topic.name,
            group=CONTRACT.name,
            end=LATEST if run.once else None,
            flow=CONTRACT.name,
            skipped=run.say if run.skip_removed else None,
        )
    )
    partitions = source.topic.partitions()
    targets = Targets(
        open_topics(settings), topic.name, partitions=partitions, retention_h=topic.retention_h
    )
    sink = SplitSink(
        lambda: open_topics(settings, gapless=True),
        topic.name,
        source.list_parts(),
        wrote=counted(run.progress, target_of(topic.name, "*")),
    )
    outputs = Outputs(sink, *letters(settings))
    return build(source, outputs, run.progress, reads=records(topic, targets.why_not))


def splittable(settings: Settings) -> Topic:
    """Return the topic to be split. Raises SettingError for a topic without kinds."""
    name = settings.kafka_topic or SHOP_EVENTS.name
    found = TOPICS.get(name)
    if found is None or not found.kind:
        takes = ", ".join(topic.name for topic in TOPICS.values() if topic.kind)
        raise SettingError(
            f"KAFKA_TOPIC={name!r}: {CONTRACT.name} takes a topic whose records say of what kind "
            f"they are, one of {takes}"
        )
    return found


def main() -> Dataflow:
    """Return the flow for ``python -m bytewax.run "flows.split_topics:main()"``."""
    return wire(read_settings(), Run())
