"""The api as a process on a real Kafka: acknowledged records are there, also after kill -9."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.partitioner import DefaultPartitioner

from footfall.api.kafka_writing import KafkaWriting
from footfall.api.live import TAGS_LOOKED_AT
from footfall.api.tails import KafkaTail
from footfall.api.writing import NotStoredError, RecordTooLargeError
from footfall.schemas.dead_letters import DeadLetter
from footfall.schemas.topics import DEAD_LETTERS, RECORD_BYTES_TAKEN_MAX, TOPICS
from footfall.sinks import Record
from footfall.sinks.kafka import KafkaTopics
from footfall.sinks.letters import LetterWriter
from tests.api_process_support import Process, eventually, free_port
from tests.api_support import Client, encoded, tag
from tests.kafka_support import Broker, Server, Stored

WRITTEN = ("user_tags", "store_events", "visits", "activities")


def start(kafka: Server, home: Path, port: int = 0, **environ: str) -> Process:
    """Start an api that takes tags, for which it needs no other server; return it."""
    absent = f"http://127.0.0.1:{free_port()}"
    process = Process(
        home, port or free_port(), TOPICS_URL=kafka.url, CLICKHOUSE_URL=absent, **environ
    )
    eventually(lambda: topics_answer(process.port))
    return process


def topics_answer(port: int) -> bool:
    client = Client(port)
    try:
        return bool(client.get("/readyz").json()["parts"]["topics"] == "ok")
    except (OSError, http.client.HTTPException):
        return False
    finally:
        client.close()


@pytest.fixture
def api(kafka: Server, tmp_path: Path) -> Iterator[Client]:
    with start(kafka, tmp_path / "home") as process:
        client = Client(process.port)
        yield client
        client.close()


def stored(kafka: Server, topic: str, mark: str) -> list[Stored]:
    """Return the records of a topic that hold a mark of this test's own."""
    return [r for r in kafka.consume_all(topic) if mark.encode() in (r.value or b"")]


def test_topics_that_are_absent_are_made_as_the_catalogue_says(
    own_kafka: Broker, tmp_path: Path
) -> None:
    for name in WRITTEN:
        if own_kafka.partitions(name):
            own_kafka.delete_topic(name)
    with start(own_kafka, tmp_path / "home") as process:
        client = Client(process.port)
        assert client.post("/user_tags", encoded(tag())).status == 204
        client.close()
    for name in WRITTEN:
        # That a topic is made is known before each of its partitions has a leader.
        wanted = TOPICS[name].partitions
        own_kafka.eventually(lambda: len(own_kafka.partitions(name)) == wanted)  # noqa: B023
        config = own_kafka.config(name)
        assert config["retention.ms"] == str(TOPICS[name].retention_h * 3_600_000)
        assert config["max.message.bytes"] == str(RECORD_BYTES_TAKEN_MAX)


def test_what_was_acknowledged_is_there_once_in_the_partition_of_its_key(
    kafka: Server, api: Client
) -> None:
    mark = kafka.name("cookie")
    tags = [tag(cookie=f"{mark}-{n % 40}", price=n) for n in range(300)]
    for one in tags[:100]:
        assert api.post("/user_tags", encoded(one)).status == 204
    answer = api.post("/events/user_tags", encoded(tags[100:200]))
    assert (answer.status, answer.json()) == (200, {"stored": 100})
    lines = b"\n".join(map(encoded, tags[200:]))
    answer = api.post("/events/user_tags", lines, {"content-type": "application/x-ndjson"})
    assert (answer.status, answer.json()) == (200, {"stored": 100})
    found = stored(kafka, "user_tags", mark)
    assert Counter(r.value for r in found) == Counter(map(encoded, tags))
    choose, parts = DefaultPartitioner(), kafka.partitions("user_tags")
    for record in found:
        assert record.key == json.loads(record.value or b"")["cookie"].encode()
        assert record.partition == choose(record.key, parts, parts)


