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

from operator import attrgetter
from typing import Any

import msgspec
import polars as pl

from footfall.flows import (
    Batch,
    Column,
    Flow,
    Reading,
    Records,
    SettingError,
    Settings,
    TopicPerKind,
    rows,
)
from footfall.schemas.topics import SHOP_EVENTS, TOPICS, Topic
from footfall.sinks.split import KIND, VALUE, WhyNot


def _any_kind(_kind: str) -> None:
    return None


def _struct_of(topic: Topic) -> type[msgspec.Struct]:
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
    return Records.of(
        topic,
        {KIND: Column(lambda found: [*map(kind_of, found)], kinds, bad=why_not)},
        struct=_struct_of(topic),
        # A record that is read again must give the same: the wall clock decides nothing.
        future_max_ms=None,
        times=lambda found: [*map(time_of, found)],
    )


def by_kind(batch: Batch) -> pl.DataFrame:
    """Return rows of the sink: the kind of each record, and the record."""
    return batch.frame.select(KIND, pl.Series(VALUE, batch.payloads(), dtype=pl.Binary))


def splittable(settings: Settings) -> Topic:
    """Return the topic to be split. Raises SettingError for a topic without kinds."""
    name = settings.kafka_topic or SHOP_EVENTS.name
    found = TOPICS.get(name)
    if found is None or not found.kind:
        takes = ", ".join(topic.name for topic in TOPICS.values() if topic.kind)
        raise SettingError(
            f"KAFKA_TOPIC={name!r}: split_topics takes a topic whose records say of what kind "
            f"they are, one of {takes}"
        )
    return found


def reading(settings: Settings) -> Reading:
    """Return what the flow does with the topic that is to be split.

    It takes superseded records too: which records a topic holds must not change between two
    readings.
    """
    return Reading(records(splittable(settings)), rows(by_kind), marks_sent_again=False)


FLOW = Flow(
    name="split_topics",
    about="a topic of many kinds of records as one topic a kind",
    reads={SHOP_EVENTS: reading},
    writes=TopicPerKind(SHOP_EVENTS, records),
)
main = FLOW.main
