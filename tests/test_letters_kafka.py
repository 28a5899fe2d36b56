"""Dead letters and the doctor on a real Kafka: partitions, committed offsets, retention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from footfall.cli.doctor.facts import look_at_topics
from footfall.cli.doctor.findings import Finding
from footfall.cli.init import make_topics
from footfall.cli.main import main
from footfall.schemas.dead_letters import DeadLetter, Retry, RetryNote, payload_fields
from footfall.schemas.records import TopicRecord
from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.topics import TOPICS
from footfall.sinks.kafka import KafkaTopics
from footfall.sinks.letters import LetterWriter
from footfall.streams.open import open_topic
from footfall.streams.source import SourceError
from tests.kafka_support import Broker

LONG = b"long " * 150_000
GROUP = "letters-test"


@pytest.fixture(scope="module")
def broker(_kafka_folder: Path) -> Iterator[Broker]:
    """Yield a broker of its own: these tests need the topics by their names."""
    broker = Broker(_kafka_folder / "letters")
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    """Return a home with the catalogue's topics, empty."""
    for name in TOPICS:
        if broker.partitions(name):
            broker.delete_topic(name)
    made = read_settings(variables(broker, tmp_path))
    list(make_topics(made))
    for name, topic in TOPICS.items():
        broker.eventually(lambda: len(broker.partitions(name)) == topic.partitions)  # noqa: B023
    return made


def variables(broker: Broker, home: Path) -> dict[str, str]:
    return {"FOOTFALL_HOME": str(home), "TOPICS_URL": broker.url, "KAFKA_GROUP": GROUP}


def letter(topic: str, partition: int, offset: int, payload: bytes, **more: Any) -> DeadLetter:
    given: dict[str, Any] = {"flow": "minute_buckets", **payload_fields(payload), **more}
    return DeadLetter(
        topic=topic, partition=partition, offset=offset, code="not_json", reason="no", **given
    )


def write(broker: Broker, *letters: Any) -> None:
    writer = LetterWriter(KafkaTopics(broker.bootstrap), "dead_letters")
    writer.write(letters)
    writer.close()


def commit(broker: Broker, flow: str, topic: str, offsets: dict[int, int]) -> None:
    consumer = Consumer(broker.client(group_id=f"{GROUP}-{flow}"))
    places = [TopicPartition(topic, part, offset) for part, offset in offsets.items()]
    consumer.commit(offsets=places, asynchronous=False)
    consumer.close()


def stored(broker: Broker, topic: str) -> list[tuple[int, bytes | None]]:
    return [(record.partition, record.value) for record in broker.consume_all(topic)]


RunRetry = Callable[..., str]
"""Runs ``dead-letters retry`` with these options, and gives what it says."""


