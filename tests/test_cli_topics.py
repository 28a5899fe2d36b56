"""What a command sees of topics, embedded and in Kafka: their ends, their records, their keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from confluent_kafka import Producer

from cli.topics import polls, records, topic_view
from schemas.settings import Settings, read_settings
from schemas.topics import STORE_EVENTS, USER_TAGS
from sinks.open import open_topics
from streams.source import Position
from tests.cli_support import footfall

PAIRS = [(f"user-{n}".encode(), b'{"n": %d}' % n) for n in range(200)]


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """The mock cluster within librdkafka, which speaks Kafka's protocol over TCP."""
    producer = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 0})
    (found,) = producer.list_topics(timeout=10).brokers.values()
    # It makes a topic at its first record.
    producer.produce(USER_TAGS.name, b"{}", key=b"first")
    producer.flush(10)
    yield f"kafka://{found.host}:{found.port}"


@pytest.fixture(params=["files", "kafka"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = request.getfixturevalue("broker") if request.param == "kafka" else ""
    return read_settings({"FOOTFALL_HOME": str(tmp_path), "TOPICS_URL": url})


def test_a_view_knows_ends_tails_and_where_a_key_goes(settings: Settings) -> None:
    writer = open_topics(settings)
    writer.write(USER_TAGS.name, PAIRS[:50])
    view = topic_view(settings)
    before = view.end_offsets(USER_TAGS.name)
    writer.write(USER_TAGS.name, PAIRS[50:])
    writer.close()
    after = view.end_offsets(USER_TAGS.name)
    assert sum(after) - sum(before) == 150
    expected: dict[int, list[bytes]] = {partition: [] for partition in range(len(before))}
    for key, value in PAIRS[50:]:
        expected[view.partition_of(USER_TAGS.name, key)].append(value)
    for partition, start in enumerate(before):
        found = list(view.read_tail(USER_TAGS.name, partition, start))
        assert found == expected[partition]
        assert len(found) == after[partition] - start


def test_polls_give_every_record_to_the_end_as_found(settings: Settings) -> None:
    writer = open_topics(settings)
    writer.write(USER_TAGS.name, PAIRS)
    writer.close()
    found = [record for poll in polls(settings, USER_TAGS.name) for record in records(poll)]
    assert {value for _, value in PAIRS} <= set(found)
    end = topic_view(settings).end_offsets(USER_TAGS.name)[0]
    last = Position("offset", end - 1)
    rest = list(polls(settings, USER_TAGS.name, start=last, partitions=(0,)))
    assert [poll.count for poll in rest] == [1]


def test_polls_that_follow_end_when_stopped(tmp_path: Path) -> None:
    settings = read_settings({"FOOTFALL_HOME": str(tmp_path)})
    writer = open_topics(settings)
    writer.write(USER_TAGS.name, PAIRS[:80])
    found: list[bytes] = []
    stop = Event()
    for poll in polls(settings, USER_TAGS.name, follow=True, stopped=stop.is_set):
        found += records(poll)
        if len(found) == 80:
            writer.write(USER_TAGS.name, PAIRS[80:])
        if len(found) == len(PAIRS):
            stop.set()
    writer.close()
    assert sorted(found) == sorted(value for _, value in PAIRS)


def test_kafka_topic_takes_the_place_of_the_world_s_own(tmp_path: Path) -> None:
    home = tmp_path / "home"
    renamed = {"KAFKA_TOPIC": "shop_42"}
    made = footfall(home, "init", **renamed)
    assert "topic shop_42 (10 partitions): made" in made.stdout
    for total, said in (("300", "300 sent"), ("500", "200 sent"), ("500", "nothing to send")):
        sent = footfall(home, "generate", "store", "--total", total, "--fast", **renamed)
        assert said in sent.stdout, sent.stderr
    settings = read_settings({"FOOTFALL_HOME": str(home)})
    assert sum(topic_view(settings).end_offsets("shop_42")) == 500
    assert sum(topic_view(settings).end_offsets(STORE_EVENTS.name)) == 0
    assert footfall(home, "run", "store_metrics", "--once", **renamed).returncode == 0
    asked = footfall(
        home, "query", "--db", "store", "--format", "csv", "SELECT sum(nr_of_events) FROM events"
    )
    assert asked.stdout.splitlines()[1] == "500"
