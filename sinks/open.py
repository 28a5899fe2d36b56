"""Sinks by the addresses of the settings: embedded or on servers.

The clients of servers are imported where a server is asked for alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from schemas.settings import Settings
from sinks import SinkRefusedError

if TYPE_CHECKING:
    from sinks.aerospike_aggregates import AerospikeAggregates
    from sinks.kafka import KafkaTopics
    from sinks.profiles import ProfileStore
    from sinks.topic_files import FileTopics

AEROSPIKE_PORT = 3000
_SQLITE = "sqlite:///"


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
    return KafkaTopics(settings.kafka_bootstrap, gapless=gapless)


def open_profiles(settings: Settings) -> ProfileStore:
    """The profiles of PROFILES_URL. Connects, or makes its file, at the first use."""
    url = settings.profiles_url
    if url.startswith("sqlite:"):
        from sinks.profiles.sqlite import SqliteProfiles

        path = url.removeprefix(_SQLITE)
        if path in (url, ""):
            raise SinkRefusedError(
                f"PROFILES_URL={url!r} takes sqlite:///file, with three slashes"
            )
        return SqliteProfiles(Path(path), settings.num_tags_to_keep)
    from sinks.profiles.aerospike import AerospikeProfiles

    return AerospikeProfiles(
        *_aerospike(settings),
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
        *_aerospike(settings),
        namespace=settings.aerospike_aggregates_namespace,
        buckets_per_key=settings.aerospike_buckets_per_key,
        commit_level=settings.aerospike_commit_level,
        generation_policy=settings.aerospike_generation_policy,
        max_parallel_writes=settings.max_parallel_writes,
    )


def _aerospike(settings: Settings) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(settings.profiles_url)
    return parts.hostname or "127.0.0.1", parts.port or AEROSPIKE_PORT