@pytest.fixture
def retry(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunRetry:
    for name, value in (
        ("FOOTFALL_HOME", str(settings.footfall_home)),
        ("TOPICS_URL", settings.topics_url),
        ("KAFKA_GROUP", GROUP),
    ):
        monkeypatch.setenv(name, value)

    def run(*options: str) -> str:
        capsys.readouterr()
        assert main(["dead-letters", "retry", *options]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def test_records_go_to_their_partition_once(broker: Broker, retry: RunRetry) -> None:
    bad = [b"bad %d" % number for number in range(5)]
    broker.produce("store_events", bad, partition=7, keys=[b"user"] * 5)
    broker.produce("store_events", [LONG, b"gone"], partition=2)
    before = stored(broker, "store_events")
    whole = [letter("store_events", 7, at, value) for at, value in enumerate(bad)]
    write(broker, *whole, whole[0], letter("store_events", 2, 0, LONG))
    # A retry of the first three was killed after it had sent two.
    note = {"topic": "store_events", "partition": 7, "step": "intent", "end_offset": 5}
    write(broker, *(Retry(RetryNote(offset=at, noted_ms=0, **note)) for at in range(3)))  # type: ignore[arg-type]
    broker.produce("store_events", bad[:2], partition=7)
    said = retry("--yes")
    assert "4 sent\n" in said and "2 stood there already" in said
    again = [(7, value) for value in bad]
    assert stored(broker, "store_events") == sorted(
        [*before, *again, (2, LONG)], key=lambda record: record[0]
    )
    assert retry("--yes") == "nothing to send\n"


def test_what_another_flow_has_read_or_retention_has_removed_is_not_sent(
    broker: Broker, retry: RunRetry
) -> None:
    broker.produce("user_tags", [b"x", LONG, b"y"], partition=3)
    write(broker, letter("user_tags", 3, 0, b"x"), letter("user_tags", 3, 1, LONG))
    commit(broker, "minute_buckets", "user_tags", {3: 3})
    commit(broker, "user_profiles", "user_tags", {3: 1})
    said = retry("--yes")
    assert "nothing to send" in said
    assert "user_profiles has used it and would count it twice" in said
    assert "user_profiles is at 1, has not read it yet" in said
    broker.delete_records("user_tags", {3: 2})
    said = retry("--yes", "--force")
    assert "1 sent" in said and "524,288 of its 750,000 bytes" in said
    assert stored(broker, "user_tags") == [(3, b"y"), (3, b"x")]


def test_a_record_keeps_its_key_its_headers_and_its_time(
    broker: Broker, settings: Settings, retry: RunRetry
) -> None:
    """A compacted topic refuses a record without its key."""
    broker.delete_topic("activities")
    broker.create_topic("activities", 2, cleanup_policy="compact")
    sent = TopicRecord(b"{bad", b"key", (("trace", b"1"), ("none", None)), 1_700_000_000_123)
    writer = KafkaTopics(broker.bootstrap)
    writer.write_to("activities", 1, [sent, sent._replace(value=b"gone", key=b"other")])
    writer.close()
    write(broker, letter("activities", 1, 0, sent.value))
    assert retry("--yes").startswith("sending 1 record again")
    topic = open_topic(settings, "activities", group="test")
    assert [topic.record_at(1, offset) for offset in (0, 2)] == [sent, sent]
    with pytest.raises(SourceError, match="no record at offset 3"):
        topic.record_at(1, 3)
    broker.produce("user_tags", [b"{bad"], partition=0, keys=[b"key"])
    write(broker, letter("user_tags", 0, 0, b"{bad"))
    broker.delete_records("user_tags", {0: 1})
    said = retry("--yes")
    assert "sent without key, headers and time: 1 record: user_tags/0 has no record" in said


def found(settings: Settings) -> dict[str, Finding]:
    """Return the findings that are not well, by check; the last of each."""
    return {one.check: one for one in look_at_topics(settings) if one.level != "ok"}


def test_the_doctor_looks_at_topics_and_groups(broker: Broker, settings: Settings) -> None:
    assert found(settings) == {}
    broker.produce("user_tags", [b"%d" % n for n in range(11_000)], partition=4)
    hot = found(settings)["keys of user_tags"]
    assert "partition 4 holds 11,000 of 11,000" in hot.found
    commit(broker, "minute_buckets", "user_tags", {4: 6_000})
    flow = next(one for one in look_at_topics(settings) if one.check == "flow minute_buckets")
    assert flow.level == "ok" and "5,000 records behind" in flow.found
    broker.delete_records("user_tags", {4: 5_900})
    near = found(settings)["retention of minute_buckets"]
    assert near.level == "warn" and "user_tags/4: 2% of the records" in near.found
    broker.delete_records("user_tags", {4: 6_100})
    lost = found(settings)["retention of minute_buckets"]
    assert lost.level == "fail" and "100 records were removed" in lost.found
    assert "--skip-removed" in lost.remedy


def test_the_doctor_names_a_topic_that_is_missing_or_forgets_early(
    broker: Broker, settings: Settings
) -> None:
    broker.delete_topic("visits")
    broker.delete_topic("activities")
    broker.create_topic("activities", 10, retention_ms="3600000")
    said = [one.found for one in look_at_topics(settings) if one.level != "ok"]
    assert said[0] == "missing: visits"
    assert "activities keeps records for 60 min, the catalogue says 7 days" in said[1]