def test_what_is_refused_is_not_there_and_reports_are(kafka: Server, api: Client) -> None:
    mark = kafka.name("client")
    assert api.post("/user_tags", encoded(tag(cookie=mark, device="FRIDGE"))).status == 400
    assert api.post("/events/nothing", b"{}").status == 404
    assert api.post("/events/dead_letters", b"{}").status == 403
    report = {"client_id": mark, "time": "2022-03-22T12:15:00Z", "report": {"page": 17}}
    for path in ("/api/visit/v1/", "/api/activity/v1/"):
        answer = api.post(path, encoded(report))
        assert answer.status == 204, answer.body
    assert stored(kafka, "user_tags", mark) == []
    for topic in ("visits", "activities"):
        (record,) = stored(kafka, topic, mark)
        assert record.key == mark.encode()
        assert json.loads(record.value or b"")["report"]["page"] == 17


def test_the_live_page_shows_cookies_and_dead_letters_of_kafka(kafka: Server, api: Client) -> None:
    mark = kafka.name("shown")
    # As many as are looked at in a partition: the page offers the cookies that come most often.
    tags = [tag(cookie=mark)] * TAGS_LOOKED_AT
    assert api.post("/events/user_tags", encoded(tags)).status == 200
    topics = KafkaTopics(kafka.bootstrap)
    topics.create(DEAD_LETTERS.name, DEAD_LETTERS.partitions, DEAD_LETTERS.retention_h)
    writer = LetterWriter(topics, DEAD_LETTERS.name)
    letter = DeadLetter("f", mark, 3, 4, "not_json", "why not", payload_bytes=1, payload="x")
    writer.write([letter, letter])
    writer.close()

    def shown() -> bool:
        page = api.get("/live.json").json()
        letters = [found for found in page["dead_letters"] if found["topic"] == mark]
        assert len(letters) <= 1, "each once"
        return bool(letters and mark in page["cookies"])

    eventually(shown, within_s=30.0)


