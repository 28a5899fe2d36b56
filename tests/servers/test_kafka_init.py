"""``footfall init`` on a real Kafka: the catalogue's topics, made once, grown, never shrunk."""

from __future__ import annotations

from pathlib import Path

import pytest

from footfall.cli.init import make_topics
from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.topics import RECORD_BYTES_TAKEN_MAX, TOPICS, USER_TAGS
from footfall.sinks import SinkRefusedError
from footfall.sinks.kafka import KafkaTopics
from tests.cli_support import footfall
from tests.kafka_support import Broker


def settings_of(broker: Broker, home: Path, **more: str) -> Settings:
    return read_settings({"TOPICS_URL": broker.url, "FOOTFALL_HOME": str(home), **more})


def made(settings: Settings) -> dict[str, str]:
    """Return what is said of each topic."""
    return {name.partition(" ")[0]: how for _, name, how in make_topics(settings)}


def test_the_topics_of_the_catalogue_are_made_and_stand_the_next_time(
    own_kafka: Broker, tmp_path: Path
) -> None:
    pytest.importorskip("chdb", reason="chdb is not installed")
    for name in TOPICS:
        if own_kafka.partitions(name):
            own_kafka.delete_topic(name)
    first = footfall(tmp_path / "home", "init", TOPICS_URL=own_kafka.url)
    assert (first.returncode, first.stderr) == (0, "")
    for topic in TOPICS.values():
        assert f"topic {topic.name} ({topic.partitions} partitions): made" in first.stdout
        assert own_kafka.partitions(topic.name) == list(range(topic.partitions))
        config = own_kafka.config(topic.name)
        assert config["retention.ms"] == str(topic.retention_h * 3_600_000)
        assert config["max.message.bytes"] == str(RECORD_BYTES_TAKEN_MAX)
        assert config["cleanup.policy"] == "delete"
    own_kafka.produce(USER_TAGS.name, [b"kept"])
    settings = settings_of(own_kafka, tmp_path / "home")
    assert made(settings) == dict.fromkeys(TOPICS, "stood")
    assert own_kafka.values(USER_TAGS.name) == {b"kept": 1}


def test_a_topic_of_the_catalogue_is_grown_and_one_of_the_users_own_is_left_alone(
    own_kafka: Broker, tmp_path: Path
) -> None:
    name = "activities"
    if own_kafka.partitions(name):
        own_kafka.delete_topic(name)
    own_kafka.create_topic(name, 3)
    own_kafka.produce(name, [b"%d" % n for n in range(30)])
    mine = own_kafka.topic("mine", partitions=2)
    wide = own_kafka.topic("wide", partitions=12)
    grown = made(settings_of(own_kafka, tmp_path, KAFKA_TOPIC=mine))
    assert grown[name] == "grown from 3"
    assert grown[mine] == "stood"
    own_kafka.eventually(lambda: len(own_kafka.partitions(name)) == 10)
    assert len(own_kafka.values(name)) == 30
    assert len(own_kafka.partitions(mine)) == 2
    assert made(settings_of(own_kafka, tmp_path, KAFKA_TOPIC=wide))[wide] == "stood"
    absent = own_kafka.name("absent")
    assert made(settings_of(own_kafka, tmp_path, KAFKA_TOPIC=absent))[absent] == "made"
    assert len(own_kafka.partitions(absent)) == 10


def test_fewer_partitions_than_a_topic_has_are_refused(own_kafka: Broker) -> None:
    topic = own_kafka.topic("wide", partitions=4)
    topics = KafkaTopics(own_kafka.bootstrap)
    topics.create(topic, 4, retention_h=1)
    topics.create(topic, 6, retention_h=1)
    own_kafka.eventually(lambda: len(own_kafka.partitions(topic)) == 6)
    with pytest.raises(SinkRefusedError, match=r"has 6 partitions, 5 asked: .* cannot shrink"):
        topics.create(topic, 5, retention_h=1)
    with pytest.raises(SinkRefusedError, match="no name for a topic"):
        topics.create("a/b", 1, retention_h=1)
