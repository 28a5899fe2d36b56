"""``footfall generate`` into a real Kafka: every record once, also through kill -9."""

from __future__ import annotations

import gzip
import signal
from collections import Counter
from pathlib import Path

from footfall.generator.csv_replay import CsvReplay
from footfall.generator.tags import TagWorld
from footfall.schemas.topics import DEAD_LETTERS, RECORD_BYTES_MAX, STORE_EVENTS, kafka_config
from footfall.sinks.kafka import KafkaTopics
from tests.cli_support import footfall, one_line, running
from tests.kafka_support import Broker, Server

PARTITIONS = 4


def made_topic(kafka: Server, about: str) -> str:
    name = kafka.name(about)
    topics = KafkaTopics(kafka.bootstrap)
    topics.create(name, PARTITIONS, retention_h=24)
    topics.close()
    return name


def test_a_world_with_all_that_can_be_wrong_in_it_is_sent_whole(
    kafka: Server, tmp_path: Path
) -> None:
    world, total = TagWorld(seed=5, malformed=0.3, duplicate=0.01), 4_000
    topic = made_topic(kafka, "tags")
    expected = Counter(value for _, value in world.batch(0, total))
    assert any(len(value) > RECORD_BYTES_MAX for value in expected), "too large for a flow"
    options = ("--seed", "5", "--malformed", "0.3", "--duplicates", "0.01", "--fast")
    settings = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA_TOPIC": topic}
    done = footfall(
        tmp_path / "home", "generate", "tags", "--total", str(total), *options, **settings
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert kafka.values(topic) == expected
    # Once more: all of it stands there.
    again = footfall(
        tmp_path / "home", "generate", "tags", "--total", str(total), *options, **settings
    )
    assert "nothing to send" in again.stdout
    assert sum(kafka.end_offsets(topic)) == total


def test_a_push_goes_on_after_kill_9_with_each_row_once(kafka: Server, tmp_path: Path) -> None:
    topic = made_topic(kafka, "tags")
    arguments = ("generate", "tags", "--seed", "9")
    settings = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA_TOPIC": topic}

    def sent() -> int:
        return sum(kafka.end_offsets(topic))

    for after in (2_000, 9_000):
        # Without a total it never ends by itself, however late the kill comes.
        with running(tmp_path / "home", *arguments, "--rate", "9000", **settings) as push:
            push.wait_until(lambda after=after: sent() > after, f"sent {after}")
            push.end(signal.SIGKILL)
    total = sent() + 5_000
    expected = Counter(value for _, value in TagWorld(seed=9).batch(0, total))
    done = footfall(tmp_path / "home", *arguments, "--total", str(total), "--fast", **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert kafka.values(topic) == expected


def test_a_csv_is_replayed_with_its_cut_line_as_a_dead_letter(
    kafka: Server, tmp_path: Path
) -> None:
    header = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,"
    row = "2019-10-01 00:00:{:02d} UTC,view,{},2053013555631882655,,x,35.79,{},s"
    rows = [row.format(n % 60, n, n % 7) for n in range(500)] + ["2019-10-01 00:0"]
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress("\r\n".join([header + "user_session", *rows]).encode()))
    stream = CsvReplay(path).open(0)
    batch = stream.take(1_000)
    stream.close()
    expected = {topic: Counter(value for _, value in records) for topic, records in batch.writes}
    topic = made_topic(kafka, "rows")
    topics = KafkaTopics(kafka.bootstrap)
    topics.create(DEAD_LETTERS.name, DEAD_LETTERS.partitions, DEAD_LETTERS.retention_h)
    topics.close()
    done = footfall(
        tmp_path / "home", "generate", "csv", str(path), "--fast",
        KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap, KAFKA_TOPIC=topic,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert kafka.values(topic) == expected[STORE_EVENTS.name]
    assert expected[STORE_EVENTS.name].total() == 500
    (letter,) = expected[DEAD_LETTERS.name]
    assert kafka.values(DEAD_LETTERS.name)[letter] == 1


def test_a_push_outlives_kill_9_of_the_broker(own_kafka: Broker, tmp_path: Path) -> None:
    total = 12_000
    topic = made_topic(own_kafka, "tags")
    with running(
        tmp_path / "home", "generate", "tags", "--total", str(total), "--rate", "8000",
        KAFKA_BOOTSTRAP_SERVERS=own_kafka.bootstrap, KAFKA_TOPIC=topic,
    ) as push:  # fmt: skip
        push.wait_until(lambda: sum(own_kafka.end_offsets(topic)) > 2_000, "sent")
        own_kafka.restart()
        assert push.process.wait(60) == 0, push.output()
    expected = Counter(value for _, value in TagWorld(seed=0).batch(0, total))
    assert own_kafka.values(topic) == expected


def test_a_topic_that_nobody_made_is_told_with_what_makes_it(
    kafka: Server, tmp_path: Path
) -> None:
    absent = kafka.name("absent")
    failed = footfall(
        tmp_path / "home", "generate", "tags", "--total", "10",
        KAFKA_TOPIC=absent, TOPICS_URL=kafka.url,
    )  # fmt: skip
    assert failed.returncode == 1
    assert absent in one_line(failed) and "footfall init" in one_line(failed)


def test_a_topic_with_a_lower_limit_stops_the_push_and_says_why(
    kafka: Server, tmp_path: Path
) -> None:
    assert int(kafka_config(1)["max.message.bytes"]) > RECORD_BYTES_MAX
    topic = kafka.topic("narrow", max_message_bytes="1000")
    world = TagWorld(seed=5, malformed=0.3)
    assert any(len(value) > 1_000 for _, value in world.batch(0, 500))
    failed = footfall(
        tmp_path / "home", "generate", "tags", "--total", "500", "--seed", "5",
        "--malformed", "0.3", "--fast",
        KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap, KAFKA_TOPIC=topic,
    )  # fmt: skip
    assert failed.returncode == 1
    assert "larger than the topic takes" in one_line(failed)