def test_the_newest_records_are_read_across_gaps_and_by_many_at_once(
    kafka: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The page shows what it has by then; here a slow machine is given the time for all.
    monkeypatch.setattr("footfall.api.tails.KAFKA_WITHIN_S", 30.0)
    one, other = kafka.topic("tail", partitions=2), kafka.topic("tail")
    kafka.produce(one, [b"%d" % n for n in range(20)], partition=0)
    kafka.transaction(one, [b"gone"] * 3, commit=False)
    kafka.produce(one, [b"last"], partition=1)
    kafka.produce(other, [b"other"] * 30)
    tail = KafkaTail(kafka.bootstrap)
    assert tail.newest(kafka.name("absent"), 5) == []
    wrong: list[Any] = []

    def look(topic: str, expected: Any) -> None:
        for _ in range(3):
            found = tail.newest(topic, 5)
            if not expected(found):
                wrong.append(found)

    looks = [
        threading.Thread(target=look, args=(other, lambda found: found == [b"other"] * 5)),
        threading.Thread(
            target=look, args=(one, lambda found: b"last" in found and b"gone" not in found)
        ),
    ]
    for thread in looks:
        thread.start()
    for thread in looks:
        thread.join(60)
    tail.close()
    assert wrong == []


class Shoppers:
    """Clients that send numbered tags, each until it is acknowledged."""

    def __init__(self, port: int, mark: str, count: int = 6) -> None:
        self._port = port
        self._mark = mark
        self._stop = threading.Event()
        self.acknowledged: list[bytes] = []
        self.tried_again: set[bytes] = set()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        client = Client(self._port)
        sent = 0
        while not self._stop.is_set():
            sent += 1
            body = encoded(tag(cookie=f"{self._mark}-{number}", price=sent))
            while True:
                try:
                    if client.post("/user_tags", body).status == 204:
                        break
                except (OSError, http.client.HTTPException):
                    client.close()
                    client = Client(self._port)
                self.tried_again.add(body)
                if self._stop.wait(0.02):
                    return
            self.acknowledged.append(body)
        client.close()

    def wait_for(self, more: int) -> None:
        wanted = len(self.acknowledged) + more
        eventually(lambda: len(self.acknowledged) >= wanted, 60.0)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def check(kafka: Server, shoppers: Shoppers, mark: str) -> None:
    """Check that acknowledged records are all there, and only those sent again may repeat."""
    found = Counter(r.value or b"" for r in stored(kafka, "user_tags", mark))
    missing = [body for body in shoppers.acknowledged if body not in found]
    assert missing == [], f"{len(missing)} acknowledged records are lost"
    doubled = {body for body, times in found.items() if times > 1}
    assert doubled <= shoppers.tried_again
    assert found.keys() <= set(shoppers.acknowledged) | shoppers.tried_again


def test_kill_9_of_the_api_under_load_loses_no_acknowledged_record(
    kafka: Server, tmp_path: Path
) -> None:
    mark = kafka.name("killed")
    port = free_port()
    process = start(kafka, tmp_path / "home", port)
    shoppers = Shoppers(port, mark)
    try:
        for _ in range(2):
            shoppers.wait_for(200 + random.randrange(100))
            process.kill()
            process = start(kafka, tmp_path / "home", port)
        shoppers.wait_for(200)
    finally:
        shoppers.end()
        process.close()
    assert shoppers.tried_again
    check(kafka, shoppers, mark)


def test_kill_9_of_the_broker_under_load_loses_no_acknowledged_record(
    own_kafka: Broker, tmp_path: Path
) -> None:
    mark = own_kafka.name("killed")
    with start(own_kafka, tmp_path / "home") as process:
        shoppers = Shoppers(process.port, mark)
        try:
            shoppers.wait_for(300)
            own_kafka.kill()
            time.sleep(0.5)
            own_kafka.start()
            shoppers.wait_for(300)
        finally:
            shoppers.end()
    check(own_kafka, shoppers, mark)


def test_a_broker_that_was_away_at_the_start_is_used_once_it_comes(own_kafka: Broker) -> None:
    topic = own_kafka.topic("later")
    own_kafka.kill()

    async def run() -> None:
        writing = KafkaWriting(own_kafka.bootstrap)
        with pytest.raises(NotStoredError, match="cannot be reached yet"):
            await writing.write(topic, [(b"k", b"early")])
        own_kafka.start()
        async with asyncio.timeout(30):
            while True:
                try:
                    await writing.write(topic, [(b"k", b"v")])
                    break
                except NotStoredError:
                    await asyncio.sleep(0.05)
        await writing.close()

    asyncio.run(run())
    assert own_kafka.values(topic) == {b"v": 1}


async def connected(writing: KafkaWriting) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                return await writing.check()
            except NotStoredError:
                await asyncio.sleep(0.05)


async def written(writing: KafkaWriting, topic: str, records: list[Record]) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                return await writing.write(topic, records)
            except NotStoredError:
                await asyncio.sleep(0.05)


def test_a_record_the_topic_does_not_take_is_refused_and_the_next_ones_are_stored(
    kafka: Server,
) -> None:
    topic = kafka.topic("narrow", max_message_bytes="10000")

    async def run() -> None:
        writing = KafkaWriting(kafka.bootstrap)
        await connected(writing)
        for _ in range(3):
            # The first time it is the broker that says so: the topic is none of the api's own.
            with pytest.raises(RecordTooLargeError, match="takes at most 10000") as refusal:
                await writing.write(topic, [(b"k", b"fits"), (b"k", b"x" * 20_000)])
            assert refusal.value.place == 1
        await written(writing, topic, [(b"k", b"small")])
        await written(writing, topic, [(b"k", b"y" * 9_900)])
        # Together they are more than the topic takes at once.
        await written(writing, topic, [(b"k", b"z" * 4_000)] * 5)
        await writing.close()

    asyncio.run(run())
    found = kafka.values(topic)
    assert found[b"small"] == found[b"y" * 9_900] == 1
    assert found[b"z" * 4_000] == 5
    assert b"x" * 20_000 not in found


def test_a_record_too_large_for_its_topic_is_413_and_harms_no_other(
    own_kafka: Broker, tmp_path: Path
) -> None:
    if own_kafka.partitions("visits"):
        own_kafka.delete_topic("visits")
    own_kafka.create_topic("visits", max_message_bytes="5000")
    report = {"client_id": "c", "time": "2022-03-22T12:15:00Z", "report": {"text": "x" * 6000}}
    with start(own_kafka, tmp_path / "home") as process:
        client = Client(process.port)
        for _ in range(20):
            reply = client.post("/api/visit/v1/", encoded(report))
            assert reply.status == 413, reply.body
            assert "topic visits of Kafka takes at most 5000 (max.message.bytes)" in reply.error
            small = encoded(report | {"report": {}})
            assert client.post("/api/visit/v1/", small).status == 204
        both = client.post("/events/visits", small + b"\n" + encoded(report))
        assert (both.status, both.error[:10]) == (413, "record 1: ")
        client.close()
    assert own_kafka.values("visits") == {small: 20}
