"""The topics: their names, what decides the partition, and how long records are kept."""

from __future__ import annotations

from dataclasses import dataclass

PARTITIONS_DEFAULT = 10
RECORD_BYTES_MAX = 1_048_576
"""The largest record a flow reads (Kafka's own default limit); a larger one is a dead letter."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of the catalogue."""

    name: str
    about: str
    key: str
    """Field whose value decides the partition, so that all of one user meets in one place."""
    partitions: int = PARTITIONS_DEFAULT
    retention_h: int = 168


USER_TAGS = Topic("user_tags", "views and buys with product data", key="cookie")
STORE_EVENTS = Topic("store_events", "rows of a shop's CSV export", key="user_id")
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
VISITS = Topic("visits", "visit reports sent by clients", key="client_id")
ACTIVITIES = Topic("activities", "activity reports sent by clients", key="client_id")

TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        USER_TAGS,
        STORE_EVENTS,
        DEAD_LETTERS,
        LATE_EVENTS,
        STORE_METRICS_AVAILABLE,
        VISITS,
        ACTIVITIES,
    )
}
