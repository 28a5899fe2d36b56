"""The topics: their names, what decides the partition, and how long records are kept."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

PARTITIONS_DEFAULT = 10
TOPIC, PARTITION, OFFSET = "topic", "topic_partition", "offset"
"""Columns of rows and tables that say from which partition, and which record, a row is."""
APPENDED = "appended_ms"
"""Column of the append time of the newest record that was read before a row was made: milliseconds
since 1970 UTC, 0 where the topic does not say."""
RETENTION_H = 168
RECORD_BYTES_MAX = 1_048_576
"""Largest record that a flow reads (Kafka's own default limit); a larger one is a dead letter."""
RECORD_BYTES_TAKEN_MAX = 2 * RECORD_BYTES_MAX
"""Largest record that our topics take, so that one that is too large becomes a dead letter and is
not refused."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the catalogue."""

    name: str
    about: str
    key: str
    """Field whose value decides the partition, so that all of one user meets in one place; a
    dotted path leads into nested objects."""
    partitions: int = PARTITIONS_DEFAULT
    retention_h: int = RETENTION_H
    record_bytes_max: int = RECORD_BYTES_MAX
    """Largest record in bytes: a larger one is a dead letter, and the api refuses it."""
    kind: str = ""
    """Field whose text says of which kind a record is; "" where all are of one kind."""
    time: str = ""
    """Field with the event time, a path as ``key``; "" where records have no time."""
    record: str = ""
    """Type of its records as "module:name" in schemas; "" where no flow reads them. A command's
    help needs topics and must not wait for their types."""

    @property
    def struct(self) -> Any:
        """Return the type of its records, to decode into; None where no flow reads them."""
        module, _, name = self.record.partition(":")
        return getattr(import_module(f"footfall.schemas.{module}"), name) if name else None

    @property
    def kafka_config(self) -> dict[str, str]:
        """Return the configuration with which the topic is made in Kafka."""
        return kafka_config(self.retention_h)


def kafka_config(retention_h: int) -> dict[str, str]:
    """Return the configuration in Kafka of a topic that keeps its records this long."""
    return {
        "retention.ms": str(retention_h * 3_600_000),
        "max.message.bytes": str(RECORD_BYTES_TAKEN_MAX),
    }


USER_TAGS = Topic(
    "user_tags",
    "views and buys with product data",
    key="cookie",
    # A profile of 200 views and 200 buys must fit a record of Aerospike (1 MiB): otherwise one
    # cookie could stop the flow for all. Tags are about 250 bytes.
    record_bytes_max=2_048,
    kind="action",
    time="time",
    record="user_tags:UserTag",
)
STORE_EVENTS = Topic(
    "store_events",
    "rows of a shop's CSV export",
    key="user_id",
    kind="event_type",
    time="event_time",
    record="store_events:StoreEvent",
)
PLATFORM_LOGS = Topic(
    "platform_logs",
    "steps that a fleet of microservices logs while it serves a shop",
    key="commonData.userId",
    kind="action",
    time="commonData.time",
    record="platform_logs:PlatformLog",
)
SHOP_EVENTS = Topic(
    "shop_events",
    "21 kinds of customer behaviour on a marketplace",
    key="user_id",
    kind="event",
    time="timestamp",
    record="shop_events:ShopEvent",
)
LOGIN_ALERTS = Topic("login_alerts", "a user's failed logins passed the limit", key="user_id")
DEAD_LETTERS = Topic(
    "dead_letters", "records that can never be processed, with the reason", key="topic"
)
LATE_EVENTS = Topic("late_events", "events past their window's lateness", key="topic")
STORE_METRICS_AVAILABLE = Topic(
    "store_metrics_available",
    "a window of store metrics can be read",
    key="start_event_time",
    partitions=1,
)
VISITS = Topic("visits", "visit reports sent by clients", key="client_id", time="time")
ACTIVITIES = Topic("activities", "activity reports sent by clients", key="client_id", time="time")

TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        USER_TAGS,
        STORE_EVENTS,
        PLATFORM_LOGS,
        SHOP_EVENTS,
        LOGIN_ALERTS,
        DEAD_LETTERS,
        LATE_EVENTS,
        STORE_METRICS_AVAILABLE,
        VISITS,
        ACTIVITIES,
    )
}
