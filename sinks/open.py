"""Sinks by the addresses of the settings: embedded or on servers.

A server's client is imported only where that server is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from footfall.schemas.addresses import KAFKA_NAME, aerospike_hosts, unresolved
from footfall.schemas.settings import Settings
from footfall.sinks import SinkRefusedError

if TYPE_CHECKING:
    from footfall.sinks.aerospike_aggregates import AerospikeAggregates
    from footfall.sinks.kafka import KafkaTopics
    from footfall.sinks.profiles import ProfileStore
    from footfall.sinks.topic_files import FileTopics


def open_topics(settings: Settings, *, gapless: bool = False) -> FileTopics | KafkaTopics:
    """Return the topics of TOPICS_URL. The first use connects, or makes the folder.

    With ``gapless`` a write that failed has delivered only the first of its records to a
    partition.
    """
    folder = settings.topics_folder
    if folder is not None:
        from footfall.sinks.topic_files import FileTopics, Retention

        kept = Retention(settings.topics_retention_h, settings.topics_retention_bytes)
        return FileTopics(folder, retention=kept)
    from footfall.sinks.kafka import KafkaTopics

    assert settings.kafka_bootstrap is not None
    if names := unresolved(settings.kafka_hosts):
        raise SinkRefusedError(f"Kafka: {names} has no address", KAFKA_NAME)
    return KafkaTopics(settings.kafka_bootstrap, gapless=gapless)


def open_profiles(settings: Settings) -> ProfileStore:
    """Return the profiles of PROFILES_URL. The first use connects, or makes the file."""
    file = settings.profiles_file
    if file is not None:
        from footfall.sinks.profiles.sqlite import SqliteProfiles

        return SqliteProfiles(file, settings.num_tags_to_keep)
    from footfall.sinks.profiles.aerospike import AerospikeProfiles

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
    """Return the aggregates in the Aerospike of PROFILES_URL. The first use connects."""
    from footfall.sinks.aerospike_aggregates import AerospikeAggregates

    return AerospikeAggregates(
        **_nodes(settings),
        namespace=settings.aerospike_aggregates_namespace,
        buckets_per_key=settings.aerospike_buckets_per_key,
        commit_level=settings.aerospike_commit_level,
        generation_policy=settings.aerospike_generation_policy,
        max_parallel_writes=settings.max_parallel_writes,
    )


def _nodes(settings: Settings) -> dict[str, Any]:
    """Return the first node, and the others, as arguments."""
    (host, port), *others = aerospike_hosts(settings.profiles_url)
    return {"host": host, "port": port, "others": others}
