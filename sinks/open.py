"""Sinks by the addresses of the settings: embedded or on servers.

The clients of servers are imported where a server is asked for alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas.addresses import KAFKA_NAME, aerospike_hosts, unresolved
from schemas.settings import Settings
from sinks import SinkRefusedError

if TYPE_CHECKING:
    from sinks.aerospike_aggregates import AerospikeAggregates
    from sinks.kafka import KafkaTopics
    from sinks.profiles import ProfileStore
    from sinks.topic_files import FileTopics


def open_topics(settings: Settings, *, gapless: bool = False) -> FileTopics | KafkaTopics:
    """The topics of TOPICS_URL. Connects, or makes its folder, at the first use.

    With ``gapless`` what a write that failed has delivered to a partition are its first records.
    """
    folder = settings.topics_folder
    if folder is not None:
        from sinks.topic_files import FileTopics, Retention

        kept = Retention(settings.topics_retention_h, settings.topics_retention_bytes)
        return FileTopics(folder, retention=kept)
    from sinks.kafka import KafkaTopics

    assert settings.kafka_bootstrap is not None
    if names := unresolved(settings.kafka_hosts):
        raise SinkRefusedError(f"Kafka: {names} has no address", KAFKA_NAME)
    return KafkaTopics(settings.kafka_bootstrap, gapless=gapless)


def open_profiles(settings: Settings) -> ProfileStore:
    """The profiles of PROFILES_URL. Connects, or makes its file, at the first use."""
    file = settings.profiles_file
    if file is not None:
        from sinks.profiles.sqlite import SqliteProfiles

        return SqliteProfiles(file, settings.num_tags_to_keep)
    from sinks.profiles.aerospike import AerospikeProfiles

    return AerospikeProfiles(
        **_nodes(settings),
        namespace=settings.aerospike_profiles_namespace,
        bin_name=settings.aerospike_profiles_bin,
        keep=settings.num_tags_to_keep,
        commit_level=settings.aerospike_commit_level,
        generation_policy=settings.aerospike_generation_policy,
        max_parallel_writes=settings.max_parallel_writes,
    )


def open_aggregates(settings: Settings) -> AerospikeAggregates:
    """The aggregates in the Aerospike of PROFILES_URL. Connects at the first use."""
    from sinks.aerospike_aggregates import AerospikeAggregates

    return AerospikeAggregates(
        **_nodes(settings),
        namespace=settings.aerospike_aggregates_namespace,
        buckets_per_key=settings.aerospike_buckets_per_key,
        commit_level=settings.aerospike_commit_level,
        generation_policy=settings.aerospike_generation_policy,
        max_parallel_writes=settings.max_parallel_writes,
    )


def _nodes(settings: Settings) -> dict[str, Any]:
    """The first node, and the others."""
    (host, port), *others = aerospike_hosts(settings.profiles_url)
    return {"host": host, "port": port, "others": others}
